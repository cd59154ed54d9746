"""Training data for mixtures: features, transcripts and alignments of a data directory, read by the piece."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError, MismatchError
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import PIECE_FRAMES, pieces
from pipeline.gmm.blocks import Blocks, open_shared
from pipeline.gmm.frame_labels import FrameLabels, Piece
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.distributed import World

logger = logging.getLogger(__name__)


def graphs_of(
    data: Dataset,
    lang: Lang,
    tree: Tree,
    transitions: TransitionModel,
    cache_mib: int,
    text: Callable[[int], str] | None = None,
) -> GraphSource:
    """Training graphs of a data set.

    Args:
        cache_mib: see ``GraphSource``.
        text: number of an utterance -> what was said, in place of the data's own transcripts.
    Raises:
        DataError: a word outside the lexicon.
    """
    said = data.text if text is None else text
    return GraphSource(lang, tree, transitions, lambda n: lang.word_ids(said(n), data.where(n)), len(data), cache_mib)


@dataclasses.dataclass(frozen=True, eq=False)
class Aligned:
    """A data set with an alignment of it.

    Args:
        done: (N,) bool, which utterances have one.
        blocks: of the utterances, which may be some of those that several processes have.
    """

    data: Dataset
    ali: AliSet
    done: np.ndarray
    blocks: Blocks

    @property
    def transitions(self) -> TransitionModel:
        return self.ali.transitions

    def tids(self, rows: np.ndarray) -> np.ndarray:
        """(sum of T,) int32 transition-ids of some utterances side by side, -1 for those without an alignment.

        Raises:
            DataError: an alignment of another length than the features.
        """
        parts = []
        for n in rows.tolist():
            length = int(self.data.lens[n])
            if not self.done[n]:
                parts.append(np.full(length, -1, dtype=np.int32))
                continue
            cut_id = self.data.id(n)
            found = self.ali[cut_id].transition_ids
            if len(found) != length:
                raise DataError(
                    f"{self.ali.directory}: utterance {cut_id!r} has {len(found)} frames, its features have {length}"
                )
            parts.append(found)
        return np.concatenate(parts)

    def pieces(
        self,
        data: Dataset | None = None,
        device: str = "cpu",
        weights: tuple[Sequence[int], float] = ((), 1.0),
        speaker: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> Iterator[Piece]:
        """The data with labels by the alignment's own tree; arguments as for ``Assignment.pieces``.

        Args:
            data: the same utterances with other features.
        """
        data = self.data if data is None else data
        pdf = self.transitions.tid_pdf()
        for some in self._pieces(rows):
            tids = self.tids(some)
            labels = FrameLabels.from_pdfs(np.where(tids >= 0, pdf[np.maximum(tids, 0)], -1), self.transitions.num_pdfs)
            whose = None if speaker is None else np.repeat(speaker[some], data.lens[some])
            yield Piece(data.flat(some).to(device), labels.weighted(*weights), None, whose)

    def tid_pieces(self, data: Dataset, rows: np.ndarray) -> Iterator[tuple[torch.Tensor, np.ndarray, np.ndarray]]:
        """Features (sum of T, F), transition-ids (sum of T,) and lengths (M,) of some utterances, piece by piece."""
        for some in self._pieces(rows):
            yield data.flat(some), self.tids(some), data.lens[some]

    def _pieces(self, rows: np.ndarray | None) -> Iterator[np.ndarray]:
        chosen = np.arange(len(self.data)) if rows is None else rows
        return (chosen[own] for own in pieces(self.data.lens[chosen], PIECE_FRAMES))

    def silence_pdfs(self, lang: Lang) -> list[int]:
        """pdf-ids of silence in the alignment's own tree."""
        return sorted({int(p) for p in self.transitions.pdf[self.transitions.phone == lang.silence_id]})


def load_aligned(
    data_dir: str | Path,
    lang: Lang,
    ali_dir: str | Path,
    options: FeatLoadOptions,
    cache_mib: int,
    world: World | None = None,
) -> Aligned:
    """Opens features and an alignment of them.

    Args:
        world: the processes that share them; by default those of torchrun, if it has started any.
    Raises:
        MismatchError: it was made with another lang or has another frame rate.
        DataError: it holds no utterance of the data.
    """
    ali = AliSet.load(ali_dir)
    check_same("topo", ali.header.topo_id, ali_dir, lang.topo.id, "the lang directory")
    if ali.transitions.phones != lang.phones:
        raise MismatchError(f"{ali_dir} and the lang directory do not belong together: their phones.txt differ")
    shift = FeatureFacts.load(Path(data_dir)).frame_shift
    if abs(shift - ali.header.frame_shift) > 1e-6:
        raise MismatchError(
            f"{ali_dir} and {data_dir} do not belong together: an alignment with a frame every "
            f"{ali.header.frame_shift * 1000:g} ms, features every {shift * 1000:g} ms"
        )
    data, blocks = open_shared(data_dir, options, cache_mib, World.current() if world is None else world)
    if world is None:
        blocks.check(data_dir)
    done = np.array([data.id(n) in ali for n in range(len(data))], dtype=bool)
    index = load_index(data_dir)
    missing = sum(index.id(n) not in ali for n in range(len(index)))
    if missing == len(index):
        raise DataError(f"{ali.directory}: holds no alignment of any utterance of the data")
    if missing and not blocks.world.rank:
        logger.warning(
            "%s: %d of %d utterances have no alignment; they join at the first realignment",
            ali_dir,
            missing,
            len(index),
        )
    return Aligned(data, ali, done, blocks)
