"""What can be trained asynchronously: a hybrid network on an alignment, and any network further by a sequence
criterion.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.checkpoint import load_tensors
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_meta import Scales
from pipeline.base.errors import ConfigError
from pipeline.nn.asynchronous.frames import FrameTargets
from pipeline.nn.asynchronous.job import Built
from pipeline.nn.asynchronous.launch import Node, run_processes
from pipeline.nn.asynchronous.options import AsyncSequenceOptions, AsyncTraining, AsyncViterbiOptions, training_of
from pipeline.nn.asynchronous.train import Trained, clean_up, seconds_to, train_async
from pipeline.nn.hybrid import first_model, label_hmm, load_labelled
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.mmi import FAILED
from pipeline.nn.model import AcousticModel, load_acoustic_model, save_acoustic_model
from pipeline.nn.priors import label_prior
from pipeline.nn.sequence_training import (
    FrameErrors,
    Sources,
    make_denominator,
    select_parameters,
    sequence_task,
)
from pipeline.nn.step import Task, pick_device
from pipeline.nn.train import EPOCHS
from pipeline.nn.train_state import epoch_file

logger = logging.getLogger(__name__)

SHOWN = ("loss", "accuracy", "cancelled", "rejected", "dev_loss", "dev_accuracy")


@dataclass(frozen=True)
class ViterbiJob:
    """Frame cross-entropy on an alignment; see ``pipeline.nn.hybrid.train_viterbi`` for the directories."""

    data_dir: Path
    lang_dir: Path
    ali_dir: Path
    options: AsyncViterbiOptions
    dev_dir: Path | None = None
    dev_ali_dir: Path | None = None

    @property
    def training(self) -> AsyncTraining:
        """See ``Job``."""
        return training_of(self.options, self.options, self.options.refresh)

    def build(self) -> Built:
        """See ``Job``; with one replica the training is that of ``train_viterbi``, bit for bit."""
        o = self.options
        if o.realign_rounds or o.chunk_seconds:
            raise ConfigError("asynchronous training has no --realign-rounds and no --chunk-seconds")
        if o.shuffle != "utterances" and (o.label_smoothing or o.focal):
            raise ConfigError("--label-smoothing and --focal go with --shuffle utterances only")
        _, hmm, facts, sets = load_labelled(
            self.data_dir, self.lang_dir, self.ali_dir, o, self.dev_dir, self.dev_ali_dir
        )
        data, labels, _ = sets[0]
        model = first_model(data, hmm, o)
        model.log_prior.copy_(label_prior(labels, hmm.tree.num_pdfs))
        criterion = CrossEntropy(labels, o.label_smoothing, o.focal)
        dev = Task(sets[1].data, CrossEntropy(sets[1].labels)) if len(sets) > 1 else None
        return Built(model, Task(data, criterion), FrameTargets(labels), dev, facts.frame_shift)


def train_viterbi_async(job: ViterbiJob, out: Path, node: Node = Node()) -> dict[str, Any]:
    """Trains a hybrid network with replicas and writes its model directory; returns facts for the stamp."""
    trained = train_async(job, out, node)
    lang, facts = Lang.load(job.lang_dir), FeatureFacts.load(job.data_dir)
    hmm = label_hmm(job.ali_dir, job.data_dir, job.options)

    def save(directory: Path, model: AcousticModel, extra: dict[str, Any]) -> None:
        save_acoustic_model(
            directory,
            model,
            hmm,
            facts.kind,
            job.options.feat_options(),
            Scales(),
            criterion="cross_entropy",
            lang_id=lang.id,
            ali=str(job.ali_dir),
            **extra,
        )

    return _finish(trained, out, job.training, save)


@dataclass(frozen=True)
class SequenceJob:
    """A sequence criterion on a model that exists; see ``pipeline.nn.sequence_training.train_sequence``."""

    data_dir: Path
    sources: Sources
    options: AsyncSequenceOptions
    ali_dir: Path | None = None
    dev_dir: Path | None = None

    @property
    def training(self) -> AsyncTraining:
        """See ``Job``."""
        meta = load_acoustic_model(self.sources.model_dir)[2]
        return training_of(self.options, self.options.training(meta.feat_options), self.options.refresh)

    def build(self) -> Built:
        """See ``Job``; each process has a denominator of its own."""
        o, sources = self.options, self.sources
        model, hmm, meta = load_acoustic_model(sources.model_dir)
        lang = Lang.load(sources.lang_dir)
        hmm.check_lang(lang, sources.lang_dir)
        scale = meta.scales.transition if o.transition_scale is None else o.transition_scale
        denominator = make_denominator(sources, hmm, scale, o, pick_device(o.device))
        task = sequence_task(model, hmm, meta, lang, self.data_dir, sources, denominator, o, self.ali_dir)
        dev = None
        if self.dev_dir is not None:
            dev = sequence_task(model, hmm, meta, lang, self.dev_dir, sources, denominator, o, None, held_out=True)
        select_parameters(model, o.update)
        return Built(model, task, task.criterion.objective, dev, meta.features.frame_shift)


def train_sequence_async(job: SequenceJob, out: Path, node: Node = Node()) -> dict[str, Any]:
    """Trains a network further with replicas and writes a model directory like its own; returns facts for the stamp."""
    trained = train_async(job, out, node)
    start, hmm, meta = load_acoustic_model(job.sources.model_dir)
    lang = Lang.load(job.sources.lang_dir)

    def save(directory: Path, model: AcousticModel, extra: dict[str, Any]) -> None:
        save_acoustic_model(
            directory,
            model,
            hmm,
            meta.features,
            meta.feat_options,
            meta.scales,
            criterion=job.options.criterion,
            lang_id=lang.id,
            start=str(job.sources.model_dir),
            **extra,
        )

    failed = len((out / FAILED).read_text(encoding="utf-8").splitlines())
    watch = FrameErrors(start, trained.built.dev or trained.built.task, "cpu", out)
    facts = _finish(trained, out, job.training, save, watch.of)
    return {**facts, **watch.report(trained.built.model), "failed": failed}


def help_train(job: ViterbiJob | SequenceJob, out: Path, node: Node) -> None:
    """Runs the replicas of a machine that is not the first one; `out` gets their logs."""
    assert node.index > 0, node
    (out / "log").mkdir(parents=True, exist_ok=True)
    run_processes(job, out, node)


def _finish(
    trained: Trained,
    out: Path,
    training: AsyncTraining,
    save: Callable[[Path, AcousticModel, dict[str, Any]], None],
    frame_error: Callable[[AcousticModel], float] | None = None,
) -> dict[str, Any]:
    """Saves the model, those of single epochs (with their frame errors) if they are wanted, and removes the
    checkpoints.
    """
    model, history = trained.built.model.cpu(), trained.history
    optimisation = {
        "replicas": training.replicas,
        "mode": training.mode,
        "simulated_decode_rtf": training.simulate_decode_rtf,
        **trained.facts,
    }
    if training.keep_epochs:
        final = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for number, figures in enumerate(history, 1):
            model.load_state_dict(load_tensors(epoch_file(out / EPOCHS, number)))
            if frame_error is not None:
                figures["frame_error"] = frame_error(model)
            save(out / f"epoch-{number}", model, {"epochs": history[:number], "optimisation": optimisation})
        model.load_state_dict(final)
    save(out, model, {"epochs": history, "optimisation": optimisation})
    clean_up(out)
    target = None if training.target_loss is None else seconds_to(history, training.target_loss)
    return {
        "utterances": len(trained.built.data),
        "parameters": sum(p.numel() for p in model.parameters()),
        **trained.facts,
        "simulated_decode_rtf": training.simulate_decode_rtf,
        **({} if target is None else {"target_seconds": target}),
        **{k: v for k, v in history[-1].items() if k in SHOWN},
    }
