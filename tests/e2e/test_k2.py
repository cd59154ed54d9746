"""k2 as an oracle: RNN-T losses, and the search for best paths."""

from __future__ import annotations

import pytest
import torch

from pipeline.e2e.pruned_rnnt import pruned_rnnt_loss
from pipeline.e2e.rnnt import rnnt_loss
from pipeline.e2e.search.transducer_viterbi import best_paths
from tests.e2e.test_decode_e2e import TOKENS as UNITS
from tests.e2e.test_decode_e2e import make
from tests.e2e.test_rnnt import LENS, TOKEN_LENS, TOKENS, lattice, random_problem

k2 = pytest.importorskip("k2")


def test_the_loss_is_k2_s():
    logits = lattice(torch.float32)
    boundary = torch.stack([torch.zeros(3), torch.zeros(3), TOKEN_LENS, LENS], 1).long()
    theirs = k2.rnnt_loss(logits, TOKENS, 0, boundary, reduction="none")
    assert torch.allclose(rnnt_loss(logits, LENS, TOKENS, TOKEN_LENS), theirs, atol=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_pruned_losses_and_gradients_are_k2_s(seed):
    """Scores of little spread, so that no two windows hold equal shares but for rounding."""
    scores, lens, tokens, token_lens, joint = random_problem(seed, 0.3)
    width = min(2 + seed % 4, tokens.shape[1] + 1)
    boundary = torch.stack([torch.zeros(4), torch.zeros(4), token_lens, lens], 1).long()
    am, lm, encoded, predicted = scores
    simple, grads = k2.rnnt_loss_smoothed(
        lm, am, tokens, 0, lm_only_scale=0.25, am_only_scale=0.0, boundary=boundary, reduction="none", return_grad=True
    )
    ranges = k2.get_rnnt_prune_ranges(*grads, boundary, width)
    pruned = k2.do_rnnt_pruning(encoded, predicted, ranges)
    theirs = simple, k2.rnnt_loss_pruned(joint(*pruned), tokens, ranges, 0, boundary, reduction="none")
    ours = pruned_rnnt_loss(*scores, lens, tokens, token_lens, joint, width)
    for a, b in zip(ours, theirs):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-3)
        got, expected = (torch.autograd.grad(x.sum(), scores, retain_graph=True, allow_unused=True) for x in (a, b))
        for x, y in zip(got, expected):
            assert (x is None) == (y is None) and (x is None or torch.allclose(x, y, rtol=1e-3, atol=2e-3))


def k2_search(transducer, encoded: torch.Tensor, lens: torch.Tensor, beam: int) -> list[tuple[float, list[int]]]:
    """Score and tokens of the best path of each utterance by k2's streams over a trivial graph (fast_beam_search)."""
    config = k2.RnntDecodingConfig(
        vocab_size=len(UNITS),
        decoder_history_len=transducer.predictor.context,
        beam=20.0,
        max_states=4 * beam,
        max_contexts=beam,
    )
    streams = [k2.RnntDecodingStream(k2.trivial_graph(len(UNITS) - 1)) for _ in range(len(encoded))]
    decoding = k2.RnntDecodingStreams(streams, config)
    # k2 makes the arcs of the last frame final ones, which leaves out what is put out there: so there is one frame
    # more.
    for t in range(int(lens.max()) + 1):
        shape, contexts = decoding.get_contexts()
        rows = shape.row_ids(1).long()
        frames = encoded[rows, min(t, int(lens.max()) - 1)]
        log_probs = transducer.joint(frames, transducer.after(contexts.long()))
        log_probs[:, [1, 2]] = -1e30
        decoding.advance(log_probs.float())
    decoding.terminate_and_flush_to_streams()
    best = k2.shortest_path(decoding.format_output((lens + 1).tolist()), use_double_scores=True)
    shape, labels = best.arcs.shape(), best.labels.tolist()
    splits = shape.row_splits(2)[shape.row_splits(1).long()].tolist()
    scores = best.get_tot_scores(use_double_scores=True, log_semiring=False).tolist()
    return [(x, [k for k in labels[b:e] if k > 0]) for x, b, e in zip(scores, splits[:-1], splits[1:])]


@torch.no_grad()
@pytest.mark.parametrize("context", [1, 2, 4])
@pytest.mark.parametrize("beam", [2, 8, 200])
def test_best_paths_are_k2_s(context: int, beam: int) -> None:
    """With wide beams the same ones; k2 takes narrow ones in its own way and never finds a better path in them."""
    model = make("stateless", predictor_context=context)
    torch.manual_seed(beam)
    encoded, lens = model.encode(torch.randn(3, 90, 4), torch.tensor([90, 81, 33]))
    ours = best_paths(model.transducer, encoded, lens, beam)
    same = 0
    for [found], (score, tokens) in zip(ours, k2_search(model.transducer, encoded, lens, beam)):
        assert found.total >= score - 1e-3
        same += list(found.tokens) == tokens and found.total == pytest.approx(score, abs=1e-3)
    assert same == 3 or beam == 2
