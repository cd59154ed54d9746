"""CTC prefix beam search against sums over all paths, and greedy search against its definition."""

from __future__ import annotations

import pytest
import torch

from pipeline.artifacts.tokens import EOS_ID
from pipeline.e2e.search.ctc import CtcPrefixSearch, greedy
from pipeline.e2e.search.results import Weights

from .toys import ToyLm, ctc_log_prob, random_ctc, sequences

VOCABULARY = 6


def lm_log_prob(lm, labels):
    path = [EOS_ID, *labels]
    return sum(float(lm.row(0, tuple(path[: i + 1]))[label]) for i, label in enumerate([*labels, EOS_ID]))


@pytest.mark.parametrize("weights", [Weights(), Weights(length=0.8), Weights(lm=0.5, length=0.3)])
def test_wide_beams_sum_all_paths(weights):
    lens = [4, 1, 3]
    log_probs = random_ctc(3, 4, VOCABULARY, seed=5)
    lm = ToyLm(VOCABULARY, 3) if weights.lm else None
    found = CtcPrefixSearch(weights, beam=500, lm=lm, clear=0.0).search(log_probs, torch.tensor(lens), 5)
    for n, length in enumerate(lens):
        expected = []
        for labels in sequences(VOCABULARY, length):
            score = ctc_log_prob(log_probs[n, :length], labels) + weights.length * len(labels)
            expected.append((score + (weights.lm * lm_log_prob(lm, labels) if lm else 0.0), labels))
        expected = [e for e in sorted(expected, reverse=True) if e[0] > -1e20][:5]
        best = found[n][: len(expected)]
        assert [f.tokens for f in best] == [labels for _, labels in expected]
        assert [f.total for f in best] == pytest.approx([score for score, _ in expected], abs=1e-5)


def test_small_beams_find_what_is_clear():
    log_probs = (random_ctc(2, 30, 12, seed=2) * 4).log_softmax(-1)
    lens = torch.tensor([30, 22])
    wide = CtcPrefixSearch(beam=200, clear=0.0).search(log_probs, lens)
    small = CtcPrefixSearch(beam=6).search(log_probs, lens)
    for a, b in zip(wide, small):
        assert b[0].total <= a[0].total + 1e-9
        assert b[0].tokens == a[0].tokens


@pytest.mark.parametrize("posterior, found", [(1e-3, (4,)), (1e-5, ())])
def test_labels_of_next_to_no_posterior_extend_nothing(posterior, found):
    """A bonus brings in what is improbable, and not what is next to impossible."""
    row = torch.tensor([1.0 - 3.0 * posterior, 1e-30, 1e-30, 1e-30, posterior, 1e-30]).log()
    search = CtcPrefixSearch(Weights(length=15.0))
    assert search.search(row[None, None], torch.tensor([1]))[0][0].tokens == found


def test_greedy_merges_repetitions():
    path = [0, 3, 3, 0, 3, 4, 4, 5, 0, 1, 2]  # the last two are forbidden, so the next best counts
    logits = torch.zeros(1, len(path), 6)
    for t, label in enumerate(path):
        logits[0, t, label] = 5.0
    logits[0, 9:, 5] = 1.0
    log_probs = logits.log_softmax(-1)
    assert [f[0].tokens for f in greedy(log_probs, torch.tensor([9]))] == [(3, 3, 4, 5)]
    assert greedy(log_probs, torch.tensor([11]))[0][0].tokens == (3, 3, 4, 5, 5)
    assert greedy(log_probs, torch.tensor([2]))[0][0].total == pytest.approx(
        float(log_probs[0, :2].max(1).values.sum())
    )
