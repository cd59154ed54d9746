"""CTC scores of label prefixes, for searches that build hypotheses label by label (Watanabe et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.artifacts.tokens import BLANK_ID

FLOOR = -100.0  # of a frame's log probabilities; below it nothing changes, above it sums of logs keep their precision


@dataclass(frozen=True)
class PrefixState:
    """Forward variables of R prefixes: (R, T + 1) float64 log probabilities of having put out the prefix after t
    frames.

    Attributes:
        label: with its last label at frame t.
        blank: with a blank there.
        last: (R,) last label, -1 for the empty prefix.
        utterance: (R,) row of the score matrix.
    """

    label: torch.Tensor
    blank: torch.Tensor
    last: torch.Tensor
    utterance: torch.Tensor

    def select(self, rows: torch.Tensor) -> PrefixState:
        """See ``pipeline.e2e.search.results.State``."""
        return PrefixState(self.label[rows], self.blank[rows], self.last[rows], self.utterance[rows])


class PrefixScorer:
    """log p(prefix ..) = log sum over all label sequences that begin with the prefix, for a batch of utterances."""

    def __init__(self, log_probs: torch.Tensor, lens: torch.Tensor) -> None:
        """Args:
        log_probs: (N, T, V) natural-log label posteriors with the blank.
        lens: (N,) frames.
        """
        self.log_probs = log_probs.double().clamp(min=FLOOR)
        self.lens = lens
        steps = torch.arange(log_probs.shape[1], device=lens.device)
        self._outside = steps[None, :] >= lens[:, None]  # (N, T)
        self._blank_sums = torch.nn.functional.pad(self.log_probs[:, :, BLANK_ID].cumsum(1), (1, 0))  # (N, T + 1)

    def start(self) -> PrefixState:
        """The empty prefix of each utterance."""
        blank = self._blank_sums.clone()
        never = torch.full_like(blank, -torch.inf)
        n = len(blank)
        return PrefixState(
            never, blank, torch.full((n,), -1, device=blank.device), torch.arange(n, device=blank.device)
        )

    def scores(self, state: PrefixState, candidates: torch.Tensor) -> torch.Tensor:
        """Prefix scores of every prefix with each candidate behind it.

        Args:
            candidates: (R, K) labels, neither blank nor sentence end.
        Returns:
            (R, K) float64.
        """
        rows = state.utterance
        frames = self._frames(rows, candidates)
        total = torch.logaddexp(state.label, state.blank)[:, :-1, None]
        same = (candidates == state.last[:, None])[:, None, :]
        before = torch.where(same, state.blank[:, :-1, None], total)
        return torch.logsumexp((before + frames).masked_fill(self._outside[rows][:, :, None], -torch.inf), dim=1)

    def _frames(self, rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(R, T, K) log probabilities of labels (R, K) in utterances (R,), without a copy of all labels."""
        steps = torch.arange(self.log_probs.shape[1], device=rows.device)
        return self.log_probs[rows[:, None, None], steps[None, :, None], labels[:, None, :]]

    def final(self, state: PrefixState) -> torch.Tensor:
        """(R,) log probability that nothing follows the prefix."""
        at = self.lens[state.utterance][:, None]
        return torch.logaddexp(state.label, state.blank).gather(1, at)[:, 0]

    def extend(self, state: PrefixState, labels: torch.Tensor) -> PrefixState:
        """The states of the prefixes with one label (R,) more each.

        With the sums of log probabilities of the label, c, and of the blank, b, up to each frame, the two recursions
        become
        cumulative sums: label[t] = c[t] + log sum_{s <= t} exp(before[s - 1] - c[s - 1]), and likewise for blank.
        """
        rows = state.utterance
        frames = self._frames(rows, labels[:, None])[:, :, 0]
        sums = torch.nn.functional.pad(frames.cumsum(1), (1, 0))  # (R, T + 1)
        same = (labels == state.last)[:, None]
        before = torch.where(same, state.blank, torch.logaddexp(state.label, state.blank))
        label = _after_first(torch.logcumsumexp(_finite(before - sums)[:, :-1], 1) + sums[:, 1:])
        blank_sums = self._blank_sums[rows]
        blank = _after_first(torch.logcumsumexp(_finite(label - blank_sums)[:, :-1], 1) + blank_sums[:, 1:])
        return PrefixState(label, blank, labels, rows)


def _after_first(values: torch.Tensor) -> torch.Tensor:
    """(R, T) -> (R, T + 1) with nothing possible before the first frame."""
    return torch.nn.functional.pad(values, (1, 0), value=-torch.inf)


def _finite(values: torch.Tensor) -> torch.Tensor:
    return values.clamp(min=-1e30)
