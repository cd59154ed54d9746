"""Encoders: lengths, and padding that never reaches a real frame."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import subsample
from pipeline.base.errors import ConfigError
from pipeline.e2e.model import EndToEnd
from pipeline.e2e.options import EndToEndOptions
from pipeline.nn import attention
from pipeline.nn.attention import PostNormBlock, SelfAttention, entropy, rotate
from pipeline.nn.encoders import Encoder, layer_factors
from pipeline.nn.frames import Subsample
from pipeline.nn.masks import mask_of
from pipeline.nn.options import EncoderOptions
from pipeline.tasks.decode_e2e import latency

SHAPES = [
    dict(encoder="blstm", layers=2, dim=8),
    dict(encoder="blstm", layers=1, dim=8, subsampling=3),
    dict(encoder="blstm", layers=2, dim=8, frames_per_step=3),
    dict(encoder="tdnn", layers=3, dim=8),
    dict(encoder="tdnn", layers=3, dim=8, subsampling=2, subsampling_by="mean"),
    dict(encoder="tdnn", layers=2, dim=8, subsampling=2, subsampling_by="max", frames_per_step=2),
    dict(encoder="tds", layers=2, dim=8, conv_kernel=3),
    dict(encoder="transformer", layers=2, dim=8, heads=2),
    dict(encoder="tds", layers=3, dim=8, conv_kernel=4, conv_right=1, strides=(2,), subsampling=2),
    dict(encoder="transformer", layers=2, dim=8, heads=2, norms="post", sigma_reparam=True),
    dict(encoder="transformer", layers=2, dim=8, heads=2, attention="sigmoid", positions="cape"),
    dict(encoder="transformer", layers=3, dim=8, heads=2, experts=3, strides=(2,)),
    dict(encoder="transformer", layers=2, dim=8, heads=2, experts=2, expert_router="layer", sigma_reparam=True),
    dict(encoder="conformer", layers=2, dim=8, heads=2, conv_kernel=3),
    dict(encoder="conformer", layers=1, dim=8, heads=2, conv_kernel=3, subsampling=3),
    dict(encoder="blstm", layers=3, dim=8, strides=(2, 2)),
    dict(encoder="lc_blstm", layers=3, dim=8, strides=(2,), chunk=4, right_context=2),
    dict(encoder="lc_blstm", layers=2, dim=8, chunk=3, right_context=0, subsampling=2),
    dict(encoder="tdnn", layers=3, dim=8, strides=(1, 2)),
    dict(encoder="tds", layers=2, dim=8, conv_kernel=3, strides=(3,)),
    dict(encoder="transformer", layers=2, dim=8, heads=2, vgg=(2, 2, 1), vgg_channels=2),
    dict(encoder="conformer", layers=3, dim=8, heads=2, conv_kernel=3, strides=(2, 1)),
]
ATTENTION = EncoderOptions(encoder="transformer", dim=8, heads=2, dropout=0.0)
SYMBOLS = dict(encoder="tdnn", layers=2, dim=8, levels=16, subsampling=3)


def make(shape: dict) -> Encoder:
    torch.manual_seed(0)
    return Encoder(5, EncoderOptions(**shape)).eval()


@pytest.mark.parametrize("shape", [*SHAPES, SYMBOLS], ids=str)
def test_lengths_are_those_of_subsampled_labels(shape):
    encoder = make(shape)
    lens = torch.arange(1, 14)
    out, out_lens = encoder(torch.randn(len(lens), 13, 5), lens)
    expected = [len(subsample(np.arange(n), encoder.subsampling)) for n in lens.tolist()]
    assert out_lens.tolist() == expected == encoder.out_lens(lens).tolist()
    assert out.shape == (len(lens), max(expected), encoder.out_dim)


@pytest.mark.parametrize("shape", [*SHAPES, SYMBOLS], ids=str)
def test_padding_does_not_reach_real_frames(shape):
    encoder = make(shape)
    torch.manual_seed(1)
    lens = torch.tensor([11, 4, 7, 1])
    feats = [torch.randn(n, 5) for n in lens.tolist()]
    padded = torch.full((4, 16, 5), 1e3)
    for i, f in enumerate(feats):
        padded[i, : len(f)] = f
    together, out_lens = encoder(padded, lens)
    for i, f in enumerate(feats):
        alone, _ = encoder(f[None], lens[i : i + 1])
        assert torch.allclose(together[i, : out_lens[i]], alone[0], atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_padding_gets_no_gradient(shape):
    encoder = make(shape)
    feats = torch.randn(2, 9, 5, requires_grad=True)
    lens = torch.tensor([9, 5])
    out, out_lens = encoder(feats, lens)
    # Not the plain sum: behind a normalisation over the features it is constant.
    sum((out[i, : out_lens[i]] * torch.randn(out.shape[-1])).sum() for i in range(2)).backward()
    assert feats.grad[1, 5:].abs().max() == 0 and feats.grad[0].abs().min(1).values.max() > 0


def test_concat_keeps_every_frame_in_order():
    x = torch.arange(10.0).view(1, 5, 2)
    out, lens = Subsample(2)(x, torch.tensor([5]))
    assert lens.tolist() == [3]
    assert out[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]


def test_mean_and_max_leave_missing_frames_out():
    x = -torch.arange(1.0, 6).view(1, 5, 1)
    assert Subsample(2, "mean")(x, torch.tensor([5]))[0].flatten().tolist() == [-1.5, -3.5, -5]
    assert Subsample(2, "max")(x, torch.tensor([3]))[0].flatten().tolist() == [-1, -3, 0]


def test_frames_of_a_step_differ():
    """With frames_per_step the label frames of one step are predicted by weights of their own."""
    out, _ = make(dict(encoder="blstm", layers=1, dim=8, frames_per_step=3))(torch.randn(1, 6, 5), torch.tensor([6]))
    assert not torch.allclose(out[0, 0], out[0, 1]) and not torch.allclose(out[0, 1], out[0, 2])


@pytest.mark.parametrize(
    "shape",
    [
        dict(encoder="tdnn", kernel=4),
        dict(encoder="tdnn", dilations=(0,)),
        dict(encoder="tdnn", dilations=()),
        dict(encoder="transformer", dim=12, heads=4),
        dict(encoder="conformer", dim=16, conv_kernel=4),
        dict(encoder="conformer", dim=16, norms="post"),
        dict(encoder="tds", dim=10, heads=4),
        dict(encoder="tds", dim=8, conv_kernel=2),
        dict(encoder="tds", dim=8, conv_kernel=3, conv_right=3),
        dict(encoder="transformer", dim=9, heads=1, positions="cape"),
        dict(encoder="transformer", dim=8, heads=2, experts=2, norms="post"),
        dict(encoder="conformer", dim=8, heads=2, experts=2),
        dict(encoder="tdnn", dim=8, experts=2),
    ],
)
def test_impossible_shapes_are_refused(shape):
    with pytest.raises(ConfigError):
        Encoder(5, EncoderOptions(**shape))


def test_attention_depends_on_distances_only():
    """Rotary positions: the products of rotated queries and keys are equal along each diagonal for equal vectors."""
    torch.manual_seed(0)
    query, key = (rotate(torch.randn(1, 1, 1, 8).expand(1, 1, 6, 8)) for _ in range(2))
    products = (query @ key.transpose(-1, -2))[0, 0]
    for offset in range(-5, 6):
        assert torch.allclose(products.diagonal(offset), products.diagonal(offset)[:1], atol=1e-5)
    assert not torch.allclose(products[0], products[0, :1], atol=1e-2)


def test_attention_is_torch_s():
    """Without rotation (a single frame has none) and over several frames against torch's own layer."""
    torch.manual_seed(0)
    ours, theirs = SelfAttention(ATTENTION), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.inputs.weight.data, ours.inputs.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = ours.output.weight.data, ours.output.bias.data
    x, mask = torch.randn(3, 5, 8), torch.tensor([[True] * n + [False] * (5 - n) for n in (5, 3, 1)])
    with mock.patch("pipeline.nn.attention.rotate", lambda v: v):
        got = ours(x, mask)
    expected, _ = theirs(x, x, x, key_padding_mask=~mask)
    assert torch.allclose(got[mask], expected[mask], atol=1e-5)


