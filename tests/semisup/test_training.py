"""Semi-supervised training on tones: all teachers, both kinds of models, resuming, and input that does not fit."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet, AliWriter
from pipeline.artifacts.checkpoint import load_tensors
from pipeline.artifacts.corpus import iter_cuts, save_data_dir, validate_data_dir
from pipeline.artifacts.hyp import Hypothesis, load_hypotheses, save_hypotheses
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.tokens import Tokens
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.e2e.model import load_end_to_end
from pipeline.e2e.training import train_end_to_end
from pipeline.feats.compute import compute_feats
from pipeline.feats.dataset import Dataset, plan, validate_feats
from pipeline.feats.joined import joined
from pipeline.feats.options import FeatureOptions
from pipeline.nn.hybrid import train_viterbi
from pipeline.nn.model import load_acoustic_model
from pipeline.nn.options import ViterbiOptions
from pipeline.nn.step import DivergenceError, Task, attention_entropy, normalised
from pipeline.semisup.collapse import Watch
from pipeline.semisup.criterion import SemiSupervised, Targets
from pipeline.semisup.end_to_end import EndToEndSide
from pipeline.semisup.hybrid import HybridSide
from pipeline.semisup.options import SemiSupervisedOptions, Sources
from pipeline.semisup.side import Given
from pipeline.semisup.training import make_pair, train_semisup
from pipeline.tasks.train_options import LabelledOptions, PseudoOptions
from pipeline.tasks.untranscribed import choose_speakers, split_labelled, transcribe
from tests.e2e.test_training import LOOP, SHAPE, ali, options_with, tokens  # noqa: F401
from tests.nn.conftest import tones  # noqa: F401
from tests.torchrun import torchrun

ROOT = Path(__file__).resolve().parents[2]
# What the small first models label differs from torch to torch; whether it has collapsed is asked by tests of that alone.
UNWATCHED = dict(max_empty=1.0, min_entropy=0.0)
WATCHED = dict(max_empty=0.9, min_entropy=0.3)
OPTIONS = SemiSupervisedOptions(**{**LOOP, **UNWATCHED, "epochs": 2, "batch_frames": 400})
SEED = dict(epochs=6, batch_frames=300, learning_rate=0.02)


class Split(NamedTuple):
    """Data directories with features, an end-to-end and a hybrid model of the labelled one."""

    labelled: Path
    unlabelled: Path
    e2e: Path
    hybrid: Path


@pytest.fixture(scope="module")
def split(tones, tokens, ali, tmp_path_factory) -> Split:
    root = tmp_path_factory.mktemp("semisup")
    split_labelled(tones.data.parent / "local", root / "local", LabelledOptions(share=0.34))
    for part in ("labelled", "unlabelled"):
        (root / part).mkdir()
        compute_feats(root / "local" / part, root / part, root / part, FeatureOptions(type="fbank", dim=16))
    train_end_to_end(root / "labelled", tokens, root / "e2e", options_with(**SEED))
    hybrid = ViterbiOptions(**SHAPE, **{**LOOP, **SEED})
    train_viterbi(root / "labelled", tones.lang, ali, root / "hybrid", hybrid)
    return Split(root / "labelled", root / "unlabelled", root / "e2e", root / "hybrid")


def trained(split: Split, sources: Sources, out: Path, hybrid: bool = False, **changes) -> dict:
    """Facts of a training."""
    options = dataclasses.replace(OPTIONS, **changes)
    return train_semisup(split.labelled, split.unlabelled, split.hybrid if hybrid else split.e2e, out, options, sources)


def bits(directory: Path) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def test_transcripts_of_most_speakers_are_taken_away(tones, tmp_path):
    facts = split_labelled(tones.data, tmp_path, LabelledOptions(share=0.34))
    assert [facts[part]["speakers"] for part in ("labelled", "unlabelled")] == [1, 2]
    parts = {part: [cut for _, cut in iter_cuts(tmp_path / part)] for part in ("labelled", "unlabelled")}
    speakers = {part: {cut["supervisions"][0]["speaker"] for cut in cuts} for part, cuts in parts.items()}
    assert not speakers["labelled"] & speakers["unlabelled"] and sum(map(len, parts.values())) == 24
    assert all(cut["supervisions"][0]["text"] == "" for cut in parts["unlabelled"])
    assert all(cut["supervisions"][0]["text"] for cut in parts["labelled"])
    assert not any("features" in cut for cuts in parts.values() for cut in cuts)
    assert validate_data_dir(tmp_path / "unlabelled").num_utterances == len(parts["unlabelled"])
    cut = parts["unlabelled"][0]
    cut["supervisions"][0]["text"] = "AB"
    save_data_dir(tmp_path / "both", [cut])
    with pytest.raises(DataError, match="transcript 'AB' of an utterance that is marked untranscribed"):
        list(iter_cuts(tmp_path / "both"))


def test_shares_of_speakers():
    names = [f"s{i}" for i in range(40)]
    few, more = (choose_speakers(names, LabelledOptions(share=share)) for share in (0.1, 0.3))
    assert len(few) == 4 and len(more) == 12 and few < more
    assert choose_speakers(names, LabelledOptions(share=0.1, seed=2)) != few
    assert len(choose_speakers(names[:2], LabelledOptions(share=0.01))) == 1
    assert len(choose_speakers(names[:2], LabelledOptions(share=0.99))) == 1


def test_two_data_sets_as_one(tones):
    whole = Dataset.open(tones.data, OPTIONS.feat_options())
    both = joined(whole.select(np.array([3, 4, 3])), whole.select(np.arange(10, 24)))
    assert both.ids[:4] == [whole.id(3), whole.id(4), whole.id(3), whole.id(10)] and len(both) == 17
    order = np.array([16, 0, 3, 2])
    for found, row in zip(both.each(order), [23, 3, 10, 3]):
        assert torch.equal(found, whole.each(np.array([row]))[0])
    assert torch.equal(both.flat(order), torch.cat(both.each(order))) and len(both.flat(order[:0])) == 0
    assert both.text(16) == whole.text(23) and both.speaker(16) == whole.speaker(23)
    pieces = both.chunks(20)
    assert torch.equal(torch.cat(pieces.each(np.arange(len(pieces)))), both.flat(np.arange(17)))
    with pytest.raises(DataError, match="stands in both data sets"):
        joined(whole.select(np.array([3])), whole.select(np.array([2, 3])))


@pytest.mark.parametrize(
    "changes",
    [
        dict(teacher="fixed"),
        dict(teacher="ema", momentum=0.9, keep="teacher"),
        dict(teacher="ema", soft_share=1.0),
        dict(teacher="ema", soft_share=0.5, temperature=0.5),
        dict(teacher="cache", renew=0.5, renew_by="change", start="random", labelled_epochs=1),
        dict(teacher="rounds", round_epochs=1, method="ctc_prefix", beam=3, repeat_labelled=2, keep="teacher"),
    ],
    ids=str,
)
def test_all_teachers_train(changes, split, tones, tokens, tmp_path):
    facts = trained(split, Sources(tokens=tokens, dev=tones.data), tmp_path / "m", **changes)
    assert np.isfinite(facts["dev_loss"]) and (facts["labelled"], facts["unlabelled"]) == (8, 16)
    model, meta = load_end_to_end(tmp_path / "m")
    assert meta.tokens_id == Tokens.load(tokens).id and len(meta.epochs) == 2
    before = load_tensors(split.e2e / "model.safetensors")
    assert set(before) == set(model.state_dict())
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_teacher_that_knows_the_words_gives_the_supervised_gradient(tones, split, tokens, monkeypatch):
    """Labelled and unlabelled utterances of one batch against the supervised loss of all of them."""
    options = dataclasses.replace(OPTIONS, pseudo_weight=1.0, teacher="ema")
    side = EndToEndSide(split.labelled, split.unlabelled, split.e2e, options, Sources(tokens=tokens))
    data, table = joined(side.labelled, side.unlabelled), Tokens.load(tokens)
    texts = {cut["id"]: cut["supervisions"][0]["text"] for _, cut in iter_cuts(tones.data)}
    truth = [np.array(table.encode(texts[data.id(i)])) for i in range(len(data))]
    batch = normalised(side.network, data.batch(np.array([0, 9, 3, 20])))
    told = Given([truth[9], truth[20]], [1.0, 1.0], None, torch.zeros(2))
    monkeypatch.setattr(EndToEndSide, "label", lambda *_: told)
    watch = Watch(side.known, side.num_labels, side.name_of, options)
    criterion = SemiSupervised(side, data, Targets(side.known, 1), options, 0.9, watch)
    pair = make_pair(side, options, None).train()
    semi, full = criterion(pair, batch, 0.5), side.criterion(truth)(pair.student, batch, 0.5)
    assert semi.frames == full.frames and float(semi.total) == pytest.approx(float(full.total), rel=1e-5)
    gradients = [torch.autograd.grad(loss.total, list(side.network.model.parameters())) for loss in (semi, full)]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients))


@pytest.mark.parametrize("kind", ["e2e", "hybrid"])
@pytest.mark.parametrize("soft", [0.0, 0.3, 1.0])
def test_the_loss_against_its_formula(soft, kind, split, tones, ali, tokens):
    """Utterance by utterance, without padding; one of the unlabelled ones is left out for its confidence."""
    w, hybrid = 0.5, kind == "hybrid"
    sources = Sources(lang=tones.lang, ali=ali) if hybrid else Sources(tokens=tokens)
    options = dataclasses.replace(OPTIONS, pseudo_weight=w, soft_share=soft, teacher="ema")
    make = HybridSide if hybrid else EndToEndSide
    side = make(split.labelled, split.unlabelled, getattr(split, kind), options, sources)
    data, first = joined(side.labelled, side.unlabelled), len(side.labelled)
    pair = make_pair(side, options, None).train()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in pair.student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    chosen = np.array([9, 0, 3, 20, 14])  # two labelled, three unlabelled ones
    assert len(set(data.lens[chosen])) == 5

    def posteriors(network, i: int) -> torch.Tensor:
        alone = normalised(pair, data.batch(np.array([i])))
        return side.log_probs(network, alone.feats, alone.lens)[0][0]

    def given(i: int) -> tuple[np.ndarray, float]:
        alone = normalised(pair, data.batch(np.array([i])))
        found = side.label(pair.teacher, alone.feats, alone.lens)
        return found.rows[0], found.confidence[0]

    def of_labels(log_probs: torch.Tensor, row: np.ndarray) -> torch.Tensor:
        labels = torch.from_numpy(row.astype(np.int64))
        if hybrid:
            return -log_probs[torch.arange(len(labels)), labels].sum()
        lens = torch.tensor([len(log_probs)]), torch.tensor([len(labels)])
        return torch.nn.functional.ctc_loss(log_probs[:, None], labels[None], *lens, reduction="sum")

    told = {i: given(i) for i in chosen.tolist() if i >= first}
    least = sorted(confidence for _, confidence in told.values())[:2]
    options = dataclasses.replace(options, min_confidence=sum(least) / 2)
    rows = {i: row for i, (row, confidence) in told.items() if confidence >= options.min_confidence}
    assert len(rows) == 2 and all(map(len, rows.values()))
    sizes = {i: len(row) + (not hybrid) for i, row in rows.items()}
    known = {i: side.known[i] for i in chosen.tolist() if i < first}
    total = sum(of_labels(posteriors(pair.student, i), row) for i, row in known.items())
    total = total + w * (1 - soft) * sum(of_labels(posteriors(pair.student, i), row) for i, row in rows.items())
    frames, num_frames = 0.0, 0
    for i in rows:
        wanted, found = posteriors(pair.teacher, i).detach().exp(), posteriors(pair.student, i)
        frames, num_frames = frames - (wanted * found).sum(), num_frames + len(found)
    total = total + w * soft * frames / num_frames * sum(sizes.values())
    count = sum(sizes.values()) + sum(len(row) + (not hybrid) for row in known.values())

    watch = Watch(side.known, side.num_labels, side.name_of, options)
    criterion = SemiSupervised(side, data, Targets(side.known, 1), options, 0.9, watch)
    loss = criterion(pair, normalised(pair, data.batch(chosen)), 0.5)
    assert loss.frames == count and float(loss.total) == pytest.approx(float(total), rel=1e-4)
    parameters = [p for p in pair.student.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(x, parameters, allow_unused=True) for x in (loss.total, total)]
    assert any(gradient is not None for gradient in gradients[0])
    for a, b in zip(*gradients):
        assert (a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=1e-3, atol=1e-3))


@pytest.mark.parametrize("changes", [dict(soft_share=1.0), dict(teacher="rounds", round_epochs=1)], ids=str)
def test_hybrids_train(changes, split, tones, ali, tmp_path):
    sources = Sources(lang=tones.lang, ali=ali, dev=tones.data, dev_ali=ali)
    facts = trained(split, sources, tmp_path / "m", hybrid=True, **changes)
    assert np.isfinite(facts["dev_loss"])
    model, hmm, meta = load_acoustic_model(tmp_path / "m")
    assert meta.tree_id == load_hmm(ali).tree.id and meta.epochs[-1]["dev_accuracy"] > 0.3
    assert hmm.tree.num_pdfs == model.num_pdfs


class Stop(Exception):
    """Stands for kill -9."""


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """A checkpoint after each update, and an interruption in front of a batch."""
    monkeypatch.setattr("pipeline.nn.train.SAVE_SECONDS", 0.0)
    plain, calls = SemiSupervised.__call__, iter(range(batches))

    def stopping(*args):
        if next(calls, None) is None:
            raise Stop
        return plain(*args)

    monkeypatch.setattr(SemiSupervised, "__call__", stopping)


@pytest.mark.parametrize(
    "changes, pseudo",
    [
        (dict(teacher="ema", momentum=0.8), False),
        (dict(teacher="cache", renew=0.4, renew_by="change"), False),
        (dict(teacher="rounds", round_epochs=1), False),
        (dict(teacher="rounds", round_epochs=2), True),
        (dict(teacher="fixed"), True),
    ],
    ids=str,
)
def test_resumed_is_bit_equal(changes, pseudo, split, heard, tokens, tmp_path, monkeypatch):
    """The average and the kept labels are parts of the checkpoint."""
    changes = {**changes, "epochs": 3, "time_masks": 2, "feature_masks": 2}
    sources = Sources(tokens=tokens, pseudo=heard if pseudo else None)
    trained(split, sources, tmp_path / "whole", **changes)
    stop_after(monkeypatch, 14)
    with pytest.raises(Stop):
        trained(split, sources, tmp_path / "broken", **changes)
    monkeypatch.undo()
    trained(split, sources, tmp_path / "broken", **changes)
    assert bits(tmp_path / "whole") == bits(tmp_path / "broken")


@pytest.fixture(scope="module")
def attentive(split, tokens, tmp_path_factory) -> Path:
    """A Transformer with dropout, and random positions in training."""
    out = tmp_path_factory.mktemp("attentive") / "m"
    shape = dict(encoder="transformer", layers=2, dim=16, heads=2, strides=(), subsampling=2, positions="cape")
    train_end_to_end(split.labelled, tokens, out, options_with(**shape, dropout=0.1, **SEED))
    return out


@pytest.mark.parametrize("dev", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        dict(teacher="ema", momentum=0.8, keep="student"),
        dict(teacher="ema", momentum=0.8, keep="teacher"),
        dict(teacher="cache", renew=0.4, renew_by="change"),
    ],
    ids=str,
)
def test_entropy_of_attention_is_that_of_the_network_kept(
    changes, dev, split, attentive, tones, tokens, tmp_path, monkeypatch
):
    """Measuring it is no part of the training: no label is asked for or counted, no random number drawn."""
    changes = {**changes, "epochs": 3, "average": 1, "time_masks": 2, "max_empty": 1.0}
    options = dataclasses.replace(OPTIONS, **changes)
    sources = Sources(tokens=tokens, dev=tones.data if dev else None)

    def train_to(name: str) -> list[dict[str, float]]:
        train_semisup(split.labelled, split.unlabelled, attentive, tmp_path / name, options, sources)
        epochs = load_end_to_end(tmp_path / name)[1].epochs
        return [{k: v for k, v in figures.items() if k != "seconds"} for figures in epochs]

    whole = train_to("whole")
    names = ["attention_entropy_1", "attention_entropy_2"]
    assert all([k for k in figures if "entropy" in k] == names for figures in whole)
    assert all(0 < figures[name] < np.log(80) for figures in whole for name in names)
    if not dev:
        side = EndToEndSide(split.labelled, split.unlabelled, tmp_path / "whole", options, sources)
        task = Task(joined(side.labelled, side.unlabelled), side.criterion([]))
        assert attention_entropy(side.network, task, options, "cpu") == {name: whole[-1][name] for name in names}
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.nn.train.attention_entropy", lambda *_: {})
        unmeasured = train_to("unmeasured")
    assert bits(tmp_path / "unmeasured") == bits(tmp_path / "whole")
    assert unmeasured == [{k: v for k, v in figures.items() if k not in names} for figures in whole]
    stop_after(monkeypatch, 14)
    with pytest.raises(Stop):
        train_to("broken")
    monkeypatch.undo()
    assert train_to("broken") == whole and bits(tmp_path / "broken") == bits(tmp_path / "whole")


def test_transcripts_of_unlabelled_speech_are_not_read(split, tones, tokens, tmp_path, monkeypatch):
    def read(data: Dataset, i: int) -> str:
        assert data.speaker(i) in labelled, data.where(i)
        return plain(data, i)

    plain, labelled = Dataset.text, {cut["supervisions"][0]["speaker"] for _, cut in iter_cuts(split.labelled)}
    monkeypatch.setattr(Dataset, "text", read)
    trained(split, Sources(tokens=tokens), tmp_path / "m", epochs=1)


def test_who_teaches_a_random_student(split, tokens):
    """The model given, but for a moving average, which is that of the student from the beginning."""
    tensors = load_tensors(split.e2e / "model.safetensors")
    given = tensors["ctc.weight"]
    for teacher in ("fixed", "rounds", "ema", "cache"):
        options = dataclasses.replace(OPTIONS, teacher=teacher, start="random")
        side = EndToEndSide(split.labelled, split.unlabelled, split.e2e, options, Sources(tokens=tokens))
        pair = make_pair(side, options, None)
        student = pair.student.model.ctc.weight
        assert not torch.equal(student, given) and torch.equal(pair.student.model.mean, tensors["mean"])
        if teacher == "cache":
            assert pair.teacher is None
        else:
            assert torch.equal(pair.teacher.model.ctc.weight, student if teacher == "ema" else given)


@pytest.mark.parametrize("teacher, asked", [("fixed", 16), ("ema", 48), ("rounds", 32), ("cache", None)])
def test_when_an_utterance_is_labelled(teacher, asked, split, tokens, tmp_path, monkeypatch):
    """16 utterances in three epochs; rounds of two epochs."""
    count, plain = 0, EndToEndSide.label

    def counting(side, network, feats, lens):
        nonlocal count
        count += len(lens)
        return plain(side, network, feats, lens)

    monkeypatch.setattr(EndToEndSide, "label", counting)
    trained(split, Sources(tokens=tokens), tmp_path / "m", teacher=teacher, epochs=3, round_epochs=2, renew=0.5)
    assert count == asked if asked else 16 < count < 48


def test_a_collapse_ends_the_training(split, tones, tokens, ali, tmp_path):
    """A network with random parameters that labels for itself knows one label only."""
    with pytest.raises(DivergenceError, match="epoch 1: the pseudo-labels have collapsed to a few labels.*'state "):
        start = dict(start="random", teacher="cache")
        trained(split, Sources(lang=tones.lang, ali=ali), tmp_path / "h", hybrid=True, **start, **WATCHED)
    with pytest.raises(DivergenceError, match="epoch 1: the pseudo-labels have collapsed.*Usual cures"):
        trained(split, Sources(tokens=tokens), tmp_path / "m", **start, **{**WATCHED, "min_entropy": 1.0})


@pytest.mark.parametrize("collapsed", [False, True])
def test_an_interruption_changes_no_verdict(collapsed, split, tokens, tmp_path, monkeypatch, caplog):
    """All labels of the epoch's last batch are empty; or those of all others, so that its own would acquit it."""
    caplog.set_level(logging.INFO)
    changes = dict(epochs=1, max_empty=0.5)
    options, known = dataclasses.replace(OPTIONS, **changes), Sources(tokens=tokens)
    side = EndToEndSide(split.labelled, split.unlabelled, split.e2e, options, known)
    data = joined(side.labelled, side.unlabelled)
    batches = plan(data.lens, options.batch_frames, options.max_batch, (options.seed, 0))
    last = set(batches[-1].tolist())
    assert 0 < sum(i >= len(side.labelled) for i in last) < 8

    def labels(self, pair, batch):
        rows = [np.array([] if (i in last) != collapsed else [3, 4, 5], dtype=np.int64) for i in batch.indices.tolist()]
        return Given(rows, [1.0] * len(rows), None, batch.lens)

    def verdict(name: str) -> tuple[str, str]:
        caplog.clear()
        found = ""
        try:
            trained(split, known, tmp_path / name, **changes)
        except DivergenceError as e:
            found = str(e)
        return found, next(line for line in caplog.messages if line.startswith("pseudo-labels: 16, "))

    monkeypatch.setattr(SemiSupervised, "_labels", labels)
    whole = verdict("whole")
    assert ("have collapsed" in whole[0]) == collapsed
    with monkeypatch.context() as patched:
        stop_after(patched, len(batches) - 1)
        with pytest.raises(Stop):
            trained(split, known, tmp_path / "broken", **changes)
    assert verdict("broken") == whole
    if collapsed:
        assert verdict("broken") == whole
    else:
        assert bits(tmp_path / "whole") == bits(tmp_path / "broken")
        assert not any("number of" in name for name in load_end_to_end(tmp_path / "whole")[1].epochs[0])


