"""RNN transducer (Graves 2012): a predictor follows the tokens, a joint network meets it with each frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.artifacts.tokens import BLANK_ID
from pipeline.e2e.options import EndToEndOptions
from pipeline.nn.dropout import dropout


@dataclass(frozen=True)
class PredictorState:
    """What the predictor remembers, one row per hypothesis.

    Attributes:
        hidden, cell: (L, N, H) of an LSTM predictor; None for a stateless one.
        past: (N, context) last tokens of a stateless predictor; None for an LSTM.
    """

    hidden: torch.Tensor | None
    cell: torch.Tensor | None
    past: torch.Tensor | None

    def select(self, rows: torch.Tensor) -> PredictorState:
        """The given rows in the given order; rows may be repeated or left out."""
        if self.past is not None:
            return PredictorState(None, None, self.past[rows])
        hidden, cell = self.lstm
        return PredictorState(hidden[:, rows], cell[:, rows], None)

    def cat(self, other: PredictorState) -> PredictorState:
        """The rows of both, those of the other behind."""
        if self.past is not None:
            assert other.past is not None
            return PredictorState(None, None, torch.cat([self.past, other.past]))
        (hidden, cell), (behind, cell_behind) = self.lstm, other.lstm
        return PredictorState(torch.cat([hidden, behind], 1), torch.cat([cell, cell_behind], 1), None)

    @property
    def lstm(self) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden and cell of an LSTM predictor."""
        assert self.hidden is not None and self.cell is not None
        return self.hidden, self.cell


class LstmPredictor(nn.Module):
    """Embedding and LSTM layers; cf. the predictors of Liu et al. 2020."""

    def __init__(self, vocab_size: int, options: EndToEndOptions) -> None:
        super().__init__()
        self.dropout, self.out_dim, self.num_layers = (
            options.decoder_dropout,
            options.decoder_dim,
            options.decoder_layers,
        )
        self.embedding = nn.Embedding(vocab_size, options.embedding_dim)
        between = self.dropout if self.num_layers > 1 else 0.0
        self.lstm = nn.LSTM(options.embedding_dim, self.out_dim, self.num_layers, batch_first=True, dropout=between)

    def start(self, n: int) -> PredictorState:
        """The state before anything has been read."""
        zeros = self.embedding.weight.new_zeros((self.num_layers, n, self.out_dim))
        return PredictorState(zeros, zeros, None)

    def forward(self, tokens: torch.Tensor, state: PredictorState) -> tuple[torch.Tensor, PredictorState]:
        """(N, U) tokens -> (N, U, Dp), and the state behind them."""
        embedded = dropout(self.embedding(tokens), self.dropout, self.training)
        out, (hidden, cell) = self.lstm(embedded, state.lstm)
        return dropout(out, self.dropout, self.training), PredictorState(hidden, cell, None)


class StatelessPredictor(nn.Module):
    """Embeddings of the last tokens through a convolution (Ghodsi et al. 2020)."""

    def __init__(self, vocab_size: int, options: EndToEndOptions) -> None:
        super().__init__()
        self.dropout, self.out_dim, self.context = (
            options.decoder_dropout,
            options.decoder_dim,
            options.predictor_context,
        )
        self.embedding = nn.Embedding(vocab_size, options.embedding_dim)
        self.convolution = nn.Conv1d(options.embedding_dim, self.out_dim, self.context)

    def start(self, n: int) -> PredictorState:
        """The state before anything has been read: blanks."""
        past = torch.full((n, self.context), BLANK_ID, dtype=torch.int64, device=self.embedding.weight.device)
        return PredictorState(None, None, past)

    def forward(self, tokens: torch.Tensor, state: PredictorState) -> tuple[torch.Tensor, PredictorState]:
        """(N, U) tokens -> (N, U, Dp), and the state behind them."""
        assert state.past is not None
        past = torch.cat([state.past, tokens], 1)
        embedded = dropout(self.embedding(past[:, 1:]), self.dropout, self.training)
        out = F.relu(self.convolution(embedded.transpose(1, 2))).transpose(1, 2)
        return dropout(out, self.dropout, self.training), PredictorState(None, None, past[:, -self.context :])


class Transducer(nn.Module):
    """Predictor and joint network: softmax(out(tanh(W_e encoded + W_p predicted)))."""

    def __init__(self, encoder_dim: int, vocab_size: int, options: EndToEndOptions) -> None:
        super().__init__()
        make = LstmPredictor if options.predictor == "lstm" else StatelessPredictor
        self.predictor = make(vocab_size, options)
        self.from_encoder = nn.Linear(encoder_dim, options.joint_dim)
        self.from_predictor = nn.Linear(self.predictor.out_dim, options.joint_dim, bias=False)
        self.output = nn.Linear(options.joint_dim, vocab_size)

    def start(self, n: int) -> tuple[torch.Tensor, PredictorState]:
        """Predictions before the first token.

        Returns:
            (N, Dp) and the state.
        """
        blanks = torch.full((n, 1), BLANK_ID, dtype=torch.int64, device=self.output.weight.device)
        predicted, state = self.predictor(blanks, self.predictor.start(n))
        return predicted[:, 0], state

    def step(self, tokens: torch.Tensor, state: PredictorState) -> tuple[torch.Tensor, PredictorState]:
        """(N,) tokens, none of them blank -> (N, Dp) predictions and the state behind them."""
        predicted, state = self.predictor(tokens[:, None], state)
        return predicted[:, 0], state

    def after(self, context: torch.Tensor) -> torch.Tensor:
        """(M, C) last tokens, blanks before the first -> (M, Dp) predictions behind them, of a stateless predictor."""
        past = F.pad(context[:, :-1], (1, 0), value=BLANK_ID)  # the first one is pushed out
        return self.predictor(context[:, -1:], PredictorState(None, None, past))[0][:, 0]

    def predict(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, U) tokens -> (N, U + 1, Dp): predictions before the first and behind each token."""
        return self.predictor(F.pad(tokens, (1, 0), value=BLANK_ID), self.predictor.start(len(tokens)))[0]

    def logits(self, encoded: torch.Tensor, predicted: torch.Tensor, frozen: bool = False) -> torch.Tensor:
        """(N, T', D) and (N, U + 1, Dp) -> (N, T', U + 1, V), not normalised.

        Args:
            frozen: no gradient reaches the joint network's weights.
        """
        apply = _without_gradient if frozen else _plainly
        joined = apply(self.from_encoder, encoded)[:, :, None] + apply(self.from_predictor, predicted)[:, None]
        return apply(self.output, joined.tanh())

    def joint(self, encoded: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """(N, D) one frame each and (N, Dp) predictions -> (N, V) natural-log probabilities."""
        return torch.log_softmax(self.output((self.from_encoder(encoded) + self.from_predictor(predicted)).tanh()), -1)


def _plainly(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return layer(x)


def _without_gradient(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, layer.weight.detach(), None if layer.bias is None else layer.bias.detach())
