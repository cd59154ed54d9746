"""Self-supervised losses in turns with supervised ones: both against their definitions, what is masked and learned
when, resuming, and input that does not fit.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.e2e.auxiliary import Auxiliary, ModelWithAuxHeads
from pipeline.e2e.contrast import TEMPERATURE, Contrast, span_mask
from pipeline.e2e.criterion import EndToEndLoss
from pipeline.e2e.in_turns import InTurns, in_turns
from pipeline.e2e.model import EndToEnd, load_end_to_end
from pipeline.e2e.options import EndToEndOptions
from pipeline.e2e.position import Position, some_frames
from pipeline.e2e.training import train_end_to_end
from pipeline.feats.compute import compute_feats
from pipeline.feats.dataset import Batch, Dataset, plan
from pipeline.feats.options import FeatureOptions
from pipeline.nn.attention import content_alone
from pipeline.nn.encoders import Encoder
from pipeline.nn.options import EncoderOptions
from pipeline.nn.step import Loss, Task, add_sums, attention_entropy, normalised, per_frame
from pipeline.nn.train import CHECKPOINT
from pipeline.tasks.train_options import LabelledOptions
from pipeline.tasks.untranscribed import split_labelled
from tests.e2e.test_training import options_with, tokens  # noqa: F401
from tests.nn.conftest import tones  # noqa: F401
from tests.torchrun import torchrun

ROOT = Path(__file__).resolve().parents[2]
TURNS = dict(self_supervised="contrast", self_mask_seconds=0.06)
TRANSFORMER = dict(encoder="transformer", layers=2, dim=16, heads=2)
PLACES = dict(self_supervised="position", **TRANSFORMER)


@pytest.fixture(scope="module")
def parts(tones, tmp_path_factory) -> tuple[Path, Path]:
    """Data directories of one speaker with transcripts and of two without."""
    root = tmp_path_factory.mktemp("turns")
    split_labelled(tones.data.parent / "local", root / "local", LabelledOptions(share=0.34))
    for part in ("labelled", "unlabelled"):
        (root / part).mkdir()
        compute_feats(root / "local" / part, root / part, root / part, FeatureOptions(type="fbank", dim=16))
    return root / "labelled", root / "unlabelled"


def with_heads(options, dim: int = 16) -> ModelWithAuxHeads:
    torch.manual_seed(3)
    shape = EndToEndOptions(**{name: getattr(options, name) for name in dataclasses.asdict(EndToEndOptions())})
    model = EndToEnd(dim, 7, shape)
    return ModelWithAuxHeads(model, Auxiliary(model, 0, 0, options)).train()


def turns_of(data: Dataset, options, unlabelled: Dataset | None = None) -> Task[InTurns]:
    targets = [np.array([3, 4, 5])] * len(data)
    return in_turns(Task(data, EndToEndLoss(targets, options)), unlabelled, options, 0.01)


def test_the_contrastive_loss_against_its_definition():
    """Frame by frame: the cosine with the own features against those with all masked frames of the utterance."""
    torch.manual_seed(1)
    head = Contrast(6, 4, 2)
    lens = torch.tensor([11, 5])
    encoded, feats = torch.randn(2, 6, 6), torch.randn(2, 11, 4)
    mask = torch.tensor([[1, 1, 0, 0, 1, 1], [0, 1, 1, 0, 0, 0]]).bool()
    total, right = head(encoded, feats, lens, mask)
    padded = F.pad(feats, (0, 0, 0, 1))
    padded[0, 11:], padded[1, 5:] = 0.0, 0.0
    expected, best = 0.0, 0
    for n in range(2):
        masked = [t for t in range(6) if mask[n, t]]
        keys = {t: head.target(torch.cat([padded[n, 2 * t], padded[n, 2 * t + 1]])) for t in masked}
        for t in masked:
            query = head.context(encoded[n, t])
            cosines = {s: float(F.cosine_similarity(query, key, dim=0)) for s, key in keys.items()}
            terms = {s: np.exp(c / TEMPERATURE) for s, c in cosines.items()}
            expected -= np.log(terms[t] / sum(terms.values()))
            best += max(terms, key=terms.get) == t
    assert float(total) == pytest.approx(expected, rel=1e-4) and int(right) == best


def test_the_loss_of_positions_against_its_definition():
    """Frame by frame: the sinusoids of the own place against those of all places of the utterance."""
    torch.manual_seed(1)
    head, encoded, lens = Position(6), torch.randn(2, 5, 6), torch.tensor([5, 3])
    total, right = head(encoded, lens)
    expected, best = 0.0, 0
    for n, length in enumerate(lens.tolist()):
        codes = [[f(s * 10_000.0 ** (-k / 3)) for f in (np.cos, np.sin) for k in range(3)] for s in range(length)]
        for t in range(length):
            scores = np.array(codes) @ head.query(encoded[n, t]).detach().numpy()
            expected -= scores[t] - np.log(np.exp(scores).sum())
            best += scores.argmax() == t
    assert float(total) == pytest.approx(expected, rel=1e-4) and int(right) == best


def test_some_frames_of_each_utterance():
    torch.manual_seed(2)
    lens = torch.tensor([4000, 1, 3])
    seen = some_frames(lens, 4000, 0.3)
    assert seen.any(1).all() and not seen[1, 1:].any() and not seen[2, 3:].any()
    assert seen[0].float().mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("more", [{}, {"positions": "cape"}, {"norms": "post"}, {"attention": "sigmoid"}])
def test_an_encoder_by_content_alone_knows_no_order(more):
    """Frames in another order give the same in that order, and those out of sight reach nobody but themselves."""
    torch.manual_seed(5)
    encoder = Encoder(4, EncoderOptions(**TRANSFORMER, kernel=1, **more)).eval()
    x, lens = torch.randn(1, 7, 4), torch.tensor([7])
    order, seen = torch.tensor([3, 0, 6, 1, 5, 2, 4]), torch.tensor([[1, 0, 1, 1, 0, 0, 1]]).bool()
    plain = encoder(x, lens)[0]
    with content_alone(encoder.network, seen):
        found, changed = encoder(x, lens)[0], encoder(x + 3.0 * ~seen[..., None], lens)[0]
    with content_alone(encoder.network, seen[:, order]):
        assert torch.allclose(encoder(x[:, order], lens)[0], found[:, order], atol=1e-5)
    assert torch.allclose(changed[seen], found[seen], atol=1e-5) and not torch.allclose(changed, found, atol=0.1)
    assert torch.equal(encoder(x, lens)[0], plain) and not torch.allclose(plain, found, atol=0.01)
    with pytest.raises(ZeroDivisionError), content_alone(encoder.network, seen):
        raise ZeroDivisionError
    assert torch.equal(encoder(x, lens)[0], plain)


def test_frames_out_of_sight_in_layers_of_other_rates():
    """A layer in front of a stride sees the frames that the seen ones of the output are joined from."""
    torch.manual_seed(6)
    encoder = Encoder(4, EncoderOptions(**TRANSFORMER, kernel=1, strides=(3,))).eval()
    x, lens, seen = torch.randn(1, 8, 4), torch.tensor([8]), torch.tensor([[1, 0, 1]]).bool()
    hidden = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0]).bool()[None, :, None]
    with content_alone(encoder.network, seen):
        found, changed = encoder(x, lens)[0], encoder(x + 3.0 * hidden, lens)[0]
    assert torch.allclose(changed[seen], found[seen], atol=1e-5) and not torch.allclose(changed, found, atol=0.1)


def test_spans_have_their_length_and_share():
    torch.manual_seed(2)
    lens = torch.tensor([4000, 3, 1, 4000])
    mask = span_mask(lens, 4000, 0.4, 7)
    assert [int(row.sum()) > 0 for row in mask] == [True] * 4
    assert not mask[1, 3:].any() and not mask[2, 1:].any()
    assert mask[[0, 3]].float().mean() == pytest.approx(0.4, abs=0.04)
    runs = np.diff(np.flatnonzero(np.diff(np.pad(mask[0].numpy().astype(int), 1))).reshape(-1, 2))
    assert runs.min() >= 7 or int(mask[0, -7:].sum())  # only the end of the utterance may cut a span
    assert sorted(set(runs[:-1, 0]))[0] == 7


def test_the_network_sees_no_masked_frame(tones, monkeypatch):
    """The same features with other values under the masks give the same encoding, and targets without masks."""
    options = options_with(**TURNS, self_share=1.0)
    data = Dataset.open(tones.data, options.feat_options())
    task, model = turns_of(data, options), with_heads(options)
    batch = data.batch(np.array([0, 5]))
    seen = {}

    def spied(encoded, feats, lens, mask):
        seen.update(encoded=encoded, feats=feats, mask=mask)
        return encoded.sum(), torch.zeros(())

    monkeypatch.setattr(model.auxiliary.contrast, "forward", spied)
    outputs = []
    for noise in (0.0, 5.0):
        torch.manual_seed(4)
        lens, factor = batch.lens, options.label_factor
        mask = span_mask(-(-lens // factor), -(-batch.feats.shape[1] // factor), 0.5, 3)
        hidden = mask.repeat_interleave(factor, 1)[:, : batch.feats.shape[1], None]
        changed = batch.feats + noise * hidden
        monkeypatch.setattr(Dataset, "batch", lambda self, i, d="cpu", f=changed: Batch(i, f.clone(), lens))
        torch.manual_seed(4)
        # What arrives has been through SpecAugment, and is not what is predicted.
        task.criterion(model, Batch(batch.indices, torch.zeros_like(batch.feats), lens), 0.5)
        assert torch.equal(seen["mask"], mask) and torch.equal(seen["feats"], model.normalise(changed) * (changed != 0))
        outputs.append(seen["encoded"])
    assert torch.equal(*outputs)


@pytest.mark.parametrize("own_loss", [TURNS, PLACES], ids=["contrast", "position"])
def test_an_update_learns_one_loss_from_the_utterances_that_have_it(parts, own_loss):
    """Both sides of the turns by the gradients, and the targets of utterances that stand there several times."""
    options = options_with(**{**own_loss, "self_mask_seconds": 0.06}, repeat_labelled=3)
    name = own_loss["self_supervised"]
    labelled, unlabelled = (Dataset.open(part, options.feat_options()) for part in parts)
    task = turns_of(labelled, options, unlabelled)
    assert len(task.data) == 3 * len(labelled) + len(unlabelled) and task.criterion.span == 3
    places = np.arange(400) / 400
    turns = np.array([task.criterion.is_self_supervised(done) for done in places])
    assert 0.4 < turns.mean() < 0.6 and 150 < (turns[1:] != turns[:-1]).sum() < 250
    for done in (places[turns][0], places[~turns][0]):
        model, own = with_heads(options), bool(turns[int(done * 400)])
        batch = task.data.batch(np.array([len(labelled) + 1, 3 * len(labelled)]))
        loss = task.criterion(model, batch, done)
        loss.total.backward()
        head = model.auxiliary.contrast or model.auxiliary.position
        assert all((p.grad is not None) == own for p in head.parameters())
        assert (model.model.ctc.weight.grad is not None) != own
        if own:
            assert set(loss.sums) == {name, f"{name}_right"}
            continue
        alone = EndToEndLoss([np.array([3, 4, 5])] * len(labelled), options)
        expected = alone(model, labelled.batch(np.array([1])), done)
        assert float(loss.total) == pytest.approx(float(expected.total), rel=1e-4) and loss.frames == expected.frames
        assert task.criterion(model, task.data.batch(np.array([3 * len(labelled)])), done).frames == 0
        assert task.criterion.rate_factor(done) == 1.0


def test_entropy_of_attention_is_measured_without_masks(tones):
    """Of the encoder with its positions, and of all frames; no random number is drawn."""
    options = options_with(**PLACES, self_share=1.0)
    data, model = Dataset.open(tones.data, options.feat_options()), with_heads(options)
    task, state = turns_of(data, options), torch.get_rng_state()
    found = attention_entropy(model, task, options, "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    layers = [block.attention for block in model.model.encoder.network.blocks]
    batch = normalised(model, data.batch(plan(data.lens, options.batch_frames, options.max_batch)[0]))
    for layer in layers:
        layer.watched = True
    EndToEndLoss([np.array([3, 4, 5])] * len(data), options)(model, batch, 0.5)
    assert found == {f"attention_entropy_{number}": layer.entropy for number, layer in enumerate(layers, 1)}


def test_figures_are_per_what_they_are_counted_in():
    sums: dict[str, float] = {}
    add_sums(sums, Loss(torch.tensor(6.0), 3, sums={"ctc": 6.0}, counts={"ctc": 3}))
    add_sums(sums, Loss(torch.tensor(20.0), 40, sums={"contrast": 20.0}, counts={"contrast": 40}))
    assert per_frame(sums) == {"loss": 26 / 43, "ctc": 2.0, "contrast": 0.5}


def test_rates_of_the_two_losses(parts, tokens, tmp_path, monkeypatch):
    """The factor reaches the optimizer in the updates that learn without transcripts, and in these alone."""
    rates = {True: set(), False: set()}
    plain = torch.optim.NAdam.step
    options = options_with(**TURNS, self_rate=0.25, schedule="constant", learning_rate=0.004, batch_frames=300)
    turn = InTurns.is_self_supervised
    last = []
    monkeypatch.setattr(InTurns, "is_self_supervised", lambda self, done: last.append(turn(self, done)) or last[-1])

    def noted(self, *arguments, **named):
        rates[last[-1]].add(self.param_groups[0]["lr"])
        return plain(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.NAdam, "step", noted)
    train_end_to_end(parts[0], tokens, tmp_path / "m", options, unlabelled_dir=parts[1])
    assert rates == {True: {0.001}, False: {0.004}}


@pytest.mark.parametrize("own_loss", [TURNS, PLACES], ids=["contrast", "position"])
def test_it_learns_and_helps_as_a_first_encoder(parts, tones, tokens, tmp_path, own_loss):
    """Frames or places are told better than by chance, and the encoder is taken over by a training of CTC."""
    name, shape = own_loss["self_supervised"], {k: v for k, v in own_loss.items() if not k.startswith("self_")}
    first = options_with(**own_loss, self_share=1.0, epochs=12, learning_rate=0.01, batch_frames=300)
    train_end_to_end(parts[0], tokens, tmp_path / "first", first, unlabelled_dir=parts[1])
    figures = load_end_to_end(tmp_path / "first")[1].epochs
    assert figures[-1][f"{name}_right"] > 1.5 * figures[0][f"{name}_right"]
    assert figures[-1][name] < figures[0][name] - 0.3 and "ctc" not in figures[-1]
    frozen = options_with(**shape, epochs=1, learning_rate=1e-12)
    train_end_to_end(parts[0], tokens, tmp_path / "then", frozen, init_dir=tmp_path / "first")
    there, here = (load_end_to_end(tmp_path / name)[0].state_dict() for name in ("first", "then"))
    assert all(torch.allclose(there[k], here[k], atol=1e-6) for k in there if k.startswith("encoder."))


class Stop(Exception):
    """The interruption."""


def test_an_interrupted_training_ends_with_the_same_bits(parts, tokens, tmp_path, monkeypatch):
    options = options_with(**TURNS, epochs=4, batch_frames=400, time_masks=1)
    train_end_to_end(parts[0], tokens, tmp_path / "whole", options, parts[0], unlabelled_dir=parts[1])
    plain = InTurns.end_epoch
    count = []

    def stopping(self, *arguments):
        count.append(1)
        if len(count) == 3:
            raise Stop
        plain(self, *arguments)

    monkeypatch.setattr(InTurns, "end_epoch", stopping)
    with pytest.raises(Stop):
        train_end_to_end(parts[0], tokens, tmp_path / "broken", options, parts[0], unlabelled_dir=parts[1])
    assert (tmp_path / "broken" / CHECKPOINT).exists()
    monkeypatch.setattr(InTurns, "end_epoch", plain)
    train_end_to_end(parts[0], tokens, tmp_path / "broken", options, parts[0], unlabelled_dir=parts[1])
    whole, broken = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken"))
    assert whole == broken


@pytest.mark.slow
def test_processes_do_what_one_does_with_accumulation(parts, tokens, tmp_path, run_script):
    step = [ROOT / "steps" / "train_e2e.py", parts[0], tokens]
    loop = ["--unlabelled", parts[1], "--self-supervised", "contrast", "--model", "ctc", "--encoder", "tdnn"]
    loop += [
        "--layers",
        "2",
        "--dim",
        "8",
        "--strides",
        "2",
        "--dropout",
        "0",
        "--epochs",
        "2",
        "--batch-frames",
        "400",
    ]
    loop += ["--time-masks", "0", "--feature-masks", "0", "--device", "cpu", "--repeat-labelled", "2"]
    one = run_script(sys.executable, *step, tmp_path / "one", *loop, "--accumulate", "2", OMP_NUM_THREADS="1")
    assert one.returncode == 0, one.stderr
    two = run_script(*torchrun(2), *step, tmp_path / "two", *loop, OMP_NUM_THREADS="1")
    assert two.returncode == 0, two.stderr
    models = [load_end_to_end(tmp_path / name)[0].state_dict() for name in ("one", "two")]
    for name, tensor in models[0].items():
        assert torch.allclose(tensor, models[1][name], atol=1e-4), name


def test_long_speech_without_transcripts_is_left_out_aloud(parts, tokens, tmp_path, caplog):
    data = Dataset.open(parts[1], options_with().feat_options())
    longest = float(np.sort(data.lens)[-4]) * 0.01
    first = data.id(int(np.argmax(data.lens * 0.01 > longest)))
    options = options_with(**TURNS, epochs=1, max_seconds=longest, max_skipped=1.0)
    train_end_to_end(parts[0], tokens, tmp_path / "m", options, unlabelled_dir=parts[1])
    assert (
        f"unlabelled: utterances longer than {longest:g} s (--max-seconds): 3 of 16, the first: '{first}'"
        in caplog.text
    )


def test_input_that_does_not_fit_is_refused(parts, tokens, tmp_path, run_script):
    def refused(error, text, unlabelled=None, dev=None, **changes):
        with pytest.raises(error, match=text):
            train_end_to_end(parts[0], tokens, tmp_path / "m", options_with(**changes), dev, unlabelled_dir=unlabelled)
        assert not (tmp_path / "m").exists()

    refused(ConfigError, "--unlabelled is speech for --self-supervised, which is none", parts[1])
    refused(ConfigError, "--dev cannot choose among its epochs", dev=parts[0], self_share=1.0, **TURNS)
    refused(ConfigError, "--self-rate, --repeat-labelled: without effect, --self-sup", self_rate=0.1, repeat_labelled=3)
    for name, value in dict(self_share=1.0, self_mask_share=0.3, self_mask_seconds=0.1).items():
        refused(ConfigError, f"--{name.replace('_', '-')}: without effect", **{name: value})
    refused(ConfigError, "--self-mask-seconds: without effect, .* is position", **PLACES, self_mask_seconds=0.1)
    for shape in ({"encoder": "tdnn"}, {"frames_per_step": 2}):
        refused(ConfigError, "position needs --encoder transformer with", **{**PLACES, **shape})
    refused(DataError, "stands in both data sets", parts[0], **TURNS)
    (tmp_path / "other").mkdir()
    local = parts[1].parent / "local" / "unlabelled"
    compute_feats(local, tmp_path / "other", tmp_path / "other", FeatureOptions(type="fbank", dim=8))
    refused(MismatchError, "do not belong together", tmp_path / "other", **TURNS)
    step = [sys.executable, ROOT / "steps" / "train_e2e.py", parts[0], tokens, tmp_path / "out"]
    done = run_script(*step, "--unlabelled", parts[1])
    assert done.returncode == 2 and "which is none" in done.stderr and not (tmp_path / "out").exists()
