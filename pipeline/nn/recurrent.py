"""Bidirectional LSTM encoder."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from pipeline.nn.dropout import dropout
from pipeline.nn.frames import Subsample, strides_of
from pipeline.nn.options import EncoderOptions
from pipeline.nn.stack import LayerStack


class Blstm(LayerStack):
    """Bidirectional LSTM layers with dropout behind each; the encoder of Mann et al. 2023."""

    def __init__(self, in_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        strides = strides_of(options.strides, options.layers)
        dims = [in_dim] + [2 * options.dim * s for s in strides]
        self.layers = nn.ModuleList(nn.LSTM(d, options.dim, batch_first=True, bidirectional=True) for d in dims)
        for layer in self.layers:
            init_lstm(layer)
        self.joins = nn.ModuleList(Subsample(s) for s in [*strides, 1])
        self.dropout = options.dropout
        self.out_dim = 2 * options.dim

    def each_layer(self, x: torch.Tensor, lens: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(N, T, F), (N,) -> (N, T', 2 * dim) and (N,) of every layer, zeros behind each end."""
        for layer, join in zip(self.layers, self.joins):
            packed = nn.utils.rnn.pack_padded_sequence(x, lens.cpu(), batch_first=True, enforce_sorted=False)
            packed, _ = layer(packed)
            packed = packed._replace(data=dropout(packed.data, self.dropout, self.training))
            x = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True)[0]
            yield x, lens
            x, lens = join(x, lens)


def init_lstm(layer: nn.LSTM) -> None:
    """Orthogonal recurrent weights and a forget bias of 1, so that gradients reach far from the start."""
    for name, parameter in layer.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.data.chunk(4, 0):
                nn.init.orthogonal_(gate)
        elif name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
            if name.startswith("bias_ih"):
                nn.init.ones_(parameter.data.chunk(4, 0)[1])
