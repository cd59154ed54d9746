"""The beam search of alignments against the exact engine, and what happens when the beam is too narrow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.gmm import beam
from pipeline.gmm.assign import Aligner
from pipeline.gmm.diag import Evaluator
from pipeline.hmm import viterbi
from tests.gmm.test_assign import LENGTHS, TREE, data, full_scores  # noqa: F401 (data is a fixture)
from tests.gmm.test_diag import random_gmms

SIZES = ([1, 3, 2] * TREE.num_pdfs)[:TREE.num_pdfs]
EVALUATOR = Evaluator(random_gmms(SIZES, 4))


def searched(data, beams, feats=None, usable=(0, 1, 2)):
    train_set, transitions = data
    return beam.search(beam.net_of(train_set.graphs.graphs), EVALUATOR, train_set.feats if feats is None else feats,
                       train_set.offsets, transitions.log_probs(), beams, np.array(usable))


def test_without_a_beam_the_path_is_the_engine_s(data):  # noqa: F811
    train_set, transitions = data
    scores, lens = full_scores(train_set, EVALUATOR)
    best = viterbi(train_set.graphs.graphs, scores, lens, torch.from_numpy(transitions.log_probs()))
    got = searched(data, [math.inf])
    for n in range(3):
        span = slice(train_set.offsets[n], train_set.offsets[n + 1])
        assert got.tids[span].tolist() == best.tids[n, :LENGTHS[n]].tolist()
        assert got.states[span].tolist() == best.states[n, :LENGTHS[n]].tolist()
        assert got.scores[n] == pytest.approx(float(best.scores[n]), rel=1e-5)
    assert got.scores[3] == -np.inf and (got.tids[train_set.offsets[3]:] == -1).all()


def test_a_narrow_beam_finds_no_better_path_and_wider_ones_mend_a_failure(data):  # noqa: F811
    exact = searched(data, [math.inf])
    narrow = searched(data, [1e-6])
    lost = np.flatnonzero(~np.isfinite(narrow.scores[:3]))
    assert len(lost) > 0, "the case should make a beam of nothing fail"
    assert (narrow.scores[:3] <= exact.scores[:3] + 1e-6).all()
    retried = searched(data, [1e-6, math.inf])
    assert retried.tries[:3].tolist() == [2 if n in lost else 1 for n in range(3)]
    assert retried.scores[lost] == pytest.approx(exact.scores[lost])


def test_the_number_of_threads_changes_nothing(data):  # noqa: F811
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(searched(data, [5.0, math.inf]))
        assert (found[0].tids == found[1].tids).all() and (found[0].scores == found[1].scores).all()
    finally:
        torch.set_num_threads(threads)


def test_broken_and_far_features_give_no_nan(data):  # noqa: F811
    train_set, _ = data
    feats = train_set.feats.clone()
    feats[0] = float("nan")
    feats[LENGTHS[0]] = 1e30
    got = searched(data, [10.0, math.inf], feats)
    assert got.scores[0] == -np.inf and (got.tids[:LENGTHS[0]] == -1).all()
    assert np.isfinite(got.scores[1]) and np.isfinite(got.scores[2])


def test_retries_are_counted(data):  # noqa: F811
    train_set, transitions = data
    aligner = Aligner(train_set, TREE.num_pdfs, transitions.tid_pdf())
    log_probs = torch.from_numpy(transitions.log_probs())
    narrow, exact = aligner.viterbi(EVALUATOR, log_probs, 1e-6), aligner.viterbi(EVALUATOR, log_probs)
    assert narrow.retried > 0 and exact.retried == 0
    assert narrow.failed == exact.failed == ("utt3",)
