"""Federated training: rounds against arithmetic, bounds and noise of changes, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pydantic
import pytest
import torch

from pipeline.base.errors import ConfigError
from pipeline.feats.dataset import Dataset
from pipeline.nn.federated import Simulation
from pipeline.nn.federated_options import FederatedOptions
from pipeline.nn.hybrid import Labelled
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.model import AcousticModel
from pipeline.nn.options import EncoderOptions
from pipeline.nn.privacy import add_noise, clip_change, epsilon
from pipeline.nn.sigma import SigmaLinear
from pipeline.nn.step import Task

SHAPE = EncoderOptions(encoder="tdnn", layers=1, dim=6, dropout=0.0, dilations=(1,))
OPTIONS = FederatedOptions(rounds=3, share=1.0, time_masks=0, feature_masks=0, device="cpu", weight_decay=0.0)


def make_data(speakers: int = 6) -> Labelled:
    """Two utterances of each speaker, whose label is the sign of the first feature."""
    rng = np.random.default_rng(0)
    lens = rng.integers(8, 20, 2 * speakers)
    feats = torch.from_numpy(rng.standard_normal((int(lens.sum()), 4)).astype(np.float32)).split(lens.tolist())
    data = Dataset.of(feats, speakers=[f"s{i // 2}" for i in range(2 * speakers)])
    return Labelled(data, [(own[:, 0] > 0).long().numpy() for own in feats], lens)


def simulate(speakers: int = 6, **options) -> Simulation:
    torch.manual_seed(5)
    return Simulation(AcousticModel(4, 2, SHAPE), make_data(speakers), dataclasses.replace(OPTIONS, **options), 0.01)


def parameters(simulation: Simulation) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in simulation.parameters])


def test_one_step_of_all_clients_is_a_step_on_the_mean_of_their_gradients():
    """FedAvg with one batch per client and rate 1 is gradient descent on the mean of the clients' losses."""
    simulation = simulate(learning_rate=0.05, clip=1e6)
    model, own, before = simulation.model, simulation.own, parameters(simulation)
    for rows in simulation.clients.values():
        batch = own.data.select(rows).batch(np.arange(len(rows)))
        loss = CrossEntropy([own.labels[i] for i in rows])(model, batch, 0.0)
        (loss.total / loss.frames / len(simulation.clients)).backward()
    expected = before - 0.05 * torch.cat([p.grad.flatten() for p in model.parameters()])
    figures = simulation.round(0)
    torch.testing.assert_close(parameters(simulation), expected, atol=1e-6, rtol=1e-5)
    assert figures["clients"] == 6
    assert figures["change"] == pytest.approx(float((expected - before).norm()), rel=1e-4)


@pytest.mark.parametrize("server", ["fedavg", "fedadam", "fedlamb"])
def test_it_learns_from_clients_and_resumes(tmp_path, server):
    rate = {"fedavg": 1.0, "fedadam": 0.05, "fedlamb": 0.1}[server]
    options = dict(rounds=12, share=0.7, learning_rate=1.0, server=server, server_rate=rate, epochs=2)
    own = make_data()
    dev = Task(own.data, CrossEntropy(own.labels))
    whole = simulate(**options)
    history = whole.run(dev, tmp_path / "whole")
    assert history[-1]["dev_loss"] < 0.95 * history[0]["dev_loss"] and history[-1]["dev_accuracy"] > 0.7
    assert len({h["clients"] for h in history}) > 1  # each takes part or not, by itself
    first = simulate(**options)
    round_of, failing = first.round, 7

    def stops(number):
        if number == failing:
            raise KeyboardInterrupt
        return round_of(number)

    first.round = stops
    with pytest.raises(KeyboardInterrupt):
        first.run(dev, tmp_path / "broken")
    resumed = simulate(**options)
    again = resumed.run(dev, tmp_path / "broken")
    assert torch.equal(parameters(whole), parameters(resumed)) and len(again) == 12


@pytest.mark.parametrize("by_layer", [False, True])
def test_no_change_is_longer_than_the_bound(by_layer):
    torch.manual_seed(0)
    change = [torch.randn(4, 5), 0.01 * torch.randn(3), 100 * torch.randn(2)]
    before = [tensor.clone() for tensor in change]
    share = clip_change(change, 2.0, by_layer)
    norms = torch.stack([tensor.norm() for tensor in change])
    assert float(norms.norm()) <= 2.0 + 1e-5
    if by_layer:  # the small one stays as it is, the others get a third of the square each
        assert torch.equal(change[1], before[1]) and share == pytest.approx(2 / 3)
        torch.testing.assert_close(norms[[0, 2]], torch.full((2,), 2 / 3**0.5))
    else:  # the direction stays
        flat, was = (torch.cat([t.flatten() for t in tensors]) for tensors in (change, before))
        torch.testing.assert_close(flat / flat.norm(), was / was.norm())
        assert share == 1.0
    small = [torch.full((2,), 1e-3)]
    assert clip_change(small, 2.0, by_layer) == 0.0 and torch.equal(small[0], torch.full((2,), 1e-3))


