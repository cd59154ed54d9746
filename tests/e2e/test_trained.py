"""Models trained on a corpus of tones: every search finds the words that they were trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.artifacts.tokens import TokenOptions, Tokens, train_tokens
from pipeline.e2e.model import load_end_to_end
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.e2e.search.options import SearchOptions
from pipeline.e2e.search.results import Weights
from pipeline.e2e.training import train_end_to_end
from pipeline.tasks.decode_e2e import decode
from pipeline.tasks.score import count_errors, total_errors
from tests.nn.conftest import WORDS, tones  # noqa: F401

SHAPE = dict(
    encoder="tdnn",
    dim=48,
    layers=3,
    subsampling=3,
    batch_frames=500,
    learning_rate=4e-3,
    time_masks=0,
    feature_masks=0,
    embedding_dim=24,
    decoder_dim=48,
    dropout=0.0,
    decoder_dropout=0.0,
    device="cpu",
)
MODELS = {
    "attention": dict(attention_dim=32, attention_heads=1, epochs=30),
    "transducer": dict(predictor="stateless", joint_dim=48, epochs=80),
}


@pytest.fixture(scope="module")
def trained(tones, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    tokens = train_tokens([list(WORDS)], TokenOptions(unit="char"))
    tokens.save(root / "tokens")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, shape in MODELS.items():
        (root / name).mkdir()
        train_end_to_end(tones.data, root / "tokens", root / name, TrainEndToEndOptions(model=name, **SHAPE, **shape))
    torch.set_num_threads(threads)
    return root


@pytest.mark.parametrize(
    "name, method, weights",
    [
        ("attention", "ctc_greedy", Weights()),
        ("attention", "ctc_prefix", Weights()),
        ("attention", "attention", Weights()),
        ("attention", "attention", Weights(ctc=0.3)),
        ("transducer", "transducer_greedy", Weights()),
        ("transducer", "transducer_beam", Weights()),
        ("transducer", "transducer_one", Weights()),
        ("transducer", "transducer_viterbi", Weights()),
    ],
)
def test_words_are_found(tones, trained, name, method, weights):
    tokens = Tokens.load(trained / "tokens")
    model, meta = load_end_to_end(trained / name)
    decoded = decode(model, meta, tones.data, SearchOptions(beam=4, max_length=0.8), method, [weights])
    errors = total_errors(count_errors(decoded.hypotheses(weights, tokens)))
    assert errors.words == 72 and errors.wer < 5, errors.line()
