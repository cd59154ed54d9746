"""Expectation step: which pdf each frame of the training data belongs to, by Viterbi or by full-sum occupancies.

An utterance visits a small part of all pdfs, so each is scored only with the Gaussians that occur in its graph.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.transitions import TransitionModel
from pipeline.base.errors import DataError
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import PIECE_FRAMES, offsets_of, pieces
from pipeline.gmm.blocks import Arrays, Blocks
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.frame_labels import FrameLabelFile, FrameLabels, Piece
from pipeline.gmm.kernel import Mixtures, mixtures_of
from pipeline.gmm.on_demand import MixtureScores
from pipeline.gmm.parallel import for_each
from pipeline.hmm.compile import TrainingGraphs
from pipeline.hmm.full_sum import occupancies
from pipeline.hmm.graph_source import GraphSource
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.paths import BestPaths
from pipeline.hmm.viterbi import viterbi, widening

logger = logging.getLogger(__name__)

# Scores held at once, in float32 cells of a padded batch.
BATCH_CELLS = 6_000_000
# Occupancies below this share of a frame do not enter statistics: they cost time and change nothing measurable.
MIN_OCCUPANCY = 1e-3
LABELS = "labels"  # name of the files of alignments


@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """Result of an expectation step: which pdfs the frames of a data set belong to.

    Args:
        file: transition-ids of all frames, or occupancies for full-sum.
        tid_pdf: (n_tid,) pdf-id of each transition-id.
        num_pdfs: P.
        tid_counts: (n_tid,) float64 (expected) number of frames with each transition-id.
        log_like: summed log-likelihood of the utterances that aligned, transitions included.
        frames: number of their frames.
        failed: cut ids without a path.
        retried: utterances that took a wider beam.
    """

    file: FrameLabelFile
    tid_pdf: np.ndarray
    num_pdfs: int
    tid_counts: np.ndarray
    log_like: float
    frames: int
    failed: tuple[str, ...]
    retried: int = 0

    def labels(self, rows: np.ndarray) -> FrameLabels:
        """Labels of the frames of utterances that follow each other, counted over these."""
        if self.file.soft:
            frames, pdfs, weights = self.file.read_soft(rows)
            return FrameLabels.from_pdfs(pdfs, self.num_pdfs, frames, weights)
        tids = self.file.read(rows)
        return FrameLabels.from_pdfs(np.where(tids >= 0, self.tid_pdf[np.maximum(tids, 0)], -1), self.num_pdfs)

    def pieces(
        self,
        data: Dataset,
        device: str | torch.device = "cpu",
        weights: tuple[Sequence[int], float] = ((), 1.0),
        target: Dataset | None = None,
        speaker: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> Iterator[Piece]:
        """The data with these labels, piece by piece.

        Args:
            rows: utterances that follow each other; by default all.
            weights: pdfs whose frames count so much.
            target: the same utterances with features to take sums of, when these differ.
            speaker: (N,) speaker of each utterance, for statistics by speaker.
        """
        chosen = np.arange(len(data)) if rows is None else rows
        for own in pieces(data.lens[chosen], PIECE_FRAMES):
            some = chosen[own]
            yield Piece(
                data.flat(some).to(device),
                self.labels(some).weighted(*weights),
                None if target is None else target.flat(some).to(device),
                None if speaker is None else np.repeat(speaker[some], data.lens[some]),
            )

    def occupancies(self) -> np.ndarray:
        """(P,) float64 (expected) frames of each pdf."""
        return np.bincount(self.tid_pdf, weights=self.tid_counts, minlength=self.num_pdfs)

    def check(self, num_utterances: int, max_failed: float, where: str) -> None:
        """Warns about failed utterances; DataError when they are more than the share `max_failed`."""
        check_failed(self.failed, num_utterances, max_failed, where)


def check_failed(failed: Sequence[str], num_utterances: int, max_failed: float, where: str) -> None:
    """See ``Assignment.check``."""
    if not failed:
        return
    listed = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
    done = num_utterances - len(failed)
    text = f"{where}: aligned {done:,} of {num_utterances:,}; {len(failed)} failed: {listed}"
    if len(failed) > max_failed * num_utterances:
        raise DataError(f"{text} (more than the {100 * max_failed:.0f} % that --max-failed allows)")
    logger.warning("%s", text)


class Aligner:
    """Aligns a data set again and again, in batches of utterances of similar length."""

    def __init__(
        self,
        data: Dataset,
        graphs: GraphSource,
        transitions: TransitionModel,
        device: str = "cpu",
        work: Path | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        """Args:
        data: features that the mixtures score; may be replaced by others of the same frames.
        graphs: of the same utterances.
        transitions: model of the tree that the graphs were compiled with.
        work: directory for the alignments; None: temporary files.
        blocks: of the utterances, which may be some of those that several processes have; None: there are no others.
        """
        assert len(data) == len(graphs), (len(data), len(graphs))
        self.data, self.graphs, self.device, self.work = data, graphs, device, work
        self.num_pdfs, self.tid_pdf = transitions.num_pdfs, transitions.tid_pdf()
        self.blocks = Blocks.of(data.lens) if blocks is None else blocks
        self._batches = list(self._make_batches(np.arange(len(data))))
        self._files = 0
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)

    @functools.cached_property
    def _widths(self) -> np.ndarray:
        """(N,) pdfs that each utterance has."""
        widths = np.zeros(len(self.data), dtype=np.int32)
        for rows, graphs in self.graphs.blocks():
            widths[rows] = [len(pdfs) for pdfs in local_pdfs(graphs.graphs)[0]]
        return widths

    def _make_batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Some utterances in batches, as many in each as their scores for the pdfs that each of them has allow."""
        lengths, widths = self.data.lens, self._widths
        usable = rows[(lengths[rows] > 0) & (lengths[rows] >= self.graphs.min_frames[rows])]
        order = usable[np.argsort(lengths[usable], kind="stable")]
        members: list[int] = []
        width = 0
        for n in order.tolist():
            wider = max(width, int(widths[n]))
            if members and (len(members) + 1) * lengths[n] * wider > BATCH_CELLS:
                yield np.array(members)
                members, wider = [], int(widths[n])
            members.append(n)
            width = wider
        if members:
            yield np.array(members)

    def new_file(self) -> FrameLabelFile:
        """A file for the next alignment."""
        self._files += 1
        name = f"{LABELS}.{self._files}.bin"
        while self.work is not None and (self.work / name).exists():  # of the run that was interrupted
            self._files += 1
            name = f"{LABELS}.{self._files}.bin"
        return FrameLabelFile(None if self.work is None else self.work / name, self.data.lens)

    def viterbi(self, evaluator: Evaluator, transitions: torch.Tensor, beam: float = math.inf) -> Assignment:
        """Best paths under the mixtures and (n_tid,) transition log-probabilities.

        Args:
            beam: natural logs by which a state may fall behind the best one of its frame. Utterances that find no path
                are searched again with four times the beam and then without. On CUDA the search is always exact.
        """
        file, counts = self.new_file(), np.zeros(len(self.tid_pdf), dtype=np.int64)
        log_likes, retried = np.full(len(self.data), -np.inf), 0
        mixtures = mixtures_of(evaluator) if self.device == "cpu" else None
        for members in self._batches:
            best = self._best_paths(members, evaluator, mixtures, transitions, beam)
            found, scores, tries = best.tids.cpu().numpy(), best.scores.double().cpu().numpy(), best.tries.tolist()
            for row, n in enumerate(members.tolist()):
                if np.isfinite(scores[row]):
                    own = found[row, : self.data.lens[n]]
                    file.write(n, own)
                    counts += np.bincount(own, minlength=len(counts))
                    log_likes[n] = float(scores[row])
                    retried += int(tries[row] > 1)
        return self._assignment(file, self.blocks.summed(counts), log_likes, retried)

    def _assignment(
        self, file: FrameLabelFile, counts: np.ndarray, log_likes: np.ndarray, retried: int = 0
    ) -> Assignment:
        """What all processes have found together; the labels are those of this one.

        Args:
            counts: (n_tid,) of all processes. log_likes: (N,) of this one, -inf of utterances without labels. retried:
                utterances of this one.
        """
        done, blocks = np.isfinite(log_likes), self.blocks
        failed = [self.data.id(n) for n in np.flatnonzero(~done)]
        both = blocks.of_all((failed, int(self.data.lens[done].sum()), retried))
        (log_like,) = blocks.total(lambda rows: (log_likes[rows][done[rows]].sum(keepdims=True),))
        return Assignment(
            file,
            self.tid_pdf,
            self.num_pdfs,
            counts.astype(np.float64),
            float(log_like[0]),
            sum(frames for _, frames, _ in both),
            tuple(name for names, _, _ in both for name in names),
            sum(number for _, _, number in both),
        )

    def _best_paths(
        self,
        members: np.ndarray,
        evaluator: Evaluator,
        mixtures: Mixtures | None,
        transitions: torch.Tensor,
        beam: float,
    ) -> BestPaths:
        """On the CPU from scores on demand, elsewhere from those of all pdfs of an utterance in all frames."""
        graphs, lengths = self.graphs.of(members).graphs, self.data.lens[members]
        lens = torch.from_numpy(lengths)
        if self.device == "cpu":
            scores = MixtureScores(evaluator, self.data.flat(members), offsets_of(lengths)[:-1], lengths, mixtures)
            return viterbi(graphs, scores, lens, transitions, beams=widening(beam))
        pdfs, local = local_pdfs(graphs)
        return viterbi(local, self._emissions(members, pdfs, evaluator), lens, transitions)

    def _emissions(self, members: np.ndarray, pdfs: list[np.ndarray], evaluator: Evaluator) -> torch.Tensor:
        """(N, T, P') log-likelihoods of each utterance's own pdfs; undefined behind its frames and pdfs."""
        feats = [x.to(self.device) for x in self.data.each(members)]
        shape = (len(feats), max(map(len, feats)), max(map(len, pdfs)))
        out = torch.empty(shape, dtype=torch.float32, device=self.device)

        def score(row: int) -> None:
            evaluator.into(out[row, : len(feats[row]), : len(pdfs[row])], feats[row], pdfs[row])

        for_each(score, range(len(feats))[::-1], out.device)
        return out

    def given(self, tids: Iterable[tuple[np.ndarray, np.ndarray]]) -> Assignment:
        """An assignment from known transition-ids.

        Args:
            tids: utterances that follow each other and (sum of T,) the ids of their frames, -1 in those without any.
        """
        file, counts = self.new_file(), np.zeros(len(self.tid_pdf), dtype=np.int64)
        log_likes = np.full(len(self.data), -np.inf)
        for rows, ids in tids:
            for n, begin in zip(rows.tolist(), offsets_of(self.data.lens[rows]).tolist()):
                own = ids[begin : begin + self.data.lens[n]]
                if len(own) and own[0] >= 0:
                    file.write(n, own)
                    counts += np.bincount(own, minlength=len(counts))
                    log_likes[n] = 0.0
        return self._assignment(file, self.blocks.summed(counts), log_likes)

    def full_sum(self, evaluator: Evaluator, transitions: torch.Tensor) -> Assignment:
        """Occupancies over all paths (Baum-Welch)."""
        file, log_likes = self.new_file(), np.full(len(self.data), -np.inf)

        def sums(rows: np.ndarray) -> Arrays:
            counts = np.zeros(len(self.tid_pdf))
            for members in self._make_batches(rows):
                own = self._occupancies(members, evaluator, transitions, file, log_likes)
                counts[: len(own)] += own
            return (counts,)

        return self._assignment(file, self.blocks.total(sums)[0], log_likes)

    def _occupancies(
        self,
        members: np.ndarray,
        evaluator: Evaluator,
        transitions: torch.Tensor,
        file: FrameLabelFile,
        log_likes: np.ndarray,
    ) -> np.ndarray:
        """Writes the occupancies of a batch and sets its log-likelihoods; returns those of the transition-ids."""
        pdfs, local = local_pdfs(self.graphs.of(members).graphs)
        lens = torch.from_numpy(self.data.lens[members])
        occ = occupancies(local, self._emissions(members, pdfs, evaluator), lens, transitions)
        scores, splits = occ.scores.double().cpu().numpy(), local.state_splits.numpy()
        for row, n in enumerate(members.tolist()):
            if not np.isfinite(scores[row]):
                continue
            gamma = occ.of(row).cpu().numpy()
            own = local.state_pdf[splits[row] : splits[row + 1]].numpy()
            merged = np.zeros((len(gamma), len(pdfs[row])), dtype=gamma.dtype)
            np.add.at(merged.T, own, gamma.T)
            t, p = np.nonzero(merged >= MIN_OCCUPANCY)
            file.write_soft(n, t, pdfs[row][p], merged[t, p])
            log_likes[n] = float(scores[row])
        found: np.ndarray = occ.tid_counts(include_final=True).cpu().numpy()
        return found

    def equal(self, seed: int) -> Assignment:
        """The flat start: a random path through each graph with equally long states, cf. Kaldi align-equal-compiled."""
        rng = np.random.default_rng(seed)

        def paths() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            with self.blocks.in_turn(rng):
                for rows, graphs in self.graphs.blocks():
                    walker = _Walker(graphs)
                    for i, n in enumerate(rows.tolist()):
                        length = int(self.data.lens[n])
                        path = walker.path(i, rng, spoken_only=False)
                        if len(path) > length:
                            path = walker.path(i, rng, spoken_only=True)
                        if length and len(path) <= length:
                            yield rows[i : i + 1], walker.stretch(path, length)

        return self.given(paths())


def local_pdfs(graphs: Graphs) -> tuple[list[np.ndarray], Graphs]:
    """The pdf-ids that occur in each graph, ascending, and the graphs with pdfs counted within these."""
    graph_of, num_pdfs = graphs.state_graph().numpy(), graphs.num_pdfs
    keys, local = np.unique(graph_of * num_pdfs + graphs.state_pdf.numpy(), return_inverse=True)
    first = np.searchsorted(keys, np.arange(len(graphs) + 1) * num_pdfs)
    pdfs = [keys[b:e] % num_pdfs for b, e in zip(first[:-1], first[1:])]
    own = (local.reshape(-1) - first[graph_of]).astype(np.int32)
    width = int(np.diff(first).max(initial=1))
    return pdfs, dataclasses.replace(graphs, state_pdf=torch.from_numpy(own), num_pdfs=width)


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
