"""The one training loop of mixtures: realign, accumulate, update, grow, for every stage from monophones to SAT."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pipeline.artifacts.checkpoint import load_tensors, save_tensors
from pipeline.artifacts.transitions import TransitionModel
from pipeline.base.files import read_json, write_json
from pipeline.base.log import progress
from pipeline.gmm.assign import Aligner, Assignment, TrainSet, boosted
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import grow, update
from pipeline.gmm.options import GmmOptions
from pipeline.gmm.stats import accumulate

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
# Seconds of work that an interruption may cost.
CHECKPOINT_EVERY = 20.0


class Adaptation(Protocol):
    """A feature transform that is estimated again in some iterations (MLLT, fMLLR).

    Attributes:
        iters: iterations (from 1) that begin with an estimation.
    """

    iters: tuple[int, ...]

    def apply(self, gmms: DiagGmms, feats: torch.Tensor, assignment: Assignment) -> tuple[DiagGmms, torch.Tensor]:
        """New mixtures and new features (sum of T, F) from the present ones."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """State, for checkpoints and model files."""

    def restore(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Takes the state back and returns the features that belong to it."""


@dataclasses.dataclass
class State:
    """Where a training run stands after an iteration.

    Attributes:
        iteration: last iteration that is complete; 0 before the first.
        history: per iteration {"iteration", "log_like", "num_gauss", "seconds", ...}; log_like per frame.
    """

    gmms: DiagGmms
    transitions: TransitionModel
    assignment: Assignment
    feats: torch.Tensor
    iteration: int
    history: list[dict[str, Any]]


def train(
    data: TrainSet,
    gmms: DiagGmms,
    transitions: TransitionModel,
    first: Assignment,
    options: GmmOptions,
    silence_pdfs: list[int],
    tmp_dir: Path | None = None,
    adaptation: Adaptation | None = None,
    adapt_likes: bool = False,
) -> State:
    """Trains mixtures by expectation-maximisation.

    Iteration i: estimate the transform if `adaptation` wants to; align anew if i is in options.realign_iters;
    accumulate; update mixtures and transitions; grow towards options.num_gauss, reached at options.grow_iters.
    With options.full_sum the alignment is a soft one (Baum-Welch occupancies). cf. Kaldi train_mono.sh,
    train_deltas.sh.

    Args:
        data: features and graphs; its features are those of the start of the training.
        gmms: the first mixtures.
        transitions: changed in place.
        first: labels for the iterations before the first realignment.
        silence_pdfs: pdfs that options.boost_silence applies to.
        tmp_dir: where an interrupted run left its checkpoint, and where checkpoints go; None: keep none.
    Returns:
        The final state.
    """
    aligner = Aligner(data, gmms.num_pdfs, transitions.tid_pdf())
    state = State(gmms, transitions, first, data.feats, 0, [])
    if tmp_dir is not None:
        _restore(state, aligner, tmp_dir, adaptation)
    start_gauss = len(transitions.tid_pdf()) and gmms.num_pdfs
    saved = time.monotonic()
    todo = range(state.iteration + 1, options.num_iters + 1)
    for iteration in progress(todo, desc="EM iteration"):
        began = time.monotonic()
        _iterate(state, aligner, data, options, silence_pdfs, adaptation, iteration, start_gauss)
        state.history[-1]["seconds"] = round(time.monotonic() - began, 3)
        logger.debug("%s", state.history[-1])
        if tmp_dir is not None and time.monotonic() - saved > CHECKPOINT_EVERY and iteration < options.num_iters:
            _save(state, tmp_dir, adaptation)
            saved = time.monotonic()
    for path in (tmp_dir / CHECKPOINT, tmp_dir / f"{CHECKPOINT}.json") if tmp_dir is not None else ():
        path.unlink(missing_ok=True)
    return state


