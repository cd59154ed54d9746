"""Tied triphones (or wider contexts, or graphemes) from an alignment: tree, first mixtures, training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import offsets_of
from pipeline.gmm.assign import Aligner, Assignment
from pipeline.gmm.blocks import Arrays, added_by_key, moments
from pipeline.gmm.cluster import build_tree
from pipeline.gmm.data import Aligned, graphs_of, load_aligned
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import global_gaussian, single_gaussians
from pipeline.gmm.model import GmmModel
from pipeline.gmm.mono import kept, silence_pdfs, summary
from pipeline.gmm.options import DeltasOptions, LdaMlltOptions, TreeOptions, TriphoneOptions
from pipeline.gmm.questions import cluster_phones, load_questions, save_questions
from pipeline.gmm.stats import accumulate_blocks
from pipeline.gmm.train import Adaptation, State, clean_up, train
from pipeline.gmm.transforms import lda, lda_sums, mllt, mllt_stats, transform_means
from pipeline.gmm.tree_stats import TreeStats, accumulate_tree, convert_tids

logger = logging.getLogger(__name__)

QUESTIONS, TREE_STATS = "questions.txt", "tree_stats.json"


def make_tree(
    aligned: Aligned,
    data: Dataset,
    lang: Lang,
    options: TreeOptions,
    out_dir: Path,
    questions_file: Path | None = None,
) -> Tree:
    """Builds a tree from an alignment and writes questions.txt and tree_stats.json beside it.

    Args:
        data: the aligned utterances with the features to cluster by.
        questions_file: questions to ask; None: clusters of phones.
    """
    stats = TreeStats.of(aligned.blocks.total(tree_sums(aligned, data, lang, options), added_by_key), options.left)
    return tree_from(stats, lang, options, None if aligned.blocks.world.rank else out_dir, questions_file)


def tree_from(
    stats: TreeStats, lang: Lang, options: TreeOptions, out_dir: Path | None, questions_file: Path | None
) -> Tree:
    """Builds a tree from statistics; arguments as for ``make_tree``, without files if there is no `out_dir`."""
    questions = load_questions(questions_file, lang.phones) if questions_file else cluster_phones(stats, lang)
    tree, facts = build_tree(stats, questions, lang, options)
    if out_dir is not None:
        save_questions(out_dir / QUESTIONS, questions, lang.phones)
        write_json(out_dir / TREE_STATS, facts)
    return tree


def tree_sums(aligned: Aligned, data: Dataset, lang: Lang, options: TreeOptions) -> Callable[[np.ndarray], Arrays]:
    """What takes the statistics for a tree of some utterances; arguments as for ``make_tree``."""

    def sums(rows: np.ndarray) -> Arrays:
        pieces = aligned.tid_pieces(data, rows)
        return accumulate_tree(pieces, aligned.transitions, lang.topo, options.left, options.right).arrays()

    return sums


def train_on_tree(
    aligned: Aligned,
    data: Dataset,
    lang: Lang,
    tree: Tree,
    options: TriphoneOptions,
    tmp_dir: Path,
    adaptation: Adaptation | None = None,
) -> State:
    """Trains mixtures for the leaves of a tree, starting from one Gaussian each and the alignment converted to it.

    Args:
        data: the aligned utterances with the features to start with.
        adaptation: a transform that is estimated along the way.
    """
    transitions = TransitionModel(tree, lang.topo)
    blocks, graphs = aligned.blocks, graphs_of(data, lang, tree, transitions, options.cache_mib)
    aligner = Aligner(data, graphs, transitions, options.device, blocks.directory(tmp_dir), blocks)
    first = aligner.given(
        (
            rows,
            convert_tids(
                aligned.tids(rows), offsets_of(data.lens[rows]), aligned.transitions, transitions, lang.topo, tree
            ),
        )
        for rows in data.pieces()
    )
    first.check(blocks.count, options.max_failed, "initial alignment")
    start = global_gaussian(moments(data, blocks), tree.num_pdfs, options.min_var).to(options.device)
    stats = accumulate_blocks(Evaluator(start), blocks, lambda rows: first.pieces(data, options.device, rows=rows))
    gmms = single_gaussians(start, stats, options.min_var)
    return train(aligner, gmms, transitions, first, options, silence_pdfs(tree, lang), adaptation)


def train_deltas(
    data_dir: str | Path,
    lang: Lang,
    ali_dir: str | Path,
    options: DeltasOptions,
    tmp_dir: Path,
    questions_file: Path | None = None,
) -> dict[str, Any]:
    """Tied triphones on features with deltas (tri1), cf. Kaldi train_deltas.sh.

    Args:
        ali_dir: alignment by any earlier model over the same lang.
        tmp_dir: gets the model directory.
        questions_file: see make_tree.
    Returns:
        Facts for the stamp.
    """
    feat_options = FeatLoadOptions(cmvn=options.cmvn, deltas=options.deltas)
    facts = FeatureFacts.load(Path(data_dir))
    aligned = load_aligned(data_dir, lang, ali_dir, feat_options, options.cache_mib)
    tree = make_tree(aligned, aligned.data, lang, options.tree, tmp_dir, questions_file)
    state = train_on_tree(aligned, aligned.data, lang, tree, options, tmp_dir)
    if aligned.blocks.others():
        return {}
    model = GmmModel(state.gmms, feat_options, facts, config=kept(options), history=state.history)
    model.save(tmp_dir, lang.topo, tree, state.transitions, lang.id)
    clean_up(tmp_dir)
    return summary(state, tree)


class MlltAdaptation:
    """Estimates MLLT again in some iterations and keeps the product with LDA."""

    def __init__(self, aligned: Aligned, matrix: torch.Tensor, silence: list[int], options: LdaMlltOptions) -> None:
        """Args:
        aligned: with spliced features, F per frame.
        matrix: (D, F) LDA.
        silence: pdfs whose frames do not count.
        """
        self.iters, self._aligned, self.matrix = options.mllt_iters, aligned, matrix
        self._silence, self._options = silence, options

    def data(self) -> Dataset:
        """Features under the present transform."""
        matrix = self.matrix.t()
        return self._aligned.data.mapped(lambda feats, rows: feats @ matrix, len(self.matrix), self._options.cache_mib)

    def apply(self, gmms: DiagGmms, data: Dataset, assignment: Assignment) -> tuple[DiagGmms, Dataset]:
        """See ``Adaptation``."""

        def sums(rows: np.ndarray) -> Arrays:
            pieces = assignment.pieces(data, self._options.device, (self._silence, 0.0), rows=rows)
            stats, count = mllt_stats(Evaluator(gmms), pieces)
            return stats, np.array([count])

        stats, count = self._aligned.blocks.total(sums)
        square, gain = mllt(stats, float(count[0]))
        logger.info("MLLT: objective gains %.4f per frame", gain)
        turn = torch.from_numpy(square)
        self.matrix = (turn @ self.matrix.double()).float()
        return transform_means(gmms, turn), self.data()

    def tensors(self) -> dict[str, torch.Tensor]:
        """See ``Adaptation``."""
        return {"matrix": self.matrix}

    def restore(self, tensors: dict[str, torch.Tensor]) -> Dataset:
        """See ``Adaptation``."""
        self.matrix = tensors["matrix"]
        return self.data()


def train_lda_mllt(
    data_dir: str | Path,
    lang: Lang,
    ali_dir: str | Path,
    options: LdaMlltOptions,
    tmp_dir: Path,
    questions_file: Path | None = None,
) -> dict[str, Any]:
    """Tied triphones on spliced features with LDA and MLLT (tri2), cf. Kaldi train_lda_mllt.sh. Arguments as
    train_deltas.

    Raises:
        DataError: the alignment has nothing but silence.
    """
    feat_options = FeatLoadOptions(
        cmvn=options.cmvn, deltas=options.deltas, splice_left=options.splice_left, splice_right=options.splice_right
    )
    facts = FeatureFacts.load(Path(data_dir))
    aligned = load_aligned(data_dir, lang, ali_dir, feat_options, options.cache_mib)
    loaded, blocks = aligned.data, aligned.blocks
    centre, weights = moments(loaded, blocks)[0].float(), (aligned.silence_pdfs(lang), 0.0)
    sums = blocks.total(lambda rows: lda_sums(aligned.pieces(weights=weights, rows=rows), centre))
    if not sums[0].sum() > 0:
        raise DataError(f"{ali_dir}: no frame of any utterance is speech, so there are no classes for LDA")
    matrix = lda(sums, min(options.dim, loaded.dim))
    data = MlltAdaptation(aligned, matrix, [], options).data()
    tree = make_tree(aligned, data, lang, options.tree, tmp_dir, questions_file)
    adaptation = MlltAdaptation(aligned, matrix, silence_pdfs(tree, lang), options)
    state = train_on_tree(aligned, data, lang, tree, options, tmp_dir, adaptation)
    if blocks.others():
        return {}
    model = GmmModel(state.gmms, feat_options, facts, adaptation.matrix, config=kept(options), history=state.history)
    model.save(tmp_dir, lang.topo, tree, state.transitions, lang.id)
    clean_up(tmp_dir)
    return summary(state, tree)
