"""Viterbi training: a network learns the labels of an alignment frame by frame, whichever model made it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir, load_hmm
from pipeline.artifacts.model_meta import Scales
from pipeline.base.errors import DataError
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import ChunkFrames
from pipeline.hmm import viterbi
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.distributed import World
from pipeline.nn.labels import (
    AlignedCuts,
    LabelFile,
    Lazy,
    aligned_labels,
    check_missing,
    frames_per_label,
    word_ids,
)
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.model import AcousticModel, save_acoustic_model
from pipeline.nn.nhmm import encoder_options
from pipeline.nn.options import ViterbiOptions
from pipeline.nn.priors import label_prior
from pipeline.nn.step import lowest_entropy
from pipeline.nn.train import Task, clean_up, train
from pipeline.nn.transitions import at_frame_rate

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
        ali_dir: alignment of the training data; its tree and transitions become the model's, the latter at the frame
            rate of the labels. Utterances at another speed (``pipeline.feats.augment``) take the labels of the
            original, stretched.
        out: model directory to write; an interrupted training resumes from its checkpoint there.
        dev_dir, dev_ali_dir: the same for the choice of epochs.
    Returns:
        facts for the stamp.
    """
    lang, hmm, facts, sets = load_labelled(data_dir, lang_dir, ali_dir, options, dev_dir, dev_ali_dir)
    data = sets[0].data
    model = first_model(data, hmm, options)
    history, changed = _train_rounds(model, sets, lang, hmm, options, out, facts.frame_shift)
    if World.current().rank:
        return {}
    save_acoustic_model(
        out,
        model.cpu(),
        hmm,
        facts.kind,
        options.feat_options(),
        Scales(),
        criterion="cross_entropy",
        lang_id=lang.id,
        ali=str(ali_dir),
        epochs=history,
    )
    clean_up(out)
    return {
        "utterances": len(data),
        "parameters": sum(p.numel() for p in model.parameters()),
        **changed,
        **{k: v for k, v in history[-1].items() if k in ("loss", "accuracy", "dev_loss", "dev_accuracy")},
        **lowest_entropy(history[-1]),
    }


class Labelled(NamedTuple):
    """Utterances, and the labels of each at the label frame rate.

    Attributes:
        lens: (N,) int64 numbers of the labels.
    """

    data: Dataset
    labels: Sequence[np.ndarray]
    lens: np.ndarray


def load_labelled(
    data_dir: Path,
    lang_dir: Path,
    ali_dir: Path,
    options: ViterbiOptions,
    dev_dir: Path | None = None,
    dev_ali_dir: Path | None = None,
    model_dir: Path | None = None,
) -> tuple[Lang, HmmDir, FeatureFacts, list[Labelled]]:
    """What a training on an alignment reads; arguments as for ``train_viterbi``.

    Args:
        model_dir: the model that is trained further, whose frame rate is given; None: options decide it.
    Returns:
        lang, HMM, see ``label_hmm``, facts of the features; the training data with their labels, then the dev data, if
        any.
    """
    lang, facts = Lang.load(lang_dir), FeatureFacts.load(data_dir)
    hmm = label_hmm(ali_dir, data_dir, options, model_dir)
    hmm.check_lang(lang, lang_dir)
    sets = [_utterances(data_dir, ali_dir, hmm, facts, options, model_dir)]
    if dev_dir is not None:
        if dev_ali_dir is None:
            raise DataError(f"{dev_dir}: dev data need an alignment as well (--dev-ali)")
        facts.kind.check_same(FeatureFacts.load(dev_dir).kind, data_dir, dev_dir)
        sets.append(_utterances(dev_dir, dev_ali_dir, hmm, facts, options, model_dir))
    return lang, hmm, facts, sets


def label_hmm(ali_dir: Path, data_dir: Path, options: ViterbiOptions, model_dir: Path | None = None) -> HmmDir:
    """An alignment's HMM, with its transition probabilities at the frame rate of the labels; MismatchError when labels
    cannot be taken from the alignment. model_dir: see ``load_labelled``.
    """
    hmm, shift = load_hmm(ali_dir), FeatureFacts.load(data_dir).frame_shift
    rate = frames_per_label(AliSet.load(ali_dir), shift, options.label_factor, data_dir, model_dir)
    if rate > 1:
        hmm.transitions.forward_prob = at_frame_rate(hmm.transitions.forward_prob, rate)
    return hmm


