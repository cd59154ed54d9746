"""Random graphs, and path scores by enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from pipeline.base.errors import DataError
from pipeline.hmm import Graphs, convert

NUM_PDFS, NUM_TIDS = 5, 4


def random_graph(rng: np.random.RandomState) -> Graphs:
    """A small automaton with loops, back arcs, parallel arcs, several starts and finals."""
    while True:
        states, arcs = rng.randint(2, 5), rng.randint(2, 9)
        try:
            return convert.from_arcs(
                rng.randint(0, states, arcs),
                rng.randint(0, states, arcs),
                rng.randint(0, NUM_PDFS, arcs),
                rng.randint(-1, NUM_TIDS, arcs),
                rng.randn(arcs),
                [(s, rng.randn()) for s in range(2)],
                [(s, rng.randn(), rng.randint(NUM_TIDS)) for s in range(states - 2, states)],
                NUM_PDFS,
                NUM_TIDS,
            )
        except DataError:  # no start or no final state was hit
            continue


def paths(graphs: Graphs, n: int, emissions: torch.Tensor, transitions, length: int):
    """(score, states, arcs) of every path of utterance n, by enumeration of state sequences and arcs."""
    g = graphs[n].numpy()
    into = [range(g["arc_splits"][s], g["arc_splits"][s + 1]) for s in range(len(g["state_pdf"]))]
    for first in np.flatnonzero(np.isfinite(g["start_weight"])):
        stack = [(float(g["start_weight"][first]) + float(emissions[n, 0, g["state_pdf"][first]]), [first], [-1])]
        for t in range(1, length):
            grown = []
            for (score, states, arcs), s in itertools.product(stack, range(len(into))):
                for a in into[s]:
                    if g["arc_src"][a] != states[-1]:
                        continue
                    extra = float(g["arc_weight"][a]) + float(emissions[n, t, g["state_pdf"][s]])
                    if transitions is not None and g["arc_tid"][a] >= 0:
                        row = transitions if transitions.dim() == 1 else transitions[n, t]
                        extra += float(row[g["arc_tid"][a]])
                    grown.append((score + extra, states + [s], arcs + [a]))
            stack = grown
        for score, states, arcs in stack:
            if np.isfinite(g["final_weight"][states[-1]]):
                yield score + float(g["final_weight"][states[-1]]), states, arcs


def make_transitions(kind: str, num: int, frames: int, dtype=torch.float64):
    """Scores of transitions: none, static or by time."""
    if kind == "none":
        return None
    return torch.randn(*(() if kind == "static" else (num, frames)), NUM_TIDS, dtype=dtype)
