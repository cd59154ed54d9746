"""Feature-space maximum-likelihood linear regression (fMLLR): one affine feature transform per speaker.

x' = A x + b = W [x; 1] maximises  beta log |det A| + sum_d ( w_d k_d' - 1/2 w_d G_d w_d' )  with
G_d = sum gamma / v_d [x; 1][x; 1]' and k_d = sum gamma m_d / v_d [x; 1]  (Gales 1998). Each row has a closed form
given the others, so the objective never falls. Speakers are computed side by side, TOGETHER of them at a time.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from pipeline.feats.dataset import Dataset
from pipeline.gmm.blocks import Arrays, Blocks, added_by_key
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.frame_labels import Piece
from pipeline.gmm.parallel import for_each, share_out

logger = logging.getLogger(__name__)

TOGETHER = 256  # speakers whose statistics are in memory at once: 2 MiB each with 40 dimensions
BLOCK = 512  # frames whose outer products are held at once: they should stay in the processor's cache


@dataclasses.dataclass(frozen=True, eq=False)
class FmllrStats:
    """Statistics of S speakers.

    Args:
        beta: (S,) float64, frames (occupancies).
        k: (S, D, D + 1) float64.
        g: (S, D, D + 1, D + 1) float64.
    """

    beta: np.ndarray
    k: np.ndarray
    g: np.ndarray

    @classmethod
    def of(cls, beta: np.ndarray, k: np.ndarray, packed: np.ndarray) -> FmllrStats:
        """Args:
        packed: (S, D, (D + 1) (D + 2) / 2) the upper triangles of g.
        """
        speakers, dim = k.shape[:2]
        g = np.zeros((speakers, dim, dim + 1, dim + 1))
        rows, columns = np.triu_indices(dim + 1)
        g[:, :, rows, columns] = g[:, :, columns, rows] = packed
        return cls(beta, k, g)

    def objective(self, transforms: np.ndarray) -> np.ndarray:
        """(S,) value of the auxiliary function for (S, D, D + 1) transforms."""
        log_det = np.linalg.slogdet(transforms[:, :, :-1])[1]
        linear = (transforms * self.k).sum((1, 2))
        half_square = ((transforms[:, :, None] @ self.g)[:, :, 0] * transforms).sum((1, 2)) / 2
        return self.beta * log_det + linear - half_square


def fmllr_stats(
    evaluator: Evaluator, pieces: Iterable[Piece], num_speakers: int, mixtures: DiagGmms | None = None
) -> FmllrStats:
    """Accumulates the statistics of all speakers, cf. Kaldi gmm-est-fmllr.

    Args:
        pieces: features that give the posteriors (in two-model estimation those of the first pass), the speaker of each
            frame, and as target the features that the transforms will be applied to, when these differ.
        mixtures: what the transformed features should fit, Gaussian by Gaussian those of the evaluator, when they
            differ.
    """
    return FmllrStats.of(*speaker_sums(evaluator, pieces, num_speakers, mixtures))


def fmllr_stats_blocks(
    evaluator: Evaluator,
    blocks: Blocks,
    pieces: Callable[[np.ndarray], Iterable[Piece]],
    speaker: np.ndarray,
    num_speakers: int,
) -> Iterator[FmllrStats]:
    """Statistics over the data of all processes, block by block, of TOGETHER speakers after the other.

    Args:
        pieces: positions of utterances of a block that follow each other -> their frames; see ``fmllr_stats``.
        speaker: (N,) speakers of the utterances of this process.
    """
    for first in range(0, num_speakers, TOGETHER):
        yield _stats_of(evaluator, blocks, pieces, speaker, range(first, min(first + TOGETHER, num_speakers)))


def _stats_of(
    evaluator: Evaluator,
    blocks: Blocks,
    pieces: Callable[[np.ndarray], Iterable[Piece]],
    speaker: np.ndarray,
    group: range,
) -> FmllrStats:
    def sums(rows: np.ndarray) -> Arrays:
        mine = rows[(speaker[rows] >= group.start) & (speaker[rows] < group.stop)]
        there = np.unique(speaker[mine]).astype(np.int64)

        def renumbered() -> Iterator[Piece]:
            for run in np.split(mine, np.flatnonzero(np.diff(mine) > 1) + 1):
                for piece in pieces(run) if len(run) else ():
                    assert piece.speaker is not None
                    yield piece._replace(speaker=np.searchsorted(there, piece.speaker))

        return (there, *speaker_sums(evaluator, renumbered(), len(there)))

    there, *found = blocks.total(sums, added_by_key)
    complete = [np.zeros((len(group), *x.shape[1:])) for x in found]
    for array, own in zip(complete, found):
        array[there - group.start] = own
    return FmllrStats.of(*complete)


def speaker_sums(
    evaluator: Evaluator, pieces: Iterable[Piece], num_speakers: int, mixtures: DiagGmms | None = None
) -> Arrays:
    """The statistics as ``FmllrStats.of`` takes them; see ``fmllr_stats``."""
    gmms = evaluator.gmms if mixtures is None else mixtures
    assert (gmms.offsets == evaluator.gmms.offsets).all(), "two sets of mixtures that do not correspond"
    inverse = 1.0 / gmms.vars
    table = torch.cat([inverse, gmms.means * inverse], dim=1)  # (G, 2D)
    sums = _SpeakerSums(num_speakers, gmms.dim)
    for piece in pieces:
        assert piece.speaker is not None
        y = piece.feats if piece.target is None else piece.target
        sums.add(_pulls(evaluator, table, piece), y, piece.speaker)
    return sums.beta, sums.k, sums.packed.numpy()


def _pulls(evaluator: Evaluator, table: torch.Tensor, piece: Piece) -> torch.Tensor:
    """(T, 2D + 1): sums over Gaussians of the posterior times 1 / v, m / v and 1, for each frame."""
    offsets, feats, labels = evaluator.gmms.offsets.tolist(), piece.feats, piece.labels
    pulls = torch.zeros((len(feats), table.shape[1] + 1), dtype=torch.float32, device=feats.device)
    hard = labels.weights is None  # each frame belongs to one pdf, so no two threads write to one row

    def add(pdf: int) -> None:
        span = slice(offsets[pdf], offsets[pdf + 1])
        for rows, x, weights in labels.chunks(pdf, feats):
            posterior, _ = evaluator.posteriors(pdf, x)
            if weights is not None:
                posterior *= weights[:, None]
            pull = torch.cat([posterior @ table[span], posterior.sum(1, keepdim=True)], dim=1)
            pulls[rows] = pull if hard else pulls[rows] + pull

    if hard:
        for_each(add, labels.used(), feats.device)
    else:
        for pdf in labels.used():
            add(pdf)
    return pulls


class _SpeakerSums:
    """Running statistics of all speakers."""

    def __init__(self, num_speakers: int, dim: int) -> None:
        self.dim, self.upper = dim, torch.triu_indices(dim + 1, dim + 1)
        self.beta = np.zeros(num_speakers)
        self.k = np.zeros((num_speakers, dim, dim + 1))
        self.packed = torch.zeros((num_speakers, dim, self.upper.shape[1]), dtype=torch.float64)

    def add(self, pulls: torch.Tensor, y: torch.Tensor, speaker: np.ndarray) -> None:
        """Adds the frames of a piece: (T, 2D + 1), (T, D) and (T,)."""
        dim, upper = self.dim, self.upper.to(y.device)
        order = np.argsort(speaker, kind="stable")
        present = np.unique(speaker)
        begins, ends = (np.searchsorted(speaker[order], present, side=side) for side in ("left", "right"))

        def add(i: int) -> None:
            s = int(present[i])
            for begin in range(int(begins[i]), int(ends[i]), BLOCK):
                rows = torch.from_numpy(order[begin : min(begin + BLOCK, int(ends[i]))]).to(y.device)
                pull = pulls[rows]
                seen = pull[:, -1] > 0
                pull, extended = pull[seen], y[rows][seen]
                # (D + 1, n)
                extended = torch.cat([extended, extended.new_ones(len(extended), 1)], dim=1).t().contiguous()
                self.beta[s] += float(pull[:, -1].double().sum())
                self.k[s] += (pull[:, dim:-1].t() @ extended.t()).double().cpu().numpy()
                # Whole rows: fast to copy.
                outer = extended.index_select(0, upper[0]).mul_(extended.index_select(0, upper[1]))
                self.packed[s] += (outer @ pull[:, :dim]).t().double().cpu()

        for_each(add, range(len(present)), y.device)


def identity(num_speakers: int, dim: int) -> np.ndarray:
    """(S, D, D + 1) transforms that change nothing."""
    return np.tile(np.concatenate([np.eye(dim), np.zeros((dim, 1))], axis=1), (num_speakers, 1, 1))


def estimate(
    stats: FmllrStats,
    min_count: float = 500.0,
    min_count_bias: float = 100.0,
    num_iters: int = 20,
    tolerance: float = 1e-5,
) -> tuple[np.ndarray, np.ndarray]:
    """Transforms of all speakers.

    Args:
        min_count: frames that a speaker needs for a full transform; with fewer only the bias b is estimated.
        min_count_bias: frames needed for a bias; with fewer the transform is the identity.
        num_iters: sweeps over the rows at most.
        tolerance: gain per frame at which the sweeps end.
    Returns:
        (S, D, D + 1) float64, and (S,) gain of the objective per frame over the identity.
    """
    num_speakers, dim = stats.k.shape[:2]
    out = identity(num_speakers, dim)
    base = stats.objective(out)
    full = stats.beta >= max(min_count, 1e-3)
    bias = ~full & (stats.beta >= max(min_count_bias, 1e-3))
    if bias.any():
        _fit_bias(stats, out, bias)
    if full.any():
        part = FmllrStats(stats.beta[full], stats.k[full], stats.g[full])
        out[full] = _fit_full(part, out[full], num_iters, tolerance)
    gain = stats.objective(out) - base
    worse = ~(gain >= 0)
    out[worse] = identity(int(worse.sum()), dim)
    gain = np.where(worse, 0.0, gain) / np.maximum(stats.beta, 1.0)
    if (~full | worse).any():
        logger.info(
            "fMLLR: %d of %d speakers have a full transform, %d a bias only (under %g frames), %d none (under %g "
            "frames or no gain)",
            int((full & ~worse).sum()),
            num_speakers,
            int((bias & ~worse).sum()),
            min_count,
            int((~(full | bias) | worse).sum()),
            min_count_bias,
        )
    return out, gain


def _fit_bias(stats: FmllrStats, out: np.ndarray, rows: np.ndarray) -> None:
    """b_d = (k_d[-1] - G_d[-1, d]) / G_d[-1, -1] with A = 1."""
    dim = out.shape[1]
    last = stats.g[rows][:, np.arange(dim), -1, :]  # (S, D, D + 1)
    own = last[:, np.arange(dim), np.arange(dim)]
    out[rows, :, -1] = (stats.k[rows][:, :, -1] - own) / np.maximum(last[:, :, -1], 1e-30)


def _fit_full(stats: FmllrStats, start: np.ndarray, num_iters: int, tolerance: float) -> np.ndarray:
    dim = stats.k.shape[1]
    trace = np.trace(stats.g, axis1=2, axis2=3)[..., None, None] / (dim + 1)
    inverse_g = np.linalg.inv(stats.g + np.maximum(1e-8 * trace, 1e-20) * np.eye(dim + 1))
    base_row = (inverse_g @ stats.k[..., None])[..., 0]  # (S, D, D + 1): k_d G_d^-1
    transforms = start.copy()
    best = stats.objective(transforms)
    for _ in range(num_iters):
        previous = transforms.copy()
        _sweep(stats, inverse_g, base_row, transforms)
        now = stats.objective(transforms)
        worse = ~(now >= best)
        transforms[worse] = previous[worse]
        gain = np.where(worse, 0.0, now - best)
        best = np.where(worse, best, now)
        if (gain <= tolerance * stats.beta).all():
            break
    return transforms


def _sweep(stats: FmllrStats, inverse_g: np.ndarray, base_row: np.ndarray, transforms: np.ndarray) -> None:
    """One pass over all rows; each becomes w_d = (alpha c + k_d) G_d^-1 with the better root alpha."""
    from pipeline.gmm.kernel import fmllr_sweep

    inverse = np.linalg.inv(transforms[:, :, :-1])  # (S, D, D)
    everyone = np.arange(len(transforms))

    def work(speakers: np.ndarray) -> None:
        fmllr_sweep(speakers, stats.beta, inverse_g, base_row, inverse, transforms)

    work(everyone[:0])  # compiles, before threads would do so at the same time
    share_out(work, everyone, np.ones(len(everyone)))


def apply(transforms: torch.Tensor, feats: torch.Tensor, speaker: np.ndarray) -> torch.Tensor:
    """Transformed features.

    Args:
        transforms: (S, D, D + 1) float.
        feats: (T, D) float32.
        speaker: (T,) int index into the transforms.
    Returns:
        (T, D) float32.
    """
    out = torch.empty_like(feats)
    bounds = np.flatnonzero(np.diff(speaker)) + 1
    for begin, end in zip([0, *bounds.tolist()], [*bounds.tolist(), len(speaker)]):
        if end > begin:
            matrix = transforms[int(speaker[begin])].to(feats)
            out[begin:end] = torch.addmm(matrix[:, -1], feats[begin:end], matrix[:, :-1].t())
    return out


def compose(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(S, D, D + 1) transforms that apply `before`, then `after`."""
    linear = after[:, :, :-1] @ before[:, :, :-1]
    bias = (after[:, :, :-1] @ before[:, :, -1:]) + after[:, :, -1:]
    return np.concatenate([linear, bias], axis=2)


def speaker_index(data: Dataset, everyone: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Sorted names of the speakers of a data set, and (N,) the index of each utterance's.

    Args:
        everyone: names in place of those of the data's own speakers.
    """
    own = [data.speaker(n) for n in range(len(data))]
    names = sorted(set(own)) if everyone is None else list(everyone)
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[s] for s in own], dtype=np.int32)
