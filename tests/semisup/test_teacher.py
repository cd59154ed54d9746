"""The moving average, its rule for other batch sizes, kept labels, labels of frames, and the watch over a collapse."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
import torch

from pipeline.base.errors import ConfigError
from pipeline.nn.normalised import Normalised
from pipeline.nn.options import TrainOptions
from pipeline.nn.step import Loss, add_sums, per_frame
from pipeline.semisup.collapse import Watch, entropy
from pipeline.semisup.end_to_end import best_tokens
from pipeline.semisup.options import SemiSupervisedOptions
from pipeline.semisup.side import drawn
from pipeline.semisup.teacher import KeptLabels, Pair, scaled


class Toy(Normalised):
    """One parameter."""

    def __init__(self) -> None:
        super().__init__(1)
        self.weight = torch.nn.Parameter(torch.zeros(()))


def test_the_average_is_that_of_the_formula():
    pair, values = Pair(Toy(), Toy()), [1.0, -2.0, 5.0, 0.25]
    expected = 0.0
    for value in values:
        with torch.no_grad():
            pair.student.weight.fill_(value)
            pair.student.mean.fill_(value)
        pair.follow(0.9)
        expected = 0.9 * expected + 0.1 * value
    assert float(pair.teacher.weight) == pytest.approx(expected, abs=1e-6) and float(pair.teacher.mean) == values[-1]
    assert not pair.teacher.weight.requires_grad and pair.student.weight.requires_grad
    assert pair.train().training and not pair.teacher.training


def test_the_average_is_kept_in_float32():
    """A student in 16 bits is followed by steps that 16 bits would lose."""
    pair = Pair(Toy(), Toy())
    with torch.no_grad():
        pair.teacher.weight.fill_(1.0)
        pair.student.weight.data = torch.tensor(1.5, dtype=torch.bfloat16)
    kept = torch.tensor(1.0, dtype=torch.bfloat16)
    for _ in range(1000):
        pair.follow(0.999)
        kept = (0.999 * kept.float() + 0.001 * 1.5).bfloat16()
    assert float(pair.teacher.weight) == pytest.approx(1.5 - 0.5 * 0.999**1000, abs=1e-4)
    assert float(kept) == 1.0


@pytest.mark.parametrize("kappa", [2, 8])
def test_the_rule_for_other_batches_keeps_the_average(kappa):
    """SGD on a quadratic: updates of kappa times as many frames, with and without the rule, against those of one."""

    def averages(updates: int, rate: float, momentum: float) -> list[float]:
        weight, average, out = 1.0, 1.0, []
        for _ in range(updates):
            weight -= rate * weight
            average = momentum * average + (1 - momentum) * weight
            out.append(average)
        return out

    options = TrainOptions(optimizer="sgd", learning_rate=1e-3)
    small = averages(1600, *scaled(options, 0.99, 100.0, 100)[::-1])[kappa - 1 :: kappa]
    ruled = averages(1600 // kappa, *scaled(options, 0.99, 100.0 * kappa, 100)[::-1])
    plain = averages(1600 // kappa, kappa * 1e-3, 0.99)
    apart = [max(abs(a - b) for a, b in zip(small, other)) for other in (ruled, plain)]
    assert apart[0] < 0.01 and apart[1] > 5 * apart[0]


def test_momentum_and_rate_for_other_batches():
    assert scaled(TrainOptions(learning_rate=2e-3), 0.99, 5000.0, 0) == (0.99, 2e-3)
    momentum, rate = scaled(TrainOptions(learning_rate=2e-3, optimizer="adam"), 0.99, 2000.0, 500)
    assert momentum == pytest.approx(0.99**4) and rate == pytest.approx(4e-3)
    assert scaled(TrainOptions(learning_rate=2e-3, optimizer="sgd"), 0.99, 2000.0, 500)[1] == pytest.approx(8e-3)
    with pytest.raises(ConfigError, match="--reference-batch 1: an update has 5000 frames"):
        scaled(TrainOptions(), 0.99, 5000.0, 1)


def test_kept_labels_are_in_checkpoints():
    kept = KeptLabels(np.array([3, 0, 5]))
    assert not any(i in kept for i in range(3))
    kept.put(2, np.array([7, 8]), 0.5)
    kept.put(0, np.array([], dtype=np.int64), 0.0)
    again = KeptLabels(np.array([3, 0, 5]))
    again.load_state_dict(kept.state_dict())
    assert again[2][0].tolist() == [7, 8] and again[2][1] == 0.5 and again[0][0].tolist() == [] and 1 not in again
    again.forget()
    assert 2 not in again


def test_labels_of_frames_against_the_definition():
    log_probs = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(1)).mul(3).log_softmax(2)
    lens = torch.tensor([40, 17, 1])
    for row, confidence, scores, length in zip(*best_tokens(log_probs, lens), log_probs, lens.tolist()):
        scores = scores[:length].clone()
        scores[:, 1:3] = -1e30  # the sentence end and the unknown token
        frames = [(int(s.argmax()), float(s.max().exp())) for s in scores]
        runs = [(k, max(p for _, p in g)) for k, g in itertools.groupby(frames, key=lambda x: x[0])]
        spoken = [(k, p) for k, p in runs if k != 0]
        assert row.tolist() == [k for k, _ in spoken]
        assert confidence == pytest.approx(np.mean([p for _, p in spoken]) if spoken else 0.0, abs=1e-6)


def test_drawn_labels_have_the_frequencies_of_the_posteriors():
    torch.manual_seed(3)
    share = torch.tensor([0.7, 0.2, 0.1])
    log_probs = share.log().expand(1, 20_000, 3)
    labels, posteriors = drawn(log_probs, 1.0)
    assert np.allclose(np.bincount(labels[0], minlength=3) / 20_000, share, atol=0.015)
    assert torch.allclose(posteriors[0], share[labels[0]])
    cold = np.bincount(drawn(log_probs, 0.5)[0][0], minlength=3) / 20_000
    assert np.allclose(cold, share**2 / (share**2).sum(), atol=0.015)
    assert (drawn(log_probs, 0.0)[0] == 0).all()


def watch(**changes) -> Watch:
    labelled = [np.array([3, 4, 5, 6]), np.array([3, 4, 5, 6])]
    return Watch(labelled, 8, lambda i: f"<{i}>", SemiSupervisedOptions(**changes))


def figures_of(watch: Watch, *batches: list[list[int]], doubtful: int = 0) -> dict[str, float]:
    """An epoch's, in each batch of which so many are doubtful."""
    sums: dict[str, float] = {}
    for rows in batches:
        numbers = watch.numbers([np.array(row, dtype=np.int64) for row in rows], doubtful)
        add_sums(sums, Loss(torch.tensor(3.0), 7, sums=numbers))
    return per_frame(sums)


def test_a_collapse_is_named_with_cures(caplog):
    caplog.set_level(logging.INFO)
    healthy = watch()
    figures = figures_of(healthy, [[3, 4], []], [[5, 6]], doubtful=1)
    assert healthy.trouble(figures) is None and figures == {"loss": 3 / 7}
    assert "pseudo-labels: 3, 33.3 % empty, 66.7 % left out by confidence, entropy 1.39 nats" in caplog.text
    assert healthy.trouble({"loss": 1.0}) is None  # nothing was seen in this epoch
    empty = watch(max_empty=0.6)
    assert "67% of them are empty. Usual cures: " in empty.trouble(figures_of(empty, [[], [], [3, 4]]))
    few = watch()
    assert "collapsed to a few labels: entropy 0.06 nats, in the labelled data 1.39; '<5>' is 99%" in few.trouble(
        figures_of(few, [[5] * 99 + [4]])
    )


def test_entropy():
    assert entropy(np.array([0, 5, 5])) == pytest.approx(np.log(2)) and entropy(np.zeros(3)) == 0.0
