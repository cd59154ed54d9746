"""Compiled access to emission scores: rows of a tensor, or what another package computes on demand.

The best-path loops ask `emit` for a frame and are compiled anew for each type of source. A package that scores on
demand has a named tuple of arrays as its source, overloads `make_scratch` and `score` for it with
`numba.extending.overload` (returning None for other types), and names its file to `numba_calls.drop_stale_code`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from pipeline.hmm.numba_math import FLAGS, exact, jit, value

NEG = -1e30  # stands for -inf, so that no NaN can arise from differences
DEAD = -1e29  # nothing above comes from -inf
LANES = 16  # loops run over whole blocks of this many states, so that LLVM needs no scalar remainder
PAD = LANES  # free cells on both sides of a row; the slots reach two states aside


class Dense(NamedTuple):
    """Emissions (N, T, P): floats, or uint16 bits if `half` is 1 (bfloat16) or 2 (float16)."""

    emissions: NDArray[Any]
    half: int


def make_scratch(source):
    """Memory of one task for `load` and `score`."""
    raise NotImplementedError


def score(source, scratch, n, t, pdfs, count, scores):
    """Set scores[p] (P,), natural logs, for the first `count` pdfs p at frame t of utterance n."""
    raise NotImplementedError


class Known(NamedTuple):
    """What an on-demand task remembers: scores (P,), the frame that each is of (P,), pdfs to score (P,), scratch of the
    source."""

    scores: NDArray[Any]
    frame: NDArray[Any]
    wanted: NDArray[Any]
    scratch: tuple[Any, ...]


def known_scores(source, num_pdfs, neg):
    """A `Known` for on-demand sources, nothing for dense ones."""
    raise NotImplementedError


@overload(known_scores)
def _known_scores(source, num_pdfs, neg):
    if is_dense(source):
        return lambda source, num_pdfs, neg: None

    def make(source, num_pdfs, neg):
        frame, wanted = np.full(num_pdfs, -1), np.empty(num_pdfs, np.int32)
        return Known(np.full(num_pdfs, neg), frame, wanted, make_scratch(source))

    return make


def is_dense(source: numba.types.Type) -> bool:
    """Whether a source holds all scores."""
    return source.instance_class is Dense


@exact
def gather(row, emissions, pdf, low, high, half, neg):
    """Emissions of the states low..high; NaN and +inf become NEG."""
    for s in range(low, min(high, len(pdf))):
        x = value(emissions[pdf[s]], half)
        row[s + PAD] = x if neg < x < -neg else neg


def emit(row, source, known, n, t, pdf, reached, low, high, neg):
    """Emissions of the states low..high at frame t of utterance n; on demand only of those that `reached` (a row of
    path scores) has a path to, and 0 elsewhere.
    """
    raise NotImplementedError


@overload(emit, jit_options={"fastmath": FLAGS, "_nrt": False})
def _emit(row, source, known, n, t, pdf, reached, low, high, neg):
    if is_dense(source):

        def dense(row, source, known, n, t, pdf, reached, low, high, neg):
            gather(row, source.emissions[n, t], pdf, low, high, source.half, neg)

        return dense

    def on_demand(row, source, known, n, t, pdf, reached, low, high, neg):
        count = want(known.wanted, known.frame, t, pdf, reached, low, high)
        score(source, known.scratch, n, t, known.wanted, count, known.scores)
        take_reached(row, known.scores, pdf, reached, low, high, neg)

    return on_demand


@exact
def take_reached(row, scores, pdf, reached, low, high, neg):
    """As `gather`, but 0 where nothing is reached: a score that was never asked for must not cancel that of a path."""
    for s in range(low, min(high, len(pdf))):
        x = scores[pdf[s]]
        row[s + PAD] = 0 if reached[s + PAD] <= DEAD else x if neg < x < -neg else neg


@jit
def want(wanted, frame, t, pdf, reached, low, high):
    """List the pdfs of the states low..high that are reached, each once; their number."""
    count = 0
    for s in range(low, min(high, len(pdf))):
        if reached[s + PAD] > DEAD and frame[pdf[s]] != t:
            frame[pdf[s]] = t
            wanted[count] = pdf[s]
            count += 1
    return count
