"""Expectation step: which pdf each frame of the training data belongs to, by Viterbi or by full-sum occupancies.

An utterance visits a small part of all pdfs, so each is scored only with the Gaussians that occur in its graph.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pipeline.base.errors import DataError
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.on_demand import MixtureScores
from pipeline.gmm.parallel import for_each
from pipeline.gmm.stats import FrameLabels
from pipeline.hmm.compile import TrainingGraphs
from pipeline.hmm.full_sum import occupancies
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.viterbi import BestPaths, viterbi, widening

logger = logging.getLogger(__name__)

# Scores held at once, in float32 cells of a padded batch.
BATCH_CELLS = 6_000_000
# Occupancies below this share of a frame do not enter statistics: they cost time and change nothing measurable.
MIN_OCCUPANCY = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class TrainSet:
    """Utterances side by side with their graphs.

    Args:
        feats: (sum of T, F) float32.
        offsets: (N + 1,) int64, frames of utterance n are offsets[n]:offsets[n + 1].
        cut_ids: N names, for messages.
        graphs: one per utterance.
    """

    feats: torch.Tensor
    offsets: np.ndarray
    cut_ids: Sequence[str]
    graphs: TrainingGraphs

    def __post_init__(self) -> None:
        n = len(self.cut_ids)
        assert len(self.offsets) == n + 1 and len(self.graphs) == n, (len(self.offsets), n, len(self.graphs))

    def __len__(self) -> int:
        return len(self.cut_ids)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 frames of each utterance."""
        return np.diff(self.offsets)

    def with_feats(self, feats: torch.Tensor) -> TrainSet:
        """The same utterances with other features of the same frames."""
        assert len(feats) == len(self.feats), (feats.shape, self.feats.shape)
        return dataclasses.replace(self, feats=feats)


@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """Result of an expectation step.

    Args:
        labels: frames of the packed features, grouped by pdf.
        tid_counts: (n_tid,) float64 (expected) number of frames with each transition-id.
        log_like: summed log-likelihood of the utterances that aligned, transitions included.
        frames: number of their frames.
        tids: (sum of T,) int32 transition-ids, -1 where an utterance failed; None for full-sum.
        failed: cut ids without a path.
        retried: utterances that took a wider beam.
    """

    labels: FrameLabels
    tid_counts: np.ndarray
    log_like: float
    frames: int
    tids: np.ndarray | None
    failed: tuple[str, ...]
    retried: int = 0

    def check(self, num_utterances: int, max_failed: float, where: str) -> None:
        """Warns about failed utterances; DataError when they are more than the share `max_failed`."""
        if not self.failed:
            return
        listed = ", ".join(self.failed[:5]) + (", ..." if len(self.failed) > 5 else "")
        done = num_utterances - len(self.failed)
        text = f"{where}: aligned {done:,} of {num_utterances:,}; {len(self.failed)} failed: {listed}"
        if len(self.failed) > max_failed * num_utterances:
            raise DataError(f"{text} (more than the {100 * max_failed:.0f} % that --max-failed allows)")
        logger.warning("%s", text)


@dataclasses.dataclass(frozen=True, eq=False)
class _Batch:
    members: np.ndarray  # utterances
    graphs: Graphs
    local: Graphs  # the same with pdf-ids counted within each utterance
    pdfs: list[np.ndarray]  # per utterance: its pdf-ids
    lengths: torch.Tensor


