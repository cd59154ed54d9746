"""Transition probabilities of a neural HMM: forward = sigmoid(w), loop = sigmoid(-w) (Mann et al. 2023, section 4).

A transition-state belongs to a class that shares its w; the classes are those of the variants of the paper. w is a
parameter, or an affine function of the encoder's output at the frame that the transition enters.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.artifacts.lang import SILENCE
from pipeline.artifacts.transitions import TransitionModel
from pipeline.base.errors import ConfigError

STATIC = ("fixed", "speech_silence", "substate", "substate_silence", "label")
DYNAMIC = ("linear", "blstm", "time")


def classes_of(kind: str, transitions: TransitionModel) -> np.ndarray:
    """(n_ts,) int64: which transition-states share a probability.

    "fixed" keeps each its own; "linear", "blstm" and "label" have one class per label (pdf); silence has a class of
    its own in "speech_silence" and "substate_silence".
    """
    silence = transitions.phone == transitions.phones.id(SILENCE)
    if kind == "fixed":
        return np.arange(len(transitions.phone))
    if kind == "speech_silence":
        return silence.astype(np.int64)
    if kind in ("substate", "substate_silence"):
        state = transitions.state.astype(np.int64)
        if kind == "substate":
            return state
        return np.where(silence, transitions.state[~silence].max(initial=0) + 1 + state, state)
    if kind in ("label", "linear", "blstm"):
        return transitions.pdf.astype(np.int64)
    if kind == "time":
        return np.zeros(len(transitions.phone), dtype=np.int64)
    raise ConfigError(f"unknown transition model {kind!r}; known: {', '.join(STATIC + DYNAMIC)}")


class TransitionNet(nn.Module):
    """Trainable transition probabilities for the transition-ids of a tree and a topology.

    Attributes:
        classes, pdfs: (n_ts,) int64 class and label of each transition-state.
        bias: (K,) w of each class; weight: (K, D) of the dynamic kinds, else None.
    """

    classes: torch.Tensor
    pdfs: torch.Tensor
    bias: torch.Tensor
    weight: nn.Parameter | None

    def __init__(
        self,
        kind: str,
        transitions: TransitionModel,
        encoder_dim: int,
        init: str = "guessed",
        subsampling: int = 1,
        width: int = 128,
    ) -> None:
        """Args:
        kind: see the module and ``classes_of``.
        transitions: names the transition-states; its probabilities are the guess, for one feature frame.
        encoder_dim: size of the encoder's output, for the kinds that depend on it.
        init: "guessed", "flat" (0.5) or "random" (logits from N(0, 1)).
        subsampling: feature frames per label frame; the guess is brought to this frame rate.
        width: of the BLSTM per direction.
        """
        super().__init__()
        self.kind, self.width = kind, width
        classes = torch.from_numpy(classes_of(kind, transitions))
        self.register_buffer("classes", classes, persistent=False)
        self.register_buffer("pdfs", torch.from_numpy(transitions.pdf.astype(np.int64)), persistent=False)
        bias = torch.from_numpy(_first_logits(transitions, classes.numpy(), init, subsampling))
        if kind == "fixed":
            self.register_buffer("bias", bias)
        else:
            self.bias = nn.Parameter(bias)
        self.blstm = nn.LSTM(encoder_dim, width, batch_first=True, bidirectional=True) if kind == "blstm" else None
        dim = 2 * width if kind == "blstm" else encoder_dim
        self.weight = nn.Parameter(torch.randn(len(bias), dim) * 0.1 / math.sqrt(dim)) if kind in DYNAMIC else None

    @property
    def dynamic(self) -> bool:
        """The probabilities depend on the input."""
        return self.weight is not None

    def logits(self, encoded: torch.Tensor | None, lens: torch.Tensor | None) -> torch.Tensor:
        """w of every class: (K,), or (N, T', K) for a dynamic kind."""
        if self.weight is None:
            return self.bias
        assert encoded is not None and lens is not None, self.kind
        return F.linear(self.context(encoded, lens), self.weight, self.bias)

    def context(self, encoded: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
        """(N, T', D') what the logits of a frame are an affine function of, from the (N, T', D) encoder output."""
        if self.blstm is None:
            return encoded
        packed = nn.utils.rnn.pack_padded_sequence(encoded, lens.cpu(), batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.blstm(packed)[0], batch_first=True)[0]

    def forward(self, encoded: torch.Tensor | None = None, lens: torch.Tensor | None = None) -> torch.Tensor:
        """Log probabilities by transition-id (2 ts: loop, 2 ts + 1: forward).

        Args:
            encoded: (N, T', D) encoder output; frame t scores the transitions into frame t.
            lens: (N,).
        Returns:
            (n_tid,), or (N, T', n_tid) for a dynamic kind.
        """
        return self._by_tid(self.logits(encoded, lens))

    def log_probs(self, context: torch.Tensor) -> torch.Tensor:
        """(.., D') some frames of the context of a dynamic kind -> (.., n_tid) as ``forward``."""
        assert self.weight is not None, self.kind
        return self._by_tid(F.linear(context, self.weight, self.bias))

    def _by_tid(self, logits: torch.Tensor) -> torch.Tensor:
        w = logits.float()  # sums over paths need 32 bits in mixed precision, too
        both = torch.stack([F.logsigmoid(-w), F.logsigmoid(w)], -1)  # (.., K, 2)
        return both[..., self.classes, :].flatten(-2)

    @torch.no_grad()
    def maximise(self, counts: np.ndarray, floor: float = 1e-3, min_count: float = 5.0) -> None:
        """The M step: each class gets its share of forward among its (n_tid,) expected counts.

        Args:
            floor: smallest probability of loop and forward.
            min_count: classes seen less often keep what they have.
        """
        check_closed_form(self.kind)
        classes = self.classes.cpu().numpy()
        loop, forward = (np.bincount(classes, counts[i::2], len(self.bias)) for i in (0, 1))
        share = (forward / np.maximum(loop + forward, 1e-30)).clip(floor, 1.0 - floor)
        w = torch.from_numpy(np.log(share) - np.log1p(-share)).to(self.bias)
        enough = torch.from_numpy(loop + forward >= min_count).to(self.bias.device)
        self.bias.copy_(torch.where(enough, w, self.bias))

    def forward_probs(self) -> np.ndarray:
        """(n_ts,) float64 probability of leaving each transition-state; dynamic kinds: at an encoder output of 0."""
        return torch.sigmoid(self.bias.detach().double())[self.classes].cpu().numpy()

    def speech_forward(self, silence_pdfs: torch.Tensor) -> float:
        """Mean probability of leaving a speech state, for reports; dynamic kinds: at an encoder output of 0."""
        speech = ~torch.isin(self.pdfs, silence_pdfs.to(self.pdfs.device))
        return float(torch.sigmoid(self.bias.detach())[self.classes][speech].mean()) if bool(speech.any()) else 1.0

    def export(self, transitions: TransitionModel, forward_prob: np.ndarray | None = None) -> None:
        """Writes the probabilities (or given (n_ts,) ones, such as means over the data) into a TransitionModel."""
        probs = self.forward_probs() if forward_prob is None else forward_prob
        assert probs.shape == transitions.forward_prob.shape, (probs.shape, transitions.forward_prob.shape)
        transitions.forward_prob = np.clip(probs.astype(np.float64), 1e-6, 1 - 1e-6)


def check_closed_form(kind: str) -> None:
    """ConfigError for transition models that closed-form EM cannot estimate."""
    if kind not in STATIC[1:]:
        raise ConfigError(
            f"--transitions {kind} has no closed-form update (em); those that have: {', '.join(STATIC[1:])}"
        )


def at_frame_rate(forward_prob: np.ndarray, subsampling: int) -> np.ndarray:
    """Forward probabilities when only every `subsampling`-th frame is kept: 1 - (1 - f)^subsampling, at most 0.9.

    A state that lasts 1/f frames on average is left within k frames with this probability.
    """
    return np.minimum(1.0 - (1.0 - forward_prob) ** subsampling, np.maximum(forward_prob, 0.9))


def _first_logits(transitions: TransitionModel, classes: np.ndarray, init: str, subsampling: int) -> np.ndarray:
    """(K,) float32 first w of every class."""
    size = int(classes.max()) + 1
    if init == "flat":
        return np.zeros(size, dtype=np.float32)
    if init == "random":
        return torch.randn(size).numpy()
    if init != "guessed":
        raise ConfigError(f"unknown transition_init {init!r}; known: guessed, flat, random")
    f = at_frame_rate(transitions.forward_prob, subsampling)
    total = np.bincount(classes, weights=np.log(f) - np.log1p(-f), minlength=size)
    return (total / np.maximum(np.bincount(classes, minlength=size), 1)).astype(np.float32)