def test_labels_without_confidence_are_left_out(split, tokens, tmp_path):
    """All of them, so that the training is that of the labelled data alone."""
    trained(split, Sources(tokens=tokens), tmp_path / "none", min_confidence=1.0)
    trained(split, Sources(tokens=tokens), tmp_path / "weight0", pseudo_weight=0.0)
    losses = [load_end_to_end(tmp_path / name)[1].epochs[0]["loss"] for name in ("none", "weight0")]
    assert np.isfinite(losses).all() and losses[0] != losses[1]


def test_input_that_does_not_fit_is_named(split, tokens, tmp_path, monkeypatch):
    def refused(error, text, sources, hybrid=False, **changes):
        with pytest.raises(error, match=text):
            trained(split, sources, tmp_path / "m", hybrid, **changes)
        assert not (tmp_path / "m").exists()

    known = Sources(tokens=tokens)
    refused(ConfigError, "--tokens has to say", Sources())
    Tokens("char", ["▁", "X", "Y", "Z"]).save(tmp_path / "other")
    refused(MismatchError, "tokens ids", Sources(tokens=tmp_path / "other"))
    refused(ConfigError, "--lang and --ali", Sources(), hybrid=True)
    refused(ConfigError, "--teacher cache keeps hard labels", known, teacher="cache", soft_share=0.5)
    refused(ConfigError, "--labelled-epochs 2 leaves none", known, labelled_epochs=2)
    refused(ConfigError, "--keep teacher would write", known, teacher="fixed", keep="teacher")
    refused(ConfigError, "--teacher cache has none", known, teacher="cache", keep="teacher")
    rounds = dict(teacher="rounds", keep="teacher")
    refused(ConfigError, "it teaches all 2 epochs of the first round", known, round_epochs=2, **rounds)
    refused(ConfigError, "--labelled-epochs 2 leaves none", known, round_epochs=1, labelled_epochs=2, **rounds)
    refused(ConfigError, "--temperature draws labels of frames", known, temperature=1.0, method="ctc_prefix")
    refused(ConfigError, "have to say what the teacher's features are", known, cmvn="utterance")
    refused(DataError, "no utterance is left", known, max_seconds=0.1, max_skipped=1.0)
    side = EndToEndSide(split.labelled, split.unlabelled, split.e2e, OPTIONS, known)
    monkeypatch.setattr("pipeline.semisup.end_to_end.learnable", lambda *_: (side.labelled, side.known))
    refused(DataError, "unlabelled: no utterance is shorter than 0.1 s", known, max_seconds=0.1)


