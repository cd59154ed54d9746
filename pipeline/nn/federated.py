"""Federated training, simulated: speakers are clients that train the server's model on their own speech and hand back
nothing but the change of its parameters (McMahan et al. 2017), bounded and with noise if wanted (McMahan et al. 2018;
for speech, with per-layer clipping, Pelikan et al. 2023).

A round: each client takes part with probability q. It makes steps of gradient descent from the server's parameters w on
its own utterances, and its change d_k = w_k - w is clipped to the norm C. The server takes

    g = - (sum_k d_k + N(0, (z C)^2)) / (q K)

of its K clients as a gradient. z is the noise multiplier; what it hides says ``pipeline.nn.privacy``.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.model_meta import Scales
from pipeline.base.errors import ConfigError, MismatchError
from pipeline.base.log import progress
from pipeline.feats.dataset import plan
from pipeline.nn.federated_options import FederatedOptions
from pipeline.nn.hybrid import Labelled, first_model, load_labelled
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.model import AcousticModel, load_acoustic_model, save_acoustic_model
from pipeline.nn.nhmm import encoder_options
from pipeline.nn.priors import label_prior
from pipeline.nn.privacy import add_noise, clip_change, epsilon
from pipeline.nn.schedule import make_optimizer
from pipeline.nn.sigma import SigmaLinear
from pipeline.nn.step import (
    Task,
    add_sums,
    backward,
    evaluate,
    per_frame,
    pick_device,
    prepare,
    seed_step,
    training_loss,
)
from pipeline.nn.tracking import tracked
from pipeline.nn.train import clean_up
from pipeline.nn.train_state import TrainState, load_state, save_state

logger = logging.getLogger(__name__)


def train_federated(
    data_dir: Path,
    lang_dir: Path,
    ali_dir: Path,
    out: Path,
    options: FederatedOptions,
    dev_dir: Path | None = None,
    dev_ali_dir: Path | None = None,
    init_dir: Path | None = None,
) -> dict[str, Any]:
    """Trains a network by rounds of clients and writes its model directory.

    Args:
        data_dir .. dev_ali_dir: as for ``hybrid.train_viterbi``.
        init_dir: a hybrid model of other speakers to begin with, of the same tree, features and shape. Its
            normalisation and prior are kept; without it they are those of the clients' data, which no noise hides.
    Returns:
        facts for the stamp.
    """
    if options.noise and init_dir is None:
        raise ConfigError("noise needs --init: without it normalisation and prior would tell of the clients' data")
    lang, hmm, facts, sets = load_labelled(data_dir, lang_dir, ali_dir, options, dev_dir, dev_ali_dir)
    if init_dir is None:
        model = first_model(sets[0].data, hmm, options)
        model.log_prior.copy_(label_prior(sets[0].labels, hmm.tree.num_pdfs))
    else:
        model = _start(init_dir, hmm, ali_dir, facts, data_dir, options)
    simulation = Simulation(model, sets[0], options, facts.frame_shift)
    privacy = {"epsilon": simulation.epsilon()} if options.noise else {}
    dev = Task(sets[1].data, CrossEntropy(sets[1].labels)) if len(sets) > 1 else None
    history = simulation.run(dev, out)
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
        start=None if init_dir is None else str(init_dir),
        epochs=history,
    )
    clean_up(out)
    told = ("loss", "accuracy", "dev_loss", "dev_accuracy")
    return {
        "clients": len(simulation.clients),
        "utterances": len(sets[0].data),
        "parameters": sum(p.numel() for p in model.parameters()),
        **privacy,
        **{k: v for k, v in history[-1].items() if k in told},
    }


def _start(
    init_dir: Path, hmm: HmmDir, ali_dir: Path, facts: FeatureFacts, data_dir: Path, options: FederatedOptions
) -> AcousticModel:
    """The model to begin with; MismatchError where it is another kind than what is asked for."""
    model, _, meta = load_acoustic_model(init_dir)
    check_same("topo", meta.topo_id, init_dir, hmm.topo.id, ali_dir)
    check_same("tree", meta.tree_id, init_dir, hmm.tree.id, ali_dir)
    meta.features.check_same(facts.kind, init_dir, data_dir)
    pairs = {**asdict(model.options), **asdict(meta.feat_options)}
    for name, value in {**asdict(encoder_options(options)), **asdict(options.feat_options())}.items():
        if pairs[name] != value:
            raise MismatchError(f"{init_dir}: its {name} is {pairs[name]!r}, the options say {value!r}")
    return model


class Simulation:
    """Rounds of one server and its clients in this process.

    Attributes:
        clients: the utterances of each, by speaker.
    """

    def __init__(self, model: AcousticModel, own: Labelled, options: FederatedOptions, frame_shift: float) -> None:
        self.device = pick_device(options.device)
        self.model, self.options, self.frame_shift = model.to(self.device), options, frame_shift
        rows: dict[str, list[int]] = {}
        for i in range(len(own.data)):
            rows.setdefault(own.data.speaker(i), []).append(i)
        self.own, self.clients = own, dict(sorted(rows.items()))
        self.parameters, self.buffers = list(model.parameters()), list(model.buffers())
        self.optimizer = _server_optimizer(self.parameters, options)

    def run(self, dev: Task | None, out: Path) -> list[dict[str, float]]:
        """All rounds that are left; returns the figures of each. The checkpoint after each round is in `out`."""
        state = load_state(out, self.model, self.optimizer) or TrainState()
        with torch.random.fork_rng(), tracked(out, state.epoch, self.options.tracker) as put:
            for number in progress(range(state.epoch, self.options.rounds), desc="rounds"):
                began = time.monotonic()
                figures = self.round(number)
                if dev is not None:
                    figures.update(evaluate(self.model, dev, self.options, self.device, 1.0))
                figures["seconds"] = time.monotonic() - began
                state.history.append(figures)
                state.epoch = number + 1
                save_state(out, state, self.model, self.optimizer)
                put({k: v for k, v in figures.items() if k != "seconds"}, state.epoch)
                text = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "seconds")
                logger.info("round %d of %d: %s", state.epoch, self.options.rounds, text)
        self.model.eval()
        return state.history

    def round(self, number: int) -> dict[str, float]:
        """One update of the server's model."""
        options = self.options
        before, buffers = ([p.detach().clone() for p in each] for each in (self.parameters, self.buffers))
        total = [torch.zeros_like(p) for p in before]
        drawn = np.random.default_rng((options.seed, number)).random(len(self.clients)) < options.share
        sums: dict[str, float] = {}
        clipped = []
        for index in np.flatnonzero(drawn):
            self._train_client(number, int(index), sums)
            change = [p.detach() - old for p, old in zip(self.parameters, before)]
            if options.clipping != "none":
                clipped.append(clip_change(change, options.clip_norm, options.clipping == "layer"))
            for summed, own in zip(total, change):
                summed.add_(own)
            self._set(before, buffers)
        if options.noise:
            add_noise(total, options.noise * options.clip_norm, (options.seed, number, len(self.clients)))
        self._step(before, [summed / (options.share * len(self.clients)) for summed in total])
        figures = {**per_frame(sums), "clients": float(drawn.sum())}
        figures["change"] = float(torch.stack([(p - b).norm() for p, b in zip(self.parameters, before)]).norm())
        if clipped:
            figures["clipped"] = float(np.mean(clipped))
        return figures

    def epsilon(self) -> float:
        """What the noise of all rounds leaves of the clients' privacy, with as many of them as `population` says."""
        options, clients = self.options, len(self.clients)
        noise = options.noise * (options.population or clients) / clients
        return epsilon(noise, options.share, options.rounds, options.delta)

    def _train_client(self, number: int, index: int, sums: dict[str, float]) -> None:
        """Trains the model on one client's utterances, and adds what its batches yield to the sums."""
        options, rows = self.options, list(self.clients.values())[index]
        data = self.own.data.select(rows)
        criterion = CrossEntropy([self.own.labels[i] for i in rows], options.label_smoothing, options.focal)
        optimizer = make_optimizer(self.parameters, options)
        self.model.train()
        for epoch in range(options.epochs):
            place = (options.seed, number, index, epoch)
            for step, batch in enumerate(plan(data.lens, options.batch_frames, options.max_batch, place)):
                seed_step(*place, step)
                optimizer.zero_grad(set_to_none=True)
                done = number / options.rounds
                prepared = prepare(self.model, data, batch, options, done, self.frame_shift, self.device)
                loss = training_loss(criterion, self.model, prepared, done)
                add_sums(sums, loss)
                if loss.frames and backward(self.model, loss, options.clip, f"round {number + 1}, client {index + 1}"):
                    optimizer.step()

    @torch.no_grad()
    def _set(self, parameters: list[torch.Tensor], buffers: list[torch.Tensor]) -> None:
        """The server's model again: a client leaves nothing behind, in buffers either."""
        for own, value in zip((*self.parameters, *self.buffers), (*parameters, *buffers)):
            own.copy_(value)

    @torch.no_grad()
    def _step(self, before: list[torch.Tensor], mean: list[torch.Tensor]) -> None:
        """The server's update by the mean change of its clients."""
        for parameter, change in zip(self.parameters, mean):
            parameter.grad = -change
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.options.server == "fedlamb":  # You et al. 2020
            for parameter, old in zip(self.parameters, before):
                step, size = parameter - old, old.norm()
                if size > 0 and step.norm() > 0:
                    parameter.copy_(old + step * (self.options.server_rate * size / step.norm()))
        for layer in self.model.modules():
            if isinstance(layer, SigmaLinear):
                layer.settle()


def _server_optimizer(parameters: list[torch.nn.Parameter], options: FederatedOptions) -> torch.optim.Optimizer:
    """Gradient descent, or Adam as Reddi et al. 2021 have it."""
    if options.server == "fedavg":
        return torch.optim.SGD(parameters, lr=options.server_rate)
    return torch.optim.Adam(parameters, lr=options.server_rate, betas=(0.9, 0.99), eps=1e-3)
