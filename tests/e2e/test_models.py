"""Decoder and transducer: a step is what training sees, padding and company change nothing, models come back as
saved.
"""

from __future__ import annotations

import pytest
import torch

from pipeline.artifacts.features import FeatLoadOptions, FeatureKind
from pipeline.artifacts.tokens import EOS_ID
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import read_json, write_json
from pipeline.e2e.model import EndToEnd, load_end_to_end, save_end_to_end
from pipeline.e2e.options import EndToEndOptions

SMALL = dict(
    encoder="blstm",
    layers=2,
    dim=6,
    embedding_dim=5,
    decoder_dim=7,
    attention_heads=2,
    attention_dim=8,
    joint_dim=6,
    strides=(2,),
)
SHAPES = [
    dict(model="ctc"),
    dict(model="attention"),
    dict(model="attention", location=False, decoder_layers=2),
    dict(model="transducer"),
    dict(model="transducer", predictor="stateless", ctc=False),
]
FEATURES = FeatureKind("fbank", 4, 0.01, 0.025, 0.0125, 16000, {})
TOKENS = torch.tensor([[3, 4, 3, 6], [5, 5, 0, 0]])


def make(**shape) -> EndToEnd:
    torch.manual_seed(0)
    return EndToEnd(4, 8, EndToEndOptions(**{**SMALL, **shape})).eval()


def encoded_of(model: EndToEnd, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    feats, lens = torch.randn(2, 13, 4), torch.tensor([13, 7])
    return (feats, lens, *model.encode(feats, lens))


@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_steps_are_teacher_forcing(shape):
    model = make(**shape)
    _, _, encoded, lens = encoded_of(model)
    forced = model.decoder(encoded, lens, TOKENS)
    assert forced.shape == (2, 5, 8) and torch.allclose(forced.exp().sum(-1), torch.ones(2, 5), atol=1e-5)
    state, token = model.decoder.start(encoded, lens), torch.full((2,), EOS_ID)
    for u in range(5):
        log_probs, state = model.decoder.step(token, state)
        assert torch.allclose(log_probs, forced[:, u], atol=1e-5)
        assert torch.allclose(state.weights.sum(-1), torch.ones(2, 2), atol=1e-5)
        assert state.weights[1, :, int(lens[1]) :].abs().max() == 0
        token = TOKENS[:, min(u, 3)]


@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_decoder_ignores_padding_and_company(shape):
    model = make(**shape)
    _, _, encoded, lens = encoded_of(model)
    together = model.decoder(encoded, lens, TOKENS)
    alone = model.decoder(encoded[1:, : int(lens[1])], lens[1:], TOKENS[1:, :2])
    assert torch.allclose(together[1, :3], alone[0], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_rows_of_a_decoder_state(shape):
    model = make(**shape)
    _, _, encoded, lens = encoded_of(model)
    log_probs, state = model.decoder.step(torch.full((2,), EOS_ID), model.decoder.start(encoded, lens))
    rows = torch.tensor([1, 0, 1])
    expected, _ = model.decoder.step(torch.tensor([4, 3]), state)
    got, _ = model.decoder.step(torch.tensor([3, 4, 3]), state.select(rows))
    assert torch.allclose(got, expected[rows], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES[3:], ids=str)
def test_transducer_steps_are_its_training(shape):
    model = make(**shape)
    _, _, encoded, _ = encoded_of(model)
    net = model.transducer
    predicted = net.predict(TOKENS)
    lattice = net.logits(encoded, predicted).log_softmax(-1)
    assert lattice.shape == (2, encoded.shape[1], 5, 8)
    prediction, state = net.start(2)
    for u in range(5):
        assert torch.allclose(prediction, predicted[:, u], atol=1e-5)
        for t in range(encoded.shape[1]):
            assert torch.allclose(net.joint(encoded[:, t], prediction), lattice[:, t, u], atol=1e-5)
        if u < 4:
            prediction, state = net.step(TOKENS[:, u], state)
    rows = torch.tensor([1, 1, 0])
    expected, _ = net.step(torch.tensor([3, 5]), state)
    got, _ = net.step(torch.tensor([5, 5, 3]), state.select(rows))
    assert torch.allclose(got, expected[rows], atol=1e-5)


def test_attention_remembers_all_that_it_has_seen():
    model = make(model="attention")
    _, _, encoded, lens = encoded_of(model)
    state = model.decoder.start(encoded, lens)
    total = torch.zeros_like(state.seen)
    for token in (1, 3, 4):
        _, state = model.decoder.step(torch.full((len(encoded),), token), state)
        total = total + state.weights
        assert torch.allclose(state.seen, total, atol=1e-6)
    assert float(state.seen.sum(-1).min()) == pytest.approx(3.0, abs=1e-4)


def test_stateless_predictor_forgets():
    net = make(model="transducer", predictor="stateless", predictor_context=2).transducer
    a, b = net.predict(torch.tensor([[3, 4, 5]])), net.predict(torch.tensor([[6, 4, 5]]))
    assert torch.equal(a[:, 3], b[:, 3]) and not torch.equal(a[:, 2], b[:, 2])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_models_come_back_as_saved(shape, tmp_path):
    model = make(**shape)
    model.set_normalisation(torch.randn(4), torch.rand(4) + 1.0)
    for name in ("a", "b"):
        source = model if name == "a" else load_end_to_end(tmp_path / "a")[0]
        save_end_to_end(tmp_path / name, source, "tokens", FEATURES, FeatLoadOptions(), [{"loss": 1.5}])
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again, meta = load_end_to_end(tmp_path / "b")
    assert meta.tokens_id == "tokens" and meta.frame_shift == 0.02 and again.options == model.options
    feats, lens, encoded, _ = encoded_of(model)
    assert torch.equal(again.encode(feats, lens)[0], encoded)


def test_wrong_models_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--ctc"):
        make(model="ctc", ctc=False)
    with pytest.raises(ConfigError, match="attention_heads"):
        make(model="attention", attention_heads=5)
    with pytest.raises(ConfigError, match="no CTC"):
        make(model="attention", ctc=False).ctc_log_probs(torch.zeros(1, 2, 12))
    save_end_to_end(tmp_path, make(model="ctc"), "tokens", FEATURES, FeatLoadOptions(), [])
    meta = read_json(tmp_path / "model.json")
    write_json(tmp_path / "model.json", {**meta, "vocab_size": 9})
    with pytest.raises(DataError, match="model.json"):
        load_end_to_end(tmp_path)
    write_json(tmp_path / "model.json", {**meta, "kind": "nn"})
    with pytest.raises(MismatchError, match="'nn'"):
        load_end_to_end(tmp_path)