def test_what_has_no_effect_is_refused(split, tones, ali, tokens, tmp_path, run_script):
    def refused(text, sources, hybrid=False, **changes):
        with pytest.raises(ConfigError, match=text):
            trained(split, sources, tmp_path / "m", hybrid, **changes)

    known = dict(lang=tones.lang, ali=ali)
    refused("--lang, --ali: without effect, .*e2e is an end-to-end model", Sources(tokens=tokens, **known))
    refused("--dev-ali: without effect", Sources(tokens=tokens, dev=tones.data, dev_ali=ali))
    refused("--tokens, --lm: without effect, .*hybrid is a hybrid", Sources(**known, tokens=tokens, lm=tokens), True)
    refused("--dev-ali aligns the data of --dev", Sources(**known, dev_ali=ali), True)
    for name, value in dict(
        method="ctc_greedy", beam=4, lm_weight=0.1, length_bonus=1.0, ctc_weight=0.5, max_seconds=9.0
    ).items():
        refused(f"--{name.replace('_', '-')}: without effect", Sources(**known), True, **{name: value})
    step = [sys.executable, ROOT / "steps" / "train_semisup.py", split.labelled, split.unlabelled, split.hybrid]
    done = run_script(*step, tmp_path / "out", "--lang", tones.lang, "--ali", ali, "--tokens", tokens)
    assert done.returncode == 2 and "--tokens: without effect" in done.stderr and not (tmp_path / "out").exists()


