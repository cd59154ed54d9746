"""Closed-form estimation of transition probabilities under a frozen network (Mann et al. 2023, the alternative to
gradients).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.model_meta import Scales
from pipeline.base.errors import ConfigError
from pipeline.feats.dataset import Dataset
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.labels import word_ids
from pipeline.nn.losses import FullSum, Ramp
from pipeline.nn.model import load_acoustic_model, save_acoustic_model
from pipeline.nn.nhmm import long_enough, silence_pdfs
from pipeline.nn.options import TransitionEmOptions
from pipeline.nn.transitions import TransitionNet, check_closed_form

logger = logging.getLogger(__name__)


def estimate_transitions(
    data_dir: Path, lang_dir: Path, model_dir: Path, out: Path, options: TransitionEmOptions
) -> dict[str, Any]:
    """Writes a copy of a network's directory whose transition probabilities fit its expected counts on the data.

    Args:
        data_dir: features of the kind that the model was trained on.
        lang_dir: must have the model's phones and topology.
        model_dir: a neural HMM or a hybrid network; its transitions are where the rounds begin.
    Returns:
        facts for the stamp.
    """
    check_closed_form(options.transitions)
    model, hmm, meta = load_acoustic_model(model_dir)
    if model.transitions is not None and model.transitions.dynamic:
        raise ConfigError(
            f"{model_dir}: its transition probabilities depend on the input; there is no closed form for them"
        )
    lang, facts, trained = Lang.load(lang_dir), FeatureFacts.load(data_dir), meta.scales
    hmm.check_lang(lang, lang_dir)
    facts.kind.check_same(meta.features, data_dir, model_dir)
    scales = Scales(
        options.label_scale or trained.label,
        trained.transition if options.transition_scale is None else options.transition_scale,
        trained.prior,
    )
    whole = Dataset.open(data_dir, meta.feat_options, cache_mib=options.cache_mib)
    graphs = GraphSource(
        lang, hmm.tree, hmm.transitions, word_ids(whole, lang).__getitem__, len(whole), options.cache_mib
    )
    lens = model.encoder.out_lens(torch.from_numpy(whole.lens)).numpy()
    keep = long_enough(data_dir, whole, graphs, lens, options.max_skipped, "--max-skipped is the share that may be")
    data, silence = whole.select(keep), silence_pdfs(hmm.transitions, lang)
    model.transitions = TransitionNet(options.transitions, hmm.transitions, model.encoder.out_dim)
    criterion = FullSum(
        graphs.select(keep),
        silence,
        Ramp(scales.label),
        Ramp(scales.transition),
        Ramp(scales.label * scales.prior),
        prior="transcripts",
    )
    for number in range(1, options.rounds + 1):
        model.transitions.maximise(criterion.transition_counts(model, data))
        logger.info(
            "round %d of %d: speech states are left with %.4f per frame, silence with %.4f",
            number,
            options.rounds,
            *_means(model.transitions, silence),
        )
    model.transitions.export(hmm.transitions)
    save_acoustic_model(
        out,
        model,
        HmmDir(out, hmm.phones, hmm.topo, hmm.tree, hmm.transitions),
        facts.kind,
        meta.feat_options,
        scales,
        criterion=meta.criterion,
        lang_id=meta.lang_id,
        epochs=meta.epochs,
    )
    speech, silent = _means(model.transitions, silence)
    return {"utterances": len(data), "speech_forward": speech, "silence_forward": silent}


def _means(net: TransitionNet, silence: list[int]) -> tuple[float, float]:
    """Mean forward probabilities of speech and silence states."""
    silent = torch.isin(net.pdfs, torch.tensor(silence)).numpy()
    probs = net.forward_probs()
    return float(probs[~silent].mean()), float(probs[silent].mean())
