"""Attention beam search against enumeration on toy models, batched against alone, and its ends."""

from __future__ import annotations

import pytest
import torch

from pipeline.artifacts.tokens import EOS_ID
from pipeline.e2e.search.attention import AttentionSearch
from pipeline.e2e.search.results import Weights

from .toys import ToyDecoder, ToyLm, ctc_log_prob, random_ctc, sequences

VOCABULARY = 5  # two labels beside the special ones
MOST = 5  # tokens


def encoded(lens: list[int]) -> torch.Tensor:
    """(N, T, 1) whose first value names the utterance."""
    out = torch.zeros(len(lens), max(lens), 1)
    out[:, :, 0] = torch.arange(len(lens))[:, None] / 1000.0
    return out


def brute_force(decoder, log_probs, frames, utterance, weights, lm, most):
    found = []
    for labels in sequences(VOCABULARY, most):
        path = [EOS_ID, *labels]
        scores = {"attention": 0.0, "lm": 0.0}
        for i, label in enumerate([*labels, EOS_ID]):
            scores["attention"] += float(decoder.row(utterance, tuple(path[: i + 1]))[label])
            scores["lm"] += 0.0 if lm is None else float(lm.row(0, tuple(path[: i + 1]))[label])
        ctc = ctc_log_prob(log_probs[utterance, :frames], labels) if weights.ctc else 0.0
        model = (1 - weights.ctc) * scores["attention"] + weights.ctc * ctc
        found.append((model + weights.lm * scores["lm"] + weights.length * len(labels), labels))
    return sorted(found, reverse=True)


@pytest.mark.parametrize(
    "weights",
    [
        Weights(),
        Weights(ctc=0.4),
        Weights(ctc=1.0),
        Weights(lm=0.5),
        Weights(ctc=0.3, lm=0.4, length=0.7),
        Weights(length=-0.5),
    ],
)
def test_wide_beams_find_the_best(weights):
    lens = [4, 3, 1]
    log_probs = random_ctc(3, 4, VOCABULARY)
    for seed in (1, 2):
        decoder = ToyDecoder(VOCABULARY, seed)
        lm = ToyLm(VOCABULARY, seed + 10) if weights.lm else None
        search = AttentionSearch(decoder, log_probs, torch.tensor(lens), weights, beam=40, lm=lm)
        found = search.search(encoded(lens), number=40)
        for n, length in enumerate(lens):
            expected = brute_force(decoder, log_probs, length, n, weights, lm, length)
            # Without CTC nothing but max_length bounds the number of tokens, with it the frames do.
            expected = [e for e in expected if e[0] > -1e20][:3]
            best = [(f.total, f.tokens) for f in found[n][: len(expected)]]
            assert [tokens for _, tokens in best] == [tokens for _, tokens in expected]
            assert [total for total, _ in best] == pytest.approx([total for total, _ in expected], abs=1e-4)


def test_a_batch_is_its_utterances():
    lens = [6, 2, 5]
    log_probs, weights = random_ctc(3, 6, 9), Weights(ctc=0.3, length=0.2)
    decoder = ToyDecoder(9)
    together = AttentionSearch(decoder, log_probs, torch.tensor(lens), weights, beam=3).search(encoded(lens), 2)
    for n, length in enumerate(lens):
        alone = AttentionSearch(decoder, log_probs[n : n + 1, :length], torch.tensor([length]), weights, beam=3)
        found = alone.search(encoded(lens)[n : n + 1, :length], 2)[0]
        assert [f.tokens for f in found] == [f.tokens for f in together[n]]
        assert [f.total for f in found] == pytest.approx([f.total for f in together[n]], abs=1e-4)


def test_beam_1_is_greedy_and_parts_add_up():
    decoder, lm, weights = ToyDecoder(9, seed=4), ToyLm(9, seed=5), Weights(lm=0.3, length=0.1)
    found = AttentionSearch(decoder, None, torch.tensor([12]), weights, beam=1, lm=lm).search(encoded([12]))[0][0]
    assert found.total == pytest.approx(found.model + 0.3 * found.lm + 0.1 * len(found.tokens))
    history = (EOS_ID,)
    for token in found.tokens:
        row = decoder.row(0, history) + 0.3 * lm.row(0, history)
        assert token == 3 + int(row[3:].argmax())
        history += (token,)


def test_search_ends_early_when_all_have_ended():
    decoder = ToyDecoder(6, end=25.0)  # the sentence end is all but certain at once
    AttentionSearch(decoder, None, torch.tensor([500]), Weights(), beam=4).search(encoded([500]))
    assert decoder.steps < 5
    decoder = ToyDecoder(6, end=-25.0)
    found = AttentionSearch(decoder, None, torch.tensor([10]), Weights(), beam=4, max_length=0.5).search(encoded([10]))[
        0
    ]
    assert decoder.steps == 6 and len(found[0].tokens) <= 5


@pytest.mark.parametrize("weights", [Weights(), Weights(ctc=0.3), Weights(length=2.5)])
@pytest.mark.parametrize("number", [1, 3])
def test_an_early_end_loses_nothing(weights, number):
    """Among so few tokens a bonus cannot gain more than the search waits for."""
    log_probs, steps = random_ctc(1, MOST, VOCABULARY), 0
    for seed in range(6):
        decoder = ToyDecoder(VOCABULARY, seed, end=2.0)
        search = AttentionSearch(decoder, log_probs, torch.tensor([MOST]), weights, beam=64)
        found = search.search(encoded([MOST]), number)[0]
        steps += decoder.steps
        expected = brute_force(decoder, log_probs, MOST, 0, weights, None, MOST)[:number]
        assert [f.tokens for f in found] == [tokens for _, tokens in expected], seed
    assert weights.length or steps < 6 * (MOST + 1)  # some have ended before the limit
