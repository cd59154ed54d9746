"""The full-sum and Viterbi engine for HMM graphs: graphs and scores in, likelihoods, occupancies and best paths out."""

from __future__ import annotations

from pipeline.hmm.backends import available
from pipeline.hmm.full_sum import feasible, full_sum, occupancies
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.on_demand import OnDemand
from pipeline.hmm.paths import BestPaths
from pipeline.hmm.posteriors import Occupancies
from pipeline.hmm.viterbi import viterbi, widening

__all__ = [
    "BestPaths",
    "Graphs",
    "Occupancies",
    "OnDemand",
    "available",
    "feasible",
    "full_sum",
    "occupancies",
    "viterbi",
    "widening",
]
