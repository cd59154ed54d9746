"""CTC prefix scores against sums over all label sequences that begin with the prefix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.e2e.search.ctc_prefix import PrefixScorer

from .toys import ctc_log_prob, random_ctc, sequences


@pytest.mark.parametrize("frames", [1, 2, 4, 5])
def test_prefix_scores_are_sums_over_continuations(frames):
    log_probs = random_ctc(2, frames, 5, seed=frames)
    lens = torch.tensor([frames, max(1, frames - 1)])
    scorer = PrefixScorer(log_probs, lens)
    for n in range(2):
        posteriors = log_probs[n, : lens[n]]
        known = {labels: ctc_log_prob(posteriors, labels) for labels in sequences(5, frames)}
        state = scorer.start().select(torch.tensor([n]))
        for prefix in [(), (3,), (3, 3), (4, 3), (3, 4, 4)]:
            if len(prefix) > frames:
                continue
            state = scorer.start().select(torch.tensor([n]))
            for label in prefix:
                state = scorer.extend(state, torch.tensor([label]))
            assert float(scorer.final(state)) == pytest.approx(known[prefix], abs=1e-6) or known[prefix] == -np.inf
            if known[prefix] == -np.inf:
                assert float(scorer.final(state)) < -1e20
            scores = scorer.scores(state, torch.tensor([[3, 4]]))[0]
            for label, score in zip((3, 4), scores.tolist()):
                whole = (*prefix, label)
                expected = np.logaddexp.reduce([-np.inf] + [p for k, p in known.items() if k[: len(whole)] == whole])
                if np.isfinite(expected):
                    assert score == pytest.approx(expected, abs=1e-6)
                else:
                    assert score < -1e20


def test_long_utterances_keep_their_precision():
    """1,500 frames: the cumulative sums reach thousands of nats."""
    log_probs = random_ctc(1, 1500, 8, seed=3) * 3
    log_probs = log_probs.log_softmax(-1)
    scorer = PrefixScorer(log_probs, torch.tensor([1500]))
    labels = tuple(np.random.default_rng(1).integers(3, 8, 60).tolist())
    state = scorer.start()
    for label in labels:
        state = scorer.extend(state, torch.tensor([label]))
    assert float(scorer.final(state)) == pytest.approx(ctc_log_prob(log_probs[0], labels), rel=1e-9)


def test_few_candidates_take_no_copy_of_all_labels():
    """30 hypotheses of one utterance with 2 candidates among 2,000 labels."""
    from torch.profiler import ProfilerActivity, profile

    scorer = PrefixScorer(random_ctc(1, 50, 2000, seed=1), torch.tensor([50]))
    state = scorer.start().select(torch.zeros(30, dtype=torch.int64))
    labels = torch.arange(3, 63).view(30, 2)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        scores = scorer.scores(state, labels)
        later = scorer.extend(state, labels[:, 0])
    whole = 30 * 50 * 2000 * 8
    assert max(event.cpu_memory_usage for event in watch.events()) < whole / 20
    assert torch.equal(scorer.scores(state, labels[:, :1])[:, 0], scores[:, 0]) and len(later.label) == 30


def test_padding_changes_nothing():
    log_probs = random_ctc(1, 6, 6)
    padded = torch.cat([log_probs, random_ctc(1, 3, 6, seed=9)], 1)
    for scores in (log_probs, padded):
        scorer = PrefixScorer(scores, torch.tensor([6]))
        state = scorer.extend(scorer.start(), torch.tensor([4]))
        found = (float(scorer.final(state)), scorer.scores(state, torch.tensor([[3, 4, 5]])).tolist())
        if scores is log_probs:
            expected = found
    assert found == expected
