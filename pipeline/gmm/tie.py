"""Tied states from any alignment, without a mixture model: a decision tree, and the alignment in terms of its
leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.ali import AliWriter
from pipeline.artifacts.features import FeatLoadOptions
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.feats.frames import offsets_of
from pipeline.gmm.data import Aligned, load_aligned
from pipeline.gmm.options import TieOptions
from pipeline.gmm.tree_stats import convert_tids
from pipeline.gmm.triphone import make_tree


def tie_states(
    data_dir: str | Path,
    lang: Lang,
    ali_dir: str | Path,
    options: TieOptions,
    out_dir: Path,
    questions_file: Path | None = None,
) -> dict[str, Any]:
    """Builds a tree from an alignment and writes that alignment again with the tree's leaves as labels.

    The states keep their times; transition probabilities are the relative frequencies in the alignment. So a network
    can learn senones or chenones from a neural HMM's alignment with no mixture model anywhere. cf. Kaldi
    acc-tree-stats, build-tree and convert-ali.

    Args:
        data_dir: data directory with the features whose statistics the tree is built from.
        ali_dir: alignment of (most of) that data.
        out_dir: alignment directory to write, with questions.txt and tree_stats.json beside it.
        questions_file: questions to ask; None: clusters of phones.
    Returns:
        facts for the stamp.
    """
    feat_options = FeatLoadOptions(cmvn=options.cmvn, deltas=options.deltas)
    aligned = load_aligned(data_dir, lang, ali_dir, feat_options, options.cache_mib)
    data, ali = aligned.data, aligned.ali
    tree = make_tree(aligned, data, lang, options, out_dir, questions_file)
    transitions = TransitionModel(tree, lang.topo)
    header = dataclasses.replace(ali.header, tree_id=tree.id)
    counts = np.zeros(transitions.num_tids, dtype=np.int64)
    # Twice over the alignment: transition probabilities stand in the directory before the alignments do.
    for _, tids in _converted(aligned, transitions, lang, tree):
        counts += np.bincount(tids[tids >= 0], minlength=len(counts))
    transitions.update(counts.astype(np.float64))
    with AliWriter(out_dir, header, tree, lang.topo, transitions, ali.word_symbols) as writer:
        for rows, tids in _converted(aligned, transitions, lang, tree):
            for n, begin in zip(rows.tolist(), offsets_of(data.lens[rows]).tolist()):
                if aligned.done[n]:
                    own = tids[begin : begin + int(data.lens[n])].astype(np.int32)
                    writer.write(dataclasses.replace(ali[data.id(n)], transition_ids=own))
    return {"pdfs": tree.num_pdfs, "utterances": int(aligned.done.sum()), "frames": int(counts.sum())}


def _converted(
    aligned: Aligned, transitions: TransitionModel, lang: Lang, tree: Tree
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Utterances that follow each other and (sum of T,) their transition-ids by the new tree."""
    for rows in aligned.data.pieces():
        offsets = offsets_of(aligned.data.lens[rows])
        yield rows, convert_tids(aligned.tids(rows), offsets, aligned.transitions, transitions, lang.topo, tree)
