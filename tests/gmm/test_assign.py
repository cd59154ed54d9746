"""Expectation steps: the short cut over each utterance's own pdfs against the engine on all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError
from pipeline.gmm import assign
from pipeline.gmm.assign import boosted
from pipeline.gmm.diag import Evaluator
from pipeline.hmm import occupancies, viterbi
from tests.gmm.small import Small, small
from tests.gmm.test_diag import random_gmms

LANG = make_lang(
    Lexicon([Pronunciation("AB", ("a", "b")), Pronunciation("AB", ("b",), 0.5), Pronunciation("CA", ("c", "a"))])
)
TREE = monophone_tree(LANG.phones, LANG.topo)
TEXTS = ["AB", "CA AB", "AB AB CA", "CA"]
LENGTHS = [20, 33, 41, 5]  # the last is shorter than its HMM
ALL = np.arange(4)


@pytest.fixture
def data() -> Small:
    return small(LANG, TREE, TEXTS, LENGTHS, 4, seed=0)


def full_scores(data: Small, evaluator: Evaluator):
    """(N, T, P) log-likelihoods of all pdfs."""
    parts = [evaluator.log_likes(data.feats[b:e]) for b, e in zip(data.offsets[:-1], data.offsets[1:])]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), torch.tensor(LENGTHS)


@pytest.mark.parametrize("cells", [10, 10**7])
def test_viterbi_is_the_engine_s(data, monkeypatch, cells):
    monkeypatch.setattr(assign, "BATCH_CELLS", cells)
    evaluator = Evaluator(random_gmms([2] * TREE.num_pdfs, 4))
    log_probs = torch.from_numpy(data.transitions.log_probs())
    got = data.aligner().viterbi(evaluator, log_probs)
    scores, lens = full_scores(data, evaluator)
    best = viterbi(data.graphs.graphs, scores, lens, log_probs)
    assert got.failed == ("utt3",) and got.frames == sum(LENGTHS[:3])
    for n in range(3):
        span = slice(data.offsets[n], data.offsets[n + 1])
        assert data.tids(got)[span].tolist() == best.tids[n, : LENGTHS[n]].tolist()
    assert got.log_like == pytest.approx(float(best.scores[:3].sum()), rel=1e-4)
    assert (data.tids(got)[data.offsets[3] :] == -1).all()
    assert got.tid_counts.sum() == got.frames == got.labels(ALL).occupancies().sum() == got.occupancies().sum()


def test_full_sum_is_the_engine_s(data):
    evaluator = Evaluator(random_gmms([2] * TREE.num_pdfs, 4))
    log_probs = torch.from_numpy(data.transitions.log_probs())
    got = data.aligner().full_sum(evaluator, log_probs)
    scores, lens = full_scores(data, evaluator)
    occ = occupancies(data.graphs.graphs[[0, 1, 2]], scores[:3], lens[:3], log_probs)
    expected = occ.pdf().double().sum((0, 1)).numpy()
    assert got.failed == ("utt3",) and got.file.soft
    assert np.allclose(got.labels(ALL).occupancies(), expected, atol=0.1)  # occupancies under 1e-3 are left out
    assert np.allclose(got.tid_counts, occ.tid_counts(include_final=True).numpy(), atol=1e-3)
    assert got.log_like == pytest.approx(float(occ.scores.sum()), rel=1e-4)


def test_equal_alignments_are_paths_with_equal_shares(data):
    aligner = data.aligner()
    got = aligner.equal(seed=1)
    assert got.failed == ("utt3",)
    assert data.tids(got).tolist() == data.tids(aligner.equal(seed=1)).tolist()
    for n, text in enumerate(TEXTS[:3]):
        tids = data.tids(got)[data.offsets[n] : data.offsets[n + 1]]
        runs = np.diff(np.concatenate([[0], np.flatnonzero(tids % 2) + 1]))  # a state ends with its forward transition
        assert runs.sum() == len(tids) and runs.max() - runs.min() <= 1
        phones = data.transitions.tid_phone()[tids[data.transitions.tid_ends_phone()[tids]]]
        spoken = [LANG.phones.name(int(p)) for p in phones if p != LANG.silence_id]
        variants = {"AB": (["a", "b"], ["b"]), "CA": (["c", "a"],)}
        possible = [[]]
        for word in text.split():
            possible = [p + v for p in possible for v in variants[word]]
        assert spoken in possible


def test_an_utterance_with_room_for_speech_only_goes_around_silence(data):
    short = small(LANG, TREE, TEXTS[3:], [6], 4, seed=0).aligner()
    for seed in range(8):
        assert not short.equal(seed).failed


def test_too_many_failures_are_an_error(data):
    got = data.aligner().equal(seed=1)
    got.check(4, 0.3, "here")
    with pytest.raises(DataError, match=r"iteration 2: aligned 3 of 4; 1 failed: utt3 .*20 %"):
        got.check(4, 0.2, "iteration 2")


def test_scores_without_a_path_fail_the_utterance(data):
    broken = data.feats.clone()
    broken[30] = float("nan")
    aligner = data.aligner(broken)
    log_probs = torch.from_numpy(data.transitions.log_probs())
    evaluator = Evaluator(random_gmms([1] * TREE.num_pdfs, 4))
    assert aligner.viterbi(evaluator, log_probs).failed == ("utt1", "utt3")
    assert aligner.full_sum(evaluator, log_probs).failed == ("utt1", "utt3")


def test_boost_multiplies_the_likelihood_of_silence():
    gmms = random_gmms([2, 3], 4)
    feats = torch.randn(5, 4)
    gain = boosted(gmms, [1], 1.5).log_likes(feats) - Evaluator(gmms).log_likes(feats)
    assert torch.allclose(gain, torch.tensor([0.0, np.log(1.5)]).float().expand(5, 2), atol=1e-4)
