"""Sufficient statistics of Gaussian mixtures, from frames that carry a pdf-id each (or several with weights)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import torch

from pipeline.gmm.blocks import Arrays, Blocks
from pipeline.gmm.diag import Evaluator
from pipeline.gmm.frame_labels import Piece
from pipeline.gmm.parallel import share_out


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


def accumulate(evaluator: Evaluator, pieces: Iterable[Piece]) -> GmmStats:
    """Statistics of labelled frames; posteriors within each pdf are those of the evaluator's mixtures.

    On the CPU the pieces in which the frames come change no bit.

    Args:
        pieces: with a target for the two-feature statistics of adaptive training.
    """
    gmms, sums = evaluator.gmms, None
    for piece in pieces:
        assert piece.labels.num_pdfs == gmms.num_pdfs, (piece.labels.num_pdfs, gmms.num_pdfs)
        if sums is None:
            compiled = piece.feats.device.type == "cpu"
            sums = (_CompiledSums if compiled else _DenseSums)(evaluator, piece.feats.shape[1], piece.feats.device)
        sums.add(piece)
    if sums is None:
        sums = _DenseSums(evaluator, gmms.dim, torch.device("cpu"))
    return sums.stats()


def accumulate_blocks(
    evaluator: Evaluator, blocks: Blocks, pieces: Callable[[np.ndarray], Iterable[Piece]]
) -> GmmStats:
    """Statistics over the data of all processes, block by block.

    Args:
        pieces: positions of the utterances of a block -> its frames; see ``accumulate``.
    """

    def sums(rows: np.ndarray) -> Arrays:
        own = accumulate(evaluator, pieces(rows))
        return own.occ.numpy(), own.first.numpy(), own.second.numpy(), np.array([own.log_like])

    occ, first, second, log_like = blocks.total(sums)
    return GmmStats(torch.from_numpy(occ), torch.from_numpy(first), torch.from_numpy(second), float(log_like[0]))


class _Sums:
    """Running statistics: sums (G, 2F + 1) of x, x^2 and 1, and log-likelihoods (P,)."""

    def __init__(self, evaluator: Evaluator, dim: int, device: torch.device) -> None:
        gmms = evaluator.gmms
        self.evaluator, self.dim = evaluator, dim
        self.sums = torch.zeros((gmms.num_gauss, 2 * dim + 1), dtype=torch.float64, device=device)
        self.log_like = torch.zeros(gmms.num_pdfs, dtype=torch.float64, device=device)

    def add(self, piece: Piece) -> None:
        """Adds the frames of a piece."""
        raise NotImplementedError

    def stats(self) -> GmmStats:
        """All so far."""
        sums = self.sums
        first, second = sums[:, : self.dim].cpu(), sums[:, self.dim : -1].cpu()
        return GmmStats(sums[:, -1].cpu(), first, second, float(self.log_like.sum()))


class _CompiledSums(_Sums):
    """On the CPU; each pdf is one thread's, so their number changes nothing."""

    def __init__(self, evaluator: Evaluator, dim: int, device: torch.device) -> None:
        from pipeline.gmm.kernel import mixtures_of

        super().__init__(evaluator, dim, device)
        self._mixtures = mixtures_of(evaluator)
        self._moments = np.zeros(self._mixtures.rows.shape, dtype=np.float32)
        self._seen = np.zeros(evaluator.gmms.num_pdfs, dtype=np.int64)

    def add(self, piece: Piece) -> None:
        from pipeline.gmm.kernel import accumulate as compiled

        labels = piece.labels
        splits = np.asarray(labels.splits, dtype=np.int64)
        weights = np.zeros(0, dtype=np.float32) if labels.weights is None else labels.weights.numpy()
        x = piece.feats.contiguous().numpy()
        y = x if piece.target is None else piece.target.contiguous().numpy()
        frames, sums, log_like = labels.frames.numpy(), self.sums.numpy(), self.log_like.numpy()

        def work(pdfs: np.ndarray) -> None:
            compiled(pdfs, frames, splits, weights, x, y, self._mixtures, sums, log_like, self._moments, self._seen)

        used = np.array(labels.used(), dtype=np.int64)
        work(used[:0])  # compiles, before threads would do so at the same time
        share_out(work, used, (np.diff(splits) * self.evaluator.gmms.sizes())[used])

    def stats(self) -> GmmStats:
        self.sums += torch.from_numpy(self._moments[:, : self.sums.shape[1]])
        self._moments[:] = 0.0
        return super().stats()


class _DenseSums(_Sums):
    """The same by tensor operations on any device."""

    def add(self, piece: Piece) -> None:
        dim, offsets = self.dim, self.evaluator.gmms.offsets.tolist()
        source = torch.cat([piece.feats, piece.feats if piece.target is None else piece.target], dim=1)
        for pdf in piece.labels.used():
            span = slice(offsets[pdf], offsets[pdf + 1])
            for _, block, weights in piece.labels.chunks(pdf, source):
                x, y = block[:, :dim], block[:, -dim:]
                posterior, frame_like = self.evaluator.posteriors(pdf, x)
                if weights is not None:
                    posterior *= weights[:, None]
                    frame_like = frame_like * weights
                self.sums[span, :-1] += posterior.t() @ torch.cat([y, y * y], dim=1)
                self.sums[span, -1] += posterior.sum(0)
                self.log_like[pdf] += frame_like.double().sum()
