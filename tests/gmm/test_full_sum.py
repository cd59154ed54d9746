"""Baum-Welch by enumeration: every path of small graphs, its posterior, and the update that follows from the
definitions.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.gmm import assign
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import update
from pipeline.gmm.options import GmmOptions
from pipeline.gmm.stats import accumulate
from pipeline.gmm.train import train
from tests.gmm.small import Small, small
from tests.gmm.test_diag import density, random_gmms
from tests.hmm.oracle import paths

LANG = make_lang(
    Lexicon([Pronunciation("AB", ("a", "b")), Pronunciation("AB", ("b",), 0.5), Pronunciation("C", ("c",))]),
    speech_states=1,
)
TREE = monophone_tree(LANG.phones, LANG.topo)
TEXTS, LENGTHS, DIM = ["AB", "C AB", "C C"], [6, 7, 8], 3


@pytest.fixture
def case(monkeypatch) -> tuple[Small, TransitionModel, DiagGmms]:
    monkeypatch.setattr(assign, "MIN_OCCUPANCY", 0.0)
    data = small(LANG, TREE, TEXTS, LENGTHS, DIM, seed=1)
    data.transitions.forward_prob = np.random.default_rng(0).uniform(0.3, 0.7, len(data.transitions.forward_prob))
    return data, data.transitions, random_gmms([2, 1, 3, 2], DIM)


def by_enumeration(data: Small, transitions: TransitionModel, gmms: DiagGmms):
    """(log-likelihood, (sum of T, P) pdf posteriors, (n_tid,) expected transition counts) over all paths."""
    likes = density(gmms, data.feats)
    log_probs = torch.from_numpy(transitions.log_probs()).double()
    gamma, counts, total = np.zeros(likes.shape), np.zeros(transitions.num_tids), 0.0
    for n, (begin, end) in enumerate(zip(data.offsets[:-1], data.offsets[1:])):
        g = data.graphs.graphs[n].numpy()
        found = []
        for score, states, arcs in paths(
            data.graphs.graphs, n, likes[None, begin:end].expand(n + 1, -1, -1), log_probs, end - begin
        ):
            final = int(g["final_tid"][states[-1]])
            tids = [int(g["arc_tid"][a]) for a in arcs[1:]] + [final]
            found.append((score, states, tids))  # leaving an utterance's last state is counted, but has no score
        scores = np.array([s for s, _, _ in found])
        log_like = np.logaddexp.reduce(scores)
        total += log_like
        for weight, (_, states, tids) in zip(np.exp(scores - log_like), found):
            for t, (state, tid) in enumerate(zip(states, tids)):
                gamma[begin + t, g["state_pdf"][state]] += weight
                counts[tid] += weight
    return total, gamma, counts


def test_occupancies_and_counts_are_those_of_all_paths(case):
    data, transitions, gmms = case
    total, gamma, counts = by_enumeration(data, transitions, gmms)
    got = data.aligner().full_sum(Evaluator(gmms), torch.from_numpy(transitions.log_probs()))
    assert gamma.sum() == pytest.approx(sum(LENGTHS)) and not got.failed
    assert got.log_like == pytest.approx(total, rel=1e-4)
    assert np.allclose(got.tid_counts, counts, atol=1e-3)
    dense, labels = np.zeros(gamma.shape), got.labels(np.arange(len(TEXTS)))
    for pdf in range(TREE.num_pdfs):
        span = slice(int(labels.splits[pdf]), int(labels.splits[pdf + 1]))
        dense[labels.frames[span].numpy(), pdf] += labels.weights[span].numpy()
    assert np.allclose(dense, gamma, atol=1e-3)


def test_one_iteration_of_training_is_one_step_of_em(case):
    """Means, variances, weights and transition probabilities from the path posteriors, written out."""
    data, transitions, gmms = case
    _, gamma, counts = by_enumeration(data, transitions, gmms)
    x = data.feats.double().numpy()
    occ, first, second = np.zeros(8), np.zeros((8, DIM)), np.zeros((8, DIM))
    for g, pdf in enumerate(gmms.gauss_pdf()):
        one = DiagGmms(torch.ones(1), gmms.means[g : g + 1], gmms.vars[g : g + 1], torch.tensor([0, 1]))
        joint = density(one, data.feats)[:, 0].numpy() + np.log(float(gmms.weights[g]))
        posterior = gamma[:, pdf] * np.exp(joint - density(gmms, data.feats)[:, pdf].numpy())
        occ[g], first[g], second[g] = posterior.sum(), posterior @ x, posterior @ (x * x)
    options = GmmOptions(
        num_gauss=8,
        num_iters=1,
        grow_iters=1,
        realign_iters=(1,),
        full_sum=True,
        min_count=0.0,
        min_weight=0.0,
        min_var=1e-6,
    )
    before = transitions.forward_prob.copy()
    aligner = data.aligner()
    state = train(aligner, gmms, transitions, aligner.equal(1), options, [])
    mean = first / occ[:, None]
    assert np.allclose(state.gmms.means, mean, atol=2e-3)
    assert np.allclose(state.gmms.vars, second / occ[:, None] - mean**2, atol=5e-3)
    assert np.allclose(
        state.gmms.weights, occ / np.bincount(gmms.gauss_pdf(), weights=occ)[gmms.gauss_pdf()], atol=1e-3
    )
    loop, forward = counts.reshape(-1, 2).T
    expected = np.where(loop + forward >= 5, (forward / (loop + forward)).clip(0.01, 0.99), before)
    assert np.allclose(transitions.forward_prob, expected, atol=1e-3)


def test_the_likelihood_of_the_data_never_falls(case):
    data, transitions, gmms = case
    values = []
    for _ in range(8):
        aligner = data.aligner()
        found = aligner.full_sum(Evaluator(gmms), torch.from_numpy(transitions.log_probs()))
        values.append(found.log_like)
        gmms, _ = update(gmms, accumulate(Evaluator(gmms), found.pieces(data.data())), 0.0, 0.0, 1e-2)
        transitions.update(found.tid_counts, min_count=0.0)
    assert all(b >= a - 1e-3 for a, b in zip(values, values[1:])) and values[-1] > values[0] + 1