def test_post_norm_layers_are_torch_s():
    torch.manual_seed(0)
    options = EncoderOptions(encoder="transformer", dim=8, heads=2, norms="post", dropout=0.0)
    ours = PostNormBlock(options, False)
    theirs = torch.nn.TransformerEncoderLayer(8, 2, 32, 0.0, torch.nn.functional.silu, batch_first=True)
    attention, names = theirs.self_attn, {"0": "norm2", "1": "linear1", "4": "linear2"}
    attention.in_proj_weight.data, attention.in_proj_bias.data = (
        ours.attention.inputs.weight,
        ours.attention.inputs.bias,
    )
    attention.out_proj.load_state_dict(ours.attention.output.state_dict())
    theirs.norm1.load_state_dict(ours.norm.state_dict())
    for number, name in names.items():
        getattr(theirs, name).load_state_dict(ours.after[int(number)].state_dict())
    x, mask = torch.randn(3, 5, 8), torch.tensor([[True] * n + [False] * (5 - n) for n in (5, 3, 1)])
    with mock.patch("pipeline.nn.attention.rotate", lambda v: v):
        got = ours(x, mask)
    assert torch.allclose(got[mask], theirs(x, src_key_padding_mask=~mask)[mask], atol=1e-5)


def test_entropy_of_attention_lies_between_one_frame_and_all():
    even, single = torch.full((1, 2, 3, 4), 0.5), torch.eye(4)[None, None]
    torch.testing.assert_close(entropy(even), torch.full((1, 3), 4.0).log())
    torch.testing.assert_close(entropy(single), torch.zeros(1, 4))
    # Heads are averaged: one sees two frames evenly, the other one frame.
    mixed = torch.tensor([[[[0.5, 0.5]], [[1.0, 0.0]]]])
    torch.testing.assert_close(entropy(mixed), torch.full((1, 1), 2.0).log() / 2)