def test_an_alignment_with_another_tree_is_refused(split, tones, ali, tmp_path):
    """Two states of it are exchanged."""
    lang, old = Lang.load(tones.lang), AliSet.load(ali)
    first, second, *others = load_hmm(ali).tree.roots
    roots = [dataclasses.replace(first, node=second.node), dataclasses.replace(second, node=first.node), *others]
    tree = Tree(roots, lang.phones)
    header = dataclasses.replace(old.header, tree_id=tree.id)
    model = TransitionModel(tree, lang.topo)
    with AliWriter(tmp_path / "ali", header, tree, lang.topo, model, lang.words) as out:
        for alignment in old.values():
            out.write(alignment)
    sources = Sources(lang=tones.lang, ali=tmp_path / "ali")
    with pytest.raises(MismatchError, match="hybrid and .*ali do not belong together: tree ids"):
        trained(split, sources, tmp_path / "m", hybrid=True)


def test_an_alignment_of_coarser_frames_is_refused(split, tones, ali, tmp_path):
    """For dev, too. No option would help: the frame rate is that of the model."""
    old, hmm, lang = AliSet.load(ali), load_hmm(ali), Lang.load(tones.lang)
    header = dataclasses.replace(old.header, frame_shift=4 * old.header.frame_shift)
    with AliWriter(tmp_path / "ali", header, hmm.tree, hmm.topo, hmm.transitions, lang.words) as out:
        for alignment in old.values():
            out.write(alignment)
    for wrong in (dict(ali=tmp_path / "ali"), dict(ali=ali, dev=tones.data, dev_ali=tmp_path / "ali")):
        with pytest.raises(MismatchError, match="an alignment by .*/hybrid itself fits") as caught:
            trained(split, Sources(lang=tones.lang, **wrong), tmp_path / "m", hybrid=True)
        assert "--subsampling" not in str(caught.value)


