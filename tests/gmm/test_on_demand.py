"""Mixtures scored on demand: the engine's paths over all scores, and what a beam that is too narrow does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.gmm.diag import Evaluator
from pipeline.gmm.on_demand import MixtureScores
from pipeline.hmm import available, viterbi
from tests.gmm.test_assign import LENGTHS, TREE, data, full_scores  # noqa: F401 (data is a fixture)
from tests.gmm.test_diag import random_gmms

SIZES = ([1, 3, 2] * TREE.num_pdfs)[: TREE.num_pdfs]
EVALUATOR = Evaluator(random_gmms(SIZES, 4))


def searched(data, beams, feats=None, backend="auto"):
    scores = MixtureScores(EVALUATOR, data.feats if feats is None else feats, data.offsets[:-1], data.lengths)
    log_probs = torch.from_numpy(data.transitions.log_probs())
    return viterbi(data.graphs.graphs, scores, torch.from_numpy(data.lengths), log_probs, backend, beams=beams)


@pytest.mark.parametrize("backend", [b for b in ("numba", "torch") if available(b)])
def test_without_a_beam_paths_are_those_over_all_scores(data, backend):
    scores, lens = full_scores(data, EVALUATOR)
    best = viterbi(data.graphs.graphs, scores, lens, torch.from_numpy(data.transitions.log_probs()))
    got = searched(data, [math.inf], backend=backend)
    assert got.tids.equal(best.tids) and got.states.equal(best.states) and got.arcs.equal(best.arcs)
    torch.testing.assert_close(got.scores, best.scores, rtol=1e-5, atol=1e-3)
    assert got.scores[3] == -math.inf and (got.tids[3] == -1).all()


def test_all_scores_are_the_evaluator_s(data):
    scores, _ = full_scores(data, EVALUATOR)
    demanded = MixtureScores(EVALUATOR, data.feats, data.offsets[:-1], data.lengths)
    assert demanded.shape == tuple(scores.shape)
    # Matrix products of other sizes and threads round differently.
    torch.testing.assert_close(demanded.dense(), scores, rtol=1e-5, atol=1e-4)
    some = demanded[[2, 0]]
    assert some.shape == (2, LENGTHS[2], TREE.num_pdfs)
    torch.testing.assert_close(some.dense()[1, : LENGTHS[0]], scores[0, : LENGTHS[0]], rtol=1e-5, atol=1e-4)


def test_a_narrow_beam_finds_no_better_path_and_wider_ones_mend_a_failure(data):
    exact, narrow = searched(data, [math.inf]), searched(data, [1e-6])
    lost = torch.isinf(narrow.scores[:3])
    assert lost.any(), "the case should make a beam of nothing fail"
    assert (narrow.scores[:3] <= exact.scores[:3] + 1e-3).all()
    retried = searched(data, [1e-6, math.inf])
    assert retried.tries[:3].tolist() == [2 if x else 1 for x in lost.tolist()]
    assert retried.scores[:3][lost].equal(exact.scores[:3][lost])


def test_the_number_of_threads_changes_nothing(data, monkeypatch):
    from pipeline.hmm import numba_calls

    monkeypatch.setattr(numba_calls, "SERIAL_CELLS", 0)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(searched(data, [5.0, math.inf]))
        assert found[0].tids.equal(found[1].tids) and found[0].scores.equal(found[1].scores)
    finally:
        torch.set_num_threads(threads)


def test_broken_and_far_features_give_no_nan(data):
    feats = data.feats.clone()
    feats[3, 1] = float("nan")
    feats[LENGTHS[0]] = 1e30
    feats[LENGTHS[0] + 5] = float("-inf")
    got = searched(data, [10.0, math.inf], feats)
    assert got.scores[0] == -math.inf and (got.tids[0] == -1).all()
    assert torch.isfinite(got.scores[1:3]).all()


def test_retries_are_counted(data):
    aligner = data.aligner()
    log_probs = torch.from_numpy(data.transitions.log_probs())
    narrow, exact = aligner.viterbi(EVALUATOR, log_probs, 1e-6), aligner.viterbi(EVALUATOR, log_probs)
    assert narrow.retried > 0 and exact.retried == 0
    assert narrow.failed == exact.failed == ("utt3",)
    assert np.isfinite(narrow.log_like) and narrow.log_like <= exact.log_like
