"""Confidence by windows: that of the whole recording where the windows are wide enough, and exact within one window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.hmm import viterbi, windows
from pipeline.hmm.compile import compile_graphs
from pipeline.hmm.windows import too_long, window_posteriors
from tests.hmm.table import Table
from tests.hmm.test_graph_source import MODEL, WORDS
from tests.pretend_cuda import pretend_cuda


def recordings(known: float, seed: int = 0):
    """Graphs of 3, 60 and 90 words and scores of 100, 1,200 and 1,500 frames, noise but for a path whose states score
    `known` more.
    """
    rng = np.random.RandomState(seed)
    graphs = compile_graphs(*MODEL, [[WORDS[i][0] for i in rng.randint(0, 6, n)] for n in (3, 60, 90)]).graphs
    torch.manual_seed(seed)
    scores, lengths = torch.randn(3, 1500, MODEL[1].num_pdfs), torch.tensor([100, 1200, 1500])
    path = viterbi(graphs, torch.rand_like(scores), lengths, torch.zeros(MODEL[2].num_tids)).pdfs
    scores.scatter_add_(2, path.clamp(min=0)[:, :, None], torch.full((3, 1500, 1), known))
    return graphs, scores.log_softmax(-1), lengths


@pytest.mark.parametrize("kind", ["dense", "on demand", "dynamic"])
@pytest.mark.parametrize("known", [2.0, 4.0])
def test_windows_give_the_confidence_of_the_whole(kind, known):
    graphs, scores, lengths = recordings(known)
    tids = MODEL[2].num_tids
    moves = torch.rand(3, 1500, tids).log() if kind == "dynamic" else torch.rand(tids).log()
    source = Table(scores) if kind == "on demand" else scores
    exact = viterbi(graphs, source, lengths, moves, confidence=True)
    found = window_posteriors(graphs, source, lengths, moves, exact, frames=200, context=150)
    assert torch.equal(found[0, :100], exact.confidence[0, :100])  # one window
    difference = (found - exact.confidence).abs()
    assert difference.max() < 0.01 and difference.mean() < 1e-4 and exact.confidence[1:].std() > 0.05


def test_edges_matter_less_the_further_they_are():
    graphs, scores, lengths = recordings(1.0)
    moves = torch.zeros(MODEL[2].num_tids)
    exact = viterbi(graphs, scores, lengths, moves, confidence=True)
    errors = [
        (window_posteriors(graphs, scores, lengths, moves, exact, 200, context) - exact.confidence).abs().max()
        for context in (0, 50, 300)
    ]
    assert errors[0] > 0.1 and errors[0] > errors[1] > errors[2] and errors[2] < 0.03


def test_groups_and_failures_change_nothing(monkeypatch):
    graphs, scores, lengths = recordings(2.0)
    scores[1, 700] = -torch.inf  # no path
    moves = torch.zeros(MODEL[2].num_tids)
    best = viterbi(graphs, scores, lengths, moves)
    together = window_posteriors(graphs, scores, lengths, moves, best, 200, 100)
    monkeypatch.setattr(windows, "CELLS", 1)
    assert torch.equal(together, window_posteriors(graphs, scores, lengths, moves, best, 200, 100))
    assert not together[1].any() and together[2, :1500].min() > 0


def test_what_is_too_long(monkeypatch):
    graphs, _, lengths = recordings(1.0)
    most = int((lengths * graphs.state_splits.long().diff()).max())
    for limit, expected in ((most, False), (most - 1, True)):
        monkeypatch.setattr(windows, "LONG", limit)
        assert too_long(graphs, lengths) is expected


@pytest.mark.skipif(torch.__version__.startswith("1."), reason="the modes of torch 1 do not see properties of tensors")
def test_scores_on_a_gpu():
    graphs, scores, _ = recordings(2.0)
    graphs, scores, lengths = graphs[torch.tensor([0])], scores[:1, :100], torch.tensor([100])
    moves = torch.zeros(MODEL[2].num_tids)
    expected = window_posteriors(graphs, scores, lengths, moves, viterbi(graphs, scores, lengths, moves), 30, 20)
    with pretend_cuda() as gpu:
        inputs = graphs, scores.to("cuda"), lengths, moves.to("cuda")
        found = window_posteriors(*inputs, viterbi(*inputs), 30, 20)
        assert not found.is_cuda and gpu.calls > 100
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0.0)
