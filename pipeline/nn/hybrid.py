"""Viterbi training: a network learns the labels of an alignment frame by frame, whichever model made it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir, load_hmm
from pipeline.base.errors import DataError
from pipeline.feats.facts import FeatureFacts
from pipeline.feats.load import load_packed
from pipeline.hmm import viterbi
from pipeline.hmm.compile import compile_graphs
from pipeline.nn.data import UtteranceSet
from pipeline.nn.labels import SPEED_SLACK, check_missing, fitted, frames_per_label, with_speeds
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.model import AcousticModel, Scales, feature_facts, save_acoustic_model
from pipeline.nn.nhmm import encoder_options, transcripts
from pipeline.nn.options import ViterbiOptions
from pipeline.nn.priors import label_prior
from pipeline.nn.train import Task, clean_up, train

logger = logging.getLogger(__name__)


def train_viterbi(
    data_dir: Path,
    lang_dir: Path,
    ali_dir: Path,
    out: Path,
    options: ViterbiOptions,
    dev_dir: Path | None = None,
    dev_ali_dir: Path | None = None,
) -> dict[str, Any]:
    """Trains a network by cross-entropy on an alignment and writes its model directory.

    Args:
        data_dir: data directory with features.
        lang_dir: must have the phones and topology of the alignment.
        ali_dir: alignment of the training data; its tree and transitions become the model's. Utterances at another
            speed (``pipeline.feats.augment``) take the labels of the original, stretched.
        out: model directory to write; checkpoints of an interrupted training in it are gone on from.
        dev_dir, dev_ali_dir: the same for the choice of epochs.
    Returns:
        facts for the stamp.
    """
    lang, hmm, facts, sets = load_labelled(data_dir, lang_dir, ali_dir, options, dev_dir, dev_ali_dir)
    data = sets[0][1]
    model = first_model(data, hmm, options)
    history, changed = _train_rounds(model, sets, lang, hmm, options, out, facts.frame_shift)
    save_acoustic_model(
        out,
        model.cpu(),
        hmm,
        feature_facts(facts),
        options.feat_options(),
        Scales(),
        {"criterion": "cross_entropy", "lang_id": lang.id, "ali": str(ali_dir), "epochs": history},
    )
    clean_up(out)
    return {
        "utterances": len(data),
        "parameters": sum(p.numel() for p in model.parameters()),
        **changed,
        **{k: v for k, v in history[-1].items() if k in ("loss", "accuracy", "dev_loss", "dev_accuracy")},
    }


Labelled = tuple[Path, UtteranceSet, list[np.ndarray]]


def load_labelled(
    data_dir: Path,
    lang_dir: Path,
    ali_dir: Path,
    options: ViterbiOptions,
    dev_dir: Path | None = None,
    dev_ali_dir: Path | None = None,
) -> tuple[Lang, HmmDir, FeatureFacts, list[Labelled]]:
    """What a training on an alignment reads; arguments as for ``train_viterbi``.

    Returns:
        lang, the alignment's HMM, facts of the features; the training data with their labels, then the dev data, if
        any.
    """
    lang, hmm, facts = Lang.load(lang_dir), load_hmm(ali_dir), FeatureFacts.load(data_dir)
    hmm.check_lang(lang, lang_dir)
    sets = [(data_dir, *_utterances(data_dir, ali_dir, hmm, facts, options))]
    if dev_dir is not None:
        if dev_ali_dir is None:
            raise DataError(f"{dev_dir}: dev data need an alignment as well (--dev-ali)")
        facts.check_same_kind(FeatureFacts.load(dev_dir), data_dir, dev_dir)
        sets.append((dev_dir, *_utterances(dev_dir, dev_ali_dir, hmm, facts, options)))
    return lang, hmm, facts, sets


def first_model(data: UtteranceSet, hmm: HmmDir, options: ViterbiOptions) -> AcousticModel:
    """A model with random parameters and the normalisation of the data; equal seeds give equal models."""
    torch.manual_seed(options.seed)
    model = AcousticModel(data.packed.feats.shape[1], hmm.tree.num_pdfs, encoder_options(options))
    model.set_normalisation(data.packed.feats)
    return model


def _train_rounds(
    model: AcousticModel,
    sets: list[Labelled],
    lang: Lang,
    hmm: HmmDir,
    options: ViterbiOptions,
    out: Path,
    frame_shift: float,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Trains on the alignment, then on what the model itself aligns, round by round.

    Args:
        sets: the training data with their labels, then the dev data, if there are any.
    Returns:
        figures of all epochs, and for each round the share of labels that the realignment changed.
    """
    history: list[dict[str, float]] = []
    changed: dict[str, float] = {}
    for number in range(options.realign_rounds + 1):
        work, round_options = out, options
        if number:
            realigned = [
                (where, data, realign(model.cpu(), hmm, lang, where, data, labels)) for where, data, labels in sets
            ]
            old, new = (np.concatenate(s[0][2]) for s in (sets, realigned))
            changed[f"changed_{number}"] = float((old != new).mean())
            logger.info(
                "round %d: realignment has changed %.1f %% of the labels", number, 100 * changed[f"changed_{number}"]
            )
            sets, work = realigned, out / f"round{number}"
            round_options = replace(options, epochs=options.realign_epochs, seed=options.seed + 1000 * number)
        model.log_prior.copy_(label_prior(sets[0][2], hmm.tree.num_pdfs))
        dev = Task(sets[1][1], CrossEntropy(sets[1][2])) if len(sets) > 1 else None
        data, labels = sets[0][1:]
        if options.chunk_seconds:
            size = chunk_frames(options, frame_shift)
            data, labels = data.chunks(size), chunk_labels(labels, size // options.label_factor)
        criterion = CrossEntropy(labels, options.label_smoothing, options.focal)
        history += train(model, Task(data, criterion), dev, round_options, work, frame_shift)
    for number in range(1, options.realign_rounds + 1):
        shutil.rmtree(out / f"round{number}")
    return history, changed


@torch.no_grad()
def realign(
    model: AcousticModel, hmm: HmmDir, lang: Lang, data_dir: Path, data: UtteranceSet, labels: list[np.ndarray]
) -> list[np.ndarray]:
    """Labels by the model's own Viterbi alignment; utterances without a path keep what they have.

    Scores are log posterior minus log prior; transitions are those of the alignment that the model was trained on.
    """
    model.eval()
    graphs = compile_graphs(lang, hmm.tree, hmm.transitions, transcripts(data_dir, lang, data.ids))
    transitions = torch.from_numpy(hmm.transitions.log_probs())
    out = list(labels)
    for batch in data.batches(20_000, 64):
        log_post, lens = model(batch.feats, batch.lens)
        best = viterbi(graphs.graphs[batch.indices], log_post - model.log_prior, lens, transitions)
        for row, index in enumerate(batch.indices):
            if np.isfinite(float(best.scores[row])):
                out[index] = best.pdfs[row, : int(lens[row])].numpy().astype(labels[index].dtype)
    return out


def chunk_frames(options: ViterbiOptions, frame_shift: float) -> int:
    """Feature frames of a chunk, a whole number of label frames."""
    return max(1, round(options.chunk_seconds / (frame_shift * options.label_factor))) * options.label_factor


def chunk_labels(labels: list[np.ndarray], size: int) -> list[np.ndarray]:
    """Labels of all chunks of `size` label frames, in the order of ``UtteranceSet.chunks``."""
    return [row[i : i + size] for row in labels for i in range(0, len(row), size)]


def _utterances(
    data_dir: Path, ali_dir: Path, hmm: HmmDir, facts: FeatureFacts, options: ViterbiOptions
) -> tuple[UtteranceSet, list[np.ndarray]]:
    """The aligned utterances of a data directory and their labels at the label frame rate."""
    ali = AliSet.load(ali_dir)
    ali.check_tree(hmm.tree, hmm.topo, hmm.directory)
    factor = frames_per_label(ali, facts.frame_shift, options.label_factor, data_dir)
    packed = load_packed(data_dir, options.feat_options())
    found = with_speeds(ali, packed.cut_ids)
    check_missing(packed.cut_ids, found, ali, data_dir, options.max_skipped)
    data = UtteranceSet(packed, [i for i, cut_id in enumerate(packed.cut_ids) if cut_id in found])
    labels = []
    for cut_id, length in zip(data.ids, data.lens):
        frames = found[cut_id].pdf_ids(cut_id, factor, options.majority)
        expected = -(-int(length) // options.label_factor)
        slack = 0 if found[cut_id] is ali else SPEED_SLACK
        labels.append(fitted(frames, expected, slack, cut_id, ali, data_dir))
    return data, labels