class Aligner:
    """Aligns a TrainSet again and again; what does not change between iterations is computed once."""

    def __init__(self, data: TrainSet, num_pdfs: int, tid_pdf: np.ndarray) -> None:
        """Args:
        num_pdfs: of the tree that the graphs were compiled with.
        tid_pdf: (n_tid,) pdf-id of each transition-id.
        """
        self.data, self.num_pdfs, self.tid_pdf = data, num_pdfs, tid_pdf
        g = data.graphs.graphs
        graph_of = g.state_graph().numpy()
        keys, local = np.unique(graph_of * num_pdfs + g.state_pdf.numpy(), return_inverse=True)
        first = np.searchsorted(keys, np.arange(len(data) + 1) * num_pdfs)
        self._pdfs = [keys[b:e] % num_pdfs for b, e in zip(first[:-1], first[1:])]
        local = local.reshape(-1) - first[graph_of]
        width = int(np.diff(first).max(initial=1))
        self._local = dataclasses.replace(g, state_pdf=torch.from_numpy(local.astype(np.int32)), num_pdfs=width)
        self._batches = list(self._make_batches())

    def _make_batches(self) -> Iterator[_Batch]:
        lengths = self.data.lengths
        usable = np.flatnonzero((lengths > 0) & (lengths >= self.data.graphs.min_frames))
        order = usable[np.argsort(lengths[usable], kind="stable")]
        members: list[int] = []
        width = 0
        for n in order.tolist():
            wider = max(width, len(self._pdfs[n]))
            if members and (len(members) + 1) * lengths[n] * wider > BATCH_CELLS:
                yield self._batch(members, width)
                members, wider = [], len(self._pdfs[n])
            members.append(n)
            width = wider
        if members:
            yield self._batch(members, width)

    def _batch(self, members: list[int], width: int) -> _Batch:
        picked = np.array(members)
        local = dataclasses.replace(self._local[picked], num_pdfs=width)
        return _Batch(
            picked,
            self.data.graphs.graphs[picked],
            local,
            [self._pdfs[n] for n in members],
            torch.from_numpy(self.data.lengths[picked]),
        )

    def _emissions(self, batch: _Batch, evaluator: Evaluator) -> torch.Tensor:
        """(N, T, P') log-likelihoods of each utterance's own pdfs; undefined behind its frames and pdfs."""
        feats, offsets = self.data.feats, self.data.offsets
        shape = (len(batch.members), int(batch.lengths.max()), batch.local.num_pdfs)
        out = torch.empty(shape, dtype=torch.float32, device=feats.device)

        def score(row: int) -> None:
            n, pdfs = int(batch.members[row]), batch.pdfs[row]
            begin, end = int(offsets[n]), int(offsets[n + 1])
            evaluator.into(out[row, : end - begin, : len(pdfs)], feats[begin:end], pdfs)

        for_each(score, range(len(batch.members))[::-1], feats.device)
        return out

    def viterbi(self, evaluator: Evaluator, transitions: torch.Tensor, beam: float = math.inf) -> Assignment:
        """Best paths under the mixtures and (n_tid,) transition log-probabilities.

        Args:
            beam: natural logs by which a state may fall behind the best one of its frame. Utterances that find no path
                are searched again with four times the beam and then without. On CUDA the search is always exact.
        """
        tids = np.full(int(self.data.offsets[-1]), -1, dtype=np.int32)
        log_like, frames, retried, done = 0.0, 0, 0, np.zeros(len(self.data), dtype=bool)
        everything = MixtureScores(evaluator, self.data.feats, self.data.offsets[:-1], self.data.lengths)
        for batch in self._batches:
            best = self._best_paths(batch, everything, transitions, beam)
            found, scores, tries = best.tids.cpu().numpy(), best.scores.double().cpu().numpy(), best.tries.tolist()
            for row, n in enumerate(batch.members.tolist()):
                if np.isfinite(scores[row]):
                    begin, end = int(self.data.offsets[n]), int(self.data.offsets[n + 1])
                    tids[begin:end] = found[row, : end - begin]
                    log_like, frames, done[n] = log_like + float(scores[row]), frames + end - begin, True
                    retried += tries[row] > 1
        return dataclasses.replace(self.from_tids(tids, log_like, frames, done), retried=retried)

    def _best_paths(
        self, batch: _Batch, everything: MixtureScores, transitions: torch.Tensor, beam: float
    ) -> BestPaths:
        """On the CPU from scores on demand, elsewhere from those of all pdfs of an utterance in all frames."""
        if everything.device.type == "cpu":
            scores = everything[batch.members]
            return viterbi(batch.graphs, scores, batch.lengths, transitions, beams=widening(beam))
        return viterbi(batch.local, self._emissions(batch, everything.evaluator), batch.lengths, transitions)

    def from_tids(self, tids: np.ndarray, log_like: float, frames: int, done: np.ndarray) -> Assignment:
        """An assignment from transition-ids (sum of T,), -1 where an utterance (N,) is not `done`."""
        valid = tids >= 0
        pdfs = np.where(valid, self.tid_pdf[np.maximum(tids, 0)], -1)
        counts = np.bincount(tids[valid], minlength=len(self.tid_pdf)).astype(np.float64)
        failed = tuple(self.data.cut_ids[n] for n in np.flatnonzero(~done))
        return Assignment(FrameLabels.from_pdfs(pdfs, self.num_pdfs), counts, log_like, frames, tids, failed)

    def full_sum(self, evaluator: Evaluator, transitions: torch.Tensor) -> Assignment:
        """Occupancies over all paths (Baum-Welch)."""
        counts = np.zeros(len(self.tid_pdf))
        rows, pdf_ids, weights = [], [], []
        log_like, frames, done = 0.0, 0, np.zeros(len(self.data), dtype=bool)
        for batch in self._batches:
            occ = occupancies(batch.local, self._emissions(batch, evaluator), batch.lengths, transitions)
            tid_counts = occ.tid_counts(include_final=True).cpu().numpy()
            counts[: len(tid_counts)] += tid_counts
            scores = occ.scores.double().cpu().numpy()
            splits = batch.local.state_splits.numpy()
            for row, n in enumerate(batch.members.tolist()):
                if not np.isfinite(scores[row]):
                    continue
                begin, end = int(self.data.offsets[n]), int(self.data.offsets[n + 1])
                gamma = occ.of(row).cpu().numpy()
                local = batch.local.state_pdf[splits[row] : splits[row + 1]].numpy()
                merged = np.zeros((end - begin, len(batch.pdfs[row])), dtype=gamma.dtype)
                np.add.at(merged.T, local, gamma.T)
                t, p = np.nonzero(merged >= MIN_OCCUPANCY)
                rows.append(t + begin)
                pdf_ids.append(batch.pdfs[row][p])
                weights.append(merged[t, p])
                log_like, frames, done[n] = log_like + float(scores[row]), frames + end - begin, True
        failed = tuple(self.data.cut_ids[n] for n in np.flatnonzero(~done))
        if not rows:
            return Assignment(
                FrameLabels.from_pdfs(np.zeros(0, dtype=np.int64), self.num_pdfs), counts, 0.0, 0, None, failed
            )
        labels = FrameLabels.from_pdfs(
            np.concatenate(pdf_ids), self.num_pdfs, np.concatenate(rows), np.concatenate(weights)
        )
        return Assignment(labels, counts, log_like, frames, None, failed)

    def equal(self, seed: int) -> Assignment:
        """The flat start: a random path through each graph with equally long states, cf. Kaldi align-equal-compiled."""
        tids = np.full(int(self.data.offsets[-1]), -1, dtype=np.int32)
        done = np.zeros(len(self.data), dtype=bool)
        rng = np.random.default_rng(seed)
        walker = _Walker(self.data.graphs)
        for n, length in enumerate(self.data.lengths.tolist()):
            path = walker.path(n, rng, spoken_only=False)
            if len(path) > length:
                path = walker.path(n, rng, spoken_only=True)
            if length and len(path) <= length:
                begin = int(self.data.offsets[n])
                tids[begin : begin + length] = walker.stretch(path, length)
                done[n] = True
        frames = int(self.data.lengths[done].sum())
        return self.from_tids(tids, 0.0, frames, done)


