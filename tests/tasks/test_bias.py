"""Bias of boundaries: planted ones are found again, speakers are corrected without themselves, times move as told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.artifacts.ali import Alignment, AliHeader, AliSet, AliWriter, Segment
from pipeline.artifacts.bias import BIAS, BiasTable, BoundaryBias
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError, MismatchError
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks import bias as module
from pipeline.tasks.bias import BiasOptions, CorrectOptions, Difference, correct, differences, estimate, table_of
from pipeline.tasks.respacing import chain_of
from pipeline.tasks.tiers import Tiers

PHONES = "a b c d".split()
LEFT, RIGHT = {"a": 0.02, "b": -0.01, "c": 0.0, "d": 0.005}, {"a": -0.015, "b": 0.01, "c": 0.03, "d": 0.0}


def tiers(*phones: tuple[str, float, float], speaker: str = "") -> Tiers:
    return Tiers([Segment(s, begin, end - begin) for s, begin, end in phones], [], 1.0, speaker)


def planted(rng: np.random.Generator, num: int, noise: float = 0.0) -> list[Difference]:
    pairs = rng.choice(PHONES, (num, 2))
    return [Difference(a, b, LEFT[a] + RIGHT[b] + noise * rng.normal()) for a, b in pairs.tolist()]


def test_planted_bias_is_found_again():
    """Nothing is left of differences that have no noise, however left, right and pair share them."""
    found = planted(np.random.default_rng(1), 2000)
    table = table_of(found, weight=0.0)
    assert max(abs(d.seconds - table.of(d.left, d.right)) for d in found) < 5e-6
    assert table.of("a", "c") == pytest.approx(0.05, abs=5e-6)
    assert table.of("x", "y") == 0.0


def test_few_differences_count_for_little():
    table = table_of([Difference("a", "b", 0.09)] * 5, weight=10.0)
    third = 0.09 / 3
    assert table.left == {"a": pytest.approx(third, abs=1e-6)}
    assert table.right == {"b": pytest.approx((0.09 - third) / 3, abs=1e-6)}
    assert table.pair == {"a b": pytest.approx(0.06 * 2 / 9, abs=1e-6)}


def test_a_speaker_is_corrected_without_their_own_differences():
    rng = np.random.default_rng(2)
    found = {f"s{i}": planted(rng, 200, 0.01) for i in range(6)}
    first = estimate(found, BiasOptions(folds=3))
    other = estimate({**found, "s1": planted(rng, 300, 0.2)}, BiasOptions(folds=3))
    assert len(first.without) == 3 and first.differences == 1200 and other.differences == 1300
    for speaker in found:
        same = speaker in ("s1", "s4")  # of one fold
        assert (first.table(speaker) == other.table(speaker)) == same, speaker
    assert first.table("new") == first.whole == table_of([d for own in found.values() for d in own], 10.0)


def test_speech_of_nobody_known_is_in_no_table_that_leaves_somebody_out():
    """Who spoke it is not known, so it may be theirs."""
    rng = np.random.default_rng(1)
    speakers = {f"s{i}": planted(rng, 30, 0.01) for i in range(4)}
    with_nobody = estimate({**speakers, "": planted(rng, 300, -0.05)}, BiasOptions())
    assert with_nobody.without == estimate(speakers, BiasOptions()).without
    assert with_nobody.whole != estimate(speakers, BiasOptions()).whole


def test_speech_of_one_speaker_or_of_nobody_has_one_table():
    found = planted(np.random.default_rng(3), 50)
    for speakers in ({"s": found}, {"": found}):
        bias = estimate(speakers, BiasOptions())
        assert bias.without == () and bias.table("s") == bias.table("") == table_of(found, 10.0)


def test_differences_name_both_sides_of_each_boundary():
    ours = tiers(("SIL", 0.0, 0.1), ("a", 0.1, 0.2), ("b", 0.2, 0.35), ("q", 0.35, 0.4), ("c", 0.5, 0.6))
    gold = tiers(("a", 0.11, 0.18), ("b", 0.21, 0.35), ("x", 0.52, 0.6))
    options = AliScoreOptions(same={"x": "c"}, drop=("q",))
    found = [(d.left, d.right, round(d.seconds, 6)) for d in differences(ours, gold, options)]
    assert found == [
        ("SIL", "a", -0.01),
        ("a", "b", 0.02),
        ("a", "b", -0.01),
        ("b", "q", 0.0),
        ("SIL", "c", -0.02),
        ("c", "SIL", 0.0),
    ]


LANG = make_lang(Lexicon([Pronunciation("AB", ("A", "B"))]), speech_states=2)
TREE = monophone_tree(LANG.phones, LANG.topo)
TRANSITIONS = TransitionModel(TREE, LANG.topo)


def test_neighbours_are_those_of_the_same_speaker_where_speech_overlaps():
    """d is said from 0.15 to 0.22 by somebody else; b follows a all the same, and SIL stands before and behind d."""
    ours = tiers(("a", 0.1, 0.2), ("d", 0.15, 0.22), ("b", 0.2, 0.3))
    found = [(d.left, d.right) for d in differences(ours, ours, AliScoreOptions())]
    assert found == [("SIL", "a"), ("a", "b"), ("SIL", "d"), ("d", "SIL"), ("a", "b"), ("b", "SIL")]


@pytest.fixture
def aligned(tmp_path, monkeypatch):
    """SIL 3, A 2, B 4 frames of 10 ms by a speaker s1; the word is A B."""
    phones = [LANG.phones.id(p) for p in ("SIL", "A", "B")]
    chain = chain_of(HmmDir(None, LANG.phones, LANG.topo, TREE, TRANSITIONS), phones)
    tids = (2 * chain.transition_state[[0, 0, 0, 1, 2, 3, 3, 3, 4]]).astype(np.int32)
    tids[[2, 3, 4, 7, 8]] += 1
    header = AliHeader(LANG.topo.id, TREE.id, LANG.id, 0.01, 0.0, "exp/mono")
    with AliWriter(tmp_path / "ali", header, TREE, LANG.topo, TRANSITIONS, LANG.words) as writer:
        writer.write(Alignment("u", tids, -1.0, np.array([[LANG.words.id("AB"), 3]], dtype=np.int32)))

    class Index:
        def positions(self, cut_ids):
            return np.zeros(len(cut_ids), dtype=np.int64)

        def speaker_of(self, i):
            return "s1"

    monkeypatch.setattr(module, "load_index", lambda data: Index())
    return AliSet.load(tmp_path / "ali")


def times(ali: AliSet) -> list[tuple[str, float, float]]:
    return [(s.symbol, round(s.start, 6), round(s.end, 6)) for s in [*ali.phones("u"), *ali.words("u")]]


def test_boundaries_and_words_move_by_the_speakers_table(aligned, tmp_path):
    """A begins 12 ms too late and B 10 ms too early: on a grid of 5 ms that is two steps each."""
    table = BiasTable(left={"A": -0.01}, pair={"SIL A": 0.012})
    bias = BoundaryBias(BiasTable(left={"SIL": 0.005, "A": 0.005}), (table,), {"s1": 0}, 9)
    facts = correct(aligned, bias, tmp_path, tmp_path / "out", CorrectOptions(frame_shift=0.005))
    assert facts == {"utterances": 1, "too_short": 0, "moved_ms": pytest.approx(11.0)}
    assert times(AliSet.load(tmp_path / "out")) == [
        ("SIL", 0.0, 0.02),
        ("A", 0.02, 0.06),
        ("B", 0.06, 0.09),
        ("AB", 0.02, 0.09),
    ]


def test_every_phone_keeps_its_states(aligned, tmp_path):
    bias = BoundaryBias(BiasTable(right={"A": -0.5, "B": 0.5}))
    correct(aligned, bias, tmp_path, tmp_path / "out", CorrectOptions(frame_shift=0.005))
    found = times(AliSet.load(tmp_path / "out"))
    assert [end - begin >= 0.01 - 1e-9 for _, begin, end in found[1:3]] == [True, True]
    assert found[0][1] == 0.0 and found[2][2] == 0.09


def test_an_utterance_too_short_for_the_grid_is_left_out(aligned, tmp_path, caplog):
    bias = BoundaryBias(BiasTable(right={"A": 0.01}))
    facts = correct(aligned, bias, tmp_path, tmp_path / "out", CorrectOptions(frame_shift=0.03))
    assert facts == {"utterances": 1, "too_short": 1, "moved_ms": 0.0} and list(AliSet.load(tmp_path / "out")) == []
    assert "is left out: 3 frames of 30 ms are too few for the 5 states" in caplog.text


def test_a_bias_of_other_phones_is_a_mismatch(aligned, tmp_path):
    with pytest.raises(MismatchError, match="none of the phones"):
        correct(aligned, BoundaryBias(BiasTable(left={"X": 0.1, "SIL": 0.1})), tmp_path, tmp_path / "out")


def test_files_come_back_and_broken_ones_are_refused(tmp_path):
    bias = estimate({f"s{i}": planted(np.random.default_rng(i), 30, 0.01) for i in range(4)}, BiasOptions())
    bias.save(tmp_path)
    assert BoundaryBias.load(tmp_path) == bias
    good = json.loads((tmp_path / BIAS).read_text())
    for change, message in (
        ({"fold": {"s0": 4}}, "fold 4 of speaker 's0'"),
        ({"whole": {"left": {"a": 2.5}}}, "'a' is 2.5 s off"),
        ({"whole": {"left": {"a": "x"}}}, "whole.left.a"),
        ({"tables": []}, "unknown key 'tables'"),
    ):
        (tmp_path / BIAS).write_text(json.dumps({**good, **change}))
        with pytest.raises(DataError, match=message):
            BoundaryBias.load(tmp_path)
    with pytest.raises(DataError, match="estimate_bias"):
        BoundaryBias.load(tmp_path / "nowhere")


def test_labels_without_anything_in_common_are_refused(tmp_path):
    (tmp_path / "phones.ctm").write_text("u 1 0.00 0.10 a\nu 1 0.10 0.10 b\n")
    for name, line, error, message in (
        ("other", "v 1 0.00 0.10 a\n", MismatchError, "no utterance in common"),
        ("foreign", "u 1 0.00 0.10 x\n", DataError, "no phone is on both sides"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "phones.ctm").write_text(line)
        with pytest.raises(error, match=message):
            args = tmp_path / "phones.ctm", tmp_path / name / "phones.ctm", tmp_path
            module.estimate_directory(*args, AliScoreOptions(), BiasOptions())
