"""Global feature transforms: linear discriminant analysis (LDA) and semi-tied covariances (MLLT)."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import torch

from pipeline.gmm.blocks import Arrays
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.frame_labels import FrameLabels, Piece
from pipeline.gmm.parallel import for_each

logger = logging.getLogger(__name__)


def lda_sums(pieces: Iterable[Piece], centre: torch.Tensor) -> Arrays:
    """Statistics for ``lda``, cf. Kaldi acc-lda.

    Args:
        pieces: spliced features and the class of each frame; frames without a label do not count.
        centre: (F,) float32 a point near their mean, which keeps float32 products exact.
    Returns:
        float64: (P,) frames of each class, and (P, F) sums of them and (F, F) sums of all their products, after the
        centre has been subtracted.
    """
    size = len(centre)
    second = torch.zeros((size, size), dtype=torch.float64)
    first, occ = torch.zeros((0, size), dtype=torch.float64), torch.zeros(0, dtype=torch.float64)
    for feats, labels, *_ in pieces:
        if not len(first):
            first, occ = first.new_zeros((labels.num_pdfs, size)), occ.new_zeros(labels.num_pdfs)
        occ += torch.from_numpy(labels.occupancies())
        for pdf in labels.used():
            for _, block, weights in labels.chunks(pdf, feats):
                x = block - centre
                weighted = x if weights is None else x * weights[:, None]
                second += (weighted.t() @ x).double().cpu()
                first[pdf] += weighted.double().sum(0).cpu()
    return occ.numpy(), first.numpy(), second.numpy()


def lda(sums: Arrays, dim: int) -> torch.Tensor:
    """Rows that separate the pdfs best: the within-class covariance becomes the identity, the between-class one
    diagonal.

    cf. Kaldi est-lda. Directions without any within-class variance (constant features) are left out of the inverse, so
    a singular covariance costs those directions and nothing else.

    Args:
        sums: from ``lda_sums``.
        dim: wanted output dimension, at most F.
    Returns:
        (dim, F) float32.
    """
    occ, first, second = (torch.from_numpy(x) for x in sums)
    size = len(second)
    assert 1 <= dim <= size, (dim, size)
    total = occ.sum()
    mean = first.sum(0) / total
    total_cov = second / total - torch.outer(mean, mean)
    means = first / occ.clamp(min=1e-10)[:, None]
    between = (first.t() @ means) / total - torch.outer(mean, mean)
    within = (total_cov - between).numpy()
    value, vector = np.linalg.eigh((within + within.T) / 2)
    usable = value > 1e-6 * value[-1]
    if not usable.all():
        logger.warning(
            "LDA: %d of %d directions have no variance within the classes and are left out", int((~usable).sum()), size
        )
    whiten = vector[:, usable] / np.sqrt(value[usable])  # (F, F')
    gain, turn = np.linalg.eigh(whiten.T @ between.numpy() @ whiten)
    rows = (whiten @ turn[:, np.argsort(-gain, kind="stable")]).T  # (F', F)
    out = np.zeros((dim, size))
    out[: min(dim, len(rows))] = rows[:dim]
    signs = np.sign(out[np.arange(dim), np.abs(out).argmax(1)])
    return torch.from_numpy(out * np.where(signs == 0, 1, signs)[:, None]).float()


def mllt_stats(evaluator: Evaluator, pieces: Iterable[Piece]) -> tuple[np.ndarray, float]:
    """Statistics of the semi-tied covariance transform, cf. Kaldi gmm-acc-mllt.

    Args:
        pieces: features that the mixtures score, with their labels.
    Returns:
        (D, D, D) float64, G[d] = sum over frames and Gaussians of gamma (x - m)(x - m)' / v_d; and the sum of gamma.
    """
    gmms = evaluator.gmms
    offsets, dim = gmms.offsets.tolist(), gmms.dim
    cov = torch.zeros((gmms.num_gauss, dim, dim), dtype=torch.float32, device=gmms.device)
    count = torch.zeros(gmms.num_pdfs, dtype=torch.float64, device=gmms.device)
    total = torch.zeros((gmms.num_gauss, dim * dim), dtype=torch.float64)
    for feats, labels, *_ in pieces:

        def add(pdf: int, feats: torch.Tensor = feats, labels: FrameLabels = labels) -> None:
            for _, x, weights in labels.chunks(pdf, feats):
                posterior, _ = evaluator.posteriors(pdf, x)
                if weights is not None:
                    posterior *= weights[:, None]
                for k, g in enumerate(range(offsets[pdf], offsets[pdf + 1])):
                    off = x - gmms.means[g]
                    cov[g] += (off * posterior[:, k : k + 1]).t() @ off
                count[pdf] += posterior.double().sum()

        for_each(add, labels.used(), feats.device)
        total += cov.reshape(len(cov), -1).double().cpu()
        cov.zero_()
    inverse = 1.0 / gmms.vars.double().cpu()
    return (inverse.t() @ total).reshape(dim, dim, dim).numpy(), float(count.sum())


def mllt_objective(matrix: np.ndarray, stats: np.ndarray, count: float) -> float:
    """count * log |det A| - 1/2 sum over rows of a_d G_d a_d' (Gales 1999, semi-tied covariances)."""
    quadratic = np.einsum("di,dij,dj->", matrix, stats, matrix)
    return count * float(np.linalg.slogdet(matrix)[1]) - 0.5 * float(quadratic)


def mllt(stats: np.ndarray, count: float, num_iters: int = 100, tolerance: float = 1e-7) -> tuple[np.ndarray, float]:
    """The square matrix that makes diagonal covariances fit best; row by row (Gales 1999), from the identity.

    Each row is the exact optimum given the others: a_d = c G_d^-1 sqrt(count / (c G_d^-1 c')), c the cofactors of the
    row; so the objective never falls. cf. Kaldi est-mllt.

    Args:
        stats, count: from `mllt_stats`.
    Returns:
        (D, D) float64 and the gain in objective per frame.
    """
    dim = len(stats)
    matrix = np.eye(dim)
    if count <= 0:
        logger.warning("MLLT: no statistics, the transform stays the identity")
        return matrix, 0.0
    ridge = 1e-8 * np.trace(stats, axis1=1, axis2=2)[:, None, None] / dim
    inverses = np.linalg.inv(stats + np.maximum(ridge, 1e-30) * np.eye(dim))
    start = best = mllt_objective(matrix, stats, count)
    for _ in range(num_iters):
        previous = matrix.copy()
        inverse = np.linalg.inv(matrix)
        for d in range(dim):
            cofactors = inverse[:, d]  # up to the determinant, which cancels below
            row = inverses[d] @ cofactors
            reach = cofactors @ row
            if not reach > 0:  # statistics without full rank: rounding has turned the sign, the row stays
                continue
            row *= np.sqrt(count / reach)
            change = row - matrix[d]
            column = inverse[:, d].copy()
            inverse -= np.outer(column, change @ inverse) / (1.0 + change @ column)  # Sherman-Morrison
            matrix[d] = row
        now = mllt_objective(matrix, stats, count)
        if not now > best:
            matrix = previous if not now >= best else matrix
            break
        gained, best = now - best, now
        if gained < tolerance * count:
            break
    return matrix, (best - start) / count


def transform_means(gmms: DiagGmms, matrix: torch.Tensor) -> DiagGmms:
    """The mixtures with their means moved into the transformed feature space, cf. Kaldi gmm-transform-means."""
    means = gmms.means.double() @ matrix.double().to(gmms.device).t()
    return DiagGmms(gmms.weights, means, gmms.vars, gmms.offsets)
