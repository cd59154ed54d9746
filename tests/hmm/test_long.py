"""Recordings of which not everything is kept: the bits are those of a pass in one piece, in a fraction of its memory."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.hmm import full_sum, numba_calls, viterbi
from tests.hmm.oracle import make_transitions
from tests.hmm.table import Table
from tests.hmm.test_beam import wide_graph
from tests.hmm.test_engine import KINDS, make_batch, make_chains

ROOT = Path(__file__).resolve().parents[2]


def long_batch(seed: int, frames: int):
    """A wide graph with jumps ahead and back, a chain, and one that is too short for its graph."""
    from pipeline.hmm import Graphs

    torch.manual_seed(seed)
    graphs = Graphs.cat([wide_graph(seed), wide_graph(seed + 1, states=70), wide_graph(seed + 2)])
    return graphs, 3 * torch.randn(3, frames, 30), torch.tensor([frames, frames - 7, 1])


@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(KINDS),
    frames=st.integers(8, 150),
    beam=st.sampled_from([1.0, 5.0, math.inf]),
    demanded=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_path_is_the_same(seed, kind, frames, beam, demanded):
    graphs, emissions, lengths = long_batch(seed, frames)
    transitions = make_transitions(kind, 3, frames, torch.float32)
    scores, beams = Table(emissions) if demanded else emissions, (beam, math.inf)
    whole = viterbi(graphs, scores, lengths, transitions, beams=beams)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_calls, "MAX_CELLS", 100)
        parts = viterbi(graphs, scores, lengths, transitions, beams=beams)
    for name in ("scores", "states", "arcs", "pdfs", "tids", "tries"):
        assert getattr(whole, name).equal(getattr(parts, name)), name


@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS))
@settings(max_examples=40, deadline=None)
def test_small_graphs_of_all_kinds(seed, kind):
    graphs, emissions, lengths = make_batch(seed, frames=9)
    transitions = make_transitions(kind, 3, 9)
    whole = viterbi(graphs, emissions, lengths, transitions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_calls, "MAX_CELLS", 1)
        parts = viterbi(graphs, emissions, lengths, transitions)
    assert whole.scores.equal(parts.scores) and whole.arcs.equal(parts.arcs) and whole.states.equal(parts.states)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("frames", [9, 10, 80, 143])
def test_sums_and_occupancies_are_the_same(monkeypatch, kind, dtype, frames):
    """Gradients are all the occupancies: of pdfs, and of arcs by transition-id."""

    def run():
        e = emissions.to(dtype).requires_grad_()
        r = None if kind == "none" else transitions.clone().requires_grad_()
        total = full_sum(graphs, e, lengths, r)
        total[torch.isfinite(total)].sum().backward()
        return total.detach(), e.grad, r.grad if r is not None else None

    graphs, emissions, lengths = long_batch(frames, frames)
    transitions = make_transitions(kind, 3, frames, torch.float32)
    whole = run()
    monkeypatch.setattr(numba_calls, "MAX_CELLS", 100)
    parts = run()
    assert all(a is b is None or a.equal(b) for a, b in zip(whole, parts))


@pytest.mark.parametrize("demanded", [False, True])
def test_confidence_is_the_same(monkeypatch, demanded):
    """Also over scores on demand, of which there is no tensor to sum over."""
    graphs, emissions, lengths = long_batch(3, 90)
    scores = Table(emissions) if demanded else emissions
    whole = viterbi(graphs, scores, lengths, confidence=True)
    plain = viterbi(graphs, emissions, lengths, confidence=True, backend="torch")
    torch.testing.assert_close(whole.confidence, plain.confidence, atol=1e-4, rtol=0)
    monkeypatch.setattr(numba_calls, "MAX_CELLS", 100)
    assert viterbi(graphs, scores, lengths, confidence=True).confidence.equal(whole.confidence)


def test_threads_do_not_matter(monkeypatch):
    monkeypatch.setattr(numba_calls, "MAX_CELLS", 100)
    monkeypatch.setattr(numba_calls, "SERIAL_CELLS", 0)
    graphs, emissions, lengths = long_batch(5, 200)
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(viterbi(graphs, emissions, lengths, confidence=True))
    finally:
        torch.set_num_threads(threads)
    assert found[0].arcs.equal(found[1].arcs) and found[0].confidence.equal(found[1].confidence)


def test_an_impossible_recording_has_no_path(monkeypatch):
    monkeypatch.setattr(numba_calls, "MAX_CELLS", 100)
    graphs, emissions = make_chains(1, 40, 30, 7)
    emissions[0, 17] = float("nan")
    found = viterbi(graphs, emissions, torch.tensor([40]), confidence=True)
    assert found.scores.tolist() == [-math.inf] and (found.states == -1).all() and (found.confidence == 0).all()
    assert full_sum(graphs, emissions, torch.tensor([40])).tolist() == [-math.inf]


def test_memory_of_a_long_recording():
    """2,000 s against 6,000 states: 1.2e9 cells, of which a table of bytes alone would take 1.1 GiB."""
    program = """
import torch
from pipeline.hmm import viterbi
from tests.hmm.test_engine import make_chains

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

small, scores = make_chains(1, 100, 30, 20)
viterbi(small, scores, torch.tensor([100]), confidence=True)  # compiles
graphs, scores = make_chains(1, 200_000, 6_000, 20)
before = peak()
found = viterbi(graphs, scores, torch.tensor([200_000]), confidence=True)
assert found.scores.isfinite().all() and int(found.states[0, -1]) == 5_999
assert (found.states[0].diff() >= 0).all()
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 150, done.stdout
