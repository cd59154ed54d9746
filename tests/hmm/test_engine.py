"""The engine against enumeration, between its backends, and at its limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.errors import ConfigError
from pipeline.hmm import Graphs, available, convert, feasible, full_sum, occupancies, viterbi
from pipeline.hmm import backends as hmm_backends
from tests.hmm.oracle import NUM_PDFS, make_transitions, paths, random_graph


def backends(*names: str) -> list:
    """Parameters of a test; Triton runs in its interpreter, see conftest.py. k2 is an oracle where it is installed."""
    names = tuple(n for n in names if n != "k2" or available(n))
    missing = {name: not available(name) or (name == "triton" and torch.cuda.is_available()) for name in names}
    return [pytest.param(n, marks=pytest.mark.skipif(missing[n], reason=f"no {n}, or no interpreter")) for n in names]


EXACT = backends("numba", "torch", "triton")
ALL = backends("numba", "torch", "triton", "k2")
KINDS = ["none", "static", "timed"]


def make_batch(seed: int, num: int = 3, frames: int = 5, low: int = 1):
    """Random graphs, float64 emissions and lengths."""
    rng = np.random.RandomState(seed)
    torch.manual_seed(seed)
    graphs = Graphs.cat([random_graph(rng) for _ in range(num)])
    return (
        graphs,
        2 * torch.randn(num, frames, NUM_PDFS, dtype=torch.float64),
        torch.from_numpy(rng.randint(low, frames + 1, num)),
    )


def make_chains(num: int, frames: int, states: int, pdfs: int, dtype=torch.float32):
    """Left-to-right chains over log-softmax scores, with loop (0) and forward (1) labels."""
    torch.manual_seed(num + frames)
    sequences = [torch.randint(0, pdfs, (states,)).tolist() for _ in range(num)]
    loops, forwards = [[0] * states] * num, [[1] * states] * num
    graphs = convert.linear(sequences, loops, forwards, num_pdfs=pdfs)
    return graphs, torch.randn(num, frames, pdfs, dtype=dtype).log_softmax(-1)


@pytest.mark.parametrize("backend", ALL)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS))
@settings(max_examples=25, deadline=None)
def test_equals_enumeration(backend, seed, kind):
    graphs, emissions, lengths = make_batch(seed)
    transitions = make_transitions(kind, 3, 5)
    scores = full_sum(graphs, emissions, lengths, transitions, backend=backend)
    best = viterbi(graphs, emissions, lengths, transitions, backend=backend)
    tolerance = dict(rtol=1e-4, atol=1e-4)
    for n in range(3):
        every = list(paths(graphs, n, emissions, transitions, int(lengths[n])))
        if not every:
            assert scores[n] == best.scores[n] == float("-inf") and (best.states[n] == -1).all()
            continue
        np.testing.assert_allclose(scores[n].item(), np.logaddexp.reduce([p[0] for p in every]), **tolerance)
        length, shift = int(lengths[n]), int(graphs.arc_splits[graphs.state_splits[n]])
        states, arcs = best.states[n, :length].tolist(), [-1, *(best.arcs[n, 1:length] - shift).tolist()]
        # Equal scores, differently rounded, may leave more than one path to be found.
        score = {(tuple(s), tuple(a)): x for x, s, a in every}[tuple(states), tuple(arcs)]
        np.testing.assert_allclose([best.scores[n].item(), score], max(every)[0], **tolerance)
        g = graphs[n].numpy()
        assert best.pdfs[n, :length].tolist() == g["state_pdf"][states].tolist()
        assert best.tids[n, :length].tolist() == [*g["arc_tid"][arcs[1:]], g["final_tid"][states[-1]]]


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(backend, kind):
    graphs, emissions, lengths = make_batch(3, num=6, frames=4, low=2)
    scores = full_sum(graphs, emissions, lengths, backend=backend)
    keep = torch.nonzero(feasible(scores)).squeeze(1)
    assert 1 < len(keep) < 6, keep  # several utterances of different lengths; those without a path have no gradient
    assert len(set(lengths[keep].tolist())) > 1, lengths
    graphs, emissions, lengths = graphs[keep], emissions[keep].requires_grad_(), lengths[keep]
    transitions = make_transitions(kind, len(keep), emissions.shape[1])
    inputs = (emissions,) if transitions is None else (emissions, transitions.requires_grad_())
    # Column by column takes the interpreter half a minute; its fast mode checks a random projection.
    assert torch.autograd.gradcheck(
        lambda e, r=None: full_sum(graphs, e, lengths, r, backend), inputs, fast_mode=backend == "triton"
    )


@pytest.mark.parametrize("backend", ALL)
def test_occupancies_sum_to_one_and_equal_gradients(backend):
    graphs, emissions = make_chains(4, 20, 6, 9)
    lengths = torch.tensor([20, 13, 6, 5])  # the last one is too short
    emissions.requires_grad_()
    transitions = torch.tensor([-0.3, -1.2], requires_grad=True)
    scores = full_sum(graphs, emissions, lengths, transitions, backend=backend)
    assert feasible(scores).tolist() == [True, True, True, False]
    scores[feasible(scores)].sum().backward()
    found = occupancies(graphs, emissions, lengths, transitions, backend=backend)
    dense = found.pdf(20)
    inside = (torch.arange(20) < lengths[:, None]) & feasible(scores)[:, None]
    torch.testing.assert_close(dense.sum(-1), inside.float(), atol=2e-5, rtol=0)
    torch.testing.assert_close(dense, emissions.grad, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.tid_counts(), transitions.grad.double(), atol=1e-4, rtol=1e-4)
    # One arc per frame but the first, forward arcs once per state.
    torch.testing.assert_close(
        found.tid_counts(), torch.tensor([20 + 13 + 6 - 18.0, 15.0], dtype=torch.double), atol=1e-3, rtol=0
    )
    assert found.tid_counts(include_final=True)[1] == pytest.approx(18, abs=1e-3)


@pytest.mark.parametrize("backend", EXACT)
def test_infeasible_has_no_gradient_whatever_arrives(backend):
    graphs, emissions = make_chains(2, 8, 5, 7)
    emissions.requires_grad_()
    scores = full_sum(graphs, emissions, torch.tensor([8, 3]), backend=backend)
    assert scores[1] == float("-inf")
    (scores * torch.tensor([1.0, 0.0])).nansum().backward()
    assert torch.isfinite(emissions.grad).all() and emissions.grad[1].abs().sum() == 0 and emissions.grad[0].sum() > 7
    masked = emissions.detach().clone()
    masked[0, 4] = float("-inf")
    masked[1, 2] = float("nan")
    assert not feasible(full_sum(graphs, masked, torch.tensor([8, 8]), backend=backend)).any()
    none = full_sum(graphs, masked, torch.tensor([0, 0]), backend=backend)
    assert not feasible(none).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ALL)
def test_what_is_no_score_is_impossible(backend, kind, bad):
    """NaN and infinity, in some emissions or transitions: the same as minus infinity there."""
    for seed in range(4):
        graphs, emissions, lengths = make_batch(seed, num=3, frames=8, low=5)
        broken = [emissions, make_transitions(kind, 3, 8)]
        clean = [None if x is None else x.clone() for x in broken]
        which = 0 if kind == "none" else 1
        places = torch.rand(broken[which].shape) < 0.1
        broken[which][places], clean[which][places] = bad, float("-inf")
        found, expected = (full_sum(graphs, x[0], lengths, x[1], backend=backend) for x in (broken, clean))
        torch.testing.assert_close(found, expected)
        found, expected = (viterbi(graphs, x[0], lengths, x[1], backend=backend) for x in (broken, clean))
        torch.testing.assert_close(found.scores, expected.scores)
        assert found.states.equal(expected.states)


@pytest.mark.parametrize("backend", EXACT)
def test_ties_go_to_the_first_state(backend):
    """Three states side by side, each a path of its own, the first two equally good and the last one worse."""
    side = [0, 1, 2]
    graphs = convert.from_arcs(
        side, side, side, [-1] * 3, [0.0] * 3, [(s, 0.0) for s in side], [(s, 0.0, 0) for s in side], 3, 1
    )
    emissions = torch.tensor([0.0, 0.0, -0.5]).expand(1, 9, 3).contiguous()
    best = viterbi(graphs, emissions, torch.tensor([9]), backend=backend)
    assert best.states.tolist() == [[0] * 9] and best.scores.tolist() == [0.0]


@pytest.mark.parametrize("backend", ALL)
def test_equals_torch_ctc(backend):
    torch.manual_seed(1)
    labels = [[1, 2, 2, 3, 3, 1], [4], [2, 4, 1]]
    emissions = torch.randn(3, 30, 6).log_softmax(-1).requires_grad_()
    lengths = torch.tensor([30, 4, 17])
    scores = full_sum(convert.ctc(labels, num_pdfs=6), emissions, lengths, backend=backend)
    flat = torch.tensor(sum(labels, []))
    sizes = torch.tensor([len(x) for x in labels])
    expected = -torch.nn.functional.ctc_loss(emissions.transpose(0, 1), flat, lengths, sizes, reduction="none")
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-4)
    (mine,) = torch.autograd.grad(scores.sum(), emissions)
    probabilities = emissions.detach().exp()
    # torch returns the gradient of log-softmax inputs: it takes off the probabilities.
    (theirs,) = torch.autograd.grad(expected.sum(), emissions)
    inside = (torch.arange(30) < lengths[:, None])[..., None]
    torch.testing.assert_close(mine - probabilities * inside, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", EXACT)
def test_padding_and_batch_do_not_matter(backend):
    graphs, emissions = make_chains(3, 40, 8, 11)
    lengths = torch.tensor([40, 22, 9])
    together = full_sum(graphs, emissions, lengths, backend=backend)
    padded = torch.cat([emissions, torch.full((3, 7, 11), float("nan"))], dim=1)
    torch.testing.assert_close(full_sum(graphs, padded, lengths, backend=backend), together, rtol=0, atol=0)
    for n in range(3):
        alone = full_sum(graphs[n], emissions[n : n + 1, : lengths[n]], lengths[n : n + 1], backend=backend)
        torch.testing.assert_close(alone[0], together[n], rtol=1e-6, atol=0)
    strided = emissions.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(full_sum(graphs, strided, lengths, backend=backend), together, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_emissions(backend, dtype):
    graphs, emissions = make_chains(2, 30, 8, 11)
    half = emissions.to(dtype).requires_grad_()
    wide = half.detach().float().requires_grad_()
    lengths = torch.tensor([30, 21])
    a, b = (full_sum(graphs, x, lengths, backend=backend) for x in (half, wide))
    torch.testing.assert_close(a.float(), b, rtol=1e-6, atol=1e-5)
    a.sum().backward()
    b.sum().backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad.float(), wide.grad, rtol=1e-2, atol=1e-3)
    if backend != "triton":  # which adds the states of a pdf in half precision
        rounded = wide.grad.to(dtype).float()
        ulp = torch.finfo(dtype).eps * rounded.abs() + torch.finfo(dtype).tiny * torch.finfo(dtype).eps
        assert ((half.grad.float() - rounded).abs() <= ulp).all()
        assert half.grad.float().eq(rounded).float().mean() > 0.99 and half.grad.count_nonzero() > 100
    a, b = (viterbi(graphs, x.detach(), lengths, backend=backend) for x in (half, wide))
    assert a.tids.equal(b.tids) and a.pdfs.equal(b.pdfs)
    torch.testing.assert_close(a.scores.float(), b.scores, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_results_have_the_precision_that_is_promised(backend, dtype):
    graphs, emissions = make_chains(2, 6, 3, 4, dtype=torch.float64)
    expected = dtype if dtype == torch.float64 else torch.float32
    for frames in ([6, 4], [0, 0]):
        inputs = graphs, emissions.to(dtype), torch.tensor(frames)
        occupied = occupancies(*inputs, backend=backend)
        found = full_sum(*inputs, backend=backend), viterbi(*inputs, backend=backend).scores
        assert {x.dtype for x in (*found, occupied.scores, occupied.state, occupied.arc)} == {expected}


@pytest.mark.parametrize("backend", backends("numba", "torch", "k2"))
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_long_utterances_stay_exact(backend, scale):
    """Float32 against the plain torch recursion in float64."""
    graphs, emissions = make_chains(1, 3000, 400, 50)
    emissions = (scale * emissions).requires_grad_()
    exact = emissions.detach().double().requires_grad_()
    lengths = torch.tensor([3000])
    a, b = full_sum(graphs, emissions, lengths, backend=backend), full_sum(graphs, exact, lengths, backend="torch")
    assert a.item() == pytest.approx(b.item(), rel=1e-6)
    a.backward()
    b.backward()
    torch.testing.assert_close(emissions.grad.double(), exact.grad, rtol=1e-2, atol=2e-3)
    assert (emissions.grad.sum(-1) - 1).abs().max() < (1e-3 if backend == "k2" else 1e-5)
    best = viterbi(graphs, emissions, lengths, backend=backend)
    assert best.pdfs.equal(viterbi(graphs, exact, lengths, backend="torch").pdfs)


@pytest.mark.parametrize("backend", backends("numba", "triton"))
def test_agrees_with_torch_on_branching_graphs_with_confidence(backend):
    for seed in range(6):
        graphs, emissions, lengths = make_batch(seed, num=5, frames=12)
        a, b = (viterbi(graphs, emissions, lengths, backend=x, confidence=True) for x in (backend, "torch"))
        assert a.pdfs.equal(b.pdfs) and a.tids.equal(b.tids)
        torch.testing.assert_close(a.confidence, b.confidence, rtol=1e-5, atol=1e-6)
        a, b = (occupancies(graphs, emissions, lengths, backend=x) for x in (backend, "torch"))
        torch.testing.assert_close(a.state, b.state)
        torch.testing.assert_close(a.arc, b.arc)


def test_results_repeat_bit_for_bit():
    graphs, emissions = make_chains(6, 200, 40, 30)
    emissions.requires_grad_()
    lengths = torch.full((6,), 200)
    runs = [torch.autograd.grad(full_sum(graphs, emissions, lengths).sum(), emissions)[0] for _ in range(2)]
    assert runs[0].equal(runs[1])


@pytest.mark.parametrize("backend", EXACT)
def test_a_graph_can_be_differentiated_twice(backend):
    graphs, emissions = make_chains(2, 12, 4, 5)
    emissions.requires_grad_()
    total = full_sum(graphs, emissions, torch.tensor([12, 9]), backend=backend).sum()
    first, second = (torch.autograd.grad(total, emissions, retain_graph=True)[0] for _ in range(2))
    assert first.equal(second) and first.sum() > 20


@pytest.mark.parametrize("backend", EXACT)
def test_many_arcs_and_many_states_per_pdf(backend):
    """A fully connected graph, and a chain longer than a block of the kernels in which all states share two pdfs."""
    n = 20
    src, dst = (x.reshape(-1).tolist() for x in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    full = convert.from_arcs(
        src, dst, [d % 5 for d in dst], [-1] * n * n, [0.0] * n * n, [(0, 0.0)], [(n - 1, 0.0)], num_tids=0
    )
    chain = convert.linear([[i % 2 for i in range(1100)]], num_pdfs=5)
    graphs, lengths = Graphs.cat([full, chain]), torch.tensor([6, 4])
    emissions = torch.randn(2, 6, 5, dtype=torch.float64).log_softmax(-1).requires_grad_()
    scores = full_sum(graphs, emissions, lengths, backend=backend)
    exact = full_sum(graphs, emissions, lengths, backend="torch")
    torch.testing.assert_close(scores, exact)
    assert feasible(scores).tolist() == [True, False]
    a, b = (torch.autograd.grad(s[0], emissions)[0] for s in (scores, exact))
    torch.testing.assert_close(a, b)


def test_missing_library_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(hmm_backends.NEEDS, "triton", "no_such_package")
    monkeypatch.setattr(hmm_backends, "_module", hmm_backends._module.__wrapped__)
    assert not available("triton")
    graphs, emissions = make_chains(1, 5, 2, 3)
    with pytest.raises(ConfigError, match="'triton' needs the package no_such_package"):
        full_sum(graphs, emissions, torch.tensor([5]), backend="triton")


@pytest.mark.skipif(not available("triton"), reason="triton is missing")
def test_triton_kernels_compile_for_a_gpu_that_is_not_there():
    """The interpreter accepts what the compiler refuses."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_triton.py")
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) == 29, result.stdout


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_cuda_equals_cpu(kind, dtype):
    if not available("triton"):
        pytest.skip("triton is missing")
    tolerance = dict(rtol=1e-2, atol=1e-2) if torch.finfo(dtype).bits == 16 else dict(rtol=1e-4, atol=1e-4)
    for graphs, emissions, lengths, num_tids in (
        (*make_batch(5, num=8, frames=30), 5),
        (*make_chains(6, 300, 90, 50), torch.tensor([300, 290, 250, 180, 95, 80]), 2),
    ):
        emissions = emissions.to(dtype)
        transitions = make_transitions(kind, *emissions.shape[:2])
        assert transitions is None or transitions.shape[-1] >= num_tids
        found = []
        for device in ("cpu", "cuda"):
            e = emissions.detach().to(device).requires_grad_()
            r = None if transitions is None else transitions.detach().to(device).requires_grad_()
            scores = full_sum(graphs, e, lengths, r)
            scores[feasible(scores)].sum().backward()
            best = viterbi(graphs, e, lengths, r)
            occupied = occupancies(graphs, e, lengths, r)
            gradient = [] if r is None else [r.grad]
            found.append(
                [x.detach().cpu() for x in (scores, e.grad, best.scores, occupied.state, occupied.arc, *gradient)]
            )
        for cpu, gpu in zip(*found):
            torch.testing.assert_close(gpu, cpu, **tolerance)
