"""Training data for mixtures: features, transcripts and graphs of a data directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.corpus import iter_cuts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError
from pipeline.feats.facts import FeatureFacts
from pipeline.feats.load import load_packed
from pipeline.feats.options import FeatLoadOptions
from pipeline.gmm.assign import TrainSet
from pipeline.hmm.compile import compile_graphs


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Utterances in memory.

    Args:
        feats: (sum of T, F) float32 loaded features.
        offsets: (N + 1,) int64.
        cut_ids, speakers: N each.
        words: N lists of word ids.
    """

    feats: torch.Tensor
    offsets: np.ndarray
    cut_ids: tuple[str, ...]
    speakers: tuple[str, ...]
    words: list[list[int]]
    facts: FeatureFacts
    feat_options: FeatLoadOptions

    def train_set(
        self, lang: Lang, tree: Tree, transitions: TransitionModel, feats: torch.Tensor | None = None
    ) -> TrainSet:
        """With graphs through a tree, and perhaps other features of the same frames."""
        graphs = compile_graphs(lang, tree, transitions, self.words)
        return TrainSet(self.feats if feats is None else feats, self.offsets, self.cut_ids, graphs)


def load_corpus(
    data_dir: str | Path, lang: Lang, options: FeatLoadOptions, device: str = "cpu", texts: dict[str, str] | None = None
) -> Corpus:
    """Loads features and transcripts.

    Args:
        texts: cut id -> transcript in place of the data's own (hypotheses); cuts without an entry are left out.
    Raises:
        DataError: no features, a word outside the lexicon, or nothing to load.
    """
    facts = FeatureFacts.load(Path(data_dir))
    own = {cut["id"]: cut["supervisions"][0].get("text") or "" for _, cut in iter_cuts(Path(data_dir))}
    if texts is not None:
        unknown = sorted(set(texts) - set(own))
        if unknown:
            raise DataError(f"{data_dir}: has no utterance {unknown[0]!r}")
        own = {cut_id: texts[cut_id] for cut_id in own if texts.get(cut_id)}
    if not own:
        raise DataError(f"{data_dir}: no utterance has a transcript")
    packed = load_packed(data_dir, options, list(own) if texts is not None else None)
    words = [lang.word_ids(own[c], f"{data_dir}/cuts.jsonl.gz: utterance {c!r}") for c in packed.cut_ids]
    return Corpus(
        packed.feats.to(device),
        np.asarray(packed.offsets),
        tuple(packed.cut_ids),
        tuple(packed.speakers),
        words,
        facts,
        options,
    )


def gather_tids(ali: AliSet, cut_ids: Sequence[str], offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transition-ids of many utterances side by side.

    Returns:
        (sum of T,) int32, -1 for utterances without an alignment, and (N,) bool, which have one.
    Raises:
        DataError: an alignment of another length than the features, or no alignment at all.
    """
    tids = np.full(int(offsets[-1]), -1, dtype=np.int32)
    done = np.zeros(len(cut_ids), dtype=bool)
    for n, cut_id in enumerate(cut_ids):
        if cut_id not in ali:
            continue
        begin, end = int(offsets[n]), int(offsets[n + 1])
        found = ali[cut_id].transition_ids
        if len(found) != end - begin:
            raise DataError(
                f"{ali.directory}: utterance {cut_id!r} has {len(found)} frames, its features have {end - begin}"
            )
        tids[begin:end] = found
        done[n] = True
    if not done.any():
        raise DataError(f"{ali.directory}: holds no alignment of any utterance of the data")
    return tids, done
