"""Mixtures of experts: the layer frame by frame, routers of layers, and the loss that keeps all experts in use."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.feats.dataset import Batch
from pipeline.nn.encoders import Encoder
from pipeline.nn.experts import Experts, watched_experts
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.model import AcousticModel
from pipeline.nn.options import EncoderOptions
from pipeline.nn.step import training_loss

SHAPE = dict(encoder="transformer", layers=3, dim=8, heads=2, dropout=0.0, experts=4)


def test_each_frame_goes_through_its_expert():
    torch.manual_seed(1)
    layer, router = Experts(8, 0.0, 3, 0.01), torch.nn.Linear(8, 3, bias=False)
    x, mask = torch.randn(2, 7, 8), torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    with watched_experts(layer):
        out, balance, chosen, probabilities = layer(x, mask, router), layer.balance(), [], []
    for n, t in mask.nonzero().tolist():
        frame = layer.norm(x[n, t])
        shares = router(frame).softmax(-1)
        e = int(shares.argmax())
        torch.testing.assert_close(out[n, t], shares[e] * layer.experts[e](frame))
        chosen.append(e)
        probabilities.append(shares)
    assert not out[~mask].any() and len(set(chosen)) > 1
    f = np.bincount(chosen, minlength=3) / len(chosen)
    mean = torch.stack(probabilities).mean(0).detach().numpy()
    assert float(balance) == pytest.approx(3 * (f * mean).sum(), rel=1e-5)
    # Experts without a frame, and a batch whose frames all go to one of them.
    router.weight.data[:] = 0.0
    with watched_experts(layer):
        layer(x, mask, router)
        assert float(layer.balance()) == pytest.approx(1.0)  # ties go to the first, with even probabilities
    router.weight.data[:] = 0.0
    router.weight.data[2] = 100.0 * layer.norm(x[0, 0]).detach()
    with watched_experts(layer):
        layer(x[:1, :1], mask[:1, :1], router)
        assert float(layer.balance()) == pytest.approx(3.0)


def test_the_balance_is_that_of_all_passes_of_an_update():
    """As of one pass over the frames of all of them."""
    torch.manual_seed(2)
    layer, router = Experts(8, 0.0, 3, 0.01), torch.nn.Linear(8, 3, bias=False)
    x, mask = torch.randn(3, 7, 8), torch.ones(3, 7, dtype=torch.bool)
    with watched_experts(layer):
        layer(x, mask, router)
        whole = layer.balance()
    with watched_experts(layer):
        layer(x[:1], mask[:1], router)
        first = layer.balance()
        layer(x[1:], mask[1:], router)
        assert float(layer.balance()) == pytest.approx(float(whole), rel=1e-5) and float(first) != float(whole)
    layer(x, mask, router)
    assert layer.routed is None


def test_layers_share_a_router_or_have_their_own():
    counts = {}
    for kind in ("shared", "layer"):
        encoder = Encoder(5, EncoderOptions(**SHAPE, expert_router=kind))
        routers = encoder.network.routers
        seen = []
        for i, router in enumerate(routers):
            router.register_forward_hook(lambda *_, i=i: seen.append(i))
        encoder(torch.randn(2, 9, 5), torch.tensor([9, 6]))
        counts[kind] = len(routers), seen
        names = [name for name in encoder.state_dict() if "router" in name]
        assert len(names) == len(routers)  # a shared one is saved once
    assert counts == {"shared": (1, [0, 0, 0]), "layer": (3, [0, 1, 2])}


def model_of(**changes) -> AcousticModel:
    torch.manual_seed(0)
    return AcousticModel(5, 6, EncoderOptions(**{**SHAPE, **changes})).train()


def test_the_balance_is_part_of_the_training_loss_alone():
    batch = Batch(np.arange(2), torch.randn(2, 9, 5), torch.tensor([9, 6]))
    criterion = CrossEntropy([np.zeros(9, dtype=np.int64), np.ones(6, dtype=np.int64)])
    model = model_of(expert_balance=0.5)
    with watched_experts(model) as layers:
        plain = criterion(model, batch, 0.5)
        balances = [layer.balance() for layer in layers]
    loss = training_loss(criterion, model, batch, 0.5)
    expected = float(plain.total) + 15 * 0.5 * sum(float(b) for b in balances)
    assert float(loss.total) == pytest.approx(expected, rel=1e-5)
    assert loss.sums["expert_balance"] / 15 == pytest.approx(np.mean([float(b) for b in balances]), rel=1e-5)
    loss.total.backward()
    assert model.encoder.network.routers[0].weight.grad.abs().max() > 0
    assert (
        all(layer.routed is None for layer in layers) and copy.deepcopy(model) is not None
    )  # nothing of the graph is left
    model.eval()
    assert float(training_loss(criterion, model, batch, 0.5).total) == pytest.approx(float(plain.total), rel=1e-5)
    dense = model_of(experts=0)
    assert "expert_balance" not in training_loss(criterion, dense, batch, 0.5).sums


def test_the_balance_keeps_all_experts_in_use():
    """A router that sends everything to one expert learns to spread the frames, and does not without the loss."""
    rows = torch.randn(8, 20, 5)
    batch = Batch(np.arange(8), rows, torch.full((8,), 20))
    criterion = CrossEntropy([(row.argmax(-1)).numpy() for row in rows])
    largest = {}
    for weight in (0.0, 1.0):
        model = model_of(layers=1, expert_balance=weight)
        layer, router = model.encoder.network.blocks[0].after, model.encoder.network.routers[0]
        layer.norm.bias.data[:] = 1.0
        router.weight.data.mul_(0.3)[0] += 0.3
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(150):
            optimizer.zero_grad()
            loss = training_loss(criterion, model, batch, 0.5)
            (loss.total / loss.frames).backward()
            optimizer.step()
        chosen = []
        handle = router.register_forward_hook(lambda _, __, out, c=chosen: c.append(out.argmax(-1)))
        criterion(model, batch, 0.5)
        handle.remove()
        largest[weight] = float(torch.bincount(chosen[0], minlength=4).max() / len(chosen[0]))
    assert largest[1.0] < 0.45 < 0.6 < largest[0.0], largest