@pytest.fixture(scope="module")
def heard(split, tones, tmp_path_factory) -> Path:
    """A decoding directory with the true words, one utterance empty, one of low confidence, one missing."""
    texts = {cut["id"]: cut["supervisions"][0]["text"] for _, cut in iter_cuts(tones.data)}
    ids = sorted(cut["id"] for _, cut in iter_cuts(split.unlabelled))
    out = tmp_path_factory.mktemp("heard")
    rows = [
        Hypothesis(
            c, "s", (), () if n == 0 else tuple(texts[c].split()), () if n == 0 else (0.2 if n == 1 else 0.9,) * 3
        )
        for n, c in enumerate(ids[:-1])
    ]
    save_hypotheses(out / "recogs.jsonl.gz", rows)
    return out


def test_recognised_words_become_transcripts(split, heard, tones, tmp_path):
    facts = transcribe(split.unlabelled, heard, tmp_path / "told", PseudoOptions(min_confidence=0.5))
    assert facts == {"utterances": 13, "empty": 2, "doubtful": 1}
    told = Dataset.open(tmp_path / "told", OPTIONS.feat_options())
    texts = {cut["id"]: cut["supervisions"][0]["text"] for _, cut in iter_cuts(tones.data)}
    assert [told.text(i) for i in range(13)] == [texts[c] for c in told.ids]
    whole = Dataset.open(split.unlabelled, OPTIONS.feat_options(), told.ids)
    assert torch.equal(told.flat(np.arange(13)), whole.flat(np.arange(13)))
    assert validate_feats(tmp_path / "told").num_utterances == 13
    assert transcribe(split.unlabelled, heard, tmp_path / "all", PseudoOptions())["doubtful"] == 0


