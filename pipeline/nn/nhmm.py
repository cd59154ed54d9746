"""Neural HMM training from scratch: transcripts, a lexicon and audio in, a model with label and transition
probabilities out.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir, load_hmm
from pipeline.artifacts.model_meta import Scales
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError
from pipeline.feats.dataset import Dataset
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.distributed import World
from pipeline.nn.labels import word_ids
from pipeline.nn.losses import FullSum, Ramp
from pipeline.nn.model import AcousticModel, save_acoustic_model
from pipeline.nn.options import EncoderOptions, NhmmOptions
from pipeline.nn.priors import softmax_prior, transcript_prior
from pipeline.nn.train import Task, clean_up, train
from pipeline.nn.transitions import TransitionNet, check_closed_form

logger = logging.getLogger(__name__)


def train_nhmm(
    data_dir: Path,
    lang_dir: Path,
    out: Path,
    options: NhmmOptions,
    dev_dir: Path | None = None,
    tree_dir: Path | None = None,
) -> dict[str, Any]:
    """Trains a neural HMM by full-sum and writes its model directory.

    Args:
        data_dir: data directory with features.
        lang_dir: pronunciations and topology.
        out: model directory to write; an interrupted training resumes from its checkpoint there.
        dev_dir: utterances for the choice of epochs.
        tree_dir: model or tree directory whose tied labels are used; default: one label per phone state.
    Returns:
        facts for the stamp.
    """
    lang = Lang.load(lang_dir)
    hmm = hmm_for(lang, lang_dir, tree_dir)
    facts = FeatureFacts.load(data_dir)
    if dev_dir is not None:
        facts.kind.check_same(FeatureFacts.load(dev_dir).kind, data_dir, dev_dir)
    data, graphs = _utterances(data_dir, lang, hmm, options)
    silence = silence_pdfs(hmm.transitions, lang)
    model = _first_model(data, graphs, hmm, silence, facts, options)
    dev = None
    if dev_dir is not None:
        dev_data, dev_graphs = _utterances(dev_dir, lang, hmm, options)
        dev = Task(dev_data, criterion_of(dev_graphs, silence, options, lang.blank))
    frames = int((-(-data.lens // options.label_factor)).sum())
    criterion = criterion_of(graphs, silence, options, lang.blank, frames)
    history = train(model, Task(data, criterion), dev, options, out, facts.frame_shift)
    if World.current().rank:
        return {}
    model.cpu()
    finish_transitions(model, hmm.transitions, data)
    if options.prior in ("none", "softmax"):  # of the final model, which no epoch had
        model.log_prior.copy_(softmax_prior(model, data.batches(20_000, 64)))
    kappa = options.prior_scale if options.prior != "none" else 0.0
    scales = Scales(options.label_scale, options.transition_scale, kappa / options.label_scale)
    save_acoustic_model(
        out,
        model,
        hmm,
        facts.kind,
        options.feat_options(),
        scales,
        criterion="full_sum",
        lang_id=lang.id,
        epochs=history,
    )
    clean_up(out)
    return _facts(model, hmm.transitions, silence, history, len(data))


def _first_model(
    data: Dataset, graphs: GraphSource, hmm: HmmDir, silence: list[int], facts: FeatureFacts, options: NhmmOptions
) -> AcousticModel:
    """A model with random parameters, first transition probabilities, and the prior of the transcripts if it is to have
    that.
    """
    torch.manual_seed(options.seed)
    model = AcousticModel(data.dim, hmm.tree.num_pdfs, encoder_options(options))
    model.set_normalisation(*World.current().of_first(data.moments))
    model.transitions = TransitionNet(
        options.transitions,
        hmm.transitions,
        model.encoder.out_dim,
        options.transition_init,
        options.label_factor,
        options.transition_dim,
    )
    model.transition_rate = options.transition_rate
    if options.transition_update == "em":
        check_closed_form(options.transitions)
        model.transitions.requires_grad_(False)
    if options.prior == "transcripts":
        speech = np.isin(hmm.transitions.pdf, silence, invert=True)
        per_phone = float(hmm.transitions.num_states_of[hmm.transitions.phone[speech]].mean())
        frames = int(model.encoder.out_lens(torch.from_numpy(data.lens)).sum())
        shift = facts.frame_shift * options.label_factor
        blocks = (block.graphs for _, block in graphs.blocks())
        model.log_prior.copy_(transcript_prior(blocks, silence, frames, per_phone, shift))
    return model


def hmm_for(lang: Lang, lang_dir: Path, tree_dir: Path | None) -> HmmDir:
    """The labels of a model: those of a tree directory, or one per phone state of the lang."""
    if tree_dir is not None:
        hmm = load_hmm(tree_dir)
        hmm.check_lang(lang, lang_dir)
        return hmm
    tree = monophone_tree(lang.phones, lang.topo)
    return HmmDir(Path(lang_dir), lang.phones, lang.topo, tree, TransitionModel(tree, lang.topo))


def encoder_options(options: EncoderOptions) -> EncoderOptions:
    """The encoder's share of a step's options."""
    names = asdict(EncoderOptions())
    return EncoderOptions(**{name: getattr(options, name) for name in names})


def silence_pdfs(transitions: TransitionModel, lang: Lang) -> list[int]:
    """Labels of the silence phone, ascending."""
    return sorted(set(transitions.pdf[transitions.phone == lang.silence_id].tolist()))


def finish_transitions(model: AcousticModel, transitions: TransitionModel, data: Dataset) -> None:
    """Brings the trained probabilities into transitions.json: as they are, or as their mean over the data."""
    net = model.transitions
    assert net is not None
    if not net.dynamic:
        net.export(transitions)
        return
    total, frames = np.zeros(len(transitions.phone)), 0
    with torch.no_grad():
        for batch in data.batches(20_000, 64):
            encoded, lens = model.encode(batch.feats, batch.lens)
            mask = torch.arange(encoded.shape[1])[None, :] < lens[:, None]
            total += net(encoded, lens)[..., 1::2].exp()[mask].double().sum(0).numpy()
            frames += int(mask.sum())
    net.export(transitions, total / frames)


def _utterances(data_dir: Path, lang: Lang, hmm: HmmDir, options: NhmmOptions) -> tuple[Dataset, GraphSource]:
    """The utterances that are long enough for their text, and their graphs."""
    data = Dataset.open(data_dir, options.feat_options(), cache_mib=options.cache_mib)
    graphs = GraphSource(
        lang, hmm.tree, hmm.transitions, word_ids(data, lang).__getitem__, len(data), options.cache_mib
    )
    lens = -(-data.lens // options.label_factor)
    cure = "a lower --subsampling or a topology with fewer states would admit them"
    keep = long_enough(data_dir, data, graphs, lens, options.max_skipped, cure)
    return (data, graphs) if keep.all() else (data.select(keep), graphs.select(keep))


def long_enough(
    data_dir: Path, data: Dataset, graphs: GraphSource, lens: np.ndarray, max_short: float, cure: str
) -> np.ndarray:
    """(N,) bool, which utterances are as long as their HMM; a warning when some are shorter.

    Args:
        lens: (N,) label frames.
        max_short: DataError when a larger share is shorter.
        cure: what the error advises.
    """
    keep = lens >= graphs.min_frames
    if keep.all():
        return keep
    short, first = int((~keep).sum()), int(np.argmin(keep))
    text = (
        f"{data_dir}: {short:,} of {len(lens):,} utterances are shorter than their HMM, the first: "
        f"{data.id(first)!r}, {lens[first]} label frames for at least {graphs.min_frames[first]} states"
    )
    if short > max_short * len(lens):
        raise DataError(f"{text}; {cure}")
    logger.warning("%s", text)
    return keep


def criterion_of(
    graphs: GraphSource, silence: list[int], options: NhmmOptions, blank: bool, frames: int | None = None
) -> FullSum:
    """The criterion of some graphs.

    Args:
        blank: silence is CTC's blank, which rightly takes nearly everything: no watch over collapse.
        frames: label frames of the training data, with what only these need: a flat start, transitions by EM, a watch
            over the length of phones; None: dev data.
    """
    return FullSum(
        graphs,
        [] if blank else silence,
        Ramp(options.label_scale, options.label_scale_start),
        Ramp(options.transition_scale, options.transition_scale_start),
        Ramp(options.prior_scale, options.prior_scale_start),
        options.prior,
        options.flat_start_epochs / options.epochs if frames else 0.0,
        silence,
        bool(frames) and options.transition_update == "em",
        float(graphs.min_frames.sum()) / frames if frames and not blank else 0.0,
    )


def _facts(
    model: AcousticModel,
    transitions: TransitionModel,
    silence: list[int],
    history: list[dict[str, float]],
    num_utterances: int,
) -> dict[str, Any]:
    speech = ~np.isin(transitions.pdf, silence)
    return {
        "utterances": num_utterances,
        "parameters": sum(p.numel() for p in model.parameters()),
        "speech_forward": float(transitions.forward_prob[speech].mean()),
        "silence_forward": float(transitions.forward_prob[~speech].mean()),
        **{k: v for k, v in history[-1].items() if k in ("loss", "dev_loss", "silence", "skipped")},
    }
