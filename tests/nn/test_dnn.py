"""The feed-forward network over a window: frames alone and in their utterance, padding, what the window reaches."""

from __future__ import annotations

import pytest
import torch

from pipeline.base.errors import ConfigError
from pipeline.nn.encoders import Encoder
from pipeline.nn.options import EncoderOptions

SMALL = dict(encoder="dnn", layers=3, dim=16, dropout=0.0, window_left=3, window_right=1)


def make(**options) -> Encoder:
    torch.manual_seed(3)
    return Encoder(5, EncoderOptions(**{**SMALL, **options})).eval()


def test_windows_are_the_utterance_frame_by_frame():
    encoder = make()
    x, lens = torch.randn(1, 9, 5), torch.tensor([9])
    whole, _ = encoder(x, lens)
    padded = torch.nn.functional.pad(x[0], (0, 0, *encoder.network.window))
    alone = encoder.network.windows(torch.stack([padded[t : t + 5] for t in range(9)]))
    assert torch.allclose(whole[0], alone, atol=1e-6)


def test_padding_is_never_seen():
    encoder = make()
    x = torch.randn(2, 9, 5)
    whole, _ = encoder(x, torch.tensor([9, 6]))
    cut, _ = encoder(x[1:, :6], torch.tensor([6]))
    assert torch.allclose(whole[1, :6], cut[0], atol=1e-6) and not whole[1, 6:].any()


def test_window_reaches_three_back_and_one_ahead():
    encoder = make()
    x = torch.randn(1, 12, 5, requires_grad=True)
    encoder(x, torch.tensor([12]))[0][0, 6].sum().backward()
    assert x.grad[0].ne(0).any(1).nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7]


def test_frames_cannot_be_joined_between_layers():
    with pytest.raises(ConfigError, match="dnn"):
        make(strides=(2,))