def _iterate(
    state: State,
    aligner: Aligner,
    data: TrainSet,
    options: GmmOptions,
    silence_pdfs: list[int],
    adaptation: Adaptation | None,
    iteration: int,
    start_gauss: int,
) -> None:
    record: dict[str, Any] = {"iteration": iteration}
    if adaptation is not None and iteration in adaptation.iters:
        state.gmms, state.feats = adaptation.apply(state.gmms, state.feats, state.assignment)
        aligner.data = data.with_feats(state.feats)
        record["adapted"] = True
    if iteration in options.realign_iters:
        evaluator = boosted(state.gmms, silence_pdfs, options.boost_silence)
        log_probs = torch.from_numpy(state.transitions.log_probs()).to(state.feats.device)
        if options.full_sum:
            state.assignment = aligner.full_sum(evaluator, log_probs)
        else:
            state.assignment = aligner.viterbi(evaluator, log_probs, options.beam)
            record |= {"retried": state.assignment.retried} if state.assignment.retried else {}
        state.assignment.check(len(data), options.max_failed, f"iteration {iteration}")
        record["aligned_log_like"] = state.assignment.log_like / max(state.assignment.frames, 1)
    stats = accumulate(Evaluator(state.gmms), state.feats, state.assignment.labels)
    state.gmms, report = update(state.gmms, stats, options.min_count, options.min_weight, options.min_var)
    state.transitions.update(state.assignment.tid_counts)
    if iteration <= options.grow_iters:
        target = start_gauss + (options.num_gauss - start_gauss) * iteration // options.grow_iters
        state.gmms = grow(
            state.gmms,
            state.assignment.labels.occupancies(),
            target,
            options.power,
            options.split_count,
            options.perturb,
            seed=options.seed * 100_003 + iteration,
        )
    record |= {
        "log_like": stats.log_like / max(stats.total(), 1.0),
        "num_gauss": state.gmms.num_gauss,
        **{k: v for k, v in dataclasses.asdict(report).items() if v},
    }
    state.history.append(record)
    state.iteration = iteration


def _save(state: State, tmp_dir: Path, adaptation: Adaptation | None) -> None:
    """Writes all that the next iteration depends on; the tensors come last, so their presence means both files
    count.
    """
    labels, assignment = state.assignment.labels, state.assignment
    tensors = {f"gmm.{k}": v for k, v in state.gmms.tensors().items()}
    tensors["forward_prob"] = torch.from_numpy(state.transitions.forward_prob)
    tensors["tid_counts"] = torch.from_numpy(assignment.tid_counts)
    tensors |= {
        "label.frames": labels.frames,
        "label.splits": torch.from_numpy(np.asarray(labels.splits, dtype=np.int64)),
    }
    if labels.weights is not None:
        tensors["label.weights"] = labels.weights
    if assignment.tids is not None:
        tensors["tids"] = torch.from_numpy(assignment.tids)
    if adaptation is not None:
        tensors |= {f"adapt.{k}": v for k, v in adaptation.tensors().items()}
    facts = {
        "iteration": state.iteration,
        "history": state.history,
        "failed": list(assignment.failed),
        "log_like": assignment.log_like,
        "frames": assignment.frames,
    }
    write_json(tmp_dir / f"{CHECKPOINT}.json", facts)
    save_tensors(tmp_dir / CHECKPOINT, tensors, {"iteration": str(state.iteration)})


def _restore(state: State, aligner: Aligner, tmp_dir: Path, adaptation: Adaptation | None) -> None:
    """Continues from a checkpoint in tmp_dir if there is one."""
    if not ((tmp_dir / CHECKPOINT).is_file() and (tmp_dir / f"{CHECKPOINT}.json").is_file()):
        return
    tensors, facts = load_tensors(tmp_dir / CHECKPOINT), read_json(tmp_dir / f"{CHECKPOINT}.json")
    if int(_metadata(tmp_dir / CHECKPOINT)["iteration"]) != facts["iteration"]:
        return  # killed between the two files: the older tensors do not belong to the newer facts
    from pipeline.gmm.stats import FrameLabels

    gmm = {k[4:]: v for k, v in tensors.items() if k.startswith("gmm.")}
    state.gmms = DiagGmms.from_tensors(gmm, str(tmp_dir / CHECKPOINT)).to(state.feats.device)
    state.transitions.forward_prob = tensors["forward_prob"].numpy()
    labels = FrameLabels(tensors["label.frames"], tensors["label.splits"].numpy(), tensors.get("label.weights"))
    tids = tensors["tids"].numpy() if "tids" in tensors else None
    state.assignment = Assignment(
        labels, tensors["tid_counts"].numpy(), facts["log_like"], facts["frames"], tids, tuple(facts["failed"])
    )
    if adaptation is not None:
        state.feats = adaptation.restore({k[6:]: v for k, v in tensors.items() if k.startswith("adapt.")})
        aligner.data = aligner.data.with_feats(state.feats)
    state.iteration, state.history = facts["iteration"], facts["history"]
    logger.info("going on after iteration %d", state.iteration)


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as f:
        return f.metadata()
