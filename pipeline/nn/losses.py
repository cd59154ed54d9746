"""Criteria for the training loop: full-sum over HMM state sequences, and cross-entropy with an alignment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.feats.dataset import Batch, Dataset, plan
from pipeline.hmm import Graphs, feasible, full_sum, occupancies
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.distributed import World
from pipeline.nn.linear import linear_labels
from pipeline.nn.masks import all_finite, mask_of
from pipeline.nn.model import AcousticModel
from pipeline.nn.priors import running_prior, softmax_prior
from pipeline.nn.train import Loss

logger = logging.getLogger(__name__)

SILENCE_COLLAPSE = 0.95  # mean posterior of silence (or of any one label) that no speech corpus has
MUCH_SILENCE, HURRIED = 0.5, 1.6  # more silence, with speech in less than so many times the fewest frames it needs
ALL_LOOP = 0.01  # mean forward probability of speech states below which phones would last for seconds
ALL_FORWARD = 0.98  # above which each state of a phone lasts for one frame and silence has the rest


@dataclass(frozen=True)
class Ramp:
    """A scale that changes linearly from `start` to `end` in the first `until` of the training; constant without
    start.
    """

    end: float
    start: float | None = None
    until: float = 0.5

    def __call__(self, done: float) -> float:
        """The scale after a share of the training."""
        if self.start is None:
            return self.end
        return self.start + (self.end - self.start) * min(done / self.until, 1.0)


class FullSum:
    """Negative log of the sum over all state sequences of the transcript (Mann et al. 2023, section 3):

        - log sum_s prod_t p(s_t | x)^alpha / p(s_t)^kappa * p(s_t | s_{t-1})^beta

    On dev data the scales are always the final ones, so that epochs can be compared.
    """

    def __init__(
        self,
        graphs: GraphSource,
        silence_pdfs: Sequence[int],
        alpha: Ramp,
        beta: Ramp,
        kappa: Ramp = Ramp(0.0),
        prior: str = "none",
        linear_until: float = 0.0,
        linear_silence: Sequence[int] = (),
        em: bool = False,
        least_speech: float = 0.0,
    ) -> None:
        """Args:
        graphs: by utterance index.
        silence_pdfs: labels of silence, for the watch over collapse.
        alpha, beta, kappa: scales of label posterior, transitions and prior.
        prior: "none", "transcripts" (the model's log_prior as it stands), "softmax" or "on_the_fly" (both estimated
            in training and left in the model's log_prior).
        linear_until: share of the training in which a linear alignment gives the targets of a cross-entropy instead.
        linear_silence: labels of silence in that alignment.
        em: transitions are updated in closed form after each epoch; their w must not require gradients then.
        least_speech: share of the frames that speech has if each of its states lasts for one of them; 0: unknown.
        """
        self.graphs, self.alpha, self.beta, self.kappa, self.em = graphs, alpha, beta, kappa, em
        self.prior, self.linear_until, self.linear_silence = prior, linear_until, linear_silence
        self.silence = torch.tensor(sorted(silence_pdfs), dtype=torch.int64)
        self.least_speech, self._warned = least_speech, False

    def __call__(self, model: AcousticModel, batch: Batch, done: float) -> Loss:
        """See ``pipeline.nn.train.Criterion``; frames are label frames. NaN where the scores are not finite."""
        encoded, lens = model.encode(batch.feats, batch.lens, normalised=True)
        log_post = model.log_posteriors(encoded)
        mask = mask_of(lens, log_post.shape[1])
        if not all_finite(log_post, mask):  # to the engine NaN is an utterance without a path, which is left out
            return Loss(log_post.new_tensor(float("nan")), int(mask.sum()))
        silence = float(log_post.detach()[..., self.silence.to(lens.device)].exp().sum(-1)[mask].sum())
        if done < self.linear_until and model.training:
            labels = linear_labels(self.graphs.of(batch.indices).graphs, lens.tolist(), self.linear_silence)
            targets = padded(labels, log_post.shape[1]).to(lens.device)
            loss = -log_post.gather(2, targets[:, :, None])[:, :, 0][mask].sum()
            return Loss(loss, int(mask.sum()), sums={"silence": silence})
        if self.prior == "on_the_fly" and model.training:
            model.log_prior.copy_(running_prior(model.log_prior, log_post, mask))
        graphs, scores, transitions = self._scaled(model, batch.indices, encoded, log_post, lens, done)
        if transitions is not None and not all_finite(transitions, mask):
            return Loss(log_post.new_tensor(float("nan")), int(mask.sum()))
        log_z = full_sum(graphs, scores, lens, transitions)
        good = feasible(log_z)
        total = -log_z.masked_fill(~good, 0.0).sum()
        return Loss(total, int(lens[good].sum()), int((~good).sum()), {"silence": silence})

    def _scaled(
        self,
        model: AcousticModel,
        indices: np.ndarray,
        encoded: torch.Tensor,
        log_post: torch.Tensor,
        lens: torch.Tensor,
        done: float,
    ) -> tuple[Graphs, torch.Tensor, torch.Tensor | None]:
        """Graphs, (N, T', P) emissions and transitions of a batch, all with their scales."""
        done = done if model.training else 1.0
        scores = log_post * self.alpha(done)
        if self.prior != "none" and self.kappa(done):
            scores = scores - self.kappa(done) * model.log_prior
        transitions = None
        if self.beta(done) and model.transitions is not None:
            transitions = self.beta(done) * model.transitions(encoded, lens)
        return self.graphs.of(indices).graphs.to(scores.device), scores, transitions

    @torch.no_grad()
    def transition_counts(self, model: AcousticModel, data: Dataset) -> np.ndarray:
        """(n_tid,) expected counts of all transitions under the model, with the final scales: the E step."""
        training = model.training
        model.eval()
        counts = np.zeros(self.graphs.num_tids)
        world = World.current()
        for batch in _shared(data, world, str(model.mean.device)):
            encoded, lens = model.encode(batch.feats, batch.lens)
            scaled = self._scaled(model, batch.indices, encoded, model.log_posteriors(encoded), lens, 1.0)
            counts += occupancies(scaled[0], scaled[1], lens, scaled[2]).tid_counts().cpu().numpy()
        model.train(training)
        return world.sum_tensor(torch.from_numpy(counts)).numpy()

    def join(self, model: AcousticModel, world: World) -> None:
        """See ``KeepsStatistics``: the mean of the priors that the processes have estimated on the fly."""
        if self.prior == "on_the_fly":
            model.log_prior.copy_((world.sum_tensor(model.log_prior.exp()) / world.size).log())

    def end_epoch(self, model: AcousticModel, data: Dataset, done: float) -> None:
        """Refreshes the prior of the softmax kind and the transitions, where they are estimated in closed form."""
        if self.prior == "softmax":
            world = World.current()
            batches = _shared(data, world, str(model.mean.device))
            model.log_prior.copy_(softmax_prior(model, batches, world))
        if self.em and done >= self.linear_until:
            assert model.transitions is not None
            model.transitions.maximise(self.transition_counts(model, data))

    def diagnose(self, model: AcousticModel, figures: dict[str, float], done: float) -> str | None:
        """Silence collapse (in labels or in transitions) and all-loop, the ways in which full-sum training usually
        fails.
        """
        if figures.get("silence", 0.0) > SILENCE_COLLAPSE:
            return (
                f"silence collapse: silence has {figures['silence']:.0%} of the label posterior. Usual cures: a prior "
                f"(--prior transcripts), a lower --label-scale, --flat-start-epochs 1, a lower --learning-rate"
            )
        self._warn_of_hurried_speech(figures.get("silence", 0.0), done)
        net = model.transitions
        # Of input-dependent probabilities only those at an encoder output of 0 are known here, which say little.
        if net is not None and net.kind != "fixed" and not net.dynamic:
            speech = net.speech_forward(self.silence)
            if speech < ALL_LOOP:
                return (
                    f"all-loop: speech states are left with probability {speech:.4f} per frame. Usual cures: a lower "
                    f"--transition-scale, --transition-init guessed, --transitions fixed for a first model"
                )
            if speech > ALL_FORWARD and len(self.silence):
                return (
                    f"silence collapse: speech states are left with probability {speech:.4f} per frame, so "
                    f"silence has all the "
                    f"time. Usual cures: a lower --transition-scale, --transition-init guessed, "
                    f"--transition-update gradient"
                )
        return None

    def _warn_of_hurried_speech(self, silence: float, done: float) -> None:
        """Once, where silence has so much that phones last hardly longer than they must: the look of a collapse, which
        a corpus may have by right.
        """
        hurried = 1 - silence < HURRIED * self.least_speech
        if silence > MUCH_SILENCE and hurried and done > self.linear_until and not self._warned:
            self._warned = True
            logger.warning(
                "silence has %.0f %% of the label posterior, and phones last %.1f times as long as their states must "
                "at least: unless the recordings are that quiet, the training is collapsing into silence. Usual cures: "
                "a higher --prior-scale (up to the label scale), --flat-start-epochs 1, a lower --learning-rate",
                100 * silence,
                (1 - silence) / self.least_speech,
            )


class CrossEntropy:
    """Frame cross-entropy with fixed labels, label smoothing (Szegedy et al. 2016) and focal weights (Lin et al.
    2017).
    """

    def __init__(self, labels: Sequence[np.ndarray], smoothing: float = 0.0, focal: float = 0.0) -> None:
        """Args:
        labels: (T'_n,) int pdf-ids at the label frame rate, by utterance index.
        smoothing: share of the target that is spread evenly over all labels.
        focal: exponent g of the weights (1 - p)^g.
        """
        self.labels, self.smoothing, self.focal = labels, smoothing, focal

    def __call__(self, model: AcousticModel, batch: Batch, done: float) -> Loss:
        """See ``pipeline.nn.train.Criterion``."""
        log_post, lens = model(batch.feats, batch.lens, normalised=True)
        mask = mask_of(lens, log_post.shape[1])
        targets = padded([self.labels[i] for i in batch.indices], log_post.shape[1]).to(lens.device)
        flat = log_post[mask]  # (frames, P)
        picked = flat.gather(1, targets[mask][:, None])[:, 0]
        smoothing = self.smoothing if model.training else 0.0
        loss = -(1.0 - smoothing) * picked
        if smoothing:
            loss = loss - smoothing * flat.mean(1)
        if self.focal and model.training:
            loss = loss * (1.0 - picked.exp()).clamp(min=0.0) ** self.focal
        correct = float((flat.detach().argmax(1) == targets[mask]).sum())
        return Loss(loss.sum(), len(flat), sums={"accuracy": correct})

    def end_epoch(self, model: AcousticModel, data: Dataset, done: float) -> None:
        """Nothing to refresh."""

    def diagnose(self, model: AcousticModel, figures: dict[str, float], done: float) -> str | None:
        """Cross-entropy has no trouble of its own beyond what the loop sees."""
        return None


def padded(rows: Sequence[np.ndarray], width: int) -> torch.Tensor:
    """(N, width) int64, 0 behind each row's end."""
    out = torch.zeros((len(rows), width), dtype=torch.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.int64))
    return out


def _shared(data: Dataset, world: World, device: str) -> Iterator[Batch]:
    """The batches of this process, of all utterances."""
    for rows in plan(data.lens, 20_000, 64)[world.rank :: world.size]:
        yield data.batch(rows, device)
