"""The one training loop of mixtures: realign, accumulate, update, grow, for every stage from monophones to SAT."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.artifacts.checkpoint import load_tensors, save_tensors
from pipeline.artifacts.transitions import TransitionModel
from pipeline.base.files import read_json, write_json
from pipeline.base.log import progress
from pipeline.feats.dataset import Dataset
from pipeline.gmm.assign import LABELS, Aligner, Assignment, boosted
from pipeline.gmm.blocks import PROCESS
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import grow, update
from pipeline.gmm.frame_labels import FrameLabelFile
from pipeline.gmm.options import GmmOptions
from pipeline.gmm.stats import accumulate_blocks

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

    def apply(self, gmms: DiagGmms, data: Dataset, assignment: Assignment) -> tuple[DiagGmms, Dataset]:
        """New mixtures and new features of the same utterances from the present ones."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """State, for checkpoints and model files."""

    def restore(self, tensors: dict[str, torch.Tensor]) -> Dataset:
        """Takes the state back and returns the features that belong to it."""


@dataclasses.dataclass
class State:
    """Where a training run stands after an iteration.

    Attributes:
        data: the features that the mixtures score.
        iteration: last iteration that is complete; 0 before the first.
        history: per iteration {"iteration", "log_like", "num_gauss", "seconds", ...}; log_like per frame.
    """

    gmms: DiagGmms
    transitions: TransitionModel
    assignment: Assignment
    data: Dataset
    iteration: int
    history: list[dict[str, Any]]


def train(
    aligner: Aligner,
    gmms: DiagGmms,
    transitions: TransitionModel,
    first: Assignment,
    options: GmmOptions,
    silence_pdfs: list[int],
    adaptation: Adaptation | None = None,
) -> State:
    """Trains mixtures by expectation-maximisation.

    Iteration i: estimate the transform if `adaptation` wants to; align anew if i is in options.realign_iters;
    accumulate; update mixtures and transitions; grow towards options.num_gauss, reached at options.grow_iters.
    With options.full_sum the alignment is a soft one (Baum-Welch occupancies). cf. Kaldi train_mono.sh,
    train_deltas.sh.

    Args:
        aligner: features and graphs; its features are those of the start of the training. In its work directory are
            the checkpoint of an interrupted run, which this one resumes from, and new ones.
        gmms: the first mixtures.
        transitions: changed in place.
        first: labels for the iterations before the first realignment.
        silence_pdfs: pdfs that options.boost_silence applies to.
    Returns:
        The final state.
    """
    state, blocks = State(gmms, transitions, first, aligner.data, 0, []), aligner.blocks
    if aligner.work is not None:
        _restore(state, aligner, adaptation)
    start_gauss = gmms.num_pdfs
    saved = time.monotonic()
    todo = range(state.iteration + 1, options.num_iters + 1)
    for iteration in progress(todo, desc="EM iteration"):
        began = time.monotonic()
        _iterate(state, aligner, options, silence_pdfs, adaptation, iteration, start_gauss)
        state.history[-1]["seconds"] = round(time.monotonic() - began, 3)
        logger.debug("%s", state.history[-1])
        late = blocks.from_rank(0, functools.partial(_is_late, saved))
        if aligner.work is not None and late and iteration < options.num_iters:
            _save(state, aligner.work, adaptation)
            saved = time.monotonic()
    return state


def _is_late(saved: float) -> bool:
    """Whether it is time for a checkpoint."""
    return time.monotonic() - saved > CHECKPOINT_EVERY


def clean_up(work: Path) -> None:
    """Removes checkpoints and alignments of a complete training, which no process uses any more."""
    for path in work.glob(f"{PROCESS}.*"):
        shutil.rmtree(path)
    for path in (work / CHECKPOINT, work / f"{CHECKPOINT}.json", *work.glob(f"{LABELS}.*.bin")):
        path.unlink(missing_ok=True)


def _iterate(
    state: State,
    aligner: Aligner,
    options: GmmOptions,
    silence_pdfs: list[int],
    adaptation: Adaptation | None,
    iteration: int,
    start_gauss: int,
) -> None:
    record: dict[str, Any] = {"iteration": iteration}
    if adaptation is not None and iteration in adaptation.iters:
        state.gmms, state.data = adaptation.apply(state.gmms, state.data, state.assignment)
        aligner.data = state.data
        record["adapted"] = True
    if iteration in options.realign_iters:
        evaluator = boosted(state.gmms, silence_pdfs, options.boost_silence)
        log_probs = torch.from_numpy(state.transitions.log_probs()).to(aligner.device)
        if options.full_sum:
            state.assignment = aligner.full_sum(evaluator, log_probs)
        else:
            state.assignment = aligner.viterbi(evaluator, log_probs, options.beam)
            record |= {"retried": state.assignment.retried} if state.assignment.retried else {}
        state.assignment.check(aligner.blocks.count, options.max_failed, f"iteration {iteration}")
        record["aligned_log_like"] = state.assignment.log_like / max(state.assignment.frames, 1)
    stats = accumulate_blocks(
        Evaluator(state.gmms),
        aligner.blocks,
        lambda rows: state.assignment.pieces(state.data, aligner.device, rows=rows),
    )
    state.gmms, report = update(state.gmms, stats, options.min_count, options.min_weight, options.min_var)
    state.transitions.update(state.assignment.tid_counts)
    if iteration <= options.grow_iters:
        target = start_gauss + (options.num_gauss - start_gauss) * iteration // options.grow_iters
        state.gmms = grow(
            state.gmms,
            state.assignment.occupancies(),
            target,
            options.power,
            options.split_count,
            options.perturb,
            seed=options.seed * 100_003 + iteration,
        )
    state.gmms = aligner.blocks.same(state.gmms)
    record |= {
        "log_like": stats.log_like / max(stats.total(), 1.0),
        "num_gauss": state.gmms.num_gauss,
        **{k: v for k, v in dataclasses.asdict(report).items() if v},
    }
    state.history.append(record)
    state.iteration = iteration


def _save(state: State, work: Path, adaptation: Adaptation | None) -> None:
    """Writes all that the next iteration depends on; the tensors come last, so their presence means that all files
    count. Older alignments go when no checkpoint names them any more.
    """
    assignment = state.assignment
    soft_end = assignment.file.sync()
    tensors = {f"gmm.{k}": v for k, v in state.gmms.tensors().items()}
    tensors["forward_prob"] = torch.from_numpy(state.transitions.forward_prob)
    tensors["tid_counts"] = torch.from_numpy(assignment.tid_counts)
    if adaptation is not None:
        tensors |= {f"adapt.{k}": v for k, v in adaptation.tensors().items()}
    assert assignment.file.path is not None
    facts = {
        "iteration": state.iteration,
        "history": state.history,
        "failed": list(assignment.failed),
        "log_like": assignment.log_like,
        "frames": assignment.frames,
        "labels": assignment.file.path.name,
        "soft_end": soft_end,
    }
    write_json(work / f"{CHECKPOINT}.json", facts)
    save_tensors(work / CHECKPOINT, tensors, {"iteration": str(state.iteration)})
    for path in work.glob(f"{LABELS}.*.bin"):
        if path != assignment.file.path:
            path.unlink()


def _restore(state: State, aligner: Aligner, adaptation: Adaptation | None) -> None:
    """Resumes from a checkpoint in the work directory if there is one."""
    assert aligner.work is not None
    checkpoint, work = aligner.work / CHECKPOINT, aligner.work
    found = aligner.blocks.of_all(_saved_iteration(work))
    if not all(iteration == found[0] for iteration in found) or not found[0]:
        return  # nothing there, or killed when some processes had written their files and some had not
    tensors, facts = load_tensors(checkpoint), read_json(work / f"{CHECKPOINT}.json")
    gmm = {k[4:]: v for k, v in tensors.items() if k.startswith("gmm.")}
    state.gmms = DiagGmms.from_tensors(gmm, str(checkpoint)).to(aligner.device)
    state.transitions.forward_prob = tensors["forward_prob"].numpy()
    state.assignment = dataclasses.replace(
        state.assignment,
        file=FrameLabelFile.reopen(work / facts["labels"], state.data.lens, facts["soft_end"]),
        tid_counts=tensors["tid_counts"].numpy(),
        log_like=facts["log_like"],
        frames=facts["frames"],
        failed=tuple(facts["failed"]),
    )
    if adaptation is not None:
        state.data = adaptation.restore({k[6:]: v for k, v in tensors.items() if k.startswith("adapt.")})
        aligner.data = state.data
    state.iteration, state.history = facts["iteration"], facts["history"]
    logger.info("resuming after iteration %d", state.iteration)


def _saved_iteration(work: Path) -> int:
    """Iteration of the checkpoint of a process, 0 without one."""
    checkpoint = work / CHECKPOINT
    if not (checkpoint.is_file() and (work / f"{CHECKPOINT}.json").is_file()):
        return 0
    iteration = int(_metadata(checkpoint)["iteration"])
    # Killed between the two files: the older tensors do not belong to the newer facts.
    return iteration if iteration == read_json(work / f"{CHECKPOINT}.json")["iteration"] else 0


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as f:
        return f.metadata()
