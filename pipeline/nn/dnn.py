"""A feed-forward network that sees a window of frames, so that a frame can be trained without the rest of its
utterance.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.base.errors import ConfigError
from pipeline.nn.dropout import dropout
from pipeline.nn.masks import mask_of
from pipeline.nn.options import EncoderOptions
from pipeline.nn.stack import LayerStack


class Dnn(LayerStack):
    """Layers of ReLU over joined frames, dropout behind each; zeros stand beyond both ends of an utterance.

    Heigold et al. 2014 use 20 frames on the left, 5 on the right and 4 layers of 1,024.

    Attributes:
        window: frames that are seen on the left and on the right of each frame.
    """

    def __init__(self, in_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        if options.strides or options.vgg:
            raise ConfigError("encoder dnn goes without strides and VGG blocks: each frame has its own window")
        self.window = (options.window_left, options.window_right)
        self.input = nn.Conv1d(in_dim, options.dim, options.window_left + 1 + options.window_right)
        self.hidden = nn.ModuleList(nn.Linear(options.dim, options.dim) for _ in range(options.layers - 1))
        for layer in (self.input, *self.hidden):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.dropout, self.out_dim = options.dropout, options.dim

    def each_layer(self, x: torch.Tensor, lens: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(N, T, F), (N,) -> (N, T, dim) and (N,) of every layer, zeros behind each end."""
        mask = mask_of(lens, x.shape[1])[:, :, None]
        x = F.pad((x * mask).transpose(1, 2), self.window)  # (N, F, left + T + right)
        x = self._finish(self.input(x).transpose(1, 2)) * mask
        yield x, lens
        for layer in self.hidden:
            x = self._finish(layer(x)) * mask
            yield x, lens

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        """The output for single frames.

        Args:
            x: (B, left + 1 + right, F) normalised frames around each of them.
        Returns:
            (B, dim), as ``each_layer`` gives for these frames.
        """
        x = self._finish(F.linear(x.transpose(1, 2).flatten(1), self.input.weight.flatten(1), self.input.bias))
        for layer in self.hidden:
            x = self._finish(layer(x))
        return x

    def _finish(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(F.relu(x), self.dropout, self.training)
