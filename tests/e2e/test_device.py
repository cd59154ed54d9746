"""``--device cuda`` without a GPU for end-to-end models: training of every kind and every search, held to the CPU's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.artifacts.tokens import Tokens
from pipeline.e2e.model import load_end_to_end
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.e2e.search.options import SearchOptions
from pipeline.e2e.search.results import Weights
from pipeline.e2e.training import train_end_to_end
from pipeline.tasks.decode_e2e import decode
from tests.nn.conftest import tones  # noqa: F401
from tests.pretend_cuda import pretend_cuda

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("1."), reason="the modes of torch 1 do not see properties of tensors"
)
SMALL = dict(encoder="tdnn", layers=2, dim=12, strides=(2,), dilations=(1,), dropout=0.0, embedding_dim=8, joint_dim=8)
SMALL |= dict(decoder_dim=8, attention_heads=2, attention_dim=8)
LOOP = dict(batch_frames=800, time_masks=0, feature_masks=0, learning_rate=5e-3, epochs=1)
METHODS = {
    "ctc": ("ctc_greedy", "ctc_prefix"),
    "attention": ("attention", "ctc_prefix"),
    "transducer": ("transducer_greedy", "transducer_beam"),
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tokens")
    Tokens("char", ["▁", "A", "B", "C"]).save(out)
    return out


@pytest.mark.parametrize(
    "changes", [{}, dict(model="attention"), dict(model="transducer"), dict(model="transducer", rnnt="pruned")], ids=str
)
def test_training_and_search(changes, tones, tokens, tmp_path):
    options = SMALL | LOOP | {"model": "ctc"} | changes
    train_end_to_end(tones.data, tokens, tmp_path / "cpu", TrainEndToEndOptions(**options, device="cpu"))
    with pretend_cuda() as gpu:
        train_end_to_end(tones.data, tokens, tmp_path / "gpu", TrainEndToEndOptions(**options, device="cuda"))
    assert gpu.calls > 100
    (model, meta), (_, theirs) = (load_end_to_end(tmp_path / name) for name in ("gpu", "cpu"))
    assert meta.epochs[0]["loss"] == pytest.approx(theirs.epochs[0]["loss"], rel=2e-3)
    for method in METHODS[options["model"]]:
        found = {}
        for device in ("cpu", "cuda"):
            model, meta = load_end_to_end(tmp_path / "gpu")
            search = SearchOptions(method=method, beam=3, device=device)
            with pretend_cuda():
                decoded = decode(model, meta, tones.data, search, method, [Weights()])
            found[device] = {cut: [list(f.tokens) for f in decoded.spool.get(cut, 0)] for cut in tones.times}
        assert found["cpu"] == found["cuda"], method
