"""Occupancies as gradients: what makes a backend's forward and backward pass one differentiable function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pipeline.hmm.graphs import Graphs

FullSum = Callable[[Graphs, torch.Tensor, torch.Tensor, "torch.Tensor | None"], torch.Tensor]


def differentiable(forward: Callable[..., Any], backward: Callable[..., Any]) -> FullSum:
    """The full-sum function of a backend, which autograd can differentiate once.

    Args:
        forward: (graphs, emissions, lengths, transitions, keep) -> scores (N,) and, with `keep`, what backward needs.
        backward: (graphs, emissions, lengths, transitions, saved, gradient (N,), whether transitions need a gradient)
            -> gradients of emissions and of transitions.
    """

    def full_sum(
        graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
    ) -> torch.Tensor:
        """Scores (N,), differentiable in emissions and transitions."""
        scores: torch.Tensor = _FullSum.apply(emissions, transitions, graphs, lengths, forward, backward)
        return scores

    return full_sum


class _FullSum(torch.autograd.Function):
    """The one place where occupancies become gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        emissions: torch.Tensor,
        transitions: torch.Tensor | None,
        graphs: Graphs,
        lengths: torch.Tensor,
        forward: Callable[..., Any],
        backward: Callable[..., Any],
    ) -> torch.Tensor:
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        scores: torch.Tensor
        scores, saved = forward(graphs, emissions, lengths, transitions, keep)
        if keep:
            ctx.save_for_backward(emissions, transitions)
            ctx.rest = (graphs, lengths, backward, saved)
        return scores

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        emissions, transitions = ctx.saved_tensors
        graphs, lengths, backward, saved = ctx.rest
        d_emissions, d_transitions = backward(
            graphs, emissions, lengths, transitions, saved, grad, ctx.needs_input_grad[1]
        )
        return d_emissions if ctx.needs_input_grad[0] else None, d_transitions, None, None, None, None
