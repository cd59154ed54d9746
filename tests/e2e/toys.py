"""Small models with the interfaces of pipeline.e2e.model, and brute force over all label sequences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, UNK_ID


@dataclass
class History:
    """The tokens of each row so far, and its utterance."""

    items: list[tuple[int, ...]]
    utterance: torch.Tensor

    def select(self, rows: torch.Tensor) -> History:
        return History([self.items[i] for i in rows.tolist()], self.utterance[rows])

    def cat(self, other: History) -> History:
        return History(self.items + other.items, torch.cat([self.utterance, other.utterance]))


def noise(*key: int, size: int, scale: float = 2.0) -> torch.Tensor:
    """A random vector that depends on the key alone."""
    return torch.from_numpy(np.random.default_rng([abs(k) for k in key]).normal(size=size) * scale).float()


class ToyDecoder:
    """Random distributions over the next token given the whole history; the encoder output is not read but for its
    first value.
    """

    def __init__(self, vocabulary: int, seed: int = 1, end: float = 0.0) -> None:
        self.vocabulary, self.seed, self.end = vocabulary, seed, end
        self.steps = 0

    def start(self, encoded: torch.Tensor, lens: torch.Tensor) -> History:
        return History([()] * len(encoded), (encoded[:, 0, 0] * 1000).round().long())

    def row(self, utterance: int, history: tuple[int, ...]) -> torch.Tensor:
        logits = noise(self.seed, utterance, *history, size=self.vocabulary)
        logits[EOS_ID] += self.end
        return logits.log_softmax(0)

    def step(self, tokens: torch.Tensor, state: History) -> tuple[torch.Tensor, History]:
        self.steps += 1
        items = [(*h, int(t)) for h, t in zip(state.items, tokens)]
        return torch.stack([self.row(int(u), h) for u, h in zip(state.utterance, items)]), History(
            items, state.utterance
        )


class ToyLm(ToyDecoder):
    """The same as a language model."""

    def start(self, n: int) -> History:
        return History([()] * n, torch.zeros(n, dtype=torch.long))


class ToyTransducer:
    """The predictor's output is a code of the history; the joint is a random function of it and of the frame."""

    def __init__(self, vocabulary: int, seed: int = 1, blank: float = 1.0) -> None:
        self.vocabulary, self.seed, self.blank = vocabulary, seed, blank
        self.codes: dict[int, tuple[int, ...]] = {}

    def start(self, n: int) -> tuple[torch.Tensor, History]:
        return self._coded([()] * n)

    def _coded(self, items: list[tuple[int, ...]]) -> tuple[torch.Tensor, History]:
        codes = []
        for item in items:
            code = 1 + sum((t + 1) * 10**i for i, t in enumerate(item))
            self.codes[code] = item
            codes.append(float(code))
        return torch.tensor(codes, dtype=torch.float64)[:, None], History(
            items, torch.zeros(len(items), dtype=torch.long)
        )

    def step(self, tokens: torch.Tensor, state: History) -> tuple[torch.Tensor, History]:
        return self._coded([(*h, int(t)) for h, t in zip(state.items, tokens)])

    def row(self, frame: float, history: tuple[int, ...]) -> torch.Tensor:
        logits = noise(self.seed, int(round(frame * 1000)), 7, *history, size=self.vocabulary)
        logits[BLANK_ID] += self.blank
        logits[[EOS_ID, UNK_ID]] = -60.0
        return logits.log_softmax(0)

    def joint(self, encoded: torch.Tensor, pred: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.row(float(e[0]), self.codes[int(p[0])]) for e, p in zip(encoded, pred)])


def random_ctc(n: int, frames: int, vocabulary: int, seed: int = 1) -> torch.Tensor:
    """(n, frames, vocabulary) log posteriors; sentence end and unknown are next to impossible."""
    logits = torch.randn(n, frames, vocabulary, generator=torch.Generator().manual_seed(seed)) * 1.5
    logits[:, :, [EOS_ID, UNK_ID]] = -60.0
    return logits.log_softmax(-1)


def sequences(vocabulary: int, most: int) -> Iterator[tuple[int, ...]]:
    """All label sequences of at most `most` labels."""
    for length in range(most + 1):
        yield from itertools.product(range(UNK_ID + 1, vocabulary), repeat=length)


def ctc_log_prob(log_probs: torch.Tensor, labels: tuple[int, ...]) -> float:
    """Log probability of a label sequence by torch's loss; log_probs (T, V)."""
    if not labels:
        return float(log_probs[:, BLANK_ID].sum())
    loss = torch.nn.functional.ctc_loss(
        log_probs[:, None].double(),
        torch.tensor([labels]),
        torch.tensor([len(log_probs)]),
        torch.tensor([len(labels)]),
        blank=BLANK_ID,
        reduction="none",
    )
    return -float(loss) if math.isfinite(float(loss)) else -math.inf


def transducer_log_prob(
    model: ToyTransducer, frames: torch.Tensor, labels: tuple[int, ...], most_per_frame: int, one: bool = False
) -> float:
    """Log probability by recursion over all paths.

    Args:
        frames: (T,) first encoder value of each frame.
        most_per_frame: labels at a frame at most.
        one: a label uses up its frame (no blank follows it there).
    """
    rows = [[model.row(float(f), labels[:u]) for u in range(len(labels) + 1)] for f in frames]

    def paths(t: int, u: int, here: int) -> float:
        if t == len(frames):
            return 0.0 if u == len(labels) else -math.inf
        out = [float(rows[t][u][BLANK_ID]) + paths(t + 1, u, 0)]
        if u < len(labels) and here < most_per_frame:
            score = float(rows[t][u][labels[u]])
            out.append(score + (paths(t + 1, u + 1, 0) if one else paths(t, u + 1, here + 1)))
        return float(np.logaddexp.reduce(out))

    return paths(0, 0, 0)
