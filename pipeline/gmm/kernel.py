"""Compiled loops on the CPU for what tensor operations do badly: sums over mixtures, rows of transforms one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba.extending import overload

from pipeline.hmm import numba_scores
from pipeline.hmm.numba_cache import cached_njit
from pipeline.hmm.numba_calls import drop_stale_code
from pipeline.hmm.numba_math import FLAGS, exp, log

if TYPE_CHECKING:
    from pipeline.gmm.diag import Evaluator

LANES = 8  # features are padded to a multiple, so that LLVM needs no scalar remainder
# Terms further below the largest change a float32 sum by nothing.
NEGLIGIBLE = np.float32(-17.0)
LOWEST = np.float32(-1e30)
FAR = np.float32(1e11)  # features are clipped here, so that scores stay above what counts as impossible
FLUSH = 256  # frames after which float32 sums move into the float64 ones


@cached_njit(nogil=True, fastmath=FLAGS)
def log_sum(scores: np.ndarray, splits: np.ndarray, out: np.ndarray) -> None:
    """out[t, p] = log sum exp of scores[splits[p]:splits[p + 1], t].

    Args:
        scores: (G, T) float32, C order.
        splits: (P + 1,) int64; every pdf has at least one row.
        out: (T, P) float32, any strides.
    """
    num_frames = scores.shape[1]
    top = np.empty(num_frames, dtype=np.float32)
    total = np.empty(num_frames, dtype=np.float32)
    for p in range(len(splits) - 1):
        begin, end = splits[p], splits[p + 1]
        row = scores[begin]
        if end == begin + 1:
            for t in range(num_frames):
                out[t, p] = row[t]
            continue
        for t in range(num_frames):
            top[t] = row[t]
            total[t] = np.float32(0.0)
        for g in range(begin + 1, end):
            row = scores[g]
            for t in range(num_frames):
                top[t] = max(top[t], row[t])
        for g in range(begin, end):
            row = scores[g]
            for t in range(num_frames):
                total[t] += exp(row[t] - top[t])
        for t in range(num_frames):
            out[t, p] = top[t] + log(total[t])


class Mixtures(NamedTuple):
    """Gaussians as rows (G, W) of [linear, square, constant, zeros]: log w N(x; m, v) is the product with [x, x^2, 1,
    ...].

    Those of pdf p are offsets[p]:offsets[p + 1].
    """

    rows: np.ndarray
    offsets: np.ndarray


def mixtures_of(evaluator: Evaluator) -> Mixtures:
    """The mixtures of an evaluator (on the CPU) for the loops here."""
    matrix = evaluator.matrix.numpy()  # (G, 2F)
    rows = np.zeros((len(matrix), width_of(evaluator.gmms.dim)), dtype=np.float32)
    rows[:, : matrix.shape[1]], rows[:, matrix.shape[1]] = matrix, evaluator.const.numpy()
    return Mixtures(rows, evaluator.gmms.offsets.numpy())


@cached_njit(nogil=True)
def width_of(dim):
    """Length of [x, x^2, 1] in whole lanes."""
    return (2 * dim + LANES) // LANES * LANES


@cached_njit(nogil=True)
def load(out, feats, row):
    """Set `out` (W,) to [x, x^2, 1, 0, ...] of a frame, kept in bounds; whether all of it are numbers."""
    dim = feats.shape[1]
    proper = True
    for i in range(dim):
        value = feats[row, i]
        proper = proper and value == value
        out[i] = min(max(value, -FAR), FAR)
        out[dim + i] = out[i] * out[i]
    out[2 * dim] = 1
    return proper


@cached_njit(nogil=True, fastmath=FLAGS)
def mixture(x, rows, begin, end, terms):
    """Log-likelihood of a loaded frame under the Gaussians begin..end; `terms` receives those of each with its
    weight.
    """
    top = LOWEST
    for g in range(begin, end):
        total = np.float32(0.0)
        for i in range(len(x)):
            total += rows[g, i] * x[i]
        terms[g - begin] = total
        top = max(top, total)
    if end == begin + 1 or top <= LOWEST:
        return top
    total = np.float32(0.0)
    for i in range(end - begin):
        total += exp(terms[i] - top)
    return top + log(total)


class Source(NamedTuple):
    """Frames to score on demand: row begin[n] + t of `feats` is frame t of utterance n."""

    mixtures: Mixtures
    feats: np.ndarray
    begin: np.ndarray


@overload(numba_scores.make_scratch)
def _make_scratch(source):
    if source.instance_class is not Source:
        return None

    def make(source):
        return np.zeros(source.mixtures.rows.shape[1], np.float32), np.empty(
            np.max(np.diff(source.mixtures.offsets)), np.float32
        )

    return make


@overload(numba_scores.score, jit_options={"_nrt": False})
def _score(source, scratch, n, t, pdfs, count, scores):
    if source.instance_class is not Source:
        return None

    def score(source, scratch, n, t, pdfs, count, scores):
        score_frame(
            source.feats,
            source.begin[n] + t,
            source.mixtures.rows,
            source.mixtures.offsets,
            *scratch,
            pdfs,
            count,
            scores,
        )

    return score


@cached_njit(nogil=True)
def score_frame(feats, row, rows, offsets, x, terms, pdfs, count, scores):
    """Set scores[p] for the first `count` pdfs p; plain arrays, since counting references to a tuple's costs more than
    a pdf.
    """
    proper = load(x, feats, row)
    for pdf in pdfs[:count]:
        scores[pdf] = mixture(x, rows, offsets[pdf], offsets[pdf + 1], terms) if proper else LOWEST


drop_stale_code(__file__)


@cached_njit(nogil=True, fastmath=FLAGS)
def accumulate(pdfs, frames, splits, weights, feats, target, mixtures, sums, log_like, moments, seen):
    """Statistics of some pdfs; see pipeline.gmm.stats.accumulate.

    Args:
        frames: (M,) int64 rows ordered by pdf, those of pdf p are splits[p]:splits[p + 1].
        weights: (M,) float32, or (0,) where all are 1.
        feats: (T, F) float32 features that the mixtures score.
        target: (T, F) float32 features to take sums of.
        sums: (G, 2F + 1) float64, increased by sum of x, sum of x^2 and occupancy of each Gaussian.
        log_like: (P,) float64, increased by the log-likelihood of each pdf's frames.
        moments: (G, W) float32, what is not in `sums` yet: float32 sums of up to FLUSH frames, added at the end by
            whoever calls; they are kept between calls, so that the pieces in which data come change no bit.
        seen: (P,) int64, frames of each pdf so far.
    """
    gaussians, offsets = mixtures.rows, mixtures.offsets
    wide, most = gaussians.shape[1], np.max(np.diff(offsets))
    x, y, terms = np.zeros(wide, np.float32), np.zeros(wide, np.float32), np.empty(most, np.float32)
    for pdf in pdfs:
        begin, size = offsets[pdf], offsets[pdf + 1] - offsets[pdf]
        for row in range(splits[pdf], splits[pdf + 1]):
            load(x, feats, frames[row])
            load(y, target, frames[row])
            weight = weights[row] if len(weights) else np.float32(1.0)
            total = mixture(x, gaussians, begin, begin + size, terms)
            log_like[pdf] += np.float64(weight) * total
            for g in range(size):
                gap = terms[g] - total
                if gap > NEGLIGIBLE:
                    share = weight * exp(gap)
                    for i in range(wide):
                        moments[begin + g, i] += share * y[i]
            seen[pdf] += 1
            if seen[pdf] % FLUSH == 0:
                for g in range(begin, begin + size):
                    for i in range(sums.shape[1]):
                        sums[g, i] += moments[g, i]
                    moments[g] = 0.0


@cached_njit(nogil=True, fastmath=FLAGS - {"nnan"}, error_model="numpy")
def fmllr_sweep(
    speakers: np.ndarray,
    beta: np.ndarray,
    inverse_g: np.ndarray,
    base_row: np.ndarray,
    inverse: np.ndarray,
    transforms: np.ndarray,
) -> None:
    """One pass over the rows of the transforms of some speakers, in place; see pipeline.gmm.fmllr.

    Args:
        beta: (S,) float64 frames.
        inverse_g: (S, D, D + 1, D + 1) float64, G_d^-1.
        base_row: (S, D, D + 1) float64, k_d G_d^-1.
        inverse: (S, D, D) float64, inverse of the square part of each transform; kept up to date.
        transforms: (S, D, D + 1) float64.
    """
    dim = inverse.shape[1]
    cofactors, reach, change, moved = np.empty(dim), np.empty(dim + 1), np.empty(dim), np.empty(dim)
    for s in speakers:
        for d in range(dim):
            for i in range(dim):
                cofactors[i] = inverse[s, i, d]  # up to the determinant
            square, cross = 0.0, 0.0
            for i in range(dim + 1):
                total = 0.0
                for j in range(dim):
                    total += inverse_g[s, d, i, j] * cofactors[j]
                reach[i] = total  # G_d^-1 [c; 0]
            for i in range(dim):
                square += reach[i] * cofactors[i]
                cross += base_row[s, d, i] * cofactors[i]
            root = np.sqrt(cross * cross + 4.0 * square * beta[s])
            plus, minus = (root - cross) / (2.0 * square), (-root - cross) / (2.0 * square)
            # beta log |alpha square + cross| - alpha^2 square / 2: the part of the objective that depends on the root
            gain_plus = beta[s] * np.log(abs(plus * square + cross) + 1e-300) - 0.5 * plus * plus * square
            gain_minus = beta[s] * np.log(abs(minus * square + cross) + 1e-300) - 0.5 * minus * minus * square
            alpha = plus if gain_plus >= gain_minus else minus
            for i in range(dim + 1):
                value = alpha * reach[i] + base_row[s, d, i]
                if i < dim:
                    change[i] = value - transforms[s, d, i]
                transforms[s, d, i] = value
            scale = 1.0
            for i in range(dim):
                scale += change[i] * cofactors[i]
            moved[:] = 0.0
            for i in range(dim):
                for j in range(dim):
                    moved[j] += change[i] * inverse[s, i, j]
            for i in range(dim):
                for j in range(dim):
                    inverse[s, i, j] -= cofactors[i] * moved[j] / scale  # Sherman-Morrison
