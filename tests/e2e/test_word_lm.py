"""A model over tokens as one over words: sums over tokens, whatever the order of the questions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.artifacts.arpa import train_kneser_ney
from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.tokens import EOS_ID, TokenOptions, train_tokens
from pipeline.e2e.lm import NeuralLm
from pipeline.e2e.search.fusion import NgramLm
from pipeline.e2e.search.options import NnLmOptions
from pipeline.e2e.word_lm import TokenWordLm

WORDS = SymbolTable(["AB", "A", "CAB", "ABC"])
SENTENCES = [["AB", "A"], ["CAB", "A", "AB"], ["ABC"], ["A"]]
TOKENS = train_tokens(SENTENCES, TokenOptions(unit="char"))


def models() -> list:
    torch.manual_seed(0)
    neural = NeuralLm(len(TOKENS), NnLmOptions(dim=8, layers=2)).eval()
    return [neural, NgramLm(train_kneser_ney([TOKENS.spell(s) for s in SENTENCES], 3), TOKENS)]


@torch.no_grad()
def token_by_token(lm, words: tuple[int, ...]) -> list[float]:
    """Log probability of each word and of the sentence end."""
    state, last, out = lm.start(1), EOS_ID, []
    for spelt in [*(TOKENS.encode_word(WORDS.name(w)) for w in words), [EOS_ID]]:
        total = 0.0
        for token in spelt:
            log_probs, state = lm.step(torch.tensor([last]), state)
            total += float(log_probs[0, token])
            last = token
        out.append(total)
    return out


@pytest.mark.parametrize("kind", [0, 1])
def test_words_cost_what_their_tokens_cost(kind: int) -> None:
    lm = models()[kind]
    words = TokenWordLm(lm, TOKENS, WORDS)
    rng = np.random.default_rng(kind)
    for _ in range(2):  # a start forgets what was before
        state, history = words.start()
        known = {(): (state, history)}
        for _ in range(6):
            # Any of the states so far, several at once, with any word.
            asked = [(list(known)[i], int(w)) for i, w in zip(rng.integers(0, len(known), 5), rng.integers(1, 5, 5))]
            asked = [(h, w) for h, w in dict.fromkeys(asked) if len(h) < 4]
            states = np.array([known[h][0] for h, _ in asked])
            log_probs, after, histories = words.step(states, np.array([w for _, w in asked]))
            for (said, word), log_prob, *found in zip(asked, log_probs, after.tolist(), histories.tolist()):
                assert log_prob == pytest.approx(token_by_token(lm, (*said, word))[-2], abs=1e-4)
                assert found[1] == known.get((*said, word), found)[1]
                known[(*said, word)] = tuple(found)
        ends = words.end(np.array([s for s, _ in known.values()]))
        assert ends == pytest.approx([token_by_token(lm, h)[-1] for h in known], abs=1e-4)
        assert len({h for _, h in known.values()}) == len(known) > 8


def test_histories_agree_where_the_last_words_do() -> None:
    lm = TokenWordLm(models()[0], TOKENS, WORDS, order=2)
    state, begin = lm.start()
    _, first, one = lm.step(np.array([state, state]), np.array([1, 2]))
    _, second, two = lm.step(np.array([first[0], first[1], first[0]]), np.array([3, 3, 4]))
    assert len({begin, *one.tolist()}) == 3 and two[0] == two[1] != two[2] and second[0] != second[1]
