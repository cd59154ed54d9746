"""Linear alignments: the states of one path through an utterance's graph, spread evenly over its frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.hmm import Graphs


def linear_labels(graphs: Graphs, lens: Sequence[int], silence_pdfs: Iterable[int]) -> list[np.ndarray]:
    """Labels of a flat start (cf. Kaldi align-equal-compiled): silence at both ends, none between words.

    Args:
        graphs: N training graphs; each state is left to itself or to states with a higher number.
        lens: label frames of each utterance.
        silence_pdfs: labels of silence.
    Returns:
        N arrays (T'_n,) int64 of pdf-ids.
    """
    g = graphs.numpy()
    silent = np.isin(g["state_pdf"], list(silence_pdfs))
    out = []
    for n, num_frames in enumerate(lens):
        begin, end = g["state_splits"][n], g["state_splits"][n + 1]
        path = _path(g, int(begin), int(end), silent)
        frames = np.arange(num_frames) * len(path) // max(num_frames, 1)
        out.append(g["state_pdf"][np.array(path)[frames]].astype(np.int64))
    return out


def _path(g: dict[str, np.ndarray], begin: int, end: int, silent: np.ndarray) -> list[int]:
    """States of a path from the last state to the first, in time order."""
    finals = begin + np.flatnonzero(np.isfinite(g["final_weight"][begin:end]))
    state = next((s for s in finals if silent[s]), finals[0])
    path = [int(state)]
    while True:
        sources = g["arc_src"][g["arc_splits"][state] : g["arc_splits"][state + 1]].astype(np.int64) + begin
        before = sorted(s for s in set(sources.tolist()) if s != state)
        if not before:
            assert np.isfinite(g["start_weight"][state]), state
            return path[::-1]
        # Silence between words is passed by; at the start it is the only way on, so it is taken.
        spoken = [s for s in before if not silent[s]]
        state = (spoken or before)[-1]
        path.append(int(state))
