"""Durations that transition probabilities imply, against durations known by construction."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.ali import Segment
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError, MismatchError
from pipeline.tasks.ali_score import Tiers
from pipeline.tasks.durations import compare_durations, gold_silences, implied_seconds, measured_seconds


def hmm_of(position: str) -> HmmDir:
    lang = make_lang(
        Lexicon([Pronunciation("AB", ("a", "b")), Pronunciation("BA", ("b", "a"))]), position=position, speech_states=2
    )
    tree = monophone_tree(lang.phones, lang.topo)
    return HmmDir(Path("x"), lang.phones, lang.topo, tree, TransitionModel(tree, lang.topo))


def test_implied_seconds_are_those_of_a_simulation():
    hmm = hmm_of("none")
    probs = {"SIL": [0.1], "a": [0.5, 0.25], "b": [0.2, 0.8]}
    t = hmm.transitions
    t.forward_prob = np.array([probs[t.phones.name(int(p))][int(s)] for p, s in zip(t.phone, t.state)])
    rng = np.random.default_rng(0)
    implied = implied_seconds(hmm, 0.01)
    for phone, states in probs.items():
        frames = sum(rng.geometric(f, 40_000) for f in states)
        assert implied[phone] == pytest.approx(0.01 * frames.mean(), rel=0.02)


def test_positions_count_together():
    implied = implied_seconds(hmm_of("word_end"), 0.01)
    assert set(implied) == {"SIL", "a", "b"} and implied["a"] == pytest.approx(2 * 0.01 / (1 / 3))


def test_phones_of_x_sampa_stay_apart():
    """t_S is no t at the end of a word where the lang has no positions."""
    lang = make_lang(Lexicon([Pronunciation("A", ("t", "t_S")), Pronunciation("B", ("s",))]))
    tree = monophone_tree(lang.phones, lang.topo)
    implied = implied_seconds(HmmDir(Path("x"), lang.phones, lang.topo, tree, TransitionModel(tree, lang.topo)), 0.01)
    assert set(implied) == {"SIL", "t", "t_S", "s"}
    tiers = {"u": Tiers([Segment("t", 0.0, 0.05), Segment("t_S", 0.05, 0.15)], [], 1.0)}
    assert measured_seconds(tiers) == {"t": (0.05, 1), "t_S": (0.15, 1)}


def test_figures():
    tiers = {
        "u": Tiers(
            [Segment("a", 0.1 * i, 0.06) for i in range(10)]
            + [Segment("b_E", 0.1 * i, 0.10) for i in range(30)]
            + [Segment("c", 9.0, 1.0)],
            [],
            10.0,
        )
    }
    figures = compare_durations({"a": 0.08, "b": 0.09, "c": 0.5, "SIL": 0.4}, measured_seconds(tiers))
    assert figures["phones"] == 2  # c is too rare
    assert figures["implied_speech_ms"] == pytest.approx(0.25 * 80 + 0.75 * 90)
    assert figures["measured_speech_ms"] == pytest.approx(0.25 * 60 + 0.75 * 100)
    assert figures["duration_mae_ms"] == pytest.approx(0.25 * 20 + 0.75 * 10)
    assert figures["duration_correlation"] == pytest.approx(1.0) and figures["implied_silence_ms"] == 400
    flat = compare_durations({"a": 0.08, "b": 0.08}, measured_seconds(tiers))
    assert flat["duration_correlation"] == 0.0 and not math.isnan(flat["duration_mae_ms"])


def test_gaps_are_silences():
    tiers = {"u": Tiers([Segment("a", 0.2, 0.1), Segment("b", 0.3, 0.1), Segment("a", 0.6, 0.1)], [], 1.0)}
    mean, count = measured_seconds(gold_silences(tiers))["SIL"]
    assert (mean, count) == (pytest.approx((0.2 + 0.2 + 0.3) / 3), 3)
    named = {"u": Tiers([Segment("SIL", 0.0, 0.2), Segment("a", 0.5, 0.1)], [], 1.0)}
    assert measured_seconds(gold_silences(named))["SIL"] == (pytest.approx(0.2), 1)


def test_nothing_to_compare():
    with pytest.raises(MismatchError, match="no phone of the model"):
        compare_durations({"a": 0.1}, {"x": (0.1, 50)})
    with pytest.raises(DataError, match="no times of phones"):
        gold_silences({"u": Tiers([], [], 1.0)})


def test_speech_within_that_of_another_speaker_ends_in_no_silence():
    tiers = {"u": Tiers([Segment("a", 0.0, 0.8), Segment("b", 0.1, 0.2), Segment("a", 0.8, 0.1)], [], 1.0)}
    assert measured_seconds(gold_silences(tiers))["SIL"] == (pytest.approx(0.1), 1)
