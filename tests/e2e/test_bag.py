"""Bags of tokens: the loss against its definition, which utterances have it, and that the order is found without it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.corpus import iter_cuts, save_data_dir
from pipeline.artifacts.hyp import load_hypotheses
from pipeline.base.errors import ConfigError
from pipeline.e2e.auxiliary import Auxiliary, ModelWithAuxHeads
from pipeline.e2e.criterion import EndToEndLoss, bag_losses
from pipeline.e2e.model import EndToEnd
from pipeline.e2e.options import EndToEndOptions
from pipeline.e2e.training import train_end_to_end
from pipeline.feats.dataset import Batch
from tests.e2e.test_training import options_with, tokens  # noqa: F401
from tests.nn.conftest import tones  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


def test_the_loss_against_its_definition():
    torch.manual_seed(1)
    log_probs = torch.randn(2, 6, 5).log_softmax(-1)
    rows, lens = [[3, 4, 3], [4]], [6, 2]
    padded = torch.tensor([[3, 4, 3], [4, 0, 0]])
    found = bag_losses(log_probs, torch.tensor(lens), padded, torch.tensor([3, 1]))
    for n, (row, length) in enumerate(zip(rows, lens)):
        sums = log_probs[n, :length].exp().sum(0)
        expected = -sum(float((sums[v] / sums[1:].sum()).log()) for v in row)
        assert float(found[n]) == pytest.approx(expected, rel=1e-5)
    turned = bag_losses(log_probs, torch.tensor(lens), torch.tensor([[4, 3, 3], [4, 0, 0]]), torch.tensor([3, 1]))
    assert torch.allclose(found, turned)
    scores = torch.randn(1, 4, 5, dtype=torch.float64, requires_grad=True)
    bag_losses(scores.log_softmax(-1), torch.tensor([3]), torch.tensor([[3, 4]]), torch.tensor([2])).sum().backward()
    assert torch.isfinite(scores.grad).all() and not scores.grad[0, 3].any() and scores.grad[0, :3].abs().min() > 0


def test_ordered_and_unordered_utterances_have_their_own_losses():
    """Both parts of a batch add up as if each were a batch of its own; in evaluation all is CTC."""
    options = options_with(bag_share=0.5, bag_weight=0.3)
    targets = [np.array([3, 4, 4, 5]), np.array([5, 3]), np.array([4]), np.array([3, 5, 4])]
    mixed = EndToEndLoss(targets, options)
    mixed.unordered = np.array([True, False, True, False])
    torch.manual_seed(2)
    shape = EndToEndOptions(**{name: getattr(options, name) for name in dataclasses.asdict(EndToEndOptions())})
    model = EndToEnd(4, 6, shape)
    network = ModelWithAuxHeads(model, Auxiliary(model, 0, 0, options)).train()
    batch = Batch(np.arange(4), torch.randn(4, 30, 4), torch.tensor([30, 20, 24, 30]))
    whole = mixed(network, batch, 0.5)
    bags = mixed(network, batch.take(mixed.unordered), 0.5)
    ordered = EndToEndLoss(targets, options_with())(network, batch.take(~mixed.unordered), 0.5)
    assert set(bags.sums) == {"bag"} and set(whole.sums) == {"ctc", "bag"} and whole.frames == 14
    assert float(whole.total) == pytest.approx(float(bags.total + ordered.total), rel=1e-4)
    assert float(bags.total) == pytest.approx(0.3 * bags.sums["bag"], rel=1e-4)
    network.eval()
    plain = EndToEndLoss(targets, options_with())
    assert float(mixed(network, batch, 0.5).total) == float(plain(network, batch, 0.5).total)


def test_which_utterances_are_bags():
    targets = [np.array([3])] * 1000
    drawn = [EndToEndLoss(targets, options_with(bag_share=share)).unordered for share in (0.0, 0.3, 0.6, 1.0)]
    assert [0.25 < d.mean() < 0.35 for d in drawn[1:2]] == [True] and not drawn[0].any() and drawn[3].all()
    assert (drawn[2] | ~drawn[1]).all()  # those of a share are among those of a larger one
    assert (EndToEndLoss(targets, options_with(bag_share=0.3, seed=9)).unordered != drawn[1]).any()


def test_the_order_is_found_and_its_labels_are_transcripts(tones, tokens, tmp_path, run_script):
    """Of transcripts with their words in the order of the alphabet: the documented chain of steps finds the true one."""
    cuts = [cut for _, cut in iter_cuts(tones.data)]
    true = {cut["id"]: cut["supervisions"][0]["text"] for cut in cuts}
    for cut in cuts:
        cut["supervisions"][0]["text"] = " ".join(sorted(true[cut["id"]].split()))
    save_data_dir(tmp_path / "unordered", cuts)
    for file in tones.data.iterdir():
        if not (tmp_path / "unordered" / file.name).exists():
            (tmp_path / "unordered" / file.name).symlink_to(file)
    options = options_with(epochs=40, bag_share=1.0, learning_rate=0.02, batch_frames=300)
    train_end_to_end(tmp_path / "unordered", tokens, tmp_path / "bag", options)
    for command in (
        [
            "decode_e2e.py",
            tmp_path / "bag",
            tokens,
            tmp_path / "unordered",
            tmp_path / "heard",
            "--method",
            "ctc_greedy",
        ],
        ["pseudo_label.py", tmp_path / "unordered", tmp_path / "heard", tmp_path / "ordered"],
    ):
        done = run_script(sys.executable, ROOT / "steps" / command[0], *command[1:])
        assert done.returncode == 0, done.stderr
    heard = {hyp.cut_id: " ".join(hyp.hyp) for hyp in load_hypotheses(tmp_path / "heard")}
    given = {cut["id"]: cut["supervisions"][0]["text"] for cut in cuts}
    assert errors(heard, true) < 0.5 * errors(given, true), (errors(heard, true), errors(given, true))
    labels = {cut["id"]: cut["supervisions"][0]["text"] for _, cut in iter_cuts(tmp_path / "ordered")}
    assert labels == {name: text for name, text in heard.items() if text}


def errors(texts: dict[str, str], true: dict[str, str]) -> int:
    """Wrong letters, spaces aside."""
    from kaldialign import edit_distance

    pairs = [[list(t[name].replace(" ", "")) for t in (texts, true)] for name in true]
    return sum(edit_distance(wrong, right)["total"] for wrong, right in pairs)


def test_decoders_need_an_order(tones, tokens, tmp_path):
    with pytest.raises(ConfigError, match="--bag-share needs --model ctc: the decoder of --model attention"):
        train_end_to_end(tones.data, tokens, tmp_path / "m", options_with(model="attention", bag_share=0.5))
    assert not (tmp_path / "m").exists()
