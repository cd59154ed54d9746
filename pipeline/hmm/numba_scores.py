"""Compiled access to emission scores: rows of a tensor, or what another package computes on demand.

The best-path loops ask `emit` for a frame and are compiled anew for each type of source. A package that scores on demand
has a named tuple of arrays as its source and overloads for it, with `numba.extending.overload`, `make_scratch`, `load`
and `score`; an overload returns None for other types. `sources_of` names its file to the check for stale compiled code.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numba.extending import overload

from pipeline.hmm.numba_math import FLAGS, exact, jit, value

NEG = -1e30  # stands for -inf, so that no NaN can arise from differences
DEAD = -1e29  # nothing above comes from -inf
LANES = 16  # loops run over whole blocks of this many states, so that LLVM needs no scalar remainder
PAD = LANES  # free cells on both sides of a row; the slots reach two states aside


class Dense(NamedTuple):
    """Emissions (N, T, P): floats, or uint16 bits if `half` is 1 (bfloat16) or 2 (float16)."""

    emissions: np.ndarray
    half: int


def make_scratch(source):
    """Memory of one task for `load` and `score`."""
    raise NotImplementedError


def load(source, scratch, n, t):
    """Prepare frame t of utterance n; whether its scores are numbers."""
    raise NotImplementedError


def score(source, scratch, pdf):
    """Natural-log score of a pdf in the frame loaded last."""
    raise NotImplementedError


class Known(NamedTuple):
    """What an on-demand task remembers: scores (P,), the frame that each is of (P,), scratch of the source."""

    scores: np.ndarray
    frame: np.ndarray
    scratch: tuple


def known_scores(source, num_pdfs, neg):
    """A `Known` for on-demand sources, nothing for dense ones."""
    raise NotImplementedError


@overload(known_scores)
def _known_scores(source, num_pdfs, neg):
    if is_dense(source):
        return lambda source, num_pdfs, neg: None

    def make(source, num_pdfs, neg):
        return Known(np.full(num_pdfs, neg), np.full(num_pdfs, -1), make_scratch(source))

    return make


def is_dense(source: numba.types.Type) -> bool:
    """Whether a source holds all scores."""
    return source.instance_class is Dense


@exact
def gather(row, emissions, pdf, low, high, half, neg):
    """Emissions of the states low..high; what is no number below infinity becomes NEG."""
    for s in range(low, min(high, len(pdf))):
        x = value(emissions[pdf[s]], half)
        row[s + PAD] = x if neg < x < -neg else neg


def emit(row, source, known, n, t, pdf, reached, low, high, neg):
    """Emissions of the states low..high at frame t of utterance n; on demand only of those that `reached` (a row) scores."""
    raise NotImplementedError


@overload(emit, jit_options={"fastmath": FLAGS}, inline="always")
def _emit(row, source, known, n, t, pdf, reached, low, high, neg):
    if is_dense(source):

        def dense(row, source, known, n, t, pdf, reached, low, high, neg):
            gather(row, source.emissions[n, t], pdf, low, high, source.half, neg)

        return dense

    def on_demand(row, source, known, n, t, pdf, reached, low, high, neg):
        usable = load(source, known.scratch, n, t)
        scores, frame = known.scores, known.frame
        for s in range(low, min(high, len(pdf))):
            if reached[s + PAD] > DEAD:
                p = pdf[s]
                if frame[p] != t:
                    frame[p] = t
                    scores[p] = score(source, known.scratch, p) if usable else neg
                row[s + PAD] = scores[p]

    return on_demand
