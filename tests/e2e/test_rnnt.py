"""RNN-T losses against enumeration of all ways through the lattice, and against k2's."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.e2e.rnnt import rnnt_loss

k2 = pytest.importorskip("k2")

LENS, TOKENS, TOKEN_LENS = (
    torch.tensor([4, 3, 2]),
    torch.tensor([[2, 1, 2], [1, 1, 0], [0, 0, 0]]),
    torch.tensor([3, 2, 0]),
)


def lattice(dtype=torch.float64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 4, 4, 3, dtype=dtype, requires_grad=True)


def brute_force(log_probs: torch.Tensor, num_frames: int, tokens: list[int]) -> torch.Tensor:
    """Sum over the frames at which each token is written, which must not fall."""
    ways = []
    for frames in itertools.combinations_with_replacement(range(num_frames), len(tokens)):
        total, u = torch.zeros((), dtype=log_probs.dtype), 0
        for t in range(num_frames):
            while u < len(tokens) and frames[u] == t:
                total, u = total + log_probs[t, u, tokens[u]], u + 1
            total = total + log_probs[t, u, 0]
        ways.append(total)
    return -torch.stack(ways).logsumexp(0)


def test_loss_and_gradient_are_those_of_enumeration():
    logits = lattice()
    loss = rnnt_loss(logits, LENS, TOKENS, TOKEN_LENS)
    log_probs = logits.log_softmax(-1)
    expected = torch.stack(
        [brute_force(log_probs[n], int(LENS[n]), TOKENS[n, : int(TOKEN_LENS[n])].tolist()) for n in range(3)]
    )
    assert torch.allclose(loss, expected, atol=1e-10)
    weights = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    (ours,) = torch.autograd.grad((loss * weights).sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), logits)
    assert torch.allclose(ours, theirs, atol=1e-10)
    assert ours[1, 3:].abs().max() == 0 and ours[2, :, 1:].abs().max() == 0


def test_gradcheck():
    assert torch.autograd.gradcheck(lambda x: rnnt_loss(x, LENS, TOKENS, TOKEN_LENS), lattice())


def test_it_is_k2_s_loss():
    logits = lattice(torch.float32)
    boundary = torch.stack([torch.zeros(3), torch.zeros(3), TOKEN_LENS, LENS], 1).long()
    theirs = k2.rnnt_loss(logits, TOKENS, 0, boundary, reduction="none")
    assert torch.allclose(rnnt_loss(logits, LENS, TOKENS, TOKEN_LENS), theirs, atol=1e-4)


def test_impossible_tokens_cost_everything_and_move_nothing():
    logits = lattice().detach()
    logits[0, :, :, 1] = float("-inf")
    logits.requires_grad_()
    loss = rnnt_loss(logits, LENS, TOKENS, TOKEN_LENS)
    assert loss[0] == float("inf") and torch.isfinite(loss[1:]).all()


def test_pruned_loss_with_room_for_all_is_the_full_loss():
    from pipeline.graph.pruned_rnnt import pruned_rnnt_loss

    torch.manual_seed(1)
    am, lm, encoded, predicted = (torch.randn(3, size, 3, requires_grad=True) for size in (4, 4, 4, 4))
    # k2 reads frames for a token from the next one on in its "regular" form, as rnnt_loss does.
    simple, full = pruned_rnnt_loss(
        am, lm, encoded, predicted, LENS, TOKENS, TOKEN_LENS, lambda a, b: (a + b).tanh(), 4
    )
    whole = rnnt_loss((encoded[:, :, None] + predicted[:, None]).tanh(), LENS, TOKENS, TOKEN_LENS)
    assert torch.allclose(full, whole, atol=1e-4)
    narrow = pruned_rnnt_loss(am, lm, encoded, predicted, LENS, TOKENS, TOKEN_LENS, lambda a, b: (a + b).tanh(), 2)[1]
    assert (narrow[:2] > whole[:2]).all() and torch.allclose(narrow[2], whole[2], atol=1e-4)
    (simple.sum() + full.sum()).backward()
    assert all(x.grad.abs().sum() > 0 for x in (am, lm, encoded, predicted))
