"""Where the compiled search gets a frame's scores from: a block of a matrix, or a source that scores on demand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from pipeline.hmm import numba_scores
from pipeline.hmm.numba_cache import cached_njit
from pipeline.hmm.numba_math import exact
from pipeline.hmm.numba_scores import Known


class Block(NamedTuple):
    """Scores of some frames of one utterance, (T, C) float32."""

    scores: np.ndarray


class Wanted(NamedTuple):
    """Scores of utterance `row` on demand; see `numba_scores`."""

    source: tuple
    known: Known
    row: int


@exact
def usable(x):
    """x, with -inf in place of NaN and +inf."""
    return x if x < np.inf else np.float32(-np.inf)


def fill(row, source, arcs, live, count, t, at, scale):
    """Set the scaled scores of frame t, which is row `at` of a block: all, or those that the living tokens ask for."""
    raise NotImplementedError


@overload(fill, jit_options={"_nrt": False})
def _fill(row, source, arcs, live, count, t, at, scale):
    if source.instance_class is Block:

        def dense(row, source, arcs, live, count, t, at, scale):
            scores = source.scores[at]
            for c in range(len(scores)):
                row[c] = usable(scores[c] * scale)

        return dense

    def on_demand(row, source, arcs, live, count, t, at, scale):
        known, wanted = source.known, 0
        frame = known.frame
        for i in range(count):
            for a in range(live[i].begin, live[i].end):
                pdf = arcs[a].column
                if pdf < len(frame) and frame[pdf] != t:
                    frame[pdf] = t
                    known.wanted[wanted] = pdf
                    wanted += 1
        numba_scores.score(source.source, known.scratch, source.row, t, known.wanted, wanted, known.scores)
        for i in range(wanted):
            x = known.scores[known.wanted[i]]
            row[known.wanted[i]] = usable(x * scale) if x > numba_scores.DEAD else np.float32(-np.inf)

    return on_demand


@cached_njit(nogil=True)
def memory_of(source, num_pdfs):
    """What is known of the scores of a source on demand."""
    return numba_scores.known_scores(source, num_pdfs, np.float32(numba_scores.NEG))