class _Walker:
    """Random state sequences without loops."""

    def __init__(self, graphs: TrainingGraphs) -> None:
        g = graphs.graphs
        self.word, self.splits = graphs.state_word, g.state_splits.numpy()
        self.final_weight, self.start_weight = g.final_weight.numpy(), g.start_weight.numpy()
        dst = g.arc_dst().numpy()
        src = g.arc_src.numpy() + self.splits[:-1][g.state_graph().numpy()[dst]]
        tid = g.arc_tid.numpy()
        loops = src == dst
        self.loop_tid = np.full(g.num_states, -1, dtype=np.int64)
        self.loop_tid[dst[loops]] = tid[loops]
        self.forward_tid = g.final_tid.numpy()
        src, dst = src[~loops], dst[~loops]
        order = np.argsort(src, kind="stable")
        self.successors = dst[order].tolist()
        self.first = np.searchsorted(src[order], np.arange(g.num_states + 1)).tolist()

    def path(self, n: int, rng: np.random.Generator, spoken_only: bool) -> list[int]:
        """States of one path of graph n; with `spoken_only` it goes around silence wherever it can."""
        low, high = int(self.splits[n]), int(self.splits[n + 1])
        choices = [s for s in range(low, high) if np.isfinite(self.start_weight[s])]
        path: list[int] = []
        while True:
            if spoken_only:
                choices = [s for s in choices if s < 0 or self.word[s] >= 0] or choices
            state = choices[int(rng.integers(len(choices)))] if len(choices) > 1 else choices[0]
            if state < 0:
                return path
            path.append(state)
            choices = self.successors[self.first[state] : self.first[state + 1]]
            if np.isfinite(self.final_weight[state]):
                choices = [*choices, -1]

    def stretch(self, path: list[int], length: int) -> np.ndarray:
        """(length,) transition-ids: each state loops and is then left, durations differ by at most one frame."""
        bounds = (np.arange(len(path) + 1) * length) // len(path)
        states = np.repeat(np.array(path), np.diff(bounds))
        tids = self.loop_tid[states]
        tids[bounds[1:] - 1] = self.forward_tid[path]
        return tids


def boosted(gmms: DiagGmms, silence_pdfs: Sequence[int], factor: float) -> Evaluator:
    """The mixtures with the likelihood of silence multiplied by `factor`, cf. Kaldi gmm-boost-silence."""
    evaluator = Evaluator(gmms)
    if factor != 1.0:
        mask = torch.from_numpy(np.isin(gmms.gauss_pdf(), list(silence_pdfs))).to(evaluator.const.device)
        evaluator.const = evaluator.const + mask * float(np.log(factor))
    return evaluator
