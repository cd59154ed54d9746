"""Tied triphones (or wider contexts, or graphemes) from an alignment: tree, first mixtures, training."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import MismatchError
from pipeline.base.files import write_json
from pipeline.feats.options import FeatLoadOptions
from pipeline.gmm.assign import Aligner
from pipeline.gmm.cluster import build_tree
from pipeline.gmm.data import Corpus, gather_tids, load_corpus
from pipeline.gmm.em import single_gaussians
from pipeline.gmm.model import GmmModel
from pipeline.gmm.mono import meta, silence_pdfs, summary
from pipeline.gmm.options import DeltasOptions, LdaMlltOptions, TreeOptions, TriphoneOptions
from pipeline.gmm.questions import cluster_phones, load_questions, save_questions
from pipeline.gmm.stats import FrameLabels
from pipeline.gmm.train import Adaptation, State, train
from pipeline.gmm.transforms import lda, mllt, mllt_stats, transform_means
from pipeline.gmm.tree_stats import accumulate_tree, convert_tids

logger = logging.getLogger(__name__)

QUESTIONS, TREE_STATS = "questions.txt", "tree_stats.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Aligned:
    """A corpus with an alignment of it: (sum of T,) transition-ids and (N,) which utterances have one."""

    corpus: Corpus
    ali: AliSet
    tids: np.ndarray
    done: np.ndarray

    @property
    def transitions(self) -> TransitionModel:
        return self.ali.transitions

    def labels(self) -> FrameLabels:
        """Frames by pdf-id of the alignment's own tree."""
        pdf = self.transitions.tid_pdf()[np.maximum(self.tids, 0)]
        return FrameLabels.from_pdfs(np.where(self.tids >= 0, pdf, -1), self.transitions.num_pdfs)

    def silence_pdfs(self, lang: Lang) -> list[int]:
        """pdf-ids of silence in the alignment's own tree."""
        return sorted({int(p) for p in self.transitions.pdf[self.transitions.phone == lang.silence_id]})


def load_aligned(
    data_dir: str | Path, lang: Lang, ali_dir: str | Path, options: FeatLoadOptions, device: str
) -> Aligned:
    """Loads features, transcripts and an alignment; MismatchError when it was made with another lang."""
    ali = AliSet.load(ali_dir)
    check_same("topo", ali.header.topo_id, ali_dir, lang.topo.id, "the lang directory")
    if ali.transitions.phones != lang.phones:
        raise MismatchError(f"{ali_dir} and the lang directory do not belong together: their phones.txt differ")
    corpus = load_corpus(data_dir, lang, options, device)
    tids, done = gather_tids(ali, corpus.cut_ids, corpus.offsets)
    if not done.all():
        logger.warning(
            "%s: %d of %d utterances have no alignment; they join at the first realignment",
            ali_dir,
            int((~done).sum()),
            len(done),
        )
    return Aligned(corpus, ali, tids, done)


def make_tree(
    aligned: Aligned,
    feats: torch.Tensor,
    lang: Lang,
    options: TreeOptions,
    out_dir: Path,
    questions_file: Path | None = None,
) -> Tree:
    """Builds a tree from an alignment and writes questions.txt and tree_stats.json beside it.

    Args:
        feats: (sum of T, F) features to cluster by.
        questions_file: questions to ask; None: clusters of phones.
    """
    stats = accumulate_tree(
        feats, aligned.tids, aligned.corpus.offsets, aligned.transitions, lang.topo, options.left, options.right
    )
    questions = load_questions(questions_file, lang.phones) if questions_file else cluster_phones(stats, lang)
    tree, facts = build_tree(stats, questions, lang, options)
    save_questions(out_dir / QUESTIONS, questions, lang.phones)
    write_json(out_dir / TREE_STATS, facts)
    return tree


def train_on_tree(
    aligned: Aligned,
    feats: torch.Tensor,
    lang: Lang,
    tree: Tree,
    options: TriphoneOptions,
    tmp_dir: Path,
    adaptation: Adaptation | None = None,
) -> State:
    """Trains mixtures for the leaves of a tree, starting from one Gaussian each and the alignment converted to it.

    Args:
        feats: (sum of T, D) features to start with.
        adaptation: a transform that is estimated along the way.
    """
    corpus = aligned.corpus
    transitions = TransitionModel(tree, lang.topo)
    data = corpus.train_set(lang, tree, transitions, feats)
    tids = convert_tids(aligned.tids, corpus.offsets, aligned.transitions, transitions, lang.topo, tree)
    aligner = Aligner(data, tree.num_pdfs, transitions.tid_pdf())
    frames = int((tids >= 0).sum())
    first = aligner.from_tids(tids, 0.0, frames, aligned.done)
    first.check(len(data), options.max_failed, "initial alignment")
    gmms = single_gaussians(feats, first.labels, options.min_var)
    return train(data, gmms, transitions, first, options, silence_pdfs(tree, lang), tmp_dir, adaptation)


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
    aligned = load_aligned(data_dir, lang, ali_dir, feat_options, options.device)
    feats = aligned.corpus.feats
    tree = make_tree(aligned, feats, lang, options.tree, tmp_dir, questions_file)
    state = train_on_tree(aligned, feats, lang, tree, options, tmp_dir)
    model = GmmModel(state.gmms, feat_options, aligned.corpus.facts, meta=meta(options, state))
    model.save(tmp_dir, lang.topo, tree, state.transitions, lang.id)
    return summary(state, tree)


class MlltAdaptation:
    """Estimates MLLT again in some iterations and keeps the product with LDA."""

    def __init__(self, iters: tuple[int, ...], loaded: torch.Tensor, matrix: torch.Tensor, silence: list[int]) -> None:
        """Args:
        loaded: (sum of T, F) spliced features.
        matrix: (D, F) LDA.
        silence: pdfs whose frames do not count.
        """
        self.iters, self._loaded, self.matrix, self._silence = iters, loaded, matrix, silence

    def apply(self, gmms, feats, assignment):
        from pipeline.gmm.diag import Evaluator

        square, gain = mllt(*mllt_stats(Evaluator(gmms), feats, assignment.labels.weighted(self._silence, 0.0)))
        logger.info("MLLT: objective gains %.4f per frame", gain)
        square = torch.from_numpy(square)
        self.matrix = (square @ self.matrix.double()).float()
        return transform_means(gmms, square), self._loaded @ self.matrix.t()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"matrix": self.matrix}

    def restore(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        self.matrix = tensors["matrix"]
        return self._loaded @ self.matrix.t()


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
    aligned = load_aligned(data_dir, lang, ali_dir, feat_options, options.device)
    loaded = aligned.corpus.feats
    labels = aligned.labels().weighted(aligned.silence_pdfs(lang), 0.0)
    matrix = lda(loaded, labels, min(options.dim, loaded.shape[1]))
    feats = loaded @ matrix.t()
    tree = make_tree(aligned, feats, lang, options.tree, tmp_dir, questions_file)
    adaptation = MlltAdaptation(options.mllt_iters, loaded, matrix, silence_pdfs(tree, lang))
    state = train_on_tree(aligned, feats, lang, tree, options, tmp_dir, adaptation)
    model = GmmModel(state.gmms, feat_options, aligned.corpus.facts, adaptation.matrix, meta=meta(options, state))
    model.save(tmp_dir, lang.topo, tree, state.transitions, lang.id)
    return summary(state, tree)
