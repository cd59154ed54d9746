"""What the encoder sees of the networks that stand between its input and its output."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


class LayerStack(nn.Module):
    """Layers that hand out a vector per frame each.

    Attributes:
        out_dim: size of these vectors.
        lookahead: input frames that the network waits for at most before it hands out a frame; None: all of them.
    """

    out_dim: int
    lookahead: int | None = None

    def each_layer(self, x: torch.Tensor, lens: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(N, T, F), (N,) -> (N, T', out_dim) and (N,) of every layer, zeros behind each end."""
        raise NotImplementedError