def test_first_labels_from_a_decoding(split, heard, tokens, tmp_path, monkeypatch):
    """They are what the training learns; the teacher is asked for none of them."""
    monkeypatch.setattr(EndToEndSide, "label", None)
    sources = Sources(tokens=tokens, pseudo=heard)
    facts = trained(split, sources, tmp_path / "m", teacher="fixed", min_confidence=0.5)
    assert np.isfinite(facts["loss"])
    options = dataclasses.replace(OPTIONS, teacher="fixed")
    side = EndToEndSide(split.labelled, split.unlabelled, split.e2e, options, sources)
    given = {side.unlabelled.id(i): label for i, label in enumerate(side.given(heard))}
    for hyp in load_hypotheses(heard):
        row, confidence = given[hyp.cut_id]
        assert row.tolist() == Tokens.load(tokens).encode(" ".join(hyp.hyp))
        assert confidence == pytest.approx(np.mean(hyp.confidence) if hyp.hyp else 0.0)
    (missing,) = [cut_id for cut_id, label in given.items() if label is None]
    assert missing not in {hyp.cut_id for hyp in load_hypotheses(heard)} and facts["unlabelled"] == 15
    assert sum(not len(label[0]) for label in given.values() if label is not None) == 1


def test_first_labels_from_an_alignment(split, tones, ali, tmp_path, monkeypatch):
    monkeypatch.setattr(HybridSide, "label", None)
    sources = Sources(lang=tones.lang, ali=ali, pseudo=ali)
    trained(split, sources, tmp_path / "m", hybrid=True, teacher="fixed")
    with pytest.raises(ConfigError, match="has no confidences .--confidence of steps/align.py"):
        trained(split, sources, tmp_path / "n", hybrid=True, teacher="fixed", min_confidence=0.5)


