"""Monophone models from a flat start."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree, monophone_tree
from pipeline.base.errors import DataError
from pipeline.gmm.assign import Aligner
from pipeline.gmm.blocks import moments, open_shared
from pipeline.gmm.data import graphs_of
from pipeline.gmm.diag import Evaluator
from pipeline.gmm.em import global_gaussian, update
from pipeline.gmm.model import GmmModel
from pipeline.gmm.options import GmmOptions, MonoOptions
from pipeline.gmm.stats import accumulate_blocks
from pipeline.gmm.train import State, clean_up, train
from pipeline.nn.distributed import World

logger = logging.getLogger(__name__)


def train_mono(data_dir: str | Path, lang: Lang, options: MonoOptions, tmp_dir: Path) -> dict[str, Any]:
    """Trains one mixture per phone and pdf-class, and writes the model directory.

    Flat start: all pdfs are the Gaussian of all frames; the first alignment gives the states of each utterance equal
    shares of its frames. cf. Kaldi train_mono.sh.

    Args:
        lang: its position-dependent phones share their mixtures.
        tmp_dir: gets the model, and checkpoints while training.
    Returns:
        Facts for the stamp.
    """
    feat_options = FeatLoadOptions(cmvn=options.cmvn, deltas=options.deltas)
    facts = FeatureFacts.load(Path(data_dir))
    data, blocks = open_shared(data_dir, feat_options, options.cache_mib, World.current())
    blocks.check(data_dir)
    tree = monophone_tree(lang.phones, lang.topo, lang.base_phones())
    transitions = TransitionModel(tree, lang.topo)
    graphs = graphs_of(data, lang, tree, transitions, options.cache_mib)
    aligner = Aligner(data, graphs, transitions, options.device, blocks.directory(tmp_dir), blocks)
    first = aligner.equal(options.seed)
    first.check(blocks.count, options.max_failed, "flat start")
    if not first.frames:
        raise DataError(f"{data_dir}: every utterance is shorter than its HMM")
    start = global_gaussian(moments(data, blocks), tree.num_pdfs, options.min_var).to(options.device)
    stats = accumulate_blocks(Evaluator(start), blocks, lambda rows: first.pieces(data, options.device, rows=rows))
    gmms, _ = update(start, stats, options.flat_min_count, options.min_weight, options.min_var)
    state = train(aligner, gmms, transitions, first, options, silence_pdfs(tree, lang))
    if blocks.others():
        return {}
    model = GmmModel(state.gmms, feat_options, facts, config=kept(options), history=state.history)
    model.save(tmp_dir, lang.topo, tree, transitions, lang.id)
    clean_up(tmp_dir)
    return summary(state, tree)


def silence_pdfs(tree: Tree, lang: Lang) -> list[int]:
    """pdf-ids of the silence phone."""
    classes = set(lang.topo[lang.phones.name(lang.silence_id)].pdf_classes)
    return sorted({p for c in classes for p in tree.pdfs_of(lang.silence_id, c)})


def kept(options: GmmOptions) -> dict[str, Any]:
    """The options that model.json keeps: those that can change the model."""
    config = dataclasses.asdict(options)
    config.pop("device")
    config.pop("cache_mib")
    return config


def summary(state: State, tree: Tree) -> dict[str, Any]:
    """Facts for the stamp, also logged."""
    last = state.history[-1]
    facts = {
        "num_pdfs": tree.num_pdfs,
        "num_gauss": state.gmms.num_gauss,
        "log_like_per_frame": round(last["log_like"], 4),
        "frames": state.assignment.frames,
        "failed": len(state.assignment.failed),
    }
    logger.info(
        "%d pdfs, %d Gaussians, log-likelihood per frame %.3f over %s frames, %d utterances failed",
        *(facts["num_pdfs"], facts["num_gauss"], facts["log_like_per_frame"], f"{facts['frames']:,}", facts["failed"]),
    )
    return facts
