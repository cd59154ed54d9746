"""What a search leaves of a batch: the lattices of its utterances, whose scores can be weighed anew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.posteriors import Posteriors
from pipeline.graph.lattice_paths import best_labels
from pipeline.graph.lattice_sums import posteriors

NO_ACCURACY = np.zeros(0)
MOST_CELLS = 1 << 22  # pairs of a state and a pair of weights, of 12 bytes each


def arc_scores(lattice: Lattice, lm_weight: float, word_penalty: float) -> np.ndarray:
    """(A,) float64 acoustic / lm_weight + graph - penalty * words, as in Kaldi's scoring."""
    scores = lattice.acoustic.astype(np.float64) / lm_weight + lattice.graph
    return scores - word_penalty * lattice.words_of_arcs() if word_penalty else scores


class Lattices:
    """Lattices of N utterances. A path's total is acoustic / lm_weight + graph - penalty * words.

    Utterances whose search reached no final state have no words and no posteriors here, even where a partial lattice is
    left of them.
    """

    def __init__(self, lattices: Sequence[Lattice]) -> None:
        self.lattices = list(lattices)

    def __len__(self) -> int:
        return len(self.lattices)

    def __iter__(self):
        return iter(self.lattices)

    def __getitem__(self, index: int) -> Lattice:
        return self.lattices[index]

    def empty(self) -> list[int]:
        """Utterances whose search reached no end."""
        return [n for n, lattice in enumerate(self.lattices) if not lattice.complete]

    def best_words(self, lm_weight: float, word_penalty: float) -> list[list[int]]:
        """Word ids of the best path of each utterance; empty for failed ones."""
        return self.best_words_of([(lm_weight, word_penalty)])[0]

    def best_words_of(self, weights: Sequence[tuple[float, float]]) -> list[list[list[int]]]:
        """For each pair of LM weight and word penalty the word ids of the best path of each utterance."""
        inverse, penalty = (np.array(x, dtype=np.float64) for x in zip(*((1 / w, p) for w, p in weights)))
        out: list[list[list[int]]] = [[] for _ in weights]
        for lattice in self.lattices:
            if not lattice.complete:
                found: list[list[int]] = [[] for _ in weights]
            else:
                floats = (lattice.acoustic, lattice.graph, lattice.words_of_arcs())
                columns = [np.asarray(x, dtype=np.float64) for x in floats]
                arcs = (lattice.src, lattice.dst, lattice.label, *columns, lattice.num_states)
                few = max(MOST_CELLS // lattice.num_states, 1)  # weights at once, so that long recordings fit
                parts = [slice(i, i + few) for i in range(0, len(inverse), few)]
                found = [row for x in parts for row in best_labels(*arcs, inverse[x], penalty[x]).tolist()]
            for texts, labels in zip(out, found):
                texts.append(lattice.spell(labels))
        return out

    def posteriors(self, lm_weight: float, word_penalty: float) -> list[Posteriors]:
        """Posteriors of the pdfs in each frame of each utterance over all paths of its lattice, cf. Kaldi
        lattice-to-post.
        """
        out = []
        for lattice in self.lattices:
            if not lattice.complete:
                nothing = np.zeros(0, dtype=np.int64)
                out.append(Posteriors.summed(nothing, nothing, nothing))
                continue
            share, _, _, _ = posteriors(
                lattice.src, lattice.dst, arc_scores(lattice, lm_weight, word_penalty), NO_ACCURACY
            )
            out.append(Posteriors.summed(lattice.frame[lattice.src], lattice.pdf.astype(np.int64), share))
        return out