def test_first_labels_that_do_not_fit_are_named(split, heard, tokens, tmp_path):
    known = Sources(tokens=tokens, pseudo=heard)
    with pytest.raises(ConfigError, match="--pseudo gives hard labels that are kept"):
        trained(split, known, tmp_path / "m", teacher="ema")
    (tmp_path / "other").mkdir()
    save_hypotheses(tmp_path / "other" / "recogs.jsonl.gz", [Hypothesis("nobody", "s", (), ("AB",))])
    with pytest.raises(MismatchError, match="recognises none of these 16 utterances"):
        trained(split, Sources(tokens=tokens, pseudo=tmp_path / "other"), tmp_path / "m", teacher="fixed")
    with pytest.raises(MismatchError, match="recognises none of these 16 utterances"):
        transcribe(split.unlabelled, tmp_path / "other", tmp_path / "told", PseudoOptions())
    plain = [dataclasses.replace(hyp, confidence=None) for hyp in load_hypotheses(heard)]
    save_hypotheses(tmp_path / "other" / "recogs.jsonl.gz", plain)
    with pytest.raises(ConfigError, match="has no confidences"):
        transcribe(split.unlabelled, tmp_path / "other", tmp_path / "told", PseudoOptions(min_confidence=0.5))
    with pytest.raises(ConfigError, match="has no confidences"):
        sources = Sources(tokens=tokens, pseudo=tmp_path / "other")
        trained(split, sources, tmp_path / "m", teacher="fixed", min_confidence=0.5)
    save_hypotheses(tmp_path / "other" / "recogs.jsonl.gz", [dataclasses.replace(hyp, hyp=()) for hyp in plain])
    with pytest.raises(DataError, match="no pseudo-label is left, 16 are empty, 0 doubtful"):
        transcribe(split.unlabelled, tmp_path / "other", tmp_path / "told", PseudoOptions())


