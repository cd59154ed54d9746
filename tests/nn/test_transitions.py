"""Transition models: which states share a probability, what it is at first, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import ConfigError
from pipeline.nn.model import AcousticModel
from pipeline.nn.options import EncoderOptions, TrainOptions
from pipeline.nn.schedule import make_optimizer, set_rate
from pipeline.nn.transitions import DYNAMIC, STATIC, TransitionNet, at_frame_rate, classes_of


@pytest.fixture
def hmm() -> TransitionModel:
    lang = make_lang(Lexicon([Pronunciation("AB", ("a", "b"))]), silence_states=2)
    return TransitionModel(monophone_tree(lang.phones, lang.topo), lang.topo)


def test_classes(hmm):
    """Order of the states: two of silence, three of a, three of b."""
    expected = {
        "fixed": [0, 1, 2, 3, 4, 5, 6, 7],
        "speech_silence": [1, 1, 0, 0, 0, 0, 0, 0],
        "substate": [0, 1, 0, 1, 2, 0, 1, 2],
        "substate_silence": [3, 4, 0, 1, 2, 0, 1, 2],
        "label": [0, 1, 2, 3, 4, 5, 6, 7],
        "linear": [0, 1, 2, 3, 4, 5, 6, 7],
        "blstm": [0, 1, 2, 3, 4, 5, 6, 7],
        "time": [0] * 8,
    }
    assert set(expected) == {*STATIC, *DYNAMIC}
    for kind, classes in expected.items():
        assert classes_of(kind, hmm).tolist() == classes, kind
    with pytest.raises(ConfigError):
        classes_of("phone", hmm)


@pytest.mark.parametrize("kind", STATIC + DYNAMIC)
@pytest.mark.parametrize("init", ["guessed", "flat", "random"])
def test_loop_and_forward_sum_to_one(hmm, kind, init):
    torch.manual_seed(3)
    net = TransitionNet(kind, hmm, 6, init, width=4)
    lens = torch.tensor([5, 3])
    log_probs = net(torch.randn(2, 5, 6), lens)
    assert log_probs.shape == ((2, 5, hmm.num_tids) if kind in DYNAMIC else (hmm.num_tids,))
    assert torch.allclose(log_probs[..., 0::2].exp() + log_probs[..., 1::2].exp(), torch.ones(1), atol=1e-6)


def test_guess_is_the_topology(hmm):
    net = TransitionNet("speech_silence", hmm, 6)
    assert np.allclose(net().detach().numpy(), hmm.log_probs(), atol=1e-6)
    assert np.allclose(TransitionNet("fixed", hmm, 6)().detach().numpy(), hmm.log_probs(), atol=1e-6)
    assert np.allclose(TransitionNet("label", hmm, 6, "flat").forward_probs(), 0.5)


def test_guess_is_brought_to_the_rate_of_the_labels(hmm):
    net = TransitionNet("fixed", hmm, 6, subsampling=3)
    assert np.allclose(net.forward_probs(), at_frame_rate(hmm.forward_prob, 3), atol=1e-6)
    assert (net.forward_probs() > hmm.forward_prob + 0.05).any()


def test_dynamic_starts_near_the_guess(hmm):
    torch.manual_seed(0)
    log_probs = TransitionNet("linear", hmm, 64)(torch.randn(2, 5, 64), torch.tensor([5, 5]))
    assert np.allclose(log_probs.detach().numpy(), hmm.log_probs(), atol=0.5)


def test_frame_rate_of_the_guess():
    """A state left with 1/40 per frame is left within 3 frames with 1 - (39/40)^3."""
    f = np.array([1 / 40, 1 / 3, 0.95])
    assert np.allclose(at_frame_rate(f, 1), f)
    assert np.allclose(at_frame_rate(f, 3), [1 - (39 / 40) ** 3, 1 - (2 / 3) ** 3, 0.95])


def test_fixed_is_not_trained(hmm):
    assert not list(TransitionNet("fixed", hmm, 6).parameters())


def test_gradient_is_observed_minus_expected(hmm):
    """d/dw of c_f log f + c_l log(1 - f) is c_f (1 - f) - c_l f."""
    net = TransitionNet("speech_silence", hmm, 6)
    counts = torch.zeros(hmm.num_tids)
    counts[2 * 2 + 1], counts[2 * 2] = 3.0, 5.0  # a speech state: 3 forward, 5 loops
    (net() * counts).sum().backward()
    f = 1 / 3
    assert torch.allclose(net.bias.grad, torch.tensor([3 * (1 - f) - 5 * f, 0.0]), atol=1e-6)


@pytest.mark.parametrize("kind", DYNAMIC)
def test_scores_stay_in_32_bits(hmm, kind):
    net = TransitionNet(kind, hmm, 4, width=3)
    encoded, lens = torch.randn(1, 5, 4), torch.tensor([5])
    with torch.autocast("cpu", torch.bfloat16):
        assert net.logits(encoded, lens).dtype == torch.bfloat16
        scores = net(encoded, lens)
    assert scores.dtype == torch.float32
    sums = scores.unflatten(-1, (-1, 2)).exp().sum(-1)
    assert torch.allclose(sums, torch.ones(()), atol=1e-6)


def test_padding_does_not_reach_a_blstm(hmm):
    torch.manual_seed(0)
    net = TransitionNet("blstm", hmm, 6, width=4)
    x = torch.randn(1, 7, 6)
    y = x.clone()
    y[:, 4:] = 100.0
    assert torch.allclose(net(x, torch.tensor([4]))[:, :4], net(y, torch.tensor([4]))[:, :4])


def test_export(hmm):
    net = TransitionNet("speech_silence", hmm, 6)
    with torch.no_grad():
        net.bias.copy_(torch.tensor([0.0, -2.0]))
    net.export(hmm)
    assert np.allclose(hmm.forward_prob, [1 / (1 + np.exp(2.0))] * 2 + [0.5] * 6)
    assert net.speech_forward(torch.tensor([0, 1])) == pytest.approx(0.5)


def test_closed_form_update_is_the_share_of_forward(hmm):
    net = TransitionNet("speech_silence", hmm, 6)
    counts = np.zeros(hmm.num_tids)
    counts[4:] = np.tile([6.0, 2.0], 6)  # speech: 36 loops, 12 forward
    counts[:4] = [2.0, 0.5, 1.0, 0.5]  # silence: too few
    net.maximise(counts)
    assert np.allclose(net.forward_probs(), [1 / 40] * 2 + [0.25] * 6, atol=1e-6)
    net.maximise(counts, min_count=1.0)
    assert np.allclose(net.forward_probs()[:2], 0.25)
    counts[4::2] = 0.0
    net.maximise(counts)
    assert np.allclose(net.forward_probs()[2:], 0.999)


@pytest.mark.parametrize("kind", ["fixed", *DYNAMIC])
def test_no_closed_form(hmm, kind):
    with pytest.raises(ConfigError, match=f"--transitions {kind} has no closed-form update"):
        TransitionNet(kind, hmm, 6).maximise(np.ones(hmm.num_tids))


@pytest.mark.parametrize("kind", ["fixed", "speech_silence", "linear"])
def test_weight_decay_leaves_logits_alone(hmm, kind):
    """Without any gradient all other parameters shrink."""
    model = AcousticModel(3, 8, EncoderOptions(encoder="tdnn", layers=1, dim=4))
    model.transitions = TransitionNet(kind, hmm, 4)
    options = TrainOptions(optimizer="sgd", learning_rate=0.1, weight_decay=0.5)
    optimizer = make_optimizer(model.parameters(), options, model.rate_factors(), model.without_decay())
    set_rate(optimizer, 0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        assert torch.allclose(p, before[name] * (1.0 if name == "transitions.bias" else 0.95)), name
