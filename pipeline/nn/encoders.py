"""Encoders: feature frames in, hidden vectors at the label frame rate out; padding never reaches a real frame."""
from __future__ import annotations

from typing import Callable

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import ConfigError
from pipeline.nn.attention import Conformer, Transformer
from pipeline.nn.masks import ceil_div, mask_of
from pipeline.nn.options import EncoderOptions


class Subsample(nn.Module):
    """Joins every `factor` frames; T' = ceil(T / factor), as ``pipeline.ali.subsample`` counts labels.

    Missing frames of the last group are zeros for "concat"; "mean" and "max" leave them out.
    """

    def __init__(self, factor: int, by: str = "concat") -> None:
        super().__init__()
        assert by in ("concat", "mean", "max"), by
        self.factor, self.by = factor, by

    def out_dim(self, dim: int) -> int:
        return dim * self.factor if self.by == "concat" else dim

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> (N, T', F or factor * F), (N,)."""
        n, num_frames, dim = x.shape
        k = self.factor
        if k == 1:
            return x * mask_of(lens, num_frames)[:, :, None], lens
        x = F.pad(x, (0, 0, 0, -num_frames % k))
        mask = mask_of(lens, x.shape[1])
        groups = (x * mask[:, :, None]).view(n, -1, k, dim)  # (N, T', k, F)
        real = mask.view(n, -1, k, 1)
        if self.by == "concat":
            out = groups.reshape(n, -1, k * dim)
        elif self.by == "mean":
            out = groups.sum(2) / real.sum(2).clamp(min=1)
        else:
            out = groups.masked_fill(~real, float("-inf")).amax(2)
            out = out.masked_fill(~real.any(2), 0.0)
        return out, ceil_div(lens, k)


class Blstm(nn.Module):
    """Bidirectional LSTM layers with dropout behind each; the encoder of Mann et al. 2023."""

    def __init__(self, in_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        dims = [in_dim] + [2 * options.dim] * options.layers
        self.layers = nn.ModuleList(
            nn.LSTM(d, options.dim, batch_first=True, bidirectional=True) for d in dims[:-1])
        for layer in self.layers:
            _init_lstm(layer)
        self.dropout = options.dropout
        self.out_dim = dims[-1]

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """(N, T, F), (N,) -> (N, T, 2 * dim), zeros behind each end."""
        x = nn.utils.rnn.pack_padded_sequence(x, lens.cpu(), batch_first=True, enforce_sorted=False)
        for layer in self.layers:
            x, _ = layer(x)
            x = x._replace(data=F.dropout(x.data, self.dropout, self.training))
        return nn.utils.rnn.pad_packed_sequence(x, batch_first=True)[0]


def _init_lstm(layer: nn.LSTM) -> None:
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


class Tdnn(nn.Module):
    """Residual dilated convolutions with a norm per frame (no statistics over the batch, so padding cannot leak).

    Each layer: x + dropout(relu(norm(conv(x)))); cf. the TDNN of Peddinti et al. 2015.
    """

    def __init__(self, in_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        if options.kernel % 2 == 0:
            raise ConfigError(f"kernel {options.kernel} must be odd, so that a frame stays at its place")
        if not options.dilations or min(options.dilations) < 1:
            raise ConfigError(f"dilations {options.dilations} must be numbers >= 1")
        dilations = [options.dilations[min(i, len(options.dilations) - 1)] for i in range(options.layers)]
        self.input = nn.Conv1d(in_dim, options.dim, options.kernel, padding=options.kernel // 2)
        self.convs = nn.ModuleList(
            nn.Conv1d(options.dim, options.dim, options.kernel, padding=d * (options.kernel // 2), dilation=d)
            for d in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(options.dim) for _ in range(options.layers + 1))
        self.dropout = options.dropout
        self.out_dim = options.dim

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """(N, T, F), (N,) -> (N, T, dim), zeros behind each end."""
        mask = mask_of(lens, x.shape[1])[:, None, :]  # (N, 1, T)
        x = self._finish(self.input((x.transpose(1, 2) * mask)), self.norms[0]) * mask
        for conv, norm in zip(self.convs, self.norms[1:]):
            x = (x + self._finish(conv(x), norm)) * mask
        return x.transpose(1, 2)

    def _finish(self, x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        x = norm(x.transpose(1, 2)).transpose(1, 2)
        return F.dropout(F.relu(x), self.dropout, self.training)


class Tds(nn.Module):
    """Time-depth separable convolutions (Hannun et al. 2019): a frame is a picture of channels x width; each layer
    convolves over time with weights shared along the width, then mixes all of the frame; residuals and norms per frame.
    """

    def __init__(self, in_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        if options.conv_kernel % 2 == 0:
            raise ConfigError(f"conv_kernel {options.conv_kernel} must be odd, so that a frame stays at its place")
        if options.dim % options.heads:
            raise ConfigError(f"dim {options.dim} must be a multiple of the number of channels (heads), {options.heads}")
        dim, channels = options.dim, options.heads
        self.channels, self.dropout, self.out_dim = channels, options.dropout, dim
        self.input = nn.Linear(in_dim, dim)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, (options.conv_kernel, 1), padding=(options.conv_kernel // 2, 0))
                                   for _ in range(options.layers))
        self.mixers = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) for _ in self.convs)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * options.layers))

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """(N, T, F), (N,) -> (N, T, dim), zeros behind each end."""
        mask = mask_of(lens, x.shape[1])[:, :, None]
        x = self.input(x) * mask
        n, num_frames, dim = x.shape
        for i, (conv, mixer) in enumerate(zip(self.convs, self.mixers)):
            picture = x.view(n, num_frames, self.channels, -1).transpose(1, 2)  # (N, C, T, width)
            y = F.relu(conv(picture)).transpose(1, 2).reshape(n, num_frames, dim)
            x = self.norms[2 * i](x + F.dropout(y, self.dropout, self.training))
            x = self.norms[2 * i + 1](x + F.dropout(mixer(x), self.dropout, self.training)) * mask
        return x


ENCODERS: dict[str, Callable[[int, EncoderOptions], nn.Module]] = {
    "blstm": Blstm, "tdnn": Tdnn, "tds": Tds, "transformer": Transformer, "conformer": Conformer}


class Encoder(nn.Module):
    """Subsampling, then a registered network, then (with frames_per_step > 1) one vector per label frame again.

    With frames_per_step = k the network runs on k joined label frames, and a linear layer makes k vectors of each of
    its steps, so that a recurrent network costs a k-th at the same label frame rate.

    Attributes:
        subsampling: feature frames per label frame.
        out_dim: size of the hidden vectors.
    """

    def __init__(self, feature_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        if options.encoder not in ENCODERS:
            raise ConfigError(f"unknown encoder {options.encoder!r}; known: {', '.join(ENCODERS)}")
        self.subsampling = options.subsampling
        self.frames = Subsample(options.subsampling, options.subsampling_by)
        self.steps = Subsample(options.frames_per_step)
        dim = self.steps.out_dim(self.frames.out_dim(feature_dim))
        self.network = ENCODERS[options.encoder](dim, options)
        self.out_dim = self.network.out_dim
        k = options.frames_per_step
        self.spread = nn.Linear(self.out_dim, k * self.out_dim) if k > 1 else None

    def out_lens(self, lens: torch.Tensor) -> torch.Tensor:
        """(N,) label frames for (N,) feature frames: ceil(T / subsampling)."""
        return ceil_div(lens, self.subsampling)

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> (N, T', D), (N,) with T' = ceil(T / subsampling)."""
        x = x[:, :int(lens.max())]
        x, lens = self.frames(x, lens)
        num_frames = x.shape[1]
        x, step_lens = self.steps(x, lens)
        x = self.network(x, step_lens)
        if self.spread is not None:
            x = self.spread(x).view(len(x), -1, self.out_dim)[:, :num_frames]  # (N, T', D)
        return x, lens
