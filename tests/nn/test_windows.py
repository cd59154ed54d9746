"""Long recordings in windows: what encoders of bounded context give for the whole."""

from __future__ import annotations

import pytest
import torch

from pipeline.nn import windows
from pipeline.nn.encoders import Encoder
from pipeline.nn.options import EncoderOptions

BOUNDED = {
    "dnn": dict(encoder="dnn", layers=2, dim=8, window_left=3, window_right=2),
    "tdnn": dict(encoder="tdnn", layers=2, dim=8),
    "tdnn_joined": dict(encoder="tdnn", layers=2, dim=8, subsampling=3),
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("frames", [101, 240, 241])
def test_windows_are_the_whole(monkeypatch, name, frames):
    torch.manual_seed(1)
    encoder = Encoder(4, EncoderOptions(**BOUNDED[name], dropout=0.0)).eval()
    feats, lens = torch.randn(2, frames, 4), torch.tensor([frames, frames - 37])
    whole, whole_lens = encoder(feats, lens)
    for name, value in (("LONGEST", 100), ("WINDOW", 40), ("OVERLAP", 30)):
        monkeypatch.setattr(windows, name, value)
    with torch.no_grad():
        parts, lens = windows.encode_windows(encoder, feats, lens, encoder.subsampling)
    assert lens.equal(whole_lens)
    for n, length in enumerate(lens.tolist()):
        assert torch.allclose(parts[n, :length], whole[n, :length], atol=1e-5), n
    assert not parts[1, int(lens[1]) :].any()


def test_attention_sees_one_window_at_a_time(monkeypatch):
    """A change far away does not matter, one near by does; the batch of usual length is not touched."""
    torch.manual_seed(1)
    encoder = Encoder(4, EncoderOptions(encoder="conformer", layers=1, dim=8, heads=2, dropout=0.0)).eval()
    feats, lens = torch.randn(1, 200, 4), torch.tensor([200])
    monkeypatch.setattr(windows, "LONGEST", 199)
    monkeypatch.setattr(windows, "WINDOW", 40)
    monkeypatch.setattr(windows, "OVERLAP", 10)
    changed = feats.clone()
    changed[0, 145] += 1.0
    with torch.no_grad():
        a, b = (windows.encode_windows(encoder, x, lens, encoder.subsampling)[0] for x in (feats, changed))
    differs = (a - b).abs().sum(2)[0] > 0
    frames = differs.nonzero()[:, 0] * encoder.subsampling
    assert frames.min() >= 120 and frames.max() < 160 and differs.any()


def test_an_utterance_passes_as_it_does_alone(monkeypatch):
    """An encoder with attention would notice windows; a long neighbour in the batch brings none."""
    torch.manual_seed(1)
    encoder = Encoder(4, EncoderOptions(encoder="conformer", layers=1, dim=8, heads=2, dropout=0.0)).eval()
    feats, lens = torch.randn(3, 203, 4), torch.tensor([203, 101, 70])
    for name, value in (("LONGEST", 101), ("WINDOW", 40), ("OVERLAP", 12)):
        monkeypatch.setattr(windows, name, value)
    with torch.no_grad():
        together, _ = windows.encode_windows(encoder, feats, lens, encoder.subsampling)
        for n, length in enumerate(lens.tolist()):
            alone, own = windows.encode_windows(
                encoder, feats[n : n + 1, :length], lens[n : n + 1], encoder.subsampling
            )
            assert torch.allclose(together[n, : int(own)], alone[0], atol=1e-5), n
            whole, _ = encoder(feats[n : n + 1, :length], lens[n : n + 1])
            assert torch.allclose(alone, whole, atol=1e-5) == (length <= 101)
