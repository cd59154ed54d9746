"""Sufficient statistics of Gaussian mixtures, from frames that carry a pdf-id each (or several with weights)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.gmm.diag import Evaluator
from pipeline.gmm.parallel import share_out

# Frames of one pdf that are taken at once: bounds memory and keeps float32 sums short, the totals are float64.
CHUNK = 8192


@dataclasses.dataclass(frozen=True, eq=False)
class FrameLabels:
    """Which frames belong to which pdf, grouped by pdf.

    Args:
        frames: (M,) int64 rows of a feature matrix, ordered by pdf.
        splits: (P + 1,) int64, frames[splits[p]:splits[p + 1]] belong to pdf p.
        weights: (M,) float32 occupancies, None when all are 1.
    """

    frames: torch.Tensor
    splits: np.ndarray
    weights: torch.Tensor | None = None

    @staticmethod
    def from_pdfs(
        pdfs: np.ndarray, num_pdfs: int, frames: np.ndarray | None = None, weights: np.ndarray | None = None
    ) -> FrameLabels:
        """Labels from one pdf-id per frame.

        Args:
            pdfs: (M,) int pdf-ids; negative ones (frames of utterances that failed) are left out.
            frames: (M,) rows that they label; None: row i for pdfs[i].
            weights: (M,) occupancies.
        """
        order = np.argsort(pdfs, kind="stable")
        order = order[np.searchsorted(pdfs[order], 0) :]
        splits = np.searchsorted(pdfs[order], np.arange(num_pdfs + 1))
        rows = order if frames is None else frames[order]
        return FrameLabels(
            torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64)),
            splits,
            None if weights is None else torch.from_numpy(weights[order].astype(np.float32)),
        )

    @property
    def num_pdfs(self) -> int:
        return len(self.splits) - 1

    def occupancies(self) -> np.ndarray:
        """(P,) float64 frames (or their weights) of each pdf."""
        if self.weights is None:
            return np.diff(self.splits).astype(np.float64)
        total = np.concatenate([[0.0], np.cumsum(self.weights.double().numpy())])
        return total[self.splits[1:]] - total[self.splits[:-1]]

    def weighted(self, pdfs: Sequence[int], weight: float) -> FrameLabels:
        """The labels with the frames of some pdfs counting `weight` times as much, cf. Kaldi weight-silence-post."""
        if weight == 1.0:
            return self
        chosen = np.repeat(np.isin(np.arange(self.num_pdfs), list(pdfs)), np.diff(self.splits))
        if weight == 0.0:
            kept = np.concatenate([[0], np.cumsum(~chosen)])
            keep = torch.from_numpy(~chosen)
            return FrameLabels(
                self.frames[keep], kept[self.splits], None if self.weights is None else self.weights[keep]
            )
        own = torch.ones(len(self.frames)) if self.weights is None else self.weights
        return FrameLabels(self.frames, self.splits, torch.where(torch.from_numpy(chosen), own * weight, own))

    def used(self) -> list[int]:
        """The pdfs that have frames, those with the most first."""
        sizes = np.diff(self.splits)
        order = np.argsort(-sizes, kind="stable")
        return order[: int((sizes > 0).sum())].tolist()

    def chunks(self, pdf: int, feats: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
        """Yields (rows (n,), features (n, F), weights (n,) or None) of a pdf, at most CHUNK frames at a time."""
        begin, end = int(self.splits[pdf]), int(self.splits[pdf + 1])
        for first in range(begin, end, CHUNK):
            span = slice(first, min(first + CHUNK, end))
            rows = self.frames[span].to(feats.device)
            yield rows, feats[rows], None if self.weights is None else self.weights[span].to(feats.device)


@dataclasses.dataclass(frozen=True, eq=False)
class GmmStats:
    """Zeroth, first and second order statistics of all Gaussians, cf. Kaldi gmm-acc-stats-ali.

    Args:
        occ: (G,) float64, sum of posteriors.
        first, second: (G, F) float64, posterior-weighted sums of x and x^2.
        log_like: summed log-likelihood of the labelled frames.
    """

    occ: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    log_like: float

    def total(self) -> float:
        """Number of labelled frames."""
        return float(self.occ.sum())

    def plus(self, other: GmmStats) -> GmmStats:
        """Statistics of both sets of frames together."""
        return GmmStats(
            self.occ + other.occ, self.first + other.first, self.second + other.second, self.log_like + other.log_like
        )


def accumulate(
    evaluator: Evaluator, feats: torch.Tensor, labels: FrameLabels, target: torch.Tensor | None = None
) -> GmmStats:
    """Statistics of labelled frames; posteriors within each pdf are those of the evaluator's mixtures.

    Args:
        feats: (T, F) float32 features that the mixtures score.
        target: (T, F) features to take the sums of, when these differ (two-feature statistics of adaptive training).
    """
    gmms = evaluator.gmms
    assert labels.num_pdfs == gmms.num_pdfs, (labels.num_pdfs, gmms.num_pdfs)
    dim = feats.shape[1]
    sums = torch.zeros((gmms.num_gauss, 2 * dim + 1), dtype=torch.float64, device=feats.device)
    log_like = torch.zeros(gmms.num_pdfs, dtype=torch.float64, device=feats.device)
    add = _accumulate_compiled if feats.device.type == "cpu" else _accumulate_dense
    add(evaluator, feats, labels, feats if target is None else target, sums, log_like)
    return GmmStats(sums[:, -1].cpu(), sums[:, :dim].cpu(), sums[:, dim:-1].cpu(), float(log_like.sum()))


def _accumulate_compiled(
    evaluator: Evaluator,
    feats: torch.Tensor,
    labels: FrameLabels,
    target: torch.Tensor,
    sums: torch.Tensor,
    log_like: torch.Tensor,
) -> None:
    """Fills sums (G, 2F + 1) and log_like (P,) on the CPU; each pdf is one thread's, so their number changes
    nothing.
    """
    from pipeline.gmm.kernel import accumulate as compiled
    from pipeline.gmm.kernel import mixtures_of

    mixtures, splits = mixtures_of(evaluator), np.asarray(labels.splits, dtype=np.int64)
    weights = np.zeros(0, dtype=np.float32) if labels.weights is None else labels.weights.numpy()
    x = feats.contiguous().numpy()
    y = x if target is feats else target.contiguous().numpy()

    def work(pdfs: np.ndarray) -> None:
        compiled(pdfs, labels.frames.numpy(), splits, weights, x, y, mixtures, sums.numpy(), log_like.numpy())

    used = np.array(labels.used(), dtype=np.int64)
    work(used[:0])  # compiles, before threads would do so at the same time
    share_out(work, used, (np.diff(splits) * evaluator.gmms.sizes())[used])


def _accumulate_dense(
    evaluator: Evaluator,
    feats: torch.Tensor,
    labels: FrameLabels,
    target: torch.Tensor,
    sums: torch.Tensor,
    log_like: torch.Tensor,
) -> None:
    """The same by tensor operations on any device."""
    dim, offsets = feats.shape[1], evaluator.gmms.offsets.tolist()
    source = torch.cat([feats, target], dim=1)
    for pdf in labels.used():
        span = slice(offsets[pdf], offsets[pdf + 1])
        for _, block, weights in labels.chunks(pdf, source):
            x, y = block[:, :dim], block[:, -dim:]
            posterior, frame_like = evaluator.posteriors(pdf, x)
            if weights is not None:
                posterior *= weights[:, None]
                frame_like = frame_like * weights
            sums[span, :-1] += posterior.t() @ torch.cat([y, y * y], dim=1)
            sums[span, -1] += posterior.sum(0)
            log_like[pdf] += frame_like.double().sum()
