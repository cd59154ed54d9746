"""Log-likelihoods under mixtures, computed where the engine's search for best paths needs them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.gmm.diag import Evaluator
from pipeline.gmm.kernel import Mixtures, Source, mixtures_of
from pipeline.gmm.parallel import for_each
from pipeline.hmm import OnDemand


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureScores(OnDemand):
    """Scores of N utterances whose features lie side by side.

    Args:
        evaluator: the mixtures.
        feats: (sum of T, F) float32 features that they score, perhaps of further utterances. A frame that holds NaN has
            no score, so its utterance no path.
        begin: (N,) int64, first row of each utterance.
        lengths: (N,) int64, its frames.
        mixtures: the evaluator's, where they have been packed before.
    """

    evaluator: Evaluator
    feats: torch.Tensor
    begin: np.ndarray
    lengths: np.ndarray
    mixtures: Mixtures | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "feats", self.feats.contiguous())
        for name in ("begin", "lengths"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64))
        if self.mixtures is None and self.device.type == "cpu":
            object.__setattr__(self, "mixtures", mixtures_of(self.evaluator))

    def __getitem__(self, chosen: Sequence[int]) -> MixtureScores:
        """Scores of some of the utterances."""
        return dataclasses.replace(self, begin=self.begin[chosen], lengths=self.lengths[chosen])

    def stretches(self, rows: Sequence[int], begins: Sequence[int], ends: Sequence[int]) -> MixtureScores:
        """Scores of frames begins[i]:ends[i] of utterance rows[i], each as an utterance."""
        first = np.asarray(begins, dtype=np.int64)
        lengths = np.asarray(ends, dtype=np.int64) - first
        return dataclasses.replace(self, begin=self.begin[list(rows)] + first, lengths=lengths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, T, P)."""
        return len(self.begin), int(self.lengths.max(initial=0)), self.evaluator.gmms.num_pdfs

    @property
    def device(self) -> torch.device:
        """That of the features."""
        return self.feats.device

    def dense(self) -> torch.Tensor:
        """(N, T, P) float32, 0 behind each utterance's end."""
        out = self.feats.new_zeros(self.shape)
        pdfs = np.arange(self.shape[2])

        def score(n: int) -> None:
            begin, length = int(self.begin[n]), int(self.lengths[n])
            self.evaluator.into(out[n, :length], self.feats[begin : begin + length], pdfs)

        for_each(score, range(len(self.begin)), self.device)
        return out

    def compiled(self) -> Source:
        """For the loops of `pipeline.hmm.numba_viterbi`."""
        assert self.mixtures is not None, self.device  # packed on the CPU, where compiled loops run
        return Source(self.mixtures, self.feats.numpy(), self.begin)
