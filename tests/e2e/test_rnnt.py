"""RNN-T losses against enumeration of all paths through the lattice."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.e2e.pruned_rnnt import additive_scores, most_tokens, pruned_rnnt_loss, windows
from pipeline.e2e.rnnt import occupancies_of, rnnt_loss

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
    paths = []
    for frames in itertools.combinations_with_replacement(range(num_frames), len(tokens)):
        total, u = torch.zeros((), dtype=log_probs.dtype), 0
        for t in range(num_frames):
            while u < len(tokens) and frames[u] == t:
                total, u = total + log_probs[t, u, tokens[u]], u + 1
            total = total + log_probs[t, u, 0]
        paths.append(total)
    return -torch.stack(paths).logsumexp(0)


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


def test_impossible_tokens_cost_everything_and_move_nothing():
    logits = lattice().detach()
    logits[0, :, :, 1] = float("-inf")
    logits.requires_grad_()
    loss = rnnt_loss(logits, LENS, TOKENS, TOKEN_LENS)
    assert loss[0] == float("inf") and torch.isfinite(loss[1:]).all()


def test_pruned_loss_with_room_for_all_is_the_full_loss():
    torch.manual_seed(1)
    am, lm, encoded, predicted = (torch.randn(3, size, 3, requires_grad=True) for size in (4, 4, 4, 4))
    simple, full = pruned_rnnt_loss(
        am, lm, encoded, predicted, LENS, TOKENS, TOKEN_LENS, lambda a, b: (a + b).tanh(), 4
    )
    whole = rnnt_loss((encoded[:, :, None] + predicted[:, None]).tanh(), LENS, TOKENS, TOKEN_LENS)
    assert torch.allclose(full, whole, atol=1e-4)
    narrow = pruned_rnnt_loss(am, lm, encoded, predicted, LENS, TOKENS, TOKEN_LENS, lambda a, b: (a + b).tanh(), 2)[1]
    assert (narrow[:2] > whole[:2]).all() and torch.allclose(narrow[2], whole[2], atol=1e-4)
    (simple.sum() + full.sum()).backward()
    assert all(x.grad.abs().sum() > 0 for x in (am, lm, encoded, predicted))


def test_tokens_that_windows_cannot_reach_count_nothing():
    """Two frames and windows of two positions reach two tokens; the third utterance has three."""
    torch.manual_seed(2)
    scores = [torch.randn(3, size, 3, requires_grad=True) for size in (3, 4, 3, 4)]
    lens, tokens, token_lens = torch.tensor([3, 2, 2]), torch.ones(3, 3, dtype=torch.int64), torch.tensor([3, 2, 3])
    assert (token_lens <= most_tokens(lens, 2)).tolist() == [True, True, False]
    simple, full = pruned_rnnt_loss(*scores, lens, tokens, token_lens, lambda a, b: (a + b).tanh(), 2)
    assert torch.isfinite(simple).all() and (full[:2] > 0).all() and torch.isfinite(full).all() and full[2] == 0
    full.sum().backward()
    for x in scores[2:]:
        assert torch.isfinite(x.grad).all() and x.grad[:2].abs().sum() > 0 and x.grad[2].abs().sum() == 0


def random_problem(seed: int, spread: float):
    """Scores of two joint networks, lengths and tokens of four utterances."""
    torch.manual_seed(seed)
    num_tokens = int(torch.randint(1, 8, ()))
    num_frames, vocab = num_tokens + int(torch.randint(2, 30, ())), int(torch.randint(3, 12, ()))
    lens, token_lens = torch.randint(num_tokens + 1, num_frames + 1, (4,)), torch.randint(0, num_tokens + 1, (4,))
    lens[0], token_lens[0] = num_frames, num_tokens
    sizes = ((num_frames, vocab), (num_tokens + 1, vocab), (num_frames, 7), (num_tokens + 1, 7))
    scores = [(torch.randn(4, *size) * spread).requires_grad_() for size in sizes]
    output = torch.randn(7, vocab)
    tokens = torch.randint(1, vocab, (4, num_tokens))
    return scores, lens, tokens, token_lens, lambda a, b: (a + b).tanh() @ output


def test_mixed_precision_leaves_the_cheap_network_its_32_bits():
    scores, _, tokens, _, _ = random_problem(0, 3.0)
    expected = additive_scores(scores[0], scores[1], tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = additive_scores(scores[0], scores[1], tokens)
    assert all(torch.equal(*pair) for pair in zip(found, expected))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("width", [2, 3, 5])
def test_windows_lead_from_the_first_position_to_the_last(seed, width):
    scores, lens, tokens, token_lens, _ = random_problem(seed, 3.0)
    blank, label = additive_scores(scores[0], scores[1], tokens)
    first, size = windows(blank, label, lens, token_lens, width), min(width, tokens.shape[1] + 1)
    occupancy = occupancies_of(blank, label, lens, token_lens)[0]
    for n, (num_frames, num_tokens) in enumerate(zip(lens.tolist(), token_lens.tolist())):
        own = first[n, :num_frames]
        steps = own.diff()
        assert own[0] == 0 and own[-1] + size > num_tokens
        assert (steps >= 0).all() and (steps <= size - 1).all()
        if size == tokens.shape[1] + 1:
            assert occupancy[n, :num_frames].sum() == pytest.approx(num_frames)  # one blank per frame, all inside
