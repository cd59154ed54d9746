"""Attention decoder: an LSTM that looks at the encoder's output through several heads and writes one token at a
time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.artifacts.tokens import EOS_ID
from pipeline.base.errors import ConfigError
from pipeline.e2e.options import EndToEndOptions
from pipeline.nn.dropout import dropout
from pipeline.nn.masks import mask_of

LOCATION_CHANNELS, LOCATION_KERNEL = 10, 31  # of the convolution over past attention weights


@dataclass(frozen=True)
class State:
    """Everything the next step needs, one row per hypothesis.

    Attributes:
        keys: (N, T', A) projected encoder output. values: (N, T', D). mask: (N, T') real frames.
        hidden, cell: (L, N, H) of the LSTM layers.
        context: (N, D) what the last step has looked at.
        seen: (N, heads, T') sum of all attention weights so far.
        weights: (N, heads, T') those of the last step.
    """

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor
    hidden: torch.Tensor
    cell: torch.Tensor
    context: torch.Tensor
    seen: torch.Tensor
    weights: torch.Tensor

    def select(self, rows: torch.Tensor) -> State:
        """The given rows in the given order; rows may be repeated or left out."""
        return State(
            self.keys[rows],
            self.values[rows],
            self.mask[rows],
            self.hidden[:, rows],
            self.cell[:, rows],
            self.context[rows],
            self.seen[rows],
            self.weights[rows],
        )


class Attention(nn.Module):
    """Additive attention with several heads (Bahdanau et al. 2015); each head may see the sum of its past weights
    through a convolution (Chorowski et al. 2015):  energy = v . tanh(W query + V key + U (f * seen))."""

    def __init__(self, query_dim: int, key_dim: int, options: EndToEndOptions) -> None:
        super().__init__()
        dim, self.heads = options.attention_dim, options.attention_heads
        if dim % self.heads or key_dim % self.heads:
            raise ConfigError(
                f"attention_dim {dim} and the encoder's width {key_dim} must be multiples of the number of "
                f"attention_heads, {self.heads}"
            )
        self.query, self.key = nn.Linear(query_dim, dim), nn.Linear(key_dim, dim, bias=False)
        self.energy = nn.Parameter(torch.randn(self.heads, dim // self.heads) / (dim // self.heads) ** 0.5)
        self.convolution = self.place = None
        if options.location:
            self.convolution = nn.Conv1d(
                1, LOCATION_CHANNELS, LOCATION_KERNEL, padding=LOCATION_KERNEL // 2, bias=False
            )
            self.place = nn.Linear(LOCATION_CHANNELS, dim // self.heads, bias=False)

    def forward(self, query: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, Q) query -> (N, D) context, each head contributing its share of the values, and (N, heads, T')
        weights.
        """
        n, num_frames, dim = state.keys.shape
        energy = (
            (state.keys + self.query(query)[:, None]).view(n, num_frames, self.heads, -1).transpose(1, 2)
        )  # (N, H, T', A / H)
        if self.convolution is not None and self.place is not None:
            past = self.convolution(state.seen.reshape(n * self.heads, 1, num_frames)).transpose(1, 2)
            energy = energy + self.place(past).view(n, self.heads, num_frames, -1)
        scores = (energy.tanh() * self.energy[:, None]).sum(-1)
        weights = scores.masked_fill(~state.mask[:, None], float("-inf")).softmax(-1)  # (N, H, T')
        values = state.values.view(n, num_frames, self.heads, -1).transpose(1, 2)  # (N, H, T', D / H)
        return (weights[:, :, None] @ values).reshape(n, -1), weights


class AttentionDecoder(nn.Module):
    """LSTM decoder with input feeding: token and last context go in, hidden state, new context and token give the next
    one.
    """

    def __init__(self, encoder_dim: int, vocab_size: int, options: EndToEndOptions) -> None:
        super().__init__()
        width = options.decoder_dim
        self.dropout, self.width = options.decoder_dropout, width
        self.embedding = nn.Embedding(vocab_size, options.embedding_dim)
        self.layers = nn.ModuleList(
            nn.LSTMCell(options.embedding_dim + encoder_dim if i == 0 else width, width)
            for i in range(options.decoder_layers)
        )
        self.attention = Attention(width, encoder_dim, options)
        self.readout = nn.Linear(width + encoder_dim + options.embedding_dim, width)
        self.output = nn.Linear(width, vocab_size)

    def start(self, encoded: torch.Tensor, lens: torch.Tensor) -> State:
        """The state before the first token, which is <sos/eos>.

        Args:
            encoded: (N, T', D). lens: (N,).
        """
        n, num_frames, dim = encoded.shape
        zeros = encoded.new_zeros((len(self.layers), n, self.width))
        seen = encoded.new_zeros((n, self.attention.heads, num_frames))
        return State(
            self.attention.key(encoded),
            encoded,
            mask_of(lens, num_frames),
            zeros,
            zeros,
            encoded.new_zeros((n, dim)),
            seen,
            seen,
        )

    def step(self, tokens: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Reads one token per row.

        Args:
            tokens: (N,) int64, <sos/eos> first.
        Returns:
            (N, V) natural-log probabilities of the next token, and the new state.
        """
        readout, state = self._advance(self._embed(tokens), state)
        return self._log_probs(readout), state

    def forward(self, encoded: torch.Tensor, lens: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Teacher forcing.

        Args:
            tokens: (N, U) int64 without <sos/eos>; what stands behind a row's end does not change what is before it.
        Returns:
            (N, U + 1, V) natural-log probabilities of tokens 1 .. U and of the end.
        """
        state = self.start(encoded, lens)
        embedded = self._embed(F.pad(tokens, (1, 0), value=EOS_ID))  # (N, U + 1, E)
        readouts = []
        for u in range(embedded.shape[1]):
            readout, state = self._advance(embedded[:, u], state)
            readouts.append(readout)
        return self._log_probs(torch.stack(readouts, 1))

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return dropout(self.embedding(tokens), self.dropout, self.training)

    def _advance(self, embedded: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """(N, E) -> (N, width) readout before the output layer, and the new state."""
        x = torch.cat([embedded, state.context], -1)
        hidden, cell = [], []
        for layer, h, c in zip(self.layers, state.hidden, state.cell):
            h, c = layer(x, (h, c))
            hidden.append(h)
            cell.append(c)
            x = dropout(h, self.dropout, self.training)
        context, weights = self.attention(x, state)
        readout = self.readout(torch.cat([x, context, embedded], -1)).tanh()
        return readout, State(
            state.keys,
            state.values,
            state.mask,
            torch.stack(hidden),
            torch.stack(cell),
            context,
            state.seen + weights,
            weights,
        )

    def _log_probs(self, readout: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.output(dropout(readout, self.dropout, self.training)), -1)
