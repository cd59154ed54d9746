"""Mixtures of experts: feed-forward layers of which each frame goes through one (Fedus et al. 2022), chosen by a router
that all layers may share (Gu et al. 2025).
"""

from __future__ import annotations

import torch
from torch import nn

from pipeline.nn.dropout import Dropout


class Experts(nn.Module):
    """Norm, then y = p_e(x) FFN_e(x) with e = argmax p(x), p = softmax of the router.

    Real frames alone are routed, so padding costs nothing and changes nothing; no expert is ever full.

    Attributes:
        balance: E sum_e f_e P_e of the last batch in training, f_e being the share of the frames that expert e has and
            P_e its mean probability: 1 where both are even, E where all frames go to one expert.
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
        self.balance: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, mask: torch.Tensor, router: nn.Module) -> torch.Tensor:
        """(N, T, D), (N, T) bool, a linear layer from D to the experts -> (N, T, D), 0 for padding."""
        flat, places = x.flatten(0, 1), mask.flatten().nonzero()[:, 0]
        real = self.norm(flat.index_select(0, places))  # (M, D)
        share, choice = (shares := router(real).float().softmax(-1)).max(-1)
        order = choice.sort(stable=True).indices
        counts = torch.bincount(choice, minlength=len(self.experts))
        if self.training:
            self.balance = len(self.experts) * (counts / max(len(real), 1) * shares.mean(0)).sum()
        parts = real.index_select(0, order).split(counts.tolist())
        mixed = torch.cat([expert(part) for expert, part in zip(self.experts, parts)])
        weighted = (share.index_select(0, order)[:, None] * mixed).to(x.dtype)
        return torch.zeros_like(flat).index_copy(0, places.index_select(0, order), weighted).view_as(x)


def take_balance(model: nn.Module) -> tuple[torch.Tensor, float] | None:
    """The sum over layers of the weighted balances of the last batch, and the mean of the plain ones; None without
    experts. They are forgotten, and their gradients with them.
    """
    layers = [module for module in model.modules() if isinstance(module, Experts) and module.balance is not None]
    if not layers:
        return None
    found = [layer.balance for layer in layers if layer.balance is not None]
    total = torch.stack([layer.weight * balance for layer, balance in zip(layers, found)]).sum()
    for layer in layers:
        layer.balance = None
    return total, float(torch.stack(found).mean().detach())
