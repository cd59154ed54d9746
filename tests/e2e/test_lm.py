"""The LSTM language model: steps against whole sentences, learning of a rule, save and load, other tokens."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.artifacts.tokens import EOS_ID, TokenOptions, train_tokens
from pipeline.base.errors import DataError, MismatchError
from pipeline.e2e.lm import NeuralLm, NextToken, Sentences, load_nn_lm, perplexity, train_nn_lm
from pipeline.e2e.search.options import NnLmOptions

# After AB comes CD, after CD comes AB; sentences have 1 to 4 words.
SENTENCES = [(["AB", "CD"] * 3)[first : first + length] for first in (0, 1) for length in (1, 2, 3, 4)]
TOKENS = train_tokens(SENTENCES, TokenOptions(unit="char"))


def test_steps_give_what_whole_sentences_give(tmp_path):
    torch.manual_seed(1)
    model = NeuralLm(len(TOKENS), NnLmOptions(dim=8, layers=2)).eval()
    data = Sentences(SENTENCES, TOKENS, tmp_path).data
    batch = next(data.batches(1000, 100))
    loss = NextToken()(model, batch, 1.0)
    total = 0.0
    for words in SENTENCES:
        state, last = model.start(1), EOS_ID
        for token in [*TOKENS.encode(" ".join(words)), EOS_ID]:
            log_probs, state = model.step(torch.tensor([last]), state)
            assert float(log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-5)
            total -= float(log_probs[0, token])
            last = token
    assert loss.frames == int(data.lens.sum())
    assert float(loss.total) == pytest.approx(total, rel=1e-4)


def test_rows_are_selected_and_joined():
    model = NeuralLm(len(TOKENS), NnLmOptions(dim=8)).eval()
    _, state = model.step(torch.tensor([1, 3, 4]), model.start(3))
    rows = state.select(torch.tensor([2, 0]))
    joined = rows.cat(state)
    whole, _ = model.step(torch.tensor([3, 3, 3, 3, 3]), joined)
    parts, _ = model.step(torch.tensor([3, 3, 3]), state)
    assert torch.allclose(whole, parts[[2, 0, 0, 1, 2]], atol=1e-6)


def test_training(tmp_path):
    options = NnLmOptions(dim=16, layers=1, dropout=0.0, epochs=60, batch_tokens=60, learning_rate=0.02)
    facts = train_nn_lm(iter(SENTENCES), TOKENS, options, tmp_path, iter(SENTENCES))
    model = load_nn_lm(tmp_path, TOKENS, "tokens")
    text = Sentences(SENTENCES, TOKENS, tmp_path)
    found = perplexity(model, text)
    assert facts["perplexity"] == pytest.approx(found["perplexity"], rel=1e-4)
    assert not (tmp_path / "epochs").exists()
    # All eight sentences are equally likely: no model has less than log 8 for each.
    best = math.exp(len(SENTENCES) * math.log(8) / (sum(map(len, SENTENCES)) + len(SENTENCES)))
    assert best - 1e-3 < found["perplexity"] < 1.2 * best
    untrained = perplexity(NeuralLm(len(TOKENS), options).eval(), text)
    assert untrained["perplexity"] > 20
    other = train_tokens([["XYZ"]], TokenOptions(unit="char"))
    with pytest.raises(MismatchError, match="tokens"):
        load_nn_lm(tmp_path, other, "other_tokens")
    (tmp_path / "model.json").write_text((tmp_path / "model.json").read_text().replace('"dim": 16', '"dim": 17'))
    with pytest.raises(DataError, match="model.json: does not describe the network of model.safetensors"):
        load_nn_lm(tmp_path, TOKENS, "tokens")