@pytest.mark.parametrize("watched", [False, True])
def test_watching_the_entropy_changes_no_output(watched):
    torch.manual_seed(0)
    layer, x = SelfAttention(ATTENTION), torch.randn(2, 6, 8)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    expected = layer(x, mask)
    layer.watched = watched
    torch.testing.assert_close(layer(x, mask), expected, atol=1e-5, rtol=1e-4)
    # With queries of 0 attention is even: log 6 for six frames, log 3 for three.
    layer.inputs.weight.data[:8], layer.inputs.bias.data[:8] = 0.0, 0.0
    layer(x, mask)
    even = (6 * math.log(6) + 3 * math.log(3)) / 9
    assert layer.entropy == pytest.approx(even if watched else 0.0, abs=1e-5)


def test_layers_are_handed_out_at_their_rate():
    shape = dict(encoder="conformer", layers=3, dim=8, heads=2, conv_kernel=3, strides=(2, 3), subsampling=2)
    assert layer_factors(EncoderOptions(**shape)) == [2, 4, 12]
    encoder, lens = make(shape), torch.tensor([25, 13])
    x = torch.randn(2, 25, 5)
    out, out_lens, found = encoder.layers(x, lens, (1, 3))
    assert sorted(found) == [1, 3] and found[3].x is out and [found[n].factor for n in (1, 3)] == [2, 12]
    for hidden in found.values():
        assert hidden.lens.tolist() == [-(-n // hidden.factor) for n in (25, 13)] and hidden.x.shape[:2] == (
            2,
            int(hidden.lens[0]),
        )
    assert torch.equal(out, encoder(x, lens)[0])


def test_sigmoid_attention_of_equal_scores_is_a_mean():
    """Scores of 0 become weights of 1 / (1 + n) each for n frames, the bias being -log n."""
    layer = SelfAttention(dataclasses.replace(ATTENTION, attention="sigmoid"))
    layer.inputs.weight.data[:8], layer.inputs.bias.data[:8] = 0.0, 0.0
    x, lens = torch.randn(2, 6, 8), torch.tensor([6, 3])
    out = layer(x, mask_of(lens, 6))
    values = layer.inputs(x)[..., 16:]
    for i, n in enumerate(lens.tolist()):
        expected = layer.output(values[i, :n].sum(0) / (1 + n))
        torch.testing.assert_close(out[i, :n], expected.expand(n, 8))


def test_sigmoid_attention_is_its_formula():
    torch.manual_seed(0)
    layer = SelfAttention(dataclasses.replace(ATTENTION, attention="sigmoid", positions="cape"))
    x = torch.randn(1, 5, 8)
    query, key, value = layer.inputs(x)[0].view(5, 3, 2, 4).unbind(1)
    heads = [
        torch.sigmoid(query[:, h] @ key[:, h].T / 2 - math.log(5)) @ value[:, h] for h in range(2)
    ]  # (T, D / H) each
    expected = layer.output(torch.cat(heads, -1))
    torch.testing.assert_close(layer(x, torch.ones(1, 5, dtype=torch.bool))[0], expected)


@pytest.mark.parametrize("right", [None, 0, 1, 3])
@pytest.mark.parametrize("strides", [(), (2,), (3, 2)])
def test_tds_sees_as_far_as_it_says(right, strides):
    """A change of any frame beyond the look-ahead leaves a frame of the output as it is, and one of its last changes it."""
    encoder = make(dict(encoder="tds", layers=3, dim=8, conv_kernel=5, conv_right=right, strides=strides))
    factor, lookahead = encoder.subsampling, encoder.network.lookahead
    for module in encoder.modules():
        if isinstance(module, torch.nn.LayerNorm):  # else the sum of a frame would be constant
            torch.nn.init.normal_(module.weight)
    x = torch.randn(1, 90, 5, requires_grad=True)
    frame = 3
    encoder(x, torch.tensor([90]))[0][0, frame].sum().backward()
    seen = x.grad[0].abs().sum(1).nonzero().flatten()
    assert int(seen.max()) == factor * frame + lookahead - 1


def test_latency_of_tds_is_its_look_ahead():
    model = EndToEnd(5, 4, EndToEndOptions(encoder="tds", layers=3, dim=8, conv_kernel=5, conv_right=1, subsampling=4))
    assert latency(model, 0.01) == pytest.approx((1 + 3) * 4 * 0.01)


def lc_and_plain(chunk: int, context: int, **shape) -> tuple[Encoder, Encoder]:
    """A latency-controlled encoder and a plain one with the same weights."""
    lc = make(dict(encoder="lc_blstm", layers=3, dim=8, chunk=chunk, right_context=context, **shape))
    plain = make(dict(encoder="blstm", layers=3, dim=8, **shape))
    for forward, backward, layer in zip(lc.network.forwards, lc.network.backwards, plain.network.layers):
        for name, parameter in forward.named_parameters():
            getattr(layer, name).data = parameter.data
            getattr(layer, f"{name}_reverse").data = dict(backward.named_parameters())[name].data
    return lc, plain


def test_one_chunk_is_a_plain_blstm():
    lc, plain = lc_and_plain(24, 12, strides=(2, 2))
    x, lens = torch.randn(3, 23, 5), torch.tensor([23, 9, 1])
    ours, theirs = lc(x, lens)[0], plain(x, lens)[0]
    for i, n in enumerate(lc.out_lens(lens).tolist()):
        assert torch.allclose(ours[i, :n], theirs[i, :n], atol=1e-5)


def test_context_to_the_end_is_a_plain_blstm_in_the_first_layer():
    """There the forward LSTM runs on from chunk to chunk and the backward one has seen everything."""
    lc, plain = lc_and_plain(4, 40)
    x, lens = torch.randn(2, 17, 5), torch.tensor([17, 10])
    ours, theirs = (e.layers(x, lens, (1,))[2][1].x for e in (lc, plain))
    assert torch.allclose(ours[0], theirs[0], atol=1e-5) and torch.allclose(ours[1, :10], theirs[1, :10], atol=1e-5)


def test_nothing_behind_chunk_and_context_is_seen():
    lc, _ = lc_and_plain(4, 2)
    x = torch.randn(1, 16, 5, requires_grad=True)
    lc(x, torch.tensor([16]))[0][0, 4:8].sum().backward()
    assert lc.network.lookahead == 6
    assert x.grad[0, 10:].abs().max() == 0 and (x.grad[0, :10].abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    "shape",
    [
        dict(strides=(2, 2, 2)),
        dict(strides=(0,)),
        dict(encoder="lc_blstm", strides=(2,), chunk=5),
        dict(strides=(2,), frames_per_step=2),
    ],
)
def test_impossible_rates_are_refused(shape):
    with pytest.raises(ConfigError):
        Encoder(5, EncoderOptions(**{"layers": 3, "dim": 8, **shape}))


@pytest.mark.skipif(attention.SCALED_DOT_PRODUCT is None, reason="torch before 2.0")
@pytest.mark.parametrize("name", ["transformer", "conformer"])
def test_attention_without_a_matrix_is_the_one_with_it(monkeypatch, name):
    torch.manual_seed(4)
    encoder = Encoder(5, EncoderOptions(encoder=name, layers=2, dim=8, heads=2, dropout=0.0)).eval()
    x, lens = torch.randn(3, 30, 5, requires_grad=True), torch.tensor([30, 17, 1])
    found = []
    for function in (attention.SCALED_DOT_PRODUCT, None):
        monkeypatch.setattr(attention, "SCALED_DOT_PRODUCT", function)
        out, _ = encoder(x, lens)
        found.append((out.detach(), torch.autograd.grad(out.square().sum(), x)[0]))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