def test_noise_has_its_deviation_and_its_seed():
    zeros, again, other = ([torch.zeros(200, 100), torch.zeros(7)] for _ in range(3))
    add_noise(zeros, 0.5, (1, 2))
    add_noise(again, 0.5, (1, 2))
    add_noise(other, 0.5, (1, 3))
    assert float(zeros[0].std()) == pytest.approx(0.5, rel=0.02) and abs(float(zeros[0].mean())) < 0.02
    assert torch.equal(zeros[0], again[0]) and not torch.equal(zeros[0], other[0])


def test_the_mean_has_the_noise_of_the_sum():
    """Where nobody has anything to say, a round moves each parameter by z C / (q K)."""
    simulation = simulate(clipping="global", clip_norm=1e-6, noise=3e6, share=0.5)
    before = parameters(simulation)
    simulation.round(0)
    moved = parameters(simulation) - before
    assert float(moved.std()) == pytest.approx(1e-6 * 3e6 / (0.5 * 6), rel=0.15)


def test_a_client_leaves_nothing_behind_but_its_change(tmp_path):
    """With vectors of sigma-reparam, which training moves, a round ends the same in whatever order clients come, and
    they are those of the server's weights.
    """
    found = []
    for backwards in (False, True):
        simulation = simulate(learning_rate=0.5)
        torch.manual_seed(5)
        shape = EncoderOptions(encoder="transformer", layers=1, dim=8, heads=2, dropout=0.0, sigma_reparam=True)
        simulation = Simulation(AcousticModel(4, 2, shape), make_data(), simulation.options, 0.01)
        if backwards:
            simulation.clients = dict(reversed(simulation.clients.items()))
        simulation.round(0)
        found.append([*simulation.parameters, *simulation.buffers])
        layers = [layer for layer in simulation.model.modules() if isinstance(layer, SigmaLinear)]
        vectors = [layer.u.clone() for layer in layers]
        for layer, vector in zip(layers, vectors):
            largest = torch.linalg.svd(layer.weight.detach())[0][:, 0]
            assert abs(float(vector @ largest)) == pytest.approx(1.0, abs=1e-3)
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_what_is_random_depends_on_the_place_alone():
    """With dropout, a round is the same whatever has drawn random numbers in the process before, as it is resumed."""
    found = []
    for dropout, seed in ((0.4, 1), (0.4, 2), (0.0, 1)):
        torch.manual_seed(5)
        model = AcousticModel(4, 2, dataclasses.replace(SHAPE, dropout=dropout))
        simulation = Simulation(model, make_data(), dataclasses.replace(OPTIONS, learning_rate=0.5), 0.01)
        torch.manual_seed(seed)
        simulation.round(1)
        found.append(parameters(simulation))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_figures_of_rounds_are_tracked(tmp_path):
    simulate(rounds=2).run(None, tmp_path)
    (events,) = (tmp_path / "log" / "tensorboard").iterdir()
    assert b"accuracy" in events.read_bytes()


def test_layers_are_normalised():
    """The step of each tensor is server_rate times its norm."""
    simulation = simulate(server="fedlamb", server_rate=0.01)
    before = [p.detach().clone() for p in simulation.parameters]
    simulation.round(0)
    for parameter, old in zip(simulation.parameters, before):
        if old.norm() > 0:
            assert float((parameter - old).norm()) == pytest.approx(0.01 * float(old.norm()), rel=1e-3)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(noise=1.0), "without clipping hides nothing"),
        (dict(population=100), "for epsilon"),
        (dict(accumulate=2), "accumulate 2 has no effect"),
        (dict(precision="bfloat16"), "precision bfloat16 has no effect"),
        (dict(share=0.0), "greater than 0"),
        (dict(schedule="one_cycle"), "constant"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, said):
    with pytest.raises(pydantic.ValidationError, match=said):
        FederatedOptions(**options)


def test_epsilon_is_that_of_the_gaussian_mechanism():
    """All clients in each round: the closed form of Mironov 2017, with the conversion of its proposition 3, bounds it."""
    pytest.importorskip("dp_accounting")
    for noise, rounds in ((1.0, 1), (4.0, 50)):
        orders = 1 + np.arange(1, 20_000) / 100
        bound = float((rounds * orders / (2 * noise**2) + math.log(1e5) / (orders - 1)).min())
        assert 0.8 * bound < epsilon(noise, 1.0, rounds, 1e-5) < bound
    # Known from the literature on subsampling: about 2.1 for 1,000 rounds of one in a hundred (Abadi et al. 2016).
    assert epsilon(1.0, 0.01, 1000, 1e-5) == pytest.approx(2.1, abs=0.05)


def test_epsilon_of_more_clients_is_that_of_more_noise():
    pytest.importorskip("dp_accounting")
    few = simulate(clipping="global", noise=2.0, share=0.5)
    many = simulate(clipping="global", noise=2.0, share=0.5, population=600)
    assert few.epsilon() == pytest.approx(epsilon(2.0, 0.5, 3, 1e-6))
    assert many.epsilon() == pytest.approx(epsilon(200.0, 0.5, 3, 1e-6)) and many.epsilon() < few.epsilon()


def test_a_missing_accountant_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ConfigError, match=r"pip install 'fullsum\[privacy\]'"):
        epsilon(1.0, 0.5, 10, 1e-6)
