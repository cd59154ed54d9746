"""Tied triphones (or wider contexts, or graphemes) from an alignment: tree, first mixtures, training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.files import write_json
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import offsets_of
from pipeline.gmm.assign import Aligner, Assignment
from pipeline.gmm.cluster import build_tree
from pipeline.gmm.data import Aligned, graphs_of, load_aligned
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import global_gaussian, single_gaussians
from pipeline.gmm.model import GmmModel
from pipeline.gmm.mono import kept, silence_pdfs, summary
from pipeline.gmm.options import DeltasOptions, GmmOptions, LdaMlltOptions, TreeOptions, TriphoneOptions
from pipeline.gmm.questions import cluster_phones, load_questions, save_questions
from pipeline.gmm.train import Adaptation, State, clean_up, train
from pipeline.gmm.transforms import lda, mllt, mllt_stats, transform_means
from pipeline.gmm.tree_stats import accumulate_tree, convert_tids

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
    pieces = aligned.tid_pieces(data)
    stats = accumulate_tree(pieces, aligned.transitions, lang.topo, options.left, options.right)
    questions = load_questions(questions_file, lang.phones) if questions_file else cluster_phones(stats, lang)
    tree, facts = build_tree(stats, questions, lang, options)
    save_questions(out_dir / QUESTIONS, questions, lang.phones)
    write_json(out_dir / TREE_STATS, facts)
    return tree


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
    aligner = Aligner(
        data, graphs_of(data, lang, tree, transitions, options.cache_mib), transitions, options.device, tmp_dir
    )
    first = aligner.given(
        (
            rows,
            convert_tids(
                aligned.tids(rows), offsets_of(data.lens[rows]), aligned.transitions, transitions, lang.topo, tree
            ),
        )
        for rows in data.pieces()
    )
    first.check(len(data), options.max_failed, "initial alignment")
    start = global_gaussian(data.moments(), tree.num_pdfs, options.min_var).to(options.device)
    gmms = single_gaussians(start, first.pieces(data, options.device), options.min_var)
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
    model = GmmModel(state.gmms, feat_options, facts, config=kept(options), history=state.history)
    model.save(tmp_dir, lang.topo, tree, state.transitions, lang.id)
    clean_up(tmp_dir)
    return summary(state, tree)


class MlltAdaptation:
    """Estimates MLLT again in some iterations and keeps the product with LDA."""

    def __init__(
        self, iters: tuple[int, ...], loaded: Dataset, matrix: torch.Tensor, silence: list[int], options: GmmOptions
    ) -> None:
        """Args:
        loaded: spliced features, F per frame.
        matrix: (D, F) LDA.
        silence: pdfs whose frames do not count.
        """
        self.iters, self._loaded, self.matrix, self._silence, self._options = iters, loaded, matrix, silence, options

    def data(self) -> Dataset:
        """Features under the present transform."""
        matrix = self.matrix.t()
        return self._loaded.mapped(lambda feats, rows: feats @ matrix, len(self.matrix), self._options.cache_mib)

    def apply(self, gmms: DiagGmms, data: Dataset, assignment: Assignment) -> tuple[DiagGmms, Dataset]:
        """See ``Adaptation``."""
        pieces = assignment.pieces(data, self._options.device, (self._silence, 0.0))
        square, gain = mllt(*mllt_stats(Evaluator(gmms), pieces))
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
    """
    feat_options = FeatLoadOptions(
        cmvn=options.cmvn, deltas=options.deltas, splice_left=options.splice_left, splice_right=options.splice_right
    )
    facts = FeatureFacts.load(Path(data_dir))
    aligned = load_aligned(data_dir, lang, ali_dir, feat_options, options.cache_mib)
    loaded = aligned.data
    pieces = aligned.pieces(weights=(aligned.silence_pdfs(lang), 0.0))
    matrix = lda(pieces, loaded.moments()[0].float(), min(options.dim, loaded.dim))
    adaptation = MlltAdaptation(options.mllt_iters, loaded, matrix, [], options)
    data = adaptation.data()
    tree = make_tree(aligned, data, lang, options.tree, tmp_dir, questions_file)
    adaptation = MlltAdaptation(options.mllt_iters, loaded, matrix, silence_pdfs(tree, lang), options)
    state = train_on_tree(aligned, data, lang, tree, options, tmp_dir, adaptation)
    model = GmmModel(state.gmms, feat_options, facts, adaptation.matrix, config=kept(options), history=state.history)
    model.save(tmp_dir, lang.topo, tree, state.transitions, lang.id)
    clean_up(tmp_dir)
    return summary(state, tree)
