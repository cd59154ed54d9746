"""A few utterances of random frames with their graphs, as the engine and as the aligner want them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.feats.dataset import Dataset
from pipeline.gmm.assign import Aligner, Assignment
from pipeline.gmm.data import graphs_of
from pipeline.hmm.compile import TrainingGraphs, compile_graphs


@dataclasses.dataclass(frozen=True, eq=False)
class Small:
    """Utterances utt0, utt1, ..: (sum of T, F) frames side by side, (N + 1,) bounds, transcripts and their graphs."""

    feats: torch.Tensor
    offsets: np.ndarray
    texts: tuple[str, ...]
    lang: Lang
    tree: Tree
    transitions: TransitionModel
    graphs: TrainingGraphs

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def data(self, feats: torch.Tensor | None = None) -> Dataset:
        """With other frames where they are given."""
        parts = (self.feats if feats is None else feats).split(self.lengths.tolist())
        return Dataset.of(list(parts), [f"utt{i}" for i in range(len(parts))], texts=self.texts)

    def aligner(self, feats: torch.Tensor | None = None) -> Aligner:
        data = self.data(feats)
        return Aligner(data, graphs_of(data, self.lang, self.tree, self.transitions, 2048), self.transitions)

    def tids(self, found: Assignment) -> np.ndarray:
        """(sum of T,) transition-ids."""
        return found.file.read(np.arange(len(self.texts)))


def small(lang: Lang, tree: Tree, texts: Sequence[str], lengths: Sequence[int], dim: int, seed: int) -> Small:
    """Random frames for some transcripts."""
    transitions = TransitionModel(tree, lang.topo)
    graphs = compile_graphs(lang, tree, transitions, [lang.word_ids(t, "t") for t in texts])
    feats = torch.randn((sum(lengths), dim), generator=torch.Generator().manual_seed(seed))
    return Small(feats, np.cumsum([0, *lengths]), tuple(texts), lang, tree, transitions, graphs)
