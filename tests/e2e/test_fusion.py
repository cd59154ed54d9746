"""N-grams scored token by token against their sentence probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.artifacts.arpa import Arpa, train_kneser_ney, train_unigram
from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, TokenOptions, Tokens, train_tokens
from pipeline.e2e.search.fusion import UNKNOWN_WORD, NgramLm, WordNgramLm, ngram_lm

SENTENCES = [
    s.split() for s in ("THE CAT SAT", "THE DOG SAT ON THE CAT", "A CAT", "THE CATS SAT", "ON A DOG THE CAT SAT")
]


@pytest.fixture(params=["char", "bpe"])
def tokens(request) -> Tokens:
    return train_tokens(SENTENCES, TokenOptions(unit=request.param, vocab_size=24))


def walk(lm, ids: list[int]) -> float:
    """Log probability of tokens and sentence end, step by step."""
    state, total, last = lm.start(1), 0.0, EOS_ID
    for token in [*ids, EOS_ID]:
        log_probs, state = lm.step(torch.tensor([last]), state)
        total += float(log_probs[0, token])
        last = token
    return total


@pytest.mark.parametrize("order", [1, 2, 3])
def test_words_count_when_they_are_complete(tokens, order):
    arpa = train_unigram(SENTENCES) if order == 1 else train_kneser_ney(SENTENCES, order)
    lm = ngram_lm(arpa, tokens)
    assert isinstance(lm, WordNgramLm)
    for words in SENTENCES + [["SAT", "THE", "THE"], []]:
        assert walk(lm, tokens.encode(" ".join(words))) == pytest.approx(arpa.sentence_log_prob(words), abs=1e-4)


def test_words_outside_the_model_stay_possible(tokens):
    arpa = train_unigram(SENTENCES)
    lm = ngram_lm(arpa, tokens)
    known = arpa.log_prob((), "CAT") + arpa.log_prob((), "</s>")
    # Leaving the vocabulary costs once, beside what the part of the word costs that some word begins with.
    found = walk(lm, tokens.encode("CAT TAC"))
    assert known + UNKNOWN_WORD - 8 < found <= known + UNKNOWN_WORD + 1e-4
    assert walk(lm, tokens.encode("TAC CAT")) == pytest.approx(found, abs=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_tokens(tokens, order):
    pieces = [[tokens.pieces[i] for i in tokens.encode(" ".join(s))] for s in SENTENCES]
    arpa = train_unigram(pieces) if order == 1 else train_kneser_ney(pieces, order)
    lm = ngram_lm(arpa, tokens)
    assert isinstance(lm, NgramLm)
    for words in SENTENCES + [["SAT", "THE", "THE"]]:
        ids = tokens.encode(" ".join(words))
        assert walk(lm, ids) == pytest.approx(arpa.sentence_log_prob([tokens.pieces[i] for i in ids]), abs=1e-4)


def test_batches_and_selection(tokens):
    arpa = train_kneser_ney(SENTENCES, 2)
    lm = ngram_lm(arpa, tokens)
    paths = [tokens.encode("THE CAT"), tokens.encode("A DOG")]
    length = min(map(len, paths))
    state = lm.start(2)
    for last in [[EOS_ID, EOS_ID], *zip(*(p[:length] for p in paths))]:
        together, state = lm.step(torch.tensor(last), state)
    swapped = state.select(torch.tensor([1, 0, 0]))
    assert swapped.items == [state.items[1], state.items[0], state.items[0]]
    assert swapped.cat(state).items == swapped.items + state.items
    assert float(together[0, BLANK_ID]) < -1e20
    for row, path in enumerate(paths):
        alone = lm.start(1)
        for last in [EOS_ID, *path[:length]]:
            log_probs, alone = lm.step(torch.tensor([last]), alone)
        assert torch.equal(log_probs[0], together[row])


@pytest.mark.parametrize("unit", ["words", "tokens"])
def test_what_is_kept_of_scores_is_bounded(tokens, unit, monkeypatch):
    """Room for three rows: the scores are the same, and no more rows are kept."""
    pieces = [[tokens.pieces[i] for i in tokens.encode(" ".join(s))] for s in SENTENCES]
    arpa = train_kneser_ney(SENTENCES if unit == "words" else pieces, 3)
    ids = tokens.encode("THE DOG SAT ON A CAT")
    expected = walk(ngram_lm(arpa, tokens), ids)
    monkeypatch.setattr("pipeline.e2e.search.fusion.ROW_BYTES", 3 * 4 * len(tokens))
    lm = ngram_lm(arpa, tokens)
    assert walk(lm, ids) == expected == walk(lm, ids)
    assert lm._row.cache_info().currsize == 3 and lm._row.cache_info().misses > 3


@pytest.mark.parametrize("order", [1, 2, 3])
def test_looking_ahead_gives_distributions(tokens, order):
    arpa = train_unigram(SENTENCES) if order == 1 else train_kneser_ney(SENTENCES, order)
    lm = ngram_lm(arpa, tokens)
    state, last = lm.start(1), EOS_ID
    for token in [*tokens.encode("THE CATS SAT ON A DOG"), None]:
        log_probs, state = lm.step(torch.tensor([last]), state)
        possible = log_probs[0] > UNKNOWN_WORD / 2
        assert float(log_probs[0][possible].exp().sum()) == pytest.approx(1.0, abs=1e-3)
        last = token


def test_token_distributions_sum_to_one(tokens):
    pieces = [[tokens.pieces[i] for i in tokens.encode(" ".join(s))] for s in SENTENCES]
    lm = NgramLm(train_unigram(pieces, tokens.pieces[3:], add=0.5), tokens)
    log_probs, _ = lm.step(torch.tensor([EOS_ID]), lm.start(1))
    assert float(log_probs[0].exp().sum()) == pytest.approx(1.0, abs=1e-3)
    unknown = Arpa(1, {("<s>",): -99.0, ("</s>",): math.log(0.5), ("X",): math.log(0.5)})
    assert isinstance(ngram_lm(unknown, tokens), WordNgramLm)
