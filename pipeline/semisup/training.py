"""Semi-supervised training: labelled and unlabelled data and a teacher in, model directory out."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.model_meta import META, model_kind
from pipeline.base.errors import ConfigError, DataError
from pipeline.feats.dataset import Dataset, plan
from pipeline.feats.joined import joined
from pipeline.nn.distributed import World
from pipeline.nn.train import Task, clean_up, train
from pipeline.semisup.collapse import Watch
from pipeline.semisup.criterion import OfKept, SemiSupervised, Targets
from pipeline.semisup.end_to_end import EndToEndSide
from pipeline.semisup.hybrid import HybridSide
from pipeline.semisup.options import SemiSupervisedOptions, Sources
from pipeline.semisup.side import Side
from pipeline.semisup.teacher import KeptLabels, Pair, scaled

logger = logging.getLogger(__name__)

# By kind of model: its name, and sources and options of the other kind alone.
OF_OTHERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "e2e": ("an end-to-end", ("lang", "ali", "dev_ali"), ()),
    "nn": ("a hybrid", ("tokens", "lm"), ("method", "beam", "lm_weight", "length_bonus", "ctc_weight", "max_seconds")),
}


def train_semisup(
    labelled: Path, unlabelled: Path, teacher: Path, out: Path, options: SemiSupervisedOptions, sources: Sources
) -> dict[str, Any]:
    """Trains a model and writes its directory.

    Args:
        labelled: data directory with features and transcripts.
        unlabelled: data directory with features, whose transcripts, if there are any, are not read.
        teacher: hybrid or end-to-end model; the student has its shape.
        out: model directory to write; an interrupted training resumes from its checkpoint there.
    Returns:
        facts for the stamp.
    """
    side = _side(labelled, unlabelled, teacher, options, sources)
    _check(options, side, sources)
    times = options.repeat_labelled
    first = side.labelled.select(np.tile(np.arange(len(side.labelled)), times))
    others, kept = first_labels(side, options, sources.pseudo)
    data = joined(first, others)
    pair = make_pair(side, options, kept)
    updates = _updates(data, options)
    frames = data.num_frames / updates
    momentum, rate = scaled(options, options.momentum, frames, options.reference_batch)
    logger.info(
        "%d labelled and %d unlabelled utterances, %d updates an epoch of %.0f frames on average; momentum %.6g, "
        "learning rate %.3g",
        *(len(side.labelled), len(others), updates, frames, momentum, rate),
    )
    watch = Watch(side.known, side.num_labels, side.name_of, options)
    criterion = SemiSupervised(side, data, Targets(side.known, times), options, momentum, watch)
    dev = None if side.dev is None else Task(side.dev.data, OfKept(side.dev.criterion))
    shift = side.meta.features.frame_shift
    history = train(pair, Task(data, criterion), dev, replace(options, learning_rate=rate), out, shift)
    if World.current().rank:
        return {}
    side.save(out, pair.kept, history)
    clean_up(out)
    best = min(history, key=lambda h: h.get("dev_loss", h["loss"]))
    return {
        "labelled": len(side.labelled),
        "unlabelled": len(others),
        "momentum": momentum,
        "seconds_per_epoch": float(np.median([h["seconds"] for h in history])),
        **{k: v for k, v in best.items() if k.startswith("dev_") or k == "loss"},
    }


def first_labels(side: Side, options: SemiSupervisedOptions, pseudo: Path | None) -> tuple[Dataset, KeptLabels | None]:
    """The unlabelled utterances, and room for their labels if these are kept, with those from a file (``Sources``).

    A fixed teacher has no others then, so that utterances without are left out; other teachers label them.

    Raises:
        DataError: no utterance has labels there that can be learned.
    """
    data, room = side.unlabelled, side.room
    if pseudo is None:
        return data, None if options.teacher == "ema" or options.soft_share else KeptLabels(room)
    given = list(side.given(pseudo))
    told = np.array([label is not None for label in given])
    if not told.any():
        raise DataError(f"{pseudo}: has labels that can be learned for none of the {len(data)} unlabelled utterances")
    if not told.all():
        what = "they are left out" if options.teacher == "fixed" else "the teacher labels them"
        first = data.id(int(np.argmin(told)))
        logger.warning(
            "%s: no labels for %d of %d utterances, the first: %r; %s", pseudo, (~told).sum(), len(told), first, what
        )
    if options.teacher == "fixed":
        data, room, given = data.select(told), room[told], [label for label in given if label is not None]
    kept = KeptLabels(np.maximum(room, [0 if label is None else len(label[0]) for label in given]))
    for i, label in enumerate(given):
        if label is not None:
            kept.put(i, *label)
    return data, kept


def make_pair(side: Side, options: SemiSupervisedOptions, kept: KeptLabels | None) -> Pair:
    """The student, random if wanted, and its first teacher: the model given, or, of a moving average, the student."""
    given = copy.deepcopy(side.network)
    if options.start == "random":
        side.randomise()
    teachers = {"fixed": given, "rounds": given, "ema": copy.deepcopy(side.network), "cache": None}
    return Pair(side.network, teachers[options.teacher], kept, options.keep)


def _side(labelled: Path, unlabelled: Path, teacher: Path, options: SemiSupervisedOptions, sources: Sources) -> Side:
    """What is special about the kind of model."""
    kinds: dict[str, type[EndToEndSide] | type[HybridSide]] = {"e2e": EndToEndSide, "nn": HybridSide}
    kind = model_kind(teacher)
    if kind not in kinds:
        raise DataError(f"{teacher / META}: a model of kind {kind!r} is no teacher; hybrid and end-to-end networks are")
    _refuse_without_effect(kind, teacher, options, sources)
    return kinds[kind](labelled, unlabelled, teacher, options, sources)


def _refuse_without_effect(kind: str, teacher: Path, options: SemiSupervisedOptions, sources: Sources) -> None:
    """ConfigError for what no training of this kind of model reads."""
    mine, no_sources, no_options = OF_OTHERS[kind]
    defaults = SemiSupervisedOptions()
    given = [name for name in no_sources if getattr(sources, name) is not None]
    given += [name for name in no_options if getattr(options, name) != getattr(defaults, name)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{names}: without effect, {teacher} is {mine} model")
    if sources.dev_ali is not None and sources.dev is None:
        raise ConfigError("--dev-ali aligns the data of --dev, which are not there")


def _check(options: SemiSupervisedOptions, side: Side, sources: Sources) -> None:
    """ConfigError for options that do not go together or with the teacher."""
    if options.feat_options() != side.meta.feat_options:
        raise ConfigError(
            f"--cmvn, --norm-vars and --deltas have to say what the teacher's features are: {side.meta.feat_options}"
        )
    if options.soft_share and options.teacher == "cache":
        raise ConfigError("--teacher cache keeps hard labels; --soft-share is for the others")
    if sources.pseudo is not None and (options.teacher == "ema" or options.soft_share):
        raise ConfigError("--pseudo gives hard labels that are kept: not for --teacher ema or --soft-share")
    if options.labelled_epochs >= options.epochs:
        raise ConfigError(
            f"--labelled-epochs {options.labelled_epochs} leaves none of {options.epochs} for unlabelled data"
        )
    if options.keep == "teacher":
        if options.teacher == "cache":
            raise ConfigError("--keep teacher: --teacher cache has none, the student labels for itself")
        if options.teacher == "fixed":
            raise ConfigError("--keep teacher would write the fixed teacher as it is")
        if options.teacher == "rounds" and options.epochs <= options.round_epochs:
            raise ConfigError(
                f"--keep teacher could write the model given as it is: it teaches all {options.epochs} epochs of the "
                f"first round (--round-epochs {options.round_epochs})"
            )
    if World.current().size > 1 and options.teacher in ("cache", "rounds", "fixed") and not options.soft_share:
        raise ConfigError("several processes would keep different labels: --teacher ema, or --soft-share, keeps none")


def _updates(data: Dataset, options: SemiSupervisedOptions) -> int:
    """Updates of an epoch."""
    batches = len(plan(data.lens, options.batch_frames, options.max_batch, (options.seed, 0)))
    return -(-batches // (options.accumulate * World.current().size))
