"""Latency-controlled bidirectional LSTM: the future that a frame sees ends a fixed number of frames behind its
chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.base.errors import ConfigError
from pipeline.nn.dropout import dropout
from pipeline.nn.frames import Subsample, strides_of
from pipeline.nn.masks import ceil_div, mask_of
from pipeline.nn.options import EncoderOptions
from pipeline.nn.recurrent import init_lstm
from pipeline.nn.stack import LayerStack


class LcBlstm(LayerStack):
    """BLSTM layers over chunks of C frames with R frames of right context (Zhang et al. 2016; Liu et al. 2020 use it).

    All layers read a chunk and its right context. The forward LSTM starts from its state at the end of the chunk
    before, the backward LSTM from zeros at the end of the right context; results of the context are not handed out. So
    the encoder waits for C + R frames at most, however many layers there are.

    Attributes:
        lookahead: C + R, in frames of the encoder's input.
    """

    def __init__(self, in_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        strides = strides_of(options.strides, options.layers)
        factor = 1
        for stride in strides:
            factor *= stride
        if options.chunk % factor or options.right_context % factor:
            raise ConfigError(
                f"chunk {options.chunk} and right_context {options.right_context} must be multiples of the "
                f"product of the strides, {factor}"
            )
        self.chunk, self.context = options.chunk, options.right_context
        self.lookahead = options.chunk + options.right_context
        dims = [in_dim] + [2 * options.dim * s for s in strides]
        self.forwards = nn.ModuleList(nn.LSTM(d, options.dim, batch_first=True) for d in dims)
        self.backwards = nn.ModuleList(nn.LSTM(d, options.dim, batch_first=True) for d in dims)
        for layer in (*self.forwards, *self.backwards):
            init_lstm(layer)
        self.joins = nn.ModuleList(Subsample(s) for s in [*strides, 1])
        self.dropout, self.out_dim = options.dropout, 2 * options.dim

    def each_layer(self, x: torch.Tensor, lens: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(N, T, F), (N,) -> (N, T', 2 * dim) and (N,) of every layer, zeros behind each end."""
        n, num_frames, _ = x.shape
        size, width = self.chunk, self.chunk + self.context
        chunks = -(-num_frames // size)
        x = F.pad(x * mask_of(lens, num_frames)[:, :, None], (0, 0, 0, chunks * size + self.context - num_frames))
        x = torch.stack([x[:, k * size : k * size + width] for k in range(chunks)], 1)  # (N, K, C + R, F)
        starts = torch.arange(chunks, device=lens.device) * size
        chunk_lens = (lens[:, None] - starts).clamp(0, width).flatten()  # (N * K,)
        for forward, backward, join in zip(self.forwards, self.backwards, self.joins):
            past = self._forwards(forward, x, size)
            flat = x.flatten(0, 1)  # (N * K, C + R, D)
            turned = _turn(backward(_turn(flat, chunk_lens))[0], chunk_lens)
            y = torch.cat([past.flatten(0, 1), turned], -1) * mask_of(chunk_lens, flat.shape[1])[:, :, None]
            y = dropout(y, self.dropout, self.training)
            yield y.view(n, chunks, -1, y.shape[-1])[:, :, :size].flatten(1, 2)[:, : int(lens.max())], lens
            y, chunk_lens = join(y, chunk_lens)
            size, lens = size // join.factor, ceil_div(lens, join.factor)
            x = y.view(n, chunks, y.shape[1], -1)

    @staticmethod
    def _forwards(lstm: nn.LSTM, x: torch.Tensor, size: int) -> torch.Tensor:
        """(N, K, C + R, D) -> (N, K, C + R, dim): over the chunks one after the other, over the contexts all at
        once.
        """
        n, chunks = x.shape[:2]
        state, states, outs = None, [], []
        for k in range(chunks):
            out, state = lstm(x[:, k, :size], state)
            outs.append(out)
            states.append(state)
        past = torch.stack(outs, 1)
        if x.shape[2] == size:
            return past
        hidden, cell = (
            torch.stack([s[i][0] for s in states], 1).flatten(0, 1)[None] for i in (0, 1)
        )  # (1, N * K, dim)
        context = lstm(x[:, :, size:].flatten(0, 1), (hidden, cell))[0]
        return torch.cat([past, context.view(n, chunks, -1, context.shape[-1])], 2)


def _turn(x: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    """(N, T, D) with the first lens frames of each row in reverse order; what stands behind stays where it is."""
    place = torch.arange(x.shape[1], device=x.device)[None, :]
    index = torch.where(place < lens[:, None], lens[:, None] - 1 - place, place)
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[2]))
