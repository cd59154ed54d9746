"""Beam search over a decoding graph on the CPU, block by block, and the lattice that it leaves.

cf. Kaldi's FasterDecoder and LatticeFasterDecoder: token passing with a beam and limits of active tokens; for lattices
the arcs between tokens are kept and pruned while the search runs, so that memory stays bounded. Scores come as blocks
of a matrix or on demand (``pipeline.hmm.OnDemand``).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.checkpoint import forget_pages
from pipeline.artifacts.lattice import Lattice
from pipeline.graph import search_kernels as kernels
from pipeline.graph import search_paths as paths
from pipeline.graph.decoding import DecodingGraph
from pipeline.graph.search_scores import Block, Wanted, memory_of
from pipeline.hmm import OnDemand

CHUNK = 100  # frames between two prunings of the history; with Kaldi's 25 lattices take a fifth longer
SLICE = 1 << 22  # arcs that are weighed at once


class SearchGraph:
    """A decoding graph as the search reads it: of each arc the state, the column of the score matrix and the weight.

    Args:
        graph: the graph; the arrays of a memory-mapped one are read once here, and then only along lattices.
        log_probs: (n_tid,) natural-log transition probabilities.
        tid_pdf: (n_tid,) pdf-id of each transition-id.
        transition_scale: weight of the transition scores.
        dynamic: transition scores come with the acoustic ones; see ``columns``.
    """

    def __init__(
        self,
        graph: DecodingGraph,
        log_probs: np.ndarray,
        tid_pdf: np.ndarray,
        transition_scale: float = 1.0,
        dynamic: bool = False,
    ) -> None:
        assert log_probs.shape == tid_pdf.shape == (graph.num_tids,), (log_probs.shape, tid_pdf.shape, graph.num_tids)
        self.graph, self.dynamic, self._tid_pdf = graph, dynamic, tid_pdf.astype(np.int64)
        self._scale = np.float32(transition_scale)
        transition = np.append(log_probs, 0.0).astype(np.float32) * np.float32(0.0 if dynamic else self._scale)
        self.splits = np.array(graph.splits)  # not mapped: read in every frame
        self.num_columns = graph.num_pdfs + (graph.num_tids if dynamic else 0)
        self.pdf_of = np.append(np.arange(graph.num_pdfs), -1).astype(np.int32)  # of each column
        if dynamic:
            self.pdf_of = np.append(tid_pdf, self.pdf_of).astype(np.int32)
        self.arcs = np.empty(graph.num_arcs, kernels.ARC)
        for begin in range(0, graph.num_arcs, SLICE):
            part = slice(begin, begin + SLICE)
            self.arcs["dst"][part] = graph.dst[part]
            pdf, tid = graph.pdf[part], graph.tid[part]
            column = np.where(tid >= 0, tid, graph.num_tids + pdf) if dynamic else pdf
            self.arcs["column"][part] = np.where(pdf < 0, self.num_columns, column)
            self.arcs["weight"][part] = graph.lm[part] + graph.lex[part] + transition[tid]
            forget_pages(graph.lm)
        forget_pages(graph.lm, sparse=True)

    def columns(self, scores: np.ndarray, transitions: np.ndarray | None, scale: float) -> np.ndarray:
        """(T, C) float32 what the search adds up per frame, in the scale of the acoustic scores.

        Args:
            scores: (T, P) unscaled acoustic scores.
            transitions: (T, n_tid) natural-log transition scores, for a dynamic graph.
            scale: the acoustic scale.
        """
        if not self.dynamic:
            assert transitions is None, "the graph has its transition scores"
            return np.ascontiguousarray(scores, dtype=np.float32)
        assert transitions is not None, "the search needs transition scores"
        # The arc that leaves a state at frame t is the transition into frame t + 1; the last frame has none.
        ahead = np.concatenate([transitions[1:], np.zeros_like(transitions[:1])]) * (self._scale / np.float32(scale))
        return np.concatenate([scores[:, self._tid_pdf] + ahead, scores], axis=1, dtype=np.float32)


@dataclass(frozen=True)
class Beams:
    """How much a search keeps.

    Attributes:
        acoustic_scale: weight of the acoustic scores; the beams are in this scale.
        beam, min_active, max_active: of the search.
        lattice_beam: paths that are worse than the best one by more are dropped; None for the best path alone.
    """

    acoustic_scale: float = 0.1
    beam: float = 15.0
    lattice_beam: float | None = 8.0
    min_active: int = 200
    max_active: int = 7000

    def limits(self) -> kernels.Limits:
        """For the compiled loops."""
        lattice_beam = self.lattice_beam
        return kernels.Limits(
            min(self.beam, kernels.UNLIMITED),
            kernels.UNLIMITED if lattice_beam is None else min(lattice_beam, kernels.UNLIMITED),
            self.min_active,
            self.max_active,
            CHUNK,
            lattice_beam is not None,
        )


class BeamSearch:
    """The search for one utterance after the other; each may come in blocks of frames.

    ``start``, ``advance`` with every block, ``finish``; in between ``settled`` and ``best_so_far``. One object belongs
    to one thread; its memory serves all its utterances.
    """

    def __init__(self, graph: SearchGraph, beams: Beams) -> None:
        self.graph, self.beams, self._limits = graph, beams, beams.limits()
        tokens, history = 1 << 12, 1 << 15
        self._search = kernels.Search(
            live=np.empty(tokens, kernels.LIVE),
            next=np.empty(tokens, kernels.NEXT),
            slot=np.zeros(graph.graph.num_states, np.int32),
            row=np.full(graph.num_columns + 1, -np.inf, np.float32),
            place=np.empty(tokens, np.int32),
            place_after=np.empty(tokens, np.int32),
            links=np.empty(history, kernels.LINK),
            base=np.empty(1024, np.float32),
            link_first=np.zeros(1024, np.int64),
            score=np.empty(history, np.float32),
            extra=np.empty(history, np.float32),
            token_first=np.zeros(1024, np.int64),
            histogram=np.zeros(kernels.BINS, np.int32),
            counts=np.zeros(4, np.int64),
            beam=np.zeros(1, np.float32),
        )
        self.start()

    def start(self, beams: Beams | None = None) -> None:
        """Forgets everything and begins an utterance, perhaps with other beams."""
        if beams is not None:
            self.beams, self._limits = beams, beams.limits()
        search = self._search
        search.counts[:] = 0
        search.counts[kernels.LIVING] = 1
        search.live[0] = (self.graph.splits[0], self.graph.splits[1], 0, 0.0)
        search.score[0], search.beam[0] = 0.0, self._limits.beam
        search.link_first[0], search.token_first[:2] = 0, (0, 1)
        self._received = 0
        self._settled, self._labels = 0, [np.zeros(0, np.int64)]
        self._held: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def num_frames(self) -> int:
        """Frames received since the start."""
        return self._received

    @property
    def alive(self) -> bool:
        """Whether some path reaches the frame where the search is."""
        return int(self._search.counts[kernels.FRAME]) == self._received

    @property
    def history_bytes(self) -> int:
        """Size of what is kept of the frames so far."""
        search = self._search
        frame = int(search.counts[kernels.FRAME])
        tokens, links = int(search.token_first[frame + 1]), int(search.link_first[frame])
        return links * kernels.LINK.itemsize + 8 * tokens + 20 * frame

    def advance(self, scores: np.ndarray, transitions: np.ndarray | None = None) -> None:
        """Searches on through a block of frames.

        Args:
            scores: (T, P) unscaled acoustic scores; NaN and +inf stand for an impossible pdf.
            transitions: (T, n_tid) natural-log transition scores, for a dynamic graph, where the search stays one frame
                behind.
        """
        if self.graph.dynamic and len(scores):  # a frame's arcs need the transitions into the next
            assert transitions is not None
            if self._held is not None:
                scores, transitions = (np.concatenate(x) for x in zip(self._held, (scores, transitions)))
            self._held = scores[-1:], transitions[-1:]
        columns = self.graph.columns(scores, transitions, self.beams.acoustic_scale)
        self._run(columns[:-1] if self.graph.dynamic else columns)

    def advance_on_demand(self, source: OnDemand, row: int, num_frames: int) -> None:
        """Searches on through the next frames of an utterance whose scores are computed where they are needed."""
        assert not self.graph.dynamic and source.shape[2] == self.graph.num_columns, source.shape
        compiled, pdfs = source.compiled(), source.shape[2]
        kernels.drop_stale_code(inspect.getfile(type(compiled)))
        known = memory_of(compiled, pdfs)
        self._frames(Wanted(compiled, known, row), num_frames)

    def _run(self, columns: np.ndarray) -> None:
        assert columns.shape[1] == self.graph.num_columns, (columns.shape, self.graph.num_columns)
        self._frames(Block(columns), len(columns))

    def _frames(self, source: Block | Wanted, num_frames: int) -> None:
        alive, begin = self.alive, self._received
        self._received = end = begin + num_frames
        if not alive:
            return
        self._room(base=end + 2, link_first=end + 2, token_first=end + 3)
        arguments = self._limits, float(self.beams.acoustic_scale), source, begin, end
        while code := kernels.advance(self.graph.arcs, self.graph.splits, self._search, *arguments):
            search = self._search
            if code == kernels.MORE_TOKENS:
                # A state's arcs may be more than twice what was there.
                size = 2 * len(search.next) + int(np.diff(self.graph.splits).max())
                self._room(live=size, next=size, place=size, place_after=size)
            elif code == kernels.MORE_LINKS:
                self._room(links=2 * len(search.links) + len(search.next))
            else:
                self._room(score=2 * len(search.score) + len(search.next))
                self._room(extra=len(self._search.score))

    def _room(self, **sizes: int) -> None:
        """Makes arrays at least so long; their contents stay."""
        grown = {}
        for name, size in sizes.items():
            old = getattr(self._search, name)
            if len(old) < size:
                grown[name] = np.empty(max(size, 2 * len(old)), old.dtype)
                grown[name][: len(old)] = old
        if grown:
            self._search = self._search._replace(**grown)

    def settled(self) -> tuple[list[int], int]:
        """What no further frame can change: the best paths to all living tokens are the same up to some frame.

        Returns:
            The word ids on them, and that frame. Only what is new since the last call is looked for.
        """
        search = self._search
        frame, living = int(search.counts[kernels.FRAME]), int(search.counts[kernels.LIVING])
        there, token = paths.meeting(search, frame, living, self._settled)
        if there > self._settled:
            self._labels.append(self._labels_to(token, there))
            self._settled = there
        labels = np.concatenate(self._labels)
        self._labels = [labels]
        return self.graph.graph.spell(labels.tolist()), self._settled

    def _labels_to(self, token: int, frame: int) -> np.ndarray:
        """Labels, other than none, on the best path to a token of a frame from what is settled on."""
        arcs = np.empty(frame - self._settled, np.int64)
        paths.trace(self._search, token, self._settled, frame, arcs)
        labels = self.graph.graph.word[arcs].astype(np.int64)
        return labels[labels > 0]

    def best_so_far(self) -> list[int]:
        """Word ids of the best path up to here, wherever it ends; behind those that are settled they may change."""
        words, _ = self.settled()
        frame, best = int(self._search.counts[kernels.FRAME]), int(self._search.counts[kernels.BEST])
        return words + self.graph.graph.spell(self._labels_to(best, frame).tolist())

    def finish(self) -> Lattice:
        """The lattice of the utterance, partial where no final state was reached; a single path without lattice beam.

        The search is over then; ``start`` begins the next one.
        """
        if self._held is not None:
            self._run(self.graph.columns(*self._held, self.beams.acoustic_scale))
            self._held = None
        search, graph = self._search, self.graph
        frame, living = int(search.counts[kernels.FRAME]), int(search.counts[kernels.LIVING])
        if not frame:
            return Lattice.empty(len(graph.graph.words), graph.graph.word_sequences)
        token, arc, score = paths.endings(graph.arcs, search.live[:living], graph.num_columns)
        partial = not self.alive or not len(token)
        if partial:
            token, score = np.arange(living), search.live["score"][:living]
            arc = np.full(living, -1)
        worse = score.max() - score
        kept = worse <= self._limits.lattice_beam if self._limits.lattice else np.arange(len(worse)) == score.argmax()
        token, arc, worse = token[kept], arc[kept], worse[kept]
        last = int(search.token_first[frame])
        search.extra[last : last + living] = kernels.FAR
        np.minimum.at(search.extra, last + token, worse)
        number = np.cumsum(search.extra[last : last + living] < kernels.FAR) - 1
        kernels.prune(search, self._limits.lattice_beam)
        return self._lattice(number[token], arc, partial)

    def _lattice(self, token: np.ndarray, ending: np.ndarray, partial: bool) -> Lattice:
        """The arrays of what is left of the history.

        Args:
            token, ending: places of tokens of the last frame and the final arcs out of them; -1 for none.
        """
        search, graph = self._search, self.graph.graph
        frames = int(search.counts[kernels.FRAME])
        first = search.token_first[: frames + 2]
        links = search.links[: search.link_first[frames]]
        t = np.repeat(np.arange(frames), np.diff(search.link_first[: frames + 1]))
        src = first[t] + links["src"]
        order = np.argsort(token, kind="stable")
        token, arc = token[order], np.append(links["arc"], ending[order])
        real = arc >= 0
        pdf = self.graph.pdf_of[np.where(real, self.graph.arcs["column"][arc], self.graph.num_columns)]
        weight = np.where(real, self.graph.arcs["weight"][arc], np.float32(0.0))
        before = search.score[src].astype(np.float64) - search.base[t]
        acoustic = (links["score"] - before - weight[: len(src)]) / self.beams.acoustic_scale
        frame = np.append(np.repeat(np.arange(frames + 1), np.diff(first)), frames)
        return Lattice(
            frame.astype(np.int32),
            np.append(src, first[frames] + token).astype(np.int32),
            np.append(first[t + 1] + links["dst"], np.full(len(token), first[-1])).astype(np.int32),
            pdf,
            np.where(real, graph.tid[arc], np.int32(-1)),
            np.where(real, graph.word[arc], np.int32(0)),
            np.append(acoustic, np.zeros(len(token))).astype(np.float32),
            weight,
            np.where(real, graph.lm[arc], np.float32(0.0)),
            num_words=len(graph.words),
            sequences=graph.word_sequences,
            partial=partial,
        )
