"""Mixtures of experts: feed-forward layers of which each frame goes through one (Fedus et al. 2022), chosen by a router
that all layers may share (Gu et al. 2025).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipeline.nn.dropout import Dropout


class Experts(nn.Module):
    """Norm, then y = p_e(x) FFN_e(x) with e = argmax p(x), p = softmax of the router.

    Real frames alone are routed, so padding costs nothing and changes nothing; no expert is ever full.

    Attributes:
        routed: of each pass in training the frames that the experts have had and the sums of their probabilities, (E,)
            each; None: not kept.
        weight: of the balance in the loss.
    """

    def __init__(self, dim: int, dropout: float, count: int, weight: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), Dropout(dropout), nn.Linear(4 * dim, dim))
            for _ in range(count)
        )
        self.weight = weight
        self.routed: list[tuple[torch.Tensor, torch.Tensor]] | None = None

    def forward(self, x: torch.Tensor, mask: torch.Tensor, router: nn.Module) -> torch.Tensor:
        """(N, T, D), (N, T) bool, a linear layer from D to the experts -> (N, T, D), 0 for padding."""
        flat, places = x.flatten(0, 1), mask.flatten().nonzero()[:, 0]
        real = self.norm(flat.index_select(0, places))  # (M, D)
        share, choice = (shares := router(real).float().softmax(-1)).max(-1)
        order = choice.sort(stable=True).indices
        counts = torch.bincount(choice, minlength=len(self.experts))
        if self.training and self.routed is not None:
            self.routed.append((counts, shares.sum(0)))
        parts = real.index_select(0, order).split(counts.tolist())
        mixed = torch.cat([expert(part) for expert, part in zip(self.experts, parts)])
        weighted = (share.index_select(0, order)[:, None] * mixed).to(x.dtype)
        return torch.zeros_like(flat).index_copy(0, places.index_select(0, order), weighted).view_as(x)

    def balance(self) -> torch.Tensor:
        """E sum_e f_e P_e over all passes that were kept, f_e being the share of the frames that expert e has had and
        P_e its mean probability: 1 where both are even, E where all frames went to one expert.
        """
        assert self.routed
        counts, sums = (torch.stack(each).sum(0) for each in zip(*self.routed))
        frames = counts.sum().clamp(min=1)
        return len(self.experts) * (counts / frames * (sums / frames)).sum()


@contextmanager
def watched_experts(model: nn.Module) -> Iterator[list[Experts]]:
    """The layers of experts, which keep what they route in training while the context lasts, and then forget it."""
    layers = [module for module in model.modules() if isinstance(module, Experts)]
    for layer in layers:
        layer.routed = []
    try:
        yield layers
    finally:
        for layer in layers:
            layer.routed = None


def balance_of(layers: Iterable[Experts]) -> tuple[torch.Tensor, float] | None:
    """The sum over layers of their weighted balances, and the mean of the plain ones; None where nothing was routed."""
    found = [(layer.weight, layer.balance()) for layer in layers if layer.routed]
    if not found:
        return None
    total = torch.stack([weight * balance for weight, balance in found]).sum()
    return total, float(torch.stack([balance for _, balance in found]).mean().detach())
