"""Adaptation of trained mixtures to other speakers and recordings: means between the old ones and those of the data."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.model_meta import GmmMeta, load_meta
from pipeline.base.errors import ConfigError
from pipeline.feats.dataset import Dataset
from pipeline.gmm.assign import Aligner, boosted
from pipeline.gmm.data import graphs_of
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.model import GmmModel, check_features
from pipeline.gmm.mono import silence_pdfs
from pipeline.gmm.options import AdaptOptions
from pipeline.gmm.sat import base_features
from pipeline.gmm.stats import GmmStats, accumulate
from pipeline.gmm.train import clean_up

logger = logging.getLogger(__name__)


def map_means(gmms: DiagGmms, stats: GmmStats, tau: float) -> DiagGmms:
    """Maximum-a-posteriori estimate of the means; weights and variances stay.

    mean = (first + tau * prior mean) / (occ + tau): the old model counts as much as tau frames of each Gaussian
    (Gauvain and Lee 1994, MAP estimation of mixtures, with one weight for all priors), so a Gaussian without frames
    stays where it is. cf. Kaldi steps/train_map.sh (gmm-ismooth-stats --smooth-from-model --tau, gmm-est
    --update-flags=m), which the Montreal Forced Aligner's adaptation follows.

    Args:
        gmms: the prior.
        stats: frames with the posteriors of its Gaussians, or of ones adapted before.
        tau: frames, above 0.
    """
    prior = gmms.means.double().cpu()
    means = (stats.first + tau * prior) / (stats.occ + tau)[:, None]
    return dataclasses.replace(gmms, means=means.to(gmms.device))


def adapt(
    data_dir: str | Path, lang: Lang, model_dir: str | Path, options: AdaptOptions, out_dir: Path
) -> dict[str, Any]:
    """Writes a model directory with means adapted to the transcripts of a data directory.

    Args:
        data_dir: features of the model's kind.
        lang: pronunciations of all words; must have the model's phones.
        model_dir: mixtures that were not trained with speaker transforms.
        out_dir: existing directory; gets the model.
    Returns:
        log-likelihood per frame of the best paths, transitions included, before and after; frames, utterances and
        failed ones; share of Gaussians that a frame or more belongs to.
    Raises:
        ConfigError: a model with speaker transforms. MismatchError: features or lang of another kind.
    """
    model, hmm = GmmModel.load(model_dir), load_hmm(model_dir)
    hmm.check_lang(lang, "the lang directory")
    check_features(model, model_dir, data_dir)
    if model.adapted:
        raise ConfigError(
            f"{model_dir} was trained with speaker transforms; it adapts to each speaker when it aligns, so its means "
            "are left alone"
        )
    loaded = Dataset.open(data_dir, model.feat_options, cache_mib=options.cache_mib)
    data = base_features(model, loaded, options.cache_mib)
    graphs = graphs_of(data, lang, hmm.tree, hmm.transitions, options.cache_mib)
    aligner = Aligner(data, graphs, hmm.transitions, options.device, out_dir)
    silence = silence_pdfs(hmm.tree, lang)
    log_probs = torch.from_numpy(hmm.transitions.log_probs()).to(options.device)
    prior = gmms = model.gmms.to(options.device)
    found = []
    for number in range(options.passes + 1):  # the last one tells how the adapted mixtures fit
        assignment = aligner.viterbi(boosted(gmms, silence, options.boost_silence), log_probs, options.beam)
        assignment.check(len(data), options.max_failed, f"alignment {number + 1}")
        found.append(assignment.log_like / max(assignment.frames, 1))
        if number < options.passes:
            stats = accumulate(Evaluator(gmms), assignment.pieces(data, options.device))
            gmms = map_means(prior, stats, options.tau)
    clean_up(out_dir)
    config = {**model.config, "adapted_with": {"tau": options.tau, "passes": options.passes}}
    adapted = dataclasses.replace(model, gmms=gmms.to("cpu"), config=config)
    lang_id = load_meta(model_dir, GmmMeta).lang_id
    adapted.save(out_dir, hmm.topo, hmm.tree, hmm.transitions, lang_id)
    logger.info("log-likelihood per frame %.3f, adapted %.3f", found[0], found[-1])
    return {
        "log_like_before": found[0],
        "log_like_after": found[-1],
        "frames": assignment.frames,
        "utterances": len(data) - len(assignment.failed),
        "failed": len(assignment.failed),
        "gaussians_seen": float((stats.occ >= 1.0).double().mean()),
    }
