"""Phone n-grams: counts by hand, probabilities of sequences, and the graph that they make."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.base.errors import DataError
from pipeline.graph.decoding import expand_phone_graph
from pipeline.graph.denominator import GraphSum
from pipeline.graph.phone_graph import NO_PHONE, PhoneGraph
from pipeline.graph.phone_lm import END, START, PhoneCounts, phone_ngram
from tests.graph.cases import hmm_of, random_tree, small_lang


def log_prob(graph: PhoneGraph, phones: list[int]) -> float:
    """Score of a phone sequence, -inf where the graph does not allow it."""
    arcs = {(int(s), int(p)): (int(d), float(w)) for s, d, p, w in zip(graph.src, graph.dst, graph.phone, graph.lm)}
    state, total = graph.start, 0.0
    for phone in [*phones, NO_PHONE]:
        if (state, phone) not in arcs:
            return -math.inf
        state, weight = arcs[state, phone]
        total += weight
    return total


def test_counts_are_expectations_over_variants_and_silence() -> None:
    lang = small_lang(silence_prob=0.25)
    sil, x, y, z = (lang.phones.id(p) for p in ("SIL", "x", "y", "z"))
    counts = PhoneCounts(2)
    counts.add(lang, [lang.words.id("B")])  # x y (probability 1) or y y z (0.5): 2/3 and 1/3
    want = {
        (START,): {sil: 0.25, x: 0.5, y: 0.25},
        (sil,): {x: 1 / 6, y: 1 / 12, END: 0.25},
        (x,): {y: 2 / 3},
        (y,): {y: 1 / 3, z: 1 / 3, sil: 1 / 6, END: 0.5},
        (z,): {sil: 1 / 12, END: 0.25},
    }
    assert {h: dict(f) for h, f in counts.counts.items()} == {h: pytest.approx(f) for h, f in want.items()}


@pytest.mark.parametrize("order", [2, 3, 4])
def test_weights_are_probabilities(order: int) -> None:
    """All followers of a history sum to 1; nothing enters the start; seen sequences are possible, unseen ones are
    not.
    """
    lang = small_lang(silence_prob=0.3)
    texts = [[lang.words.id(w) for w in t.split()] for t in ("A B", "C", "D A")]
    graph = phone_ngram(lang, texts, order)
    for state in range(graph.num_states - 1):
        assert np.exp(graph.lm[graph.src == state]).sum() == pytest.approx(1.0)
    assert not (graph.dst == graph.start).any() and (np.diff(graph.src) >= 0).all()
    x, y, z = (lang.phones.id(p) for p in "xyz")
    assert log_prob(graph, [x, y, z]) > -math.inf
    assert log_prob(graph, [z, z]) == -math.inf
    assert (
        log_prob(graph, [x, x, y]) > log_prob(graph, [x, x, x, y])
        if order < 4
        else log_prob(graph, [x, x, x, y]) == -math.inf
    )


def test_rare_histories_are_shortened() -> None:
    lang = small_lang(silence_prob=0.0)
    texts = [[lang.words.id(w) for w in t.split()] for t in ("C", "C", "C", "A A A")]
    full, merged = phone_ngram(lang, texts, 3), phone_ngram(lang, texts, 3, min_count=2.5)
    x, y, z = (lang.phones.id(p) for p in "xyz")
    assert log_prob(full, [x, x, y, z]) == -math.inf  # x x is seen, x x y is not
    assert log_prob(merged, [x, y, z]) > -math.inf and log_prob(merged, [x] * 9) > -math.inf
    assert phone_ngram(lang, texts, 3, min_count=100.0).num_states == 1 + 3 + 1  # a bigram
    # The beginning with x is seen four times, which is often enough for a minimum of four: y follows x only there.
    enough, rare = (log_prob(phone_ngram(lang, texts, 3, min_count=m), [x, x, y, z]) for m in (4.0, 4.5))
    assert enough == -math.inf < rare


def test_sum_over_the_graph_is_that_over_its_sequences() -> None:
    """One state per phone: the graph's full sum in two frames is the sum over phones held and pairs of phones."""
    lang = small_lang(silence_prob=0.0, states=1)
    hmm = hmm_of(lang, random_tree(lang, 0, 0))
    texts = [[lang.words.id(w) for w in t.split()] for t in ("A", "B", "C", "A A")]
    phones = phone_ngram(lang, texts, 2)
    scores = torch.randn(1, 2, hmm.transitions.num_pdfs, generator=torch.Generator().manual_seed(2))
    found = GraphSum(expand_phone_graph(phones, lang, hmm), hmm.transitions.log_probs(), 1.0)(scores, torch.tensor([2]))
    log_probs, total = hmm.transitions.log_probs(), -math.inf
    pdf = {p: int(hmm.transitions.pdf[hmm.transitions.phone == p][0]) for p in (lang.phones.id(n) for n in "xyz")}
    ts = {p: int(np.flatnonzero(hmm.transitions.phone == p)[0]) for p in pdf}
    for first in pdf:
        emitted = float(scores[0, 0, pdf[first]])
        total = np.logaddexp(
            total, emitted + float(scores[0, 1, pdf[first]]) + log_probs[2 * ts[first]] + log_prob(phones, [first])
        )
        for second in pdf:
            step = emitted + float(scores[0, 1, pdf[second]]) + log_probs[2 * ts[first] + 1]
            total = np.logaddexp(total, step + log_prob(phones, [first, second]))
    assert float(found.log_z[0]) == pytest.approx(float(total), abs=1e-4)


def test_bad_input() -> None:
    lang = small_lang()
    with pytest.raises(DataError, match="order 1"):
        phone_ngram(lang, [[1]], 1)
    with pytest.raises(DataError, match="no transcript"):
        phone_ngram(lang, [])