def first_model(data: Dataset, hmm: HmmDir, options: ViterbiOptions) -> AcousticModel:
    """A model with random parameters and the normalisation of the data; equal seeds give equal models."""
    torch.manual_seed(options.seed)
    model = AcousticModel(data.dim, hmm.tree.num_pdfs, encoder_options(options))
    model.set_normalisation(*World.current().of_first(data.moments))
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
            realigned = [realign(model.cpu(), hmm, lang, own, out) for own in sets]
            changed[f"changed_{number}"] = share_changed(sets[0].labels, realigned[0].labels)
            logger.info(
                "round %d: realignment has changed %.1f %% of the labels", number, 100 * changed[f"changed_{number}"]
            )
            sets, work = realigned, out / f"round{number}"
            round_options = replace(options, epochs=options.realign_epochs, seed=options.seed + 1000 * number)
        model.log_prior.copy_(label_prior(sets[0].labels, hmm.tree.num_pdfs))
        dev = Task(sets[1].data, CrossEntropy(sets[1].labels)) if len(sets) > 1 else None
        data, labels = sets[0].data, sets[0].labels
        if options.chunk_seconds:
            data, labels = in_chunks(sets[0], chunk_frames(options, frame_shift), options.label_factor)
        criterion = CrossEntropy(labels, options.label_smoothing, options.focal)
        history += train(model, Task(data, criterion), dev, round_options, work, frame_shift)
    for number in range(1, options.realign_rounds + 1):
        if not World.current().rank:
            shutil.rmtree(out / f"round{number}")
    return history, changed


@torch.no_grad()
def realign(model: AcousticModel, hmm: HmmDir, lang: Lang, own: Labelled, directory: Path) -> Labelled:
    """Labels by the model's own Viterbi alignment; utterances without a path keep what they have.

    Scores are log posterior minus log prior; transitions are those of the alignment that the model was trained on, at
    the frame rate of the labels.

    Args:
        directory: for the temporary file that holds the labels.
    """
    model.eval()
    graphs = GraphSource(lang, hmm.tree, hmm.transitions, word_ids(own.data, lang).__getitem__, len(own.data))
    transitions = torch.from_numpy(hmm.transitions.log_probs())
    out = LabelFile(directory, own.lens)
    for batch in own.data.batches(20_000, 64):
        log_post, lens = model(batch.feats, batch.lens)
        best = viterbi(graphs.of(batch.indices).graphs, log_post - model.log_prior, lens, transitions)
        for row, index in enumerate(batch.indices):
            found = np.isfinite(float(best.scores[row]))
            out[index] = best.pdfs[row, : int(lens[row])].numpy() if found else own.labels[index]
    return own._replace(labels=out)


def share_changed(old: Iterable[np.ndarray], new: Iterable[np.ndarray]) -> float:
    """Share of labels that differ."""
    changed, total = 0, 0
    for before, after in zip(old, new):
        changed, total = changed + int((before != after).sum()), total + len(before)
    return changed / max(total, 1)


def chunk_frames(options: ViterbiOptions, frame_shift: float) -> int:
    """Feature frames of a chunk, a whole number of label frames."""
    return max(1, round(options.chunk_seconds / (frame_shift * options.label_factor))) * options.label_factor


def in_chunks(own: Labelled, size: int, factor: int) -> tuple[Dataset, Sequence[np.ndarray]]:
    """The same frames and labels in pieces, each an utterance of its own.

    Args:
        size: feature frames of a piece, a multiple of `factor`.
        factor: feature frames per label.
    """
    data = own.data.chunks(size)
    assert isinstance(data.frames, ChunkFrames), type(data.frames)
    parent, first = data.frames.parent, data.frames.begin // factor
    return data, Lazy(len(data), lambda i: own.labels[parent[i]][first[i] : first[i] + size // factor])


def _utterances(
    data_dir: Path,
    ali_dir: Path,
    hmm: HmmDir,
    facts: FeatureFacts,
    options: ViterbiOptions,
    model_dir: Path | None,
) -> Labelled:
    """The aligned utterances of a data directory and their labels at the label frame rate."""
    ali = AliSet.load(ali_dir)
    ali.check_tree(hmm.tree, hmm.topo, hmm.directory)
    rate = frames_per_label(ali, facts.frame_shift, options.label_factor, data_dir, model_dir)
    data, cuts = Dataset.open(data_dir, options.feat_options(), cache_mib=options.cache_mib), AlignedCuts(ali)
    present = cuts.present(data)
    check_missing(data, present, ali, data_dir, options.max_skipped)
    data = data.select(present)
    lens = -(-data.lens // options.label_factor)
    return Labelled(data, aligned_labels(data, cuts, lens, rate, options.majority, data_dir), lens)
