"""What stored lattices say once weights are chosen: minimum Bayes risk, confidences and times, oracle errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.artifacts.ali import Segment
from pipeline.artifacts.hyp import Hypothesis
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.lattice_set import LatticeHeader
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.log import progress_of
from pipeline.base.spool import JsonSpool
from pipeline.tasks.ali_formats import TimedCut, write_ctm
from pipeline.tasks.score import ratio_interval, result_row

CTM = "words.ctm"
NOT_A_WORD = -1  # stands for words of references that the lang lacks
# Word sequences that are less probable than the best one by a factor of more than exp(15) are left out. That moves
# confidences by some thousandths; with all sequences, an utterance of a model that is sure of nothing can take minutes.
BEAM = 15.0

Judge = Literal["none", "best", "mbr"]


class LatticeWords:
    """Goes through the lattices of a decoding once, one in memory at a time."""

    def __init__(
        self, lattice_of: Callable[[str], Lattice], header: LatticeHeader, words: SymbolTable, judge: Judge
    ) -> None:
        """Args:
        lattice_of: utterance -> its lattice.
        header, words: as of the ``LatticeSet``.
        judge: "mbr" chooses the words of minimum Bayes risk; "best" gives confidences to those of the best path; "none"
            does neither.
        """
        self._lattice_of, self._header, self._words, self._judge = lattice_of, header, words, judge
        self._heard = JsonSpool()  # utterance -> [[word, begin, end, confidence], ..]
        self._errors: list[int] = []
        self._lengths: list[int] = []
        self._speakers: list[str] = []

    def __call__(self, weights: tuple[float, float], hyps: Sequence[Hypothesis]) -> list[Hypothesis]:
        """The hypotheses with the words and confidences of the lattices.

        Args:
            weights: LM weight and word penalty.
            hyps: best paths with these weights.
        """
        from pipeline.graph.lattice_sums import oracle_errors

        out = []
        with progress_of(len(hyps), "lattices") as done:
            for hyp in hyps:
                lattice = self._lattice_of(hyp.cut_id)
                reference = np.array([self._id(w) for w in hyp.ref], dtype=np.int64)
                errors = len(reference)
                if lattice.complete:
                    plain = lattice.spelled()
                    errors = int(oracle_errors(plain.src, plain.dst, plain.label, reference))
                self._errors.append(errors)
                self._lengths.append(len(reference))
                self._speakers.append(hyp.speaker)
                out.append(hyp if self._judge == "none" else self._judged(hyp, lattice, weights))
                done(1)
        return out

    def _id(self, word: str) -> int:
        return self._words.id(word) if word in self._words else NOT_A_WORD

    def _judged(self, hyp: Hypothesis, lattice: Lattice, weights: tuple[float, float]) -> Hypothesis:
        from pipeline.graph.determinise import word_lattice
        from pipeline.graph.mbr import least_risk

        given = None if self._judge == "mbr" else [self._words.id(w) for w in hyp.hyp]
        heard, _ = least_risk(word_lattice(lattice, *weights, BEAM), *weights, self._header.frame_shift, given)
        offset = self._header.frame_offset
        said = tuple(self._words.name(h.word) for h in heard)
        self._heard[hyp.cut_id] = [
            [word, max(h.begin + offset, 0.0), max(h.end + offset, 0.0), h.confidence] for word, h in zip(said, heard)
        ]
        return replace(hyp, hyp=said, confidence=tuple(h.confidence for h in heard))

    def write_ctm(self, directory: Path) -> None:
        """Writes words.ctm: utterance, 1, start, duration, word, confidence; times in seconds."""
        write_ctm(directory / CTM, self._timed(), "words")

    def _timed(self) -> Iterator[TimedCut]:
        for cut_id in sorted(self._heard):
            segments = [Segment(w, begin, end - begin, c) for w, begin, end, c in self._heard[cut_id]]
            yield TimedCut(cut_id, [], segments, segments[-1].end if segments else 0.0)

    @property
    def oracle_wer(self) -> float:
        """Percent of errors of the paths that are closest to the references; failed searches have no word right."""
        return 100.0 * sum(self._errors) / max(sum(self._lengths), 1)

    def oracle_row(self, row_id: str, part: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
        """The row for results.json."""
        errors, words = np.array(self._errors), np.array(self._lengths)
        low, high = ratio_interval(errors, words, self._speakers)
        counts = {"errors": sum(self._errors), "words": sum(self._lengths), "utterances": len(self._errors)}
        return result_row(row_id, part, "oracle_wer", self.oracle_wer, low, high, counts, config)
