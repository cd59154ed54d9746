"""Tied states from any alignment, without a mixture model: a decision tree, and the alignment in terms of its
leaves.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.ali import AliWriter
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.feats.options import FeatLoadOptions
from pipeline.gmm.options import TieOptions
from pipeline.gmm.tree_stats import convert_tids
from pipeline.gmm.triphone import load_aligned, make_tree


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
    aligned = load_aligned(data_dir, lang, ali_dir, feat_options, options.device)
    corpus, ali = aligned.corpus, aligned.ali
    tree = make_tree(aligned, corpus.feats, lang, options, out_dir, questions_file)
    transitions = TransitionModel(tree, lang.topo)
    tids = convert_tids(aligned.tids, corpus.offsets, aligned.transitions, transitions, lang.topo, tree)
    transitions.update(np.bincount(tids[tids >= 0], minlength=transitions.num_tids).astype(np.float64))
    header = dataclasses.replace(ali.header, tree_id=tree.id)
    with AliWriter(out_dir, header, tree, lang.topo, transitions, ali.word_symbols) as writer:
        for n in np.flatnonzero(aligned.done):
            span = slice(int(corpus.offsets[n]), int(corpus.offsets[n + 1]))
            writer.write(dataclasses.replace(ali[corpus.cut_ids[n]], transition_ids=tids[span].astype(np.int32)))
    return {"pdfs": tree.num_pdfs, "utterances": int(aligned.done.sum()), "frames": int((tids >= 0).sum())}
