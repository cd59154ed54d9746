"""Alignment figures by construction: shifted copies, merged neighbours, skipped utterances, mapped phones."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.artifacts.ali import Segment
from pipeline.base.errors import MismatchError
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks import ali_score
from pipeline.tasks.ali_score import figures, matched, paired, phone_table, score_alignment
from pipeline.tasks.tiers import Tiers

OPTIONS = AliScoreOptions()


def tier(*items: tuple[str, float, float]) -> list[Segment]:
    return [Segment(symbol, start, end - start) for symbol, start, end in items]


def tiers(phones: list[Segment], words: list[Segment] = (), duration: float = 1.0, speaker: str = "s") -> Tiers:
    return Tiers(list(phones), list(words), duration, speaker)


GOLD = tiers(
    tier(("SIL", 0.0, 0.2), ("a", 0.2, 0.4), ("b", 0.4, 0.5), ("SIL", 0.5, 0.6), ("c", 0.6, 1.0)),
    tier(("AB", 0.2, 0.5), ("C", 0.6, 1.0)),
)


def values(ours: dict, gold: dict, options: AliScoreOptions = OPTIONS) -> dict[str, float]:
    return {k: v["value"] for k, v in figures(score_alignment(ours, gold, options), options).items()}


def spoken(rng: np.random.Generator, count: int) -> list[Segment]:
    """Phones of 80 ms among eight."""
    return [Segment(p, 0.08 * i, 0.08) for i, p in enumerate(rng.choice(list("abcdefgh"), count).tolist())]


def recognised(rng: np.random.Generator, ref: list[Segment]) -> list[Segment]:
    """The same up to 30 ms earlier or later, one in ten missing, another one in its place, or followed by one more."""
    out = []
    for s in ref:
        moved = Segment(s.symbol, s.start + rng.uniform(-0.03, 0.03), 0.05)
        kind = rng.random()
        if kind > 0.1:
            out.append(moved)
        elif kind > 0.06:
            out += [moved, Segment("x", moved.start + 0.05, 0.01)]
        elif kind > 0.03:
            out.append(Segment("y", moved.start, 0.05))
    return out


def test_long_utterances_are_matched_a_stretch_at_a_time(monkeypatch) -> None:
    """As well as in one piece, and never more than some symbols side by side, also where the sides have nothing in
    common and where one of them ends early.
    """
    rng = np.random.default_rng(1)
    ref = spoken(rng, 900)
    ours = recognised(rng, ref)
    whole = matched([s.symbol for s in ref], [s.symbol for s in ours])
    assert list(paired(ref, ours)) == whole
    sizes: list[int] = []
    monkeypatch.setattr(ali_score, "matched", lambda r, o, also: sizes.append(len(r) * len(o)) or matched(r, o, also))
    monkeypatch.setattr(ali_score, "LONG", 100)
    monkeypatch.setattr(ali_score, "STRETCH", 40)
    found = list(paired(ref, ours))
    assert len(found) >= 0.995 * len(whole) and len(set(found) ^ set(whole)) <= 0.01 * len(whole)
    assert max(sizes) < 100 * 100 and sum(sizes) < 100 * 900
    others = [Segment("z", s.start, s.duration) for s in ref]
    sizes.clear()
    assert list(paired(ref, others)) == [] and max(sizes) <= 81 * 81
    short = ours[:300]
    fewer = matched([s.symbol for s in ref], [s.symbol for s in short])
    assert len(list(paired(ref, short))) == pytest.approx(len(fewer), abs=3)
    pairs = list(paired(short, ref))
    assert len(pairs) > 250 and all(short[i].symbol == ref[j].symbol for i, j in pairs)
    assert list(paired([], ours)) == list(paired(ref, [])) == []


def test_equal_alignments_have_no_error() -> None:
    v = values({"u": GOLD}, {"u": GOLD})
    assert v["tse_ms"] == v["boundary_mae_ms"] == v["word_boundary_mae_ms"] == 0.0
    assert v["within_10ms"] == v["word_within_50ms"] == 100.0 and v["silence_share"] == pytest.approx(30.0)


def test_known_shifts_give_known_figures() -> None:
    ours = tiers(tier(("a", 0.23, 0.41), ("b", 0.41, 0.5), ("c", 0.54, 1.0)), tier(("AB", 0.23, 0.5), ("C", 0.54, 1.0)))
    score = score_alignment({"u": ours}, {"u": GOLD}, OPTIONS)
    v = {k: m["value"] for k, m in figures(score, OPTIONS).items()}
    assert v["start_mae_ms"] == pytest.approx((30 + 10 + 60) / 3) and v["end_mae_ms"] == pytest.approx(10 / 3)
    assert v["boundary_mae_ms"] == v["tse_ms"] == pytest.approx(110 / 6)
    assert v["start_bias_ms"] == pytest.approx((30 + 10 - 60) / 3)
    assert v["within_10ms"] == pytest.approx(100 * 4 / 6) and v["start_within_20ms"] == pytest.approx(100 / 3)
    assert v["within_50ms"] == pytest.approx(100 * 5 / 6) and v["word_start_mae_ms"] == pytest.approx(45)
    lines = list(phone_table(score))
    assert lines[1].split("\t")[:4] == ["a", "1", "30.0", "10.0"] and len(lines) == 4


def test_tse_merges_equal_neighbours_and_skips_other_counts() -> None:
    halved = tiers(tier(("a", 0.2, 0.3), ("a", 0.3, 0.4), ("b", 0.4, 0.5), ("c", 0.6, 1.0)))
    with_extra = tiers(tier(("a", 0.2, 0.3), ("b", 0.4, 0.5), ("d", 0.5, 0.6), ("c", 0.6, 1.0)))
    score = score_alignment({"u": halved, "v": with_extra}, {"u": GOLD, "v": GOLD, "w": GOLD}, OPTIONS)
    counts = figures(score, OPTIONS)["tse_ms"]["counts"]
    assert counts == {"scored": 1, "skipped": 1, "missing": 1}
    assert figures(score, OPTIONS)["tse_ms"]["value"] == 0.0


def test_tse_keeps_equal_phones_apart_that_do_not_touch() -> None:
    """A silence between them is a change of label."""
    parted = tiers(tier(("a", 0.2, 0.28), ("SIL", 0.28, 0.32), ("a", 0.32, 0.4), ("b", 0.4, 0.5), ("c", 0.6, 1.0)))
    score = score_alignment({"u": parted, "v": GOLD}, {"u": GOLD, "v": GOLD}, OPTIONS)
    assert figures(score, OPTIONS)["tse_ms"]["counts"] == {"scored": 1, "skipped": 1, "missing": 0}


def test_matching_by_edit_distance_scores_equal_symbols_only() -> None:
    ours = tiers(tier(("a", 0.2, 0.4), ("x", 0.4, 0.45), ("y", 0.45, 0.5), ("c", 0.61, 1.0)))
    score = score_alignment({"u": ours}, {"u": GOLD}, OPTIONS)
    counts = figures(score, OPTIONS)["start_mae_ms"]["counts"]
    assert counts == {"matched": 2, "reference": 3, "ours": 4, "missing": 0}
    assert figures(score, OPTIONS)["start_mae_ms"]["value"] == pytest.approx(5.0)


def test_mapping() -> None:
    ours = tiers(tier(("A", 0.2, 0.4), ("d", 0.4, 0.5), ("q", 0.5, 0.6), ("c", 0.6, 1.0)))
    gold = tiers(tier(("a", 0.2, 0.4), ("dx", 0.4, 0.5), ("c", 0.6, 1.0)))
    options = AliScoreOptions(same={"A": "a"}, drop=("q",), match={"dx": ("t", "d")})
    score = score_alignment({"u": ours}, {"u": gold}, options)
    assert score.phones.num_matched == 3 and score.tse_skipped == 0
    assert score_alignment({"u": ours}, {"u": gold}, OPTIONS).phones.num_matched == 1


def test_other_units_leave_the_words() -> None:
    v = values({"u": tiers(tier(("q", 0.2, 1.0)), tier(("AB", 0.2, 0.5)))}, {"u": GOLD})
    assert "boundary_mae_ms" not in v and v["word_boundary_mae_ms"] == 0.0


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(MismatchError):
        score_alignment({"u": GOLD}, {"v": GOLD}, OPTIONS)


def test_intervals_and_sums_are_of_speakers_where_there_are_enough() -> None:
    def off(by: float, speaker: str) -> Tiers:
        return tiers(tier(("a", 0.2 + by, 0.4 + by)), speaker=speaker)

    ours = {f"u{i}": off(0.01 * (i % 6), "") for i in range(60)}
    many = figures(score_alignment(ours, {f"u{i}": off(0.0, f"s{i % 6}") for i in range(60)}, OPTIONS), OPTIONS)
    few = figures(score_alignment(ours, {f"u{i}": off(0.0, f"s{i % 3}") for i in range(60)}, OPTIONS), OPTIONS)
    wide, narrow = many["boundary_mae_ms"], few["boundary_mae_ms"]
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"]) > 0
    assert wide["value"] == narrow["value"] == pytest.approx(25.0)
    assert narrow["groups"] is None and wide["groups"]["s2"] == [pytest.approx(400.0), 20.0]  # ms, boundaries
    num, den = np.array(list(wide["groups"].values())).T
    assert num.sum() / den.sum() == pytest.approx(wide["value"])


def test_tokens_named_like_phones_are_left_out() -> None:
    tokens = tiers(tier(("a", 0.25, 0.3), ("c", 0.7, 0.75)), tier(("AB", 0.25, 0.5), ("C", 0.65, 1.0)))
    options = AliScoreOptions(words_only=True)
    assert "boundary_mae_ms" in values({"u": tokens}, {"u": GOLD})
    found = values({"u": tokens}, {"u": GOLD}, options)
    assert found and all(name.startswith("word_") for name in found)
    assert found["word_start_mae_ms"] == pytest.approx(50)
    assert len(list(phone_table(score_alignment({"u": tokens}, {"u": GOLD}, options)))) == 1
