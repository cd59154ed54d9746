"""Grapheme-to-phoneme conversion on a spelling whose rules are known; the n-grams against their definition."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from pipeline.base.errors import DataError
from pipeline.g2p.joint_units import G2p, _Aligner, _Ngrams, held_out, pronounce_all
from pipeline.g2p.joint_units import test as measure

RULES = {"a": ("AE",), "e": (), "b": ("B",), "t": ("T",), "x": ("K", "S"), "sh": ("SH",), "s": ("S",)}
SPELLINGS = [*RULES][:-2] + ["sh", "s"]


def lexicon(number: int, seed: int = 1) -> list[tuple[str, tuple[str, ...]]]:
    """Words of 2 to 5 spellings; every one has a phone, for a word has to be spoken."""
    rng = np.random.default_rng(seed)
    found = {}
    while len(found) < number:
        parts = [SPELLINGS[i] for i in rng.integers(len(SPELLINGS), size=rng.integers(2, 6))]
        phones = tuple(p for part in parts for p in RULES[part])
        if phones:
            found["".join(parts)] = phones
    return sorted(found.items())


@pytest.fixture(scope="module")
def model() -> G2p:
    return G2p.train(lexicon(600), order=3)


def test_rules_are_learned_and_hold_for_new_words(model):
    known = {word for word, _ in lexicon(600)}
    new = [entry for entry in lexicon(300, seed=2) if entry[0] not in known]
    assert len(new) > 50
    assert measure(model, new)["phone_error"] < 3.0
    units = {u for u in model.units if u[0] == "x"}
    assert units == {("x", ("K", "S"))}  # s h may be S H with a silent letter


def test_save_and_load_give_the_same_pronunciations(model, tmp_path):
    model.save(tmp_path / "a")
    again = G2p.load(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a" / "g2p.json").read_bytes() == (tmp_path / "b" / "g2p.json").read_bytes()
    for word in ("tabsh", "xes", "shats"):
        assert again.pronounce(word) == model.pronounce(word)


def test_words_that_cannot_be_pronounced_are_named(model):
    assert model.pronounce("tz") == () and model.pronounce("e") == ()
    with pytest.raises(DataError, match="2 words hold letters .* tz, zt"):
        pronounce_all(model, ["bat", "tz", "zt"])
    assert [p.phones for p in pronounce_all(model, ["bat"])] == [("B", "AE", "T")]


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"order": 2, "units": [["a", ["A"]]], "sequences": ["2"]},
        {"order": 2, "units": [["a", ["A"]]], "sequences": []},
    ],
)
def test_a_broken_model_is_refused(tmp_path, broken):
    (tmp_path / "g2p.json").write_text(json.dumps(broken))
    with pytest.raises(DataError, match="g2p.json"):
        G2p.load(tmp_path)


def test_nothing_to_align_is_an_error():
    with pytest.raises(DataError, match="none of the 1 entries can be aligned"):
        G2p.train([("a", ("A", "B", "C"))])


def test_balanced_letters_are_aligned_one_by_one():
    """Every letter beside every other equally often: only the preference for short units tells the alignments apart."""
    letters = {"a": "AA", "b": "B", "d": "D", "e": "EH"}
    words = ["".join(w) for w in itertools.product(letters, repeat=3)]
    trained = G2p.train([(w, tuple(letters[c] for c in w)) for w in words if w != "bad"], order=2)
    assert trained.units == [(c, (p,)) for c, p in sorted(letters.items())]
    assert trained.pronounce("bad") == ("B", "AA", "D")


def test_posteriors_of_units_equal_enumeration():
    """Forward-backward against all alignments of one entry, and one unit per letter or pair on average."""
    aligner = _Aligner([("ab", ("A", "B", "C"))])
    probs = np.random.default_rng(1).uniform(0.1, 1.0, len(aligner.units))
    numbers, weights = aligner._occupancies(aligner.groups[0], probs)
    group, paths = aligner.groups[0], []
    for first, second in itertools.product([(1, 0), (1, 1), (1, 2)], repeat=2):
        if first[1] + second[1] == 3:
            codes = [aligner._codes(group, 0, 0, first)[0], aligner._codes(group, 1, first[1], second)[0]]
            paths.append(np.searchsorted(aligner.units, codes))
    expected = np.zeros(len(probs))
    scores = np.array([np.prod(probs[path]) for path in paths])
    for path, share in zip(paths, scores / scores.sum()):
        expected[path] += share
    np.testing.assert_allclose(np.bincount(numbers, weights, minlength=len(probs)), expected, atol=1e-12)


def test_of_equal_alignments_the_first_is_taken():
    """Rounding says nothing: double letters of which one is silent are spoken first in all words."""
    words = {c + "ll" + d: (c.upper(), "L", d.upper()) for c in "aeiou" for d in "bdgkmnp"}
    aligner = _Aligner(sorted(words.items()))
    found = dict(aligner.best(aligner.train(3)))
    assert {tuple(units[1:3]) for units in found.values()} in (
        {(("l", ("L",)), ("l", ()))},
        {(("l", ()), ("l", ("L",)))},
    )


def test_scripts_of_thousands_of_letters():
    """Possible units would be 10^12; those that occur are what counts."""
    rng = np.random.default_rng(0)
    said = {chr(0x4E00 + i): (f"I{i % 60}", f"F{i % 137}") for i in range(3000)}
    words = {"".join(chr(0x4E00 + c) for c in rng.integers(0, 3000, 2)) for _ in range(9000)}
    trained = G2p.train([(w, tuple(p for c in w for p in said[c])) for w in sorted(words)], order=2, iterations=2)
    assert len(trained.units) < 10_000
    right = sum(trained.pronounce(w) == tuple(p for c in w for p in said[c]) for w in sorted(words)[:50])
    assert right > 30


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ngram_probabilities_sum_to_one(order):
    ngrams = _Ngrams([[1, 2, 1], [2, 2], [3, 1, 2, 1], [1]], 3, order)
    for history in itertools.product(range(4), repeat=order - 1):
        key = int(sum(h * 4 ** (order - 1 - i) for i, h in enumerate(history)))
        probs = ngrams.prob(order, key * 4 + np.arange(4))
        assert probs.sum() == pytest.approx(1.0) and (probs > 0).all()


def test_a_lexicon_whose_ngrams_all_occur_several_times():
    """Every word of four letters: no word of one letter was seen, and it has a pronunciation all the same."""
    words = ["".join(word) for word in itertools.product("abcde", repeat=4)]
    trained = G2p.train([(word, tuple(word.upper())) for word in words], order=3)
    assert [trained.pronounce(word) for word in ("a", "ab", "eeeeee")] == [("A",), ("A", "B"), ("E",) * 6]
    ngrams = _Ngrams([[1, 2], [2, 1], [1, 1], [2, 2]] * 2, 2, 3)
    assert (
        ngrams.prob(3, 9 * 1 + np.arange(3)).sum() == pytest.approx(1.0) and (ngrams.prob(3, np.arange(27)) > 0).all()
    )


def test_long_ngrams_are_shortened_until_they_fit():
    assert _Ngrams([[1, 2]], 1000, 9).order == 6


def test_held_out_words_leave_most_of_a_small_lexicon():
    assert held_out({"a", "b"}, 500, 1) == set()
    chosen = held_out({f"w{i}" for i in range(100)}, 500, 1)
    assert len(chosen) == 10 and chosen == held_out({f"w{i}" for i in range(100)}, 500, 1)