def test_untranscribed_speech_is_no_training_data_elsewhere(split, tokens, tmp_path):
    with pytest.raises(DataError, match="without text: 16 of 16"):
        train_end_to_end(split.unlabelled, tokens, tmp_path / "m", options_with())


@pytest.mark.slow
def test_processes_do_what_one_does_with_accumulation(split, tokens, tmp_path, run_script):
    """The average and the labels by it are the same in all processes."""
    step = [ROOT / "steps" / "train_semisup.py", split.labelled, split.unlabelled, split.e2e]
    loop = ["--epochs", "2", "--batch-frames", "600", "--device", "cpu", "--time-masks", "0", "--feature-masks", "0"]
    loop += ["--tokens", tokens, "--teacher", "ema", "--momentum", "0.9", "--keep", "teacher"]
    one = run_script(sys.executable, *step, tmp_path / "one", *loop, "--accumulate", "2", OMP_NUM_THREADS="1")
    assert one.returncode == 0, one.stderr
    two = run_script(*torchrun(2), *step, tmp_path / "two", *loop, OMP_NUM_THREADS="1")
    assert two.returncode == 0, two.stderr
    # Each process tells what all have seen.
    assert [done.stderr.count("pseudo-labels: 16, ") for done in (one, two)] == [2, 4], two.stderr
    models = [load_end_to_end(tmp_path / name)[0].state_dict() for name in ("one", "two")]
    for name, tensor in models[0].items():
        assert torch.allclose(tensor, models[1][name], atol=1e-4), name
    refused = run_script(*torchrun(2), *step, tmp_path / "kept", *loop[:-4], "--teacher", "fixed", OMP_NUM_THREADS="1")
    assert refused.returncode != 0 and "several processes would keep different labels" in refused.stderr


def test_the_step(split, tokens, tmp_path, run_script):
    step = [sys.executable, ROOT / "steps" / "train_semisup.py", split.labelled, split.unlabelled, split.e2e]
    loop = ["--epochs", "1", "--batch-frames", "800", "--device", "cpu", "--max-empty", "1", "--min-entropy", "0"]
    done = run_script(*step, tmp_path / "out", "--tokens", tokens, *loop)
    assert done.returncode == 0 and "8 labelled and 16 unlabelled utterances" in done.stderr, done.stderr
    bad = run_script(*step, tmp_path / "bad", *loop)
    assert bad.returncode == 2 and "--tokens has to say" in bad.stderr and not (tmp_path / "bad").exists()
