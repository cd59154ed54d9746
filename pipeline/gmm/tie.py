"""Tied states from any alignment, without a mixture model: a decision tree, and the alignment in terms of its
leaves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.ali import AliWriter
from pipeline.artifacts.checkpoint import load_tensors, save_tensors
from pipeline.artifacts.features import FeatLoadOptions
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.feats.frames import offsets_of
from pipeline.gmm.blocks import Pairs, added_by_key
from pipeline.gmm.data import Aligned, load_aligned
from pipeline.gmm.options import TieOptions
from pipeline.gmm.tree_stats import TreeStats, convert_tids
from pipeline.gmm.triphone import make_tree, tree_from, tree_sums
from pipeline.nn.distributed import World
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import Done, Part, as_json, in_process
from pipeline.parallel.run import done_in_parts

# Of a part: keys and sums of its nodes.
_STATS, _SUMS = "stats.safetensors", ("keys", "sums")


def tie_states(
    data_dir: Path,
    lang_dir: Path,
    ali_dir: Path,
    options: TieOptions,
    out_dir: Path,
    questions_file: Path | None = None,
    parallel: ParallelOptions = ParallelOptions(),
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
        parallel: into how many parts the statistics are divided; the tree has the same bytes for any number.
    Returns:
        facts for the stamp.
    """
    lang = Lang.load(lang_dir)
    aligned = _load(data_dir, lang, ali_dir, options, World())
    data, ali = aligned.data, aligned.ali
    if in_process(parallel, out_dir):
        tree = make_tree(aligned, data, lang, options, out_dir, questions_file)
    else:
        places = {"data": data_dir, "lang": lang_dir, "ali": ali_dir}
        arguments = {**{name: str(path.resolve()) for name, path in places.items()}, "options": as_json(options)}
        with done_in_parts(stats_part, arguments, out_dir, parallel) as parts:
            tree = tree_from(_joined(parts, options.left), lang, options, out_dir, questions_file)
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


def _load(data_dir: Path, lang: Lang, ali_dir: Path, options: TieOptions, world: World) -> Aligned:
    feat_options = FeatLoadOptions(cmvn=options.cmvn, deltas=options.deltas)
    return load_aligned(data_dir, lang, ali_dir, feat_options, options.cache_mib, world)


def stats_part(part: Part, out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Statistics of a part of the blocks, see ``pipeline.parallel.parts.Work``."""
    options, lang = TieOptions(**arguments["options"]), Lang.load(arguments["lang"])
    places = Path(arguments["data"]), lang, Path(arguments["ali"])
    aligned = _load(*places, options, World(part.number, part.of))
    nodes = aligned.blocks.nodes(tree_sums(aligned, aligned.data, lang, options), added_by_key).nodes
    tensors = {f"{what}.{i}": torch.from_numpy(x) for i, node in enumerate(nodes) for what, x in zip(_SUMS, node[2])}
    save_tensors(out / _STATS, tensors)
    return {"nodes": [[level, number] for level, number, _ in nodes]}


def _joined(parts: Sequence[Done], left: int) -> TreeStats:
    """The statistics of all parts, with the bits that one would have."""
    pairs = Pairs(added_by_key)
    for part in parts:
        tensors = load_tensors(part.directory / _STATS) if part.facts["nodes"] else {}
        for i, (level, number) in enumerate(part.facts["nodes"]):
            pairs.push(level, number, tuple(tensors[f"{what}.{i}"].numpy() for what in _SUMS))
    return TreeStats.of(pairs.total(), left)


def _converted(
    aligned: Aligned, transitions: TransitionModel, lang: Lang, tree: Tree
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Utterances that follow each other and (sum of T,) their transition-ids by the new tree."""
    for rows in aligned.data.pieces():
        offsets = offsets_of(aligned.data.lens[rows])
        yield rows, convert_tids(aligned.tids(rows), offsets, aligned.transitions, transitions, lang.topo, tree)
