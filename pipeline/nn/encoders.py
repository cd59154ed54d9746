"""Encoders: feature frames in, hidden vectors at the label frame rate out; padding never reaches a real frame."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.base.errors import ConfigError
from pipeline.nn.attention import Conformer, Transformer
from pipeline.nn.dnn import Dnn
from pipeline.nn.dropout import dropout
from pipeline.nn.frames import Join, Subsample, strides_of
from pipeline.nn.lc_blstm import LcBlstm
from pipeline.nn.levels import Levels
from pipeline.nn.masks import ceil_div, mask_of
from pipeline.nn.options import EncoderOptions
from pipeline.nn.recurrent import Blstm
from pipeline.nn.sigma import reparametrise
from pipeline.nn.stack import LayerStack
from pipeline.nn.vgg import Vgg


class Tdnn(LayerStack):
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
            for d in dilations
        )
        self.norms = nn.ModuleList(nn.LayerNorm(options.dim) for _ in range(options.layers + 1))
        self.joins = nn.ModuleList(Join(s, options.dim) for s in [*strides_of(options.strides, options.layers), 1])
        self.dropout = options.dropout
        self.out_dim = options.dim

    def each_layer(self, x: torch.Tensor, lens: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(N, T, F), (N,) -> (N, T', dim) and (N,) of every layer, zeros behind each end."""
        mask = mask_of(lens, x.shape[1])[:, None, :]  # (N, 1, T)
        x = self._finish(self.input(x.transpose(1, 2) * mask), self.norms[0]) * mask
        for conv, norm, join in zip(self.convs, self.norms[1:], self.joins):
            x = (x + self._finish(conv(x), norm)) * mask
            yield x.transpose(1, 2), lens
            y, lens = join(x.transpose(1, 2), lens)
            x, mask = y.transpose(1, 2), mask_of(lens, y.shape[1])[:, None, :]

    def _finish(self, x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        x = norm(x.transpose(1, 2)).transpose(1, 2)
        return dropout(F.relu(x), self.dropout, self.training)


class Tds(LayerStack):
    """Time-depth separable convolutions (Hannun et al. 2019): a frame is a picture of channels x width; each layer
    convolves over time with weights shared along the width, then mixes all of the frame; residuals and norms per frame.

    With few of the frames of a convolution in the future (conv_right) the encoder can follow a stream (Pratap et al.
    2020).

    Attributes:
        lookahead: frames of the encoder's input, from a frame of the output to the last that it depends on.
    """

    def __init__(self, in_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        right = options.conv_kernel // 2 if options.conv_right is None else options.conv_right
        if options.conv_right is None and options.conv_kernel % 2 == 0:
            raise ConfigError(f"conv_kernel {options.conv_kernel} must be odd, so that a frame stays at its place")
        if right >= options.conv_kernel:
            raise ConfigError(f"conv_right {right} must be less than conv_kernel {options.conv_kernel}")
        if options.dim % options.heads:
            raise ConfigError(
                f"dim {options.dim} must be a multiple of the number of channels (heads), {options.heads}"
            )
        dim, channels = options.dim, options.heads
        self.channels, self.dropout, self.out_dim = channels, options.dropout, dim
        self.input = nn.Linear(in_dim, dim)
        self.padding = (0, 0, options.conv_kernel - 1 - right, right)  # of width and time
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, (options.conv_kernel, 1)) for _ in range(options.layers)
        )
        self.mixers = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)) for _ in self.convs
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * options.layers))
        strides = [*strides_of(options.strides, options.layers), 1]
        self.joins = nn.ModuleList(Join(s, dim) for s in strides)
        self.lookahead, factor = 1, 1
        for stride in strides:
            self.lookahead += factor * (right + stride - 1)
            factor *= stride

    def each_layer(self, x: torch.Tensor, lens: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(N, T, F), (N,) -> (N, T', dim) and (N,) of every layer, zeros behind each end."""
        x = self.input(x) * mask_of(lens, x.shape[1])[:, :, None]
        for i, (conv, mixer, join) in enumerate(zip(self.convs, self.mixers, self.joins)):
            mask = mask_of(lens, x.shape[1])[:, :, None]
            n, num_frames, dim = x.shape
            picture = x.view(n, num_frames, self.channels, -1).transpose(1, 2)  # (N, C, T, width)
            y = F.relu(conv(F.pad(picture, self.padding))).transpose(1, 2).reshape(n, num_frames, dim)
            x = self.norms[2 * i](x + dropout(y, self.dropout, self.training))
            x = self.norms[2 * i + 1](x + dropout(mixer(x), self.dropout, self.training)) * mask
            yield x, lens
            x, lens = join(x, lens)


ENCODERS: dict[str, Callable[[int, EncoderOptions], LayerStack]] = {
    "blstm": Blstm,
    "lc_blstm": LcBlstm,
    "tdnn": Tdnn,
    "tds": Tds,
    "transformer": Transformer,
    "conformer": Conformer,
    "dnn": Dnn,
}


class Hidden(NamedTuple):
    """What a layer hands out.

    Attributes:
        x: (N, T', D).
        lens: (N,).
        factor: feature frames per frame of this layer.
    """

    x: torch.Tensor
    lens: torch.Tensor
    factor: int


class Encoder(nn.Module):
    """Features may become symbols (levels); frames are joined (or go through VGG blocks), then a registered network,
    whose layers may join frames as well, then (with frames_per_step > 1) one vector per label frame again.

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
        if options.experts and options.encoder != "transformer":
            raise ConfigError(f"encoder {options.encoder} has no experts; transformer has")
        k = options.frames_per_step
        if k > 1 and (options.strides or options.vgg):
            raise ConfigError(
                "frames_per_step goes without strides and VGG blocks: frames that were joined are not taken apart"
            )
        self.subsampling, self.num_layers = options.label_factor, options.layers
        self.levels = Levels(feature_dim, options.levels, options.dim) if options.levels else None
        self.frames = Subsample(options.subsampling, options.subsampling_by)
        self.steps = Subsample(k)
        dim = feature_dim if self.levels is None else self.levels.out_dim
        dim = self.steps.out_dim(self.frames.out_dim(dim))
        self.vgg = Vgg(dim, options.vgg, options.vgg_channels, options.dim) if options.vgg else None
        self.network = ENCODERS[options.encoder](dim if self.vgg is None else options.dim, options)
        if options.sigma_reparam and not reparametrise(self.network):
            raise ConfigError(f"encoder {options.encoder} has no linear layers for sigma_reparam")
        self.out_dim = self.network.out_dim
        self.spread = nn.Linear(self.out_dim, k * self.out_dim) if k > 1 else None
        self._factors = layer_factors(options)

    def out_lens(self, lens: torch.Tensor) -> torch.Tensor:
        """(N,) label frames for (N,) feature frames: ceil(T / subsampling)."""
        return ceil_div(lens, self.subsampling)

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> (N, T', D), (N,) with T' = ceil(T / subsampling)."""
        return self.layers(x, lens)[:2]

    def layers(
        self, x: torch.Tensor, lens: torch.Tensor, wanted: Collection[int] = ()
    ) -> tuple[torch.Tensor, torch.Tensor, dict[int, Hidden]]:
        """The output, and what some of the layers hand out, each before the frames behind it are joined.

        Args:
            wanted: numbers of layers, from 1.
        Returns:
            (N, T', D), (N,), and the layers by number.
        """
        assert all(1 <= number <= self.num_layers for number in wanted), wanted
        x = x[:, : int(lens.max())]
        if self.levels is not None:
            x = self.levels(x)
        x, label_lens = self.frames(x, lens)
        num_frames = x.shape[1]
        x, lens = self.steps(x, label_lens)
        if self.vgg is not None:
            x, lens = self.vgg(x, lens)
        found = {}
        for number, (x, lens) in enumerate(self.network.each_layer(x, lens), 1):
            if number in wanted:
                found[number] = Hidden(x, lens, self._factors[number - 1])
        if self.spread is not None:
            x, lens = self.spread(x).view(len(x), -1, self.out_dim)[:, :num_frames], label_lens  # (N, T', D)
        return x, lens, found


def layer_factors(options: EncoderOptions) -> list[int]:
    """Feature frames per frame of each layer's output."""
    out = [options.subsampling * options.frames_per_step]
    for stride in options.vgg:
        out[0] *= stride
    for stride in strides_of(options.strides, options.layers):
        out.append(out[-1] * stride)
    return out
