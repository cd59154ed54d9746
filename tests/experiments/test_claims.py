"""Verdicts: every outcome from an effect that calls for it, and what stands in claims.json."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.base.errors import DataError
from pipeline.experiments.claims import Claim, Compared, Verdict, judge, read_claims, write_claims
from pipeline.experiments.statistics import Effect

CLAIM = Claim("x is better", "wer", {"a": "x"}, {"a": "y"})


def effect(mean: float, error: float = 0.1, seeds: int = 5, speakers: int = 20) -> Effect:
    return Effect(mean, error, seeds - 1.0, seeds, speakers, 20.0, seeds * error**2)


def outcome(claim: Claim, found: Effect | None) -> str:
    return judge([Compared("t", claim, found)])[0].outcome


@pytest.mark.parametrize(
    "more, mean, expected",
    [
        ({}, -1.0, "supported"),
        ({}, 1.0, "contradicted"),
        ({"lower": False}, 1.0, "supported"),
        ({"lower": False}, -1.0, "contradicted"),
        ({}, -0.1, "undecided"),
        ({"margin": 0.5}, -0.1, "equivalent"),
        ({"relative_margin": 0.02}, -0.1, "equivalent"),
        ({"margin": 0.2}, -0.1, "undecided"),
        ({"margin": 0.5}, -1.0, "supported"),
        ({"equal": True, "margin": 0.5}, -0.1, "supported"),
        ({"equal": True, "margin": 0.5}, -0.4, "undecided"),
        ({"equal": True, "margin": 0.5}, -1.0, "contradicted"),
        ({"equal": True, "margin": 0.5}, 1.0, "contradicted"),
    ],
)
def test_outcomes(more, mean, expected) -> None:
    assert outcome(Claim("", "wer", {"a": "x"}, {"a": "y"}, **more), effect(mean)) == expected


def test_too_little_to_say() -> None:
    assert outcome(CLAIM, None) == "not measured"
    assert outcome(CLAIM, effect(-5.0, seeds=2)) == "too few seeds"
    assert judge([Compared("t", CLAIM, None)])[0].text() == "not measured"


def test_what_is_significant_alone_need_not_be_so_among_many() -> None:
    alone, others = effect(-0.35), [effect(0.01 * i) for i in range(20)]
    assert alone.p < 0.05 and outcome(CLAIM, alone) == "supported"
    verdicts = judge([Compared("t", CLAIM, e) for e in [alone, *others]])
    assert verdicts[0].outcome == "undecided" and verdicts[0].p > 0.05


def test_equality_is_adjusted_like_differences() -> None:
    """Barely inside or outside of a margin alone, and not so among many claims of equality; p is that of the outcome."""
    equal = Claim("same", "wer", {"a": "x"}, {"a": "y"}, equal=True, margin=0.5)
    near = Claim("better", "wer", {"a": "x"}, {"a": "y"}, margin=0.5)
    for claim, mean, alone in ((equal, 0.25, "supported"), (equal, 0.8, "contradicted"), (near, 0.25, "equivalent")):
        (verdict,) = judge([Compared("t", claim, effect(mean))])
        assert verdict.outcome == alone and 0.02 < verdict.p < 0.05
        many = [Compared("t", replace(claim, text=str(i)), effect(0.5)) for i in range(20)]
        assert judge([Compared("t", claim, effect(mean)), *many])[0].outcome == "undecided"
    # Claims of equality say nothing about how many differences were tested.
    differences = [Compared("t", replace(CLAIM, text=str(i)), effect(-0.35)) for i in range(2)]
    alone, beside = judge(differences), judge([*differences, *(Compared("t", equal, effect(9.0)) for _ in range(9))])
    assert [v.p for v in alone] == [v.p for v in beside[:2]] and beside[-1].outcome == "contradicted"


def test_what_would_have_been_noticed_is_as_strict_as_the_test() -> None:
    """No undecided difference is larger than what is said to be noticed, up to the margin of four times in five."""
    found = [effect(-0.35), *(effect(0.02 * i) for i in range(20))]
    verdicts = judge([Compared("t", CLAIM, e) for e in found])
    assert verdicts[0].outcome == "undecided" and found[0].detectable() < 0.4 < 0.5 < verdicts[0].noticeable
    text = verdicts[0].text()
    assert f"a difference of {verdicts[0].noticeable:.2f} would" in text and "; one of 0.35 needs" in text


def test_claims_of_equality_notice_what_is_beyond_the_margin() -> None:
    equal = Claim("same", "wer", {"a": "x"}, {"a": "y"}, equal=True, margin=0.5)
    (verdict,) = judge([Compared("t", equal, effect(0.45))])
    assert verdict.outcome == "undecided" and verdict.noticeable == 0.5 + effect(0.45).detectable(verdict.beyond_level)
    assert "; equality within 0.50 needs" not in verdict.text()  # five seeds would find equal what is
    wide = Effect(0.45, 0.4, 2.0, 3, 0, 20.0, 0.48)
    assert "; equality within 0.50 needs " in judge([Compared("t", equal, wide)])[0].text()
    found = [Compared("t", equal, Effect(0.0, 0.01, 10.0, 11, 0, 20.0, 0.001))] * 9  # equal, and none of them beyond
    among = judge([Compared("t", equal, effect(0.45)), *found])[0]
    assert among.beyond_level == pytest.approx(0.05 / 10) and among.level == pytest.approx(0.05)
    assert among.noticeable == 0.5 + effect(0.45).detectable(0.05 / 10)
    assert Verdict.of_row(among.row()) == among


def test_seeds_that_were_added_cost_a_second_look() -> None:
    once, twice = (judge([Compared("t", CLAIM, effect(-0.3), added)])[0] for added in (0, 2))
    assert once.outcome == "supported" and twice.outcome == "undecided"
    assert twice.p == pytest.approx(2 * once.p) and twice.level == once.level / 2
    assert judge([Compared("t", CLAIM, effect(0.01), 2)])[0].p == 1.0


def test_figures_of_some_of_the_planned_seeds_are_a_first_look() -> None:
    all_run, early = (judge([Compared("t", CLAIM, effect(-0.3), missing=missing)])[0] for missing in (0, 2))
    assert all_run.outcome == "supported" and early.outcome == "undecided"
    assert early.p == pytest.approx(2 * all_run.p) and "over 5 seeds of 7 planned and" in early.text()
    assert "planned" not in all_run.text() and Verdict.of_row(early.row()) == early


def test_claims_that_were_written_down_afterwards_say_so() -> None:
    late = replace(CLAIM, afterwards=True)
    assert judge([Compared("t", late, effect(-1.0))])[0].text().endswith("; written down after figures had been seen")
    assert CLAIM.decides and not late.decides and not replace(CLAIM, column="wer/dev").decides
    assert late.same_as(replace(CLAIM, text="other words")) and not late.same_as(replace(CLAIM, lower=False))


def test_a_claim_that_is_tested_on_further_parts_has_a_stricter_test() -> None:
    again = replace(CLAIM, looks=3)
    once, third = (judge([Compared("t", claim, effect(-0.35))])[0] for claim in (CLAIM, again))
    assert third.p == pytest.approx(3 * once.p) and third.level == once.level / 3 and again.decides
    assert third.text().endswith("; tested on 3 parts, this one planned after the others had not decided it")
    assert Verdict.of_row(third.row()) == third and again.same_as(CLAIM)
    assert judge([Compared("t", again, effect(-0.35), missing=1)])[0].p == pytest.approx(6 * once.p)


def test_claims_that_were_not_measured_do_not_count() -> None:
    verdicts = judge([Compared("t", CLAIM, e) for e in (effect(-0.35), *[None] * 20, effect(-9.0, seeds=1))])
    assert verdicts[0].outcome == "supported"


def test_text() -> None:
    text = judge([Compared("t", CLAIM, effect(-1.0), 2)])[0].text()
    assert text.startswith(
        "**supported**; difference -1.00 [-1.28, -0.72] over 5 seeds, 2 of them added after the first"
    )
    assert text.endswith("and 20 speakers, p = 0.001")  # twice 0.0006
    text = judge([Compared("t", CLAIM, effect(-0.1))])[0].text(1)
    assert "a difference of 0.4 would have been noticed (1.9 % relative); one of 0.1 needs" in text
    small = judge([Compared("t", CLAIM, effect(-0.001, 0.005))])[0].text(1)
    assert "difference -0.00 [-0.01, +0.01]" in small and "a difference of 0.02 would have been noticed" in small
    few = Effect(-0.1, 0.1, 19.0, 5, 20, 20.0, 0.0)
    assert "one of 0.10 needs a test set of more speakers" in judge([Compared("t", CLAIM, few)])[0].text()
    near = Claim("", "wer", {"a": "x"}, {"a": "y"}, relative_margin=0.03)
    assert judge([Compared("t", near, effect(0.0))])[0].text().startswith("**equivalent within 0.60**")


def test_claims_file(tmp_path) -> None:
    assert read_claims(tmp_path) == []
    verdicts = judge([Compared("t", CLAIM, effect(-1.0), 1, True), Compared("u", CLAIM, None)])
    write_claims(tmp_path, verdicts)
    assert read_claims(tmp_path) == verdicts[:1]
    assert "made in part by code with uncommitted changes" in verdicts[0].text()
    for broken in (
        "{}",
        "[{}]",
        '[{"table": 1}]',
        "[1]",
        (tmp_path / "claims.json").read_text().replace("supported", "so"),
    ):
        (tmp_path / "claims.json").write_text(broken)
        with pytest.raises(DataError, match="not a list of verdicts"):
            read_claims(tmp_path)


@pytest.mark.parametrize("more", [{"equal": True}, {"margin": 1.0, "relative_margin": 0.1}, {"margin": 0.0}])
def test_broken_claims(more) -> None:
    with pytest.raises(ValueError):
        Claim("", "wer", {"a": "x"}, {"a": "y"}, **more)
