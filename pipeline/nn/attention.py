"""Transformer and Conformer encoders, compact and without statistics over the batch, so that padding cannot leak."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.base.errors import ConfigError
from pipeline.nn.dropout import Dropout, dropout
from pipeline.nn.experts import Experts
from pipeline.nn.frames import Join, strides_of
from pipeline.nn.masks import mask_of
from pipeline.nn.options import EncoderOptions
from pipeline.nn.positions import Cape
from pipeline.nn.stack import LayerStack

# From torch 2.0 on: attention without a T x T matrix in memory.
SCALED_DOT_PRODUCT: Callable[..., torch.Tensor] | None = getattr(F, "scaled_dot_product_attention", None)
ROTARY_BASE = 10_000.0  # longest wavelength of the rotary positions, in frames / 2 pi (Su et al. 2021)


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021): the product of a query and a key depends on their distance only.

    Args:
        x: (N, H, T, D) with even D.
    Returns:
        (N, H, T, D).
    """
    half = x.shape[-1] // 2
    rate = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * rate  # (T, D / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the n real frames of an utterance: softmax(q k' / sqrt(d)), or
    sigmoid(q k' / sqrt(d) - log n), with which the weights of a query are about 1 in sum at first, and each is free of
    the others (Ramapuram et al. 2024).

    Attributes:
        rotary: whether queries and keys are rotated by their positions.
        context: (N, T) bool, frames that are seen beside nothing else; None: all.
        watched: whether `entropy` is computed.
        entropy: nats, mean over the heads and real frames of the last batch.
    """

    def __init__(self, options: EncoderOptions) -> None:
        super().__init__()
        dim, heads = options.dim, options.heads
        if dim % (2 * heads):
            raise ConfigError(f"dim {dim} must be a multiple of twice the number of heads, {heads}")
        self.heads, self.dropout = heads, options.dropout
        self.sigmoid, self.rotary = options.attention == "sigmoid", options.positions == "rotary"
        self.inputs, self.output = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.context: torch.Tensor | None = None
        self.watched, self.entropy = False, 0.0

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T, D), (N, T) bool -> (N, T, D)."""
        n, num_frames, dim = x.shape
        parts = self.inputs(x).view(n, num_frames, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()  # (N, H, T, D / H)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        seen = mask if self.context is None else mask & self.context[:, :num_frames]
        keys = seen[:, None, None, :]
        if SCALED_DOT_PRODUCT is not None and not (self.watched or self.sigmoid):
            out = SCALED_DOT_PRODUCT(query, key, value, keys, self.dropout if self.training else 0.0)
        else:
            scores = query @ key.transpose(-1, -2) / math.sqrt(dim // self.heads)
            if self.sigmoid:
                scores = scores - keys.sum(-1, keepdim=True).log()
            scores = scores.masked_fill(~keys, float("-inf"))
            weights = scores.sigmoid() if self.sigmoid else scores.softmax(-1)
            if self.watched:
                self.entropy = float(entropy(weights)[mask].mean())
            out = dropout(weights, self.dropout, self.training) @ value
        return self.output(out.transpose(1, 2).reshape(n, num_frames, dim))


def entropy(weights: torch.Tensor) -> torch.Tensor:
    """Entropy of what attention weighs, in nats: log T where it is even, 0 where it is all on one frame.

    Args:
        weights: (N, H, T, T) of each query for each key, 0 for padding; not all 0.
    Returns:
        (N, T), mean over the heads.
    """
    shares = weights.detach() / weights.detach().sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).mean(1)


class FeedForward(nn.Sequential):
    """Norm, four times as wide, back."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.SiLU(), Dropout(dropout), nn.Linear(4 * dim, dim)
        )


class Convolution(nn.Module):
    """The Conformer's convolution: gated, depthwise over time, with a norm per frame instead of one over the batch."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.norm, self.inner_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.gate, self.output = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, T, D), (N, T) bool -> (N, T, D)."""
        x = F.glu(self.gate(self.norm(x)), -1) * mask[:, :, None]
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return self.output(F.silu(self.inner_norm(x)))


class Block(nn.Module):
    """One layer: attention and feed-forward (Vaswani et al. 2017, norms first), or a Conformer block (Gulati et al.
    2020).
    """

    def __init__(self, options: EncoderOptions, conformer: bool) -> None:
        super().__init__()
        dim = options.dim
        self.dropout = options.dropout
        self.norm, self.attention = nn.LayerNorm(dim), SelfAttention(options)
        self.after: FeedForward | Experts = (
            Experts(dim, options.dropout, options.experts, options.expert_balance)
            if options.experts
            else FeedForward(dim, options.dropout)
        )
        self.before = FeedForward(dim, options.dropout) if conformer else None
        self.convolution = Convolution(dim, options.conv_kernel) if conformer else None

    def forward(self, x: torch.Tensor, mask: torch.Tensor, router: nn.Module | None = None) -> torch.Tensor:
        """(N, T, D), (N, T) bool, the router of experts -> (N, T, D)."""
        half = 1.0 if self.before is None else 0.5
        if self.before is not None:
            x = x + half * self._drop(self.before(x))
        x = x + self._drop(self.attention(self.norm(x), mask))
        if self.convolution is not None:
            x = x + self._drop(self.convolution(x, mask))
        return x + half * self._drop(self.after(x) if router is None else self.after(x, mask, router))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.dropout, self.training)


class PostNormBlock(Block):
    """A layer as Vaswani et al. 2017 have it: norm(x + attention(x)), then norm(x + feed_forward(x))."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor, router: nn.Module | None = None) -> torch.Tensor:
        """See ``Block``; without experts."""
        assert router is None and isinstance(self.after, FeedForward)
        norm, *layers = self.after
        x = y = self.norm(x + self._drop(self.attention(x, mask)))
        for layer in layers:
            y = layer(y)
        return norm(x + self._drop(y))


class Transformer(LayerStack):
    """An input convolution and blocks of self-attention."""

    conformer = False

    def __init__(self, in_dim: int, options: EncoderOptions) -> None:
        super().__init__()
        for name in ("kernel", "conv_kernel"):
            if getattr(options, name) % 2 == 0:
                raise ConfigError(f"{name} {getattr(options, name)} must be odd, so that a frame stays at its place")
        if options.norms == "post" and self.conformer:
            raise ConfigError("norms post are for the encoder transformer: a Conformer block has its norms in front")
        if options.experts and (options.norms == "post" or self.conformer):
            raise ConfigError("experts are for the encoder transformer with norms pre")
        self.input = nn.Conv1d(in_dim, options.dim, options.kernel, padding=options.kernel // 2)
        self.positions = (
            Cape(options.dim, options.cape_shift, options.cape_scale) if options.positions == "cape" else None
        )
        block = PostNormBlock if options.norms == "post" else Block
        self.blocks = nn.ModuleList(block(options, self.conformer) for _ in range(options.layers))
        self.joins = nn.ModuleList(Join(s, options.dim) for s in [*strides_of(options.strides, options.layers), 1])
        routers = 0 if not options.experts else 1 if options.expert_router == "shared" else options.layers
        self.routers = nn.ModuleList(nn.Linear(options.dim, options.experts, bias=False) for _ in range(routers))
        self.norm = nn.LayerNorm(options.dim)
        self.out_dim = options.dim

    def each_layer(self, x: torch.Tensor, lens: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(N, T, F), (N,) -> (N, T', dim) and (N,) of every layer, zeros behind each end; the last one is
        normalised.
        """
        mask = mask_of(lens, x.shape[1])
        x = self.input((x * mask[:, :, None]).transpose(1, 2)).transpose(1, 2)
        if self.positions is not None:
            x = x + self.positions(lens, x.shape[1]).to(x.dtype)
        for number, (block, join) in enumerate(zip(self.blocks, self.joins), 1):
            x = block(x, mask, self.routers[(number - 1) % len(self.routers)] if self.routers else None)
            yield (self.norm(x) if number == len(self.blocks) else x) * mask[:, :, None], lens
            x, lens = join(x, lens)
            mask = mask_of(lens, x.shape[1])


@contextmanager
def content_alone(network: Transformer, context: torch.Tensor) -> Iterator[None]:
    """Self-attention without positions, which sees some frames alone, while the context lasts.

    Args:
        context: (N, T') bool, the frames that are seen, at the rate of the network's output; one at least of each
            utterance's real ones.
    """
    blocks = list(network.blocks)
    before = network.positions, [block.attention.rotary for block in blocks]
    factor = 1
    for block, join in zip(reversed(blocks), reversed(list(network.joins))):
        factor *= join.frames.factor
        block.attention.rotary, block.attention.context = False, context.repeat_interleave(factor, 1)
    network.positions = None
    try:
        yield
    finally:
        network.positions = before[0]
        for block, rotary in zip(blocks, before[1]):
            block.attention.rotary, block.attention.context = rotary, None


class Conformer(Transformer):
    """The same with Conformer blocks."""

    conformer = True
