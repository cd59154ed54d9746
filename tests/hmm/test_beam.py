"""Scores on demand and beams: the paths of the exact search where these allow it, and never better ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.hmm import Graphs, full_sum, numba_calls, viterbi, widening
from pipeline.hmm.convert import build
from tests.hmm.oracle import NUM_TIDS, make_transitions
from tests.hmm.table import Table
from tests.hmm.test_engine import ALL, KINDS, make_batch

NARROW = (0.5, 3.0, math.inf)


def wide_graph(seed: int, states: int = 100, pdfs: int = 30) -> Graphs:
    """A chain over many blocks of the kernels, with skips, long jumps ahead and back, several starts and finals."""
    rng = np.random.RandomState(seed)
    s = np.arange(states)
    src, dst = (
        np.concatenate([s, s[:-1], s[:-2], rng.randint(0, states, 40)]),
        np.concatenate([s, s[1:], s[2:], rng.randint(0, states, 40)]),
    )
    start, final = np.full((2, states), -np.inf)
    start[rng.randint(0, 40, 3)], final[rng.randint(60, states, 3)] = rng.randn(3), rng.randn(3)
    return build(
        pdf=rng.randint(0, pdfs, states),
        src=src,
        dst=dst,
        tid=rng.randint(-1, NUM_TIDS, len(src)),
        weight=rng.randn(len(src)),
        start_weight=start,
        final_weight=final,
        final_tid=rng.randint(0, NUM_TIDS, states),
        state_splits=np.array([0, states]),
        num_pdfs=pdfs,
        num_tids=NUM_TIDS,
    ).validate()


def wide_batch(seed: int):
    torch.manual_seed(seed)
    graphs = Graphs.cat([wide_graph(seed), wide_graph(seed + 100), wide_graph(seed + 200)])
    return graphs, 3 * torch.randn(3, 80, 30), torch.tensor([80, 61, 1])


def path_score(graphs: Graphs, n: int, best, emissions, transitions, length: int) -> float:
    """Score of a path that was found, added up along it."""
    g, first = graphs.numpy(), int(graphs.state_splits[n])
    states, arcs = best.states[n, :length].tolist(), best.arcs[n, :length].tolist()
    total = float(g["start_weight"][first + states[0]] + g["final_weight"][first + states[-1]])
    for t, (s, a) in enumerate(zip(states, arcs)):
        total += float(emissions[n, t, g["state_pdf"][first + s]])
        if t > 0:
            assert g["arc_src"][a] == states[t - 1] and g["arc_splits"][first + s] <= a < g["arc_splits"][first + s + 1]
            total += float(g["arc_weight"][a])
            if transitions is not None and g["arc_tid"][a] >= 0:
                total += float((transitions if transitions.dim() == 1 else transitions[n, t])[g["arc_tid"][a]])
    return total


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_scores_on_demand_give_the_paths_of_a_tensor(backend, kind):
    for seed in range(4):
        graphs, emissions, lengths = make_batch(seed, num=5, frames=9)
        emissions = emissions.float()
        transitions = make_transitions(kind, 5, 9, torch.float32)
        table = Table(emissions)
        a = viterbi(graphs, table, lengths, transitions, backend, confidence=True, beams=(math.inf,))
        b = viterbi(graphs, emissions, lengths, transitions, backend, confidence=True)
        assert a.scores.equal(b.scores) and a.states.equal(b.states) and a.arcs.equal(b.arcs) and a.tids.equal(b.tids)
        assert a.confidence.equal(b.confidence) and a.tries.tolist() == [1] * 5
        table = Table(emissions)
        viterbi(graphs, table, lengths, transitions, backend, beams=(math.inf,))
        assert backend != "numba" or table.asked.max() == 1  # once per frame and pdf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("demanded", [False, True])
def test_a_wide_beam_is_exact_on_graphs_of_many_blocks(kind, demanded):
    for seed in range(4):
        graphs, emissions, lengths = wide_batch(seed)
        transitions = make_transitions(kind, 3, 80, torch.float32)
        exact = viterbi(graphs, emissions, lengths, transitions, backend="torch")
        for beam in (math.inf, 1000.0, 60.0):
            scores = Table(emissions) if demanded else emissions
            found = viterbi(graphs, scores, lengths, transitions, backend="numba", beams=(beam,))
            assert found.states.equal(exact.states) and found.tids.equal(exact.tids), (seed, beam)
            torch.testing.assert_close(found.scores, exact.scores, rtol=1e-5, atol=1e-4)


@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS), beam=st.floats(0.0, 12.0), small=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_beam_finds_a_path_that_is_no_better_and_reports_its_score(seed, kind, beam, small):
    graphs, emissions, lengths = make_batch(seed, frames=8) if small else wide_batch(seed)
    emissions = emissions.float()
    transitions = make_transitions(kind, *emissions.shape[:2], torch.float32)
    exact = viterbi(graphs, emissions, lengths, transitions)
    tensor, table = (viterbi(graphs, x, lengths, transitions, beams=(beam,)) for x in (emissions, Table(emissions)))
    assert tensor.states.equal(table.states) and tensor.scores.equal(table.scores)
    assert (table.scores <= exact.scores + 1e-3).all()
    for n in np.flatnonzero(np.isfinite(table.scores.numpy())):
        found = path_score(graphs, n, table, emissions, transitions, int(lengths[n]))
        assert float(table.scores[n]) == pytest.approx(found, rel=1e-4, abs=1e-3)
    widened = viterbi(graphs, Table(emissions), lengths, transitions, beams=(beam, math.inf))
    assert torch.isfinite(widened.scores).equal(torch.isfinite(exact.scores))
    again = torch.isinf(table.scores)
    assert widened.tries.equal(1 + again.long()) and widened.states[again].equal(exact.states[again])


def test_a_beam_scores_less_than_all_and_each_score_once():
    graphs, emissions, lengths = wide_batch(3)
    asked = []
    for beam in (5.0, math.inf):
        table = Table(emissions)
        viterbi(graphs, table, lengths, beams=(beam,))
        assert table.asked.max() == 1
        asked.append(table.asked.sum())
    assert 0 < asked[0] < asked[1] / 2


def test_frames_without_numbers_leave_no_path():
    graphs, emissions, lengths = wide_batch(1)
    emissions[0, 40] = float("nan")
    emissions[1, 20] = float("-inf")
    found = viterbi(graphs, Table(emissions), lengths, beams=widening(20.0))
    assert torch.isinf(found.scores[:2]).all() and (found.states[:2] == -1).all() and found.tries.tolist()[:2] == [3, 3]
    assert torch.isfinite(viterbi(graphs, emissions, lengths).scores).equal(
        torch.isfinite(full_sum(graphs, emissions, lengths))
    )


def test_ways_in_many_parts_and_threads_give_the_same(monkeypatch):
    graphs, emissions, lengths = wide_batch(2)
    whole = viterbi(graphs, Table(emissions), lengths, beams=NARROW)
    monkeypatch.setattr(numba_calls, "MAX_CELLS", 100)
    parts = viterbi(graphs, Table(emissions), lengths, beams=NARROW)
    assert whole.states.equal(parts.states) and whole.scores.equal(parts.scores) and whole.tries.equal(parts.tries)


def test_widening():
    assert widening(10.0) == (10.0, 40.0, math.inf) and widening(math.inf) == (math.inf,)
