"""Counts against an independent edit distance, intervals against kaldialign's bootstrap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.hyp import Hypothesis, save_hypotheses
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import read_json, write_json
from pipeline.experiments.report import read_rows
from pipeline.tasks import score as score_module
from pipeline.tasks.score import (
    LEAST_SPEAKERS,
    Errors,
    bootstrap,
    compare,
    count_errors,
    error_report,
    interval,
    result_row,
    total_errors,
    unknown_word_rows,
    wer_interval,
    wer_row,
)
from steps.score import main

WORDS = st.lists(st.sampled_from("ABC"), max_size=6)


def distance(ref: list[str], hyp: list[str]) -> int:
    row = list(range(len(hyp) + 1))
    for i, r in enumerate(ref, 1):
        row, above = [i], row
        for j, h in enumerate(hyp, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (r != h)))
    return row[-1]


def random_hyps(seed: int, count: int = 60, wrong: float = 0.2, speakers: int = 7) -> list[Hypothesis]:
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        ref = rng.choice(list("ABCDE"), rng.integers(1, 9))
        noise = rng.random(len(ref)) < wrong
        out.append(Hypothesis(f"u{i}", f"s{i % speakers}", tuple(ref), tuple(np.where(noise, "Q", ref))))
    return out


@given(WORDS, WORDS)
def test_counts_are_those_of_the_edit_distance(ref: list[str], hyp: list[str]) -> None:
    e = count_errors([Hypothesis("u", "s", tuple(ref), tuple(hyp))])[0]
    assert e.total == distance(ref, hyp) and e.words == len(ref) and e.ins - e.dels == len(hyp) - len(ref)


def test_line_is_kaldis() -> None:
    hyps = [Hypothesis("u", "s", ("A", "B", "C"), ("A", "X", "C", "D")), Hypothesis("v", "s", ("A",), ())]
    assert Errors(0, 7, 0, 0).line() == "no words in the references, 7 recognised"
    assert total_errors(count_errors(hyps)).line() == "%WER 75.00 [ 3 / 4, 1 ins, 1 del, 1 sub ]"


def test_report_shows_alignments_and_ranks_errors() -> None:
    hyps = [Hypothesis("u", "s", ("A", "B", "C"), ("A", "X", "C", "D")), Hypothesis("v", "s", ("B", "A"), ("X",))]
    lines = list(error_report(hyps))
    assert lines[0] == total_errors(count_errors(hyps)).line()
    assert "u:\tA (B->X) C (*->D)" in lines and "v:\t(B->X) (A->*)" in lines
    assert "2\tB -> X" in lines and "1\tA" in lines and "1\tD" in lines
    assert "B\t2 0 2 0" in lines and "A\t1 1 2 1" in lines


def test_interval_agrees_with_kaldialign() -> None:
    from kaldialign import bootstrap_wer_ci

    hyps = random_hyps(1, speakers=1)  # over utterances
    theirs = bootstrap_wer_ci([h.ref for h in hyps], [h.hyp for h in hyps])
    low, high = wer_interval(hyps, count_errors(hyps))
    assert low == pytest.approx(100 * theirs["ci95min"], abs=0.4) and high == pytest.approx(
        100 * theirs["ci95max"], abs=0.4
    )


def _mostly_empty() -> list[Hypothesis]:
    """One of two references has words: a quarter of the draws have none."""
    return [Hypothesis("u", "s", ("A", "B"), ("A",)), Hypothesis("v", "s", (), ("C",))]


def test_there_is_no_interval_where_draws_without_words_are_not_rare() -> None:
    hyps = _mostly_empty()
    row = wer_row("a", "test", hyps)
    assert wer_interval(hyps, count_errors(hyps)) == (None, None)
    assert row["value"] == 100.0 and "low" not in row and "high" not in row
    found = compare(hyps, [Hypothesis(h.cut_id, h.speaker, h.ref, h.ref) for h in hyps])
    assert found["difference"] == -100.0 and found["low"] is None and found["high"] is None and found["p_better"] == 1.0
    several = [replace(h, cut_id=f"{h.cut_id}{i}") for i in range(10) for h in hyps]  # one draw of a million is empty
    low, high = wer_interval(several, count_errors(several))
    assert 50 < low < 100 < high < 300


def test_score_step_without_an_interval(tmp_path) -> None:
    save_hypotheses(tmp_path / "recogs.jsonl.gz", _mostly_empty())
    arguments = [str(tmp_path / "recogs.jsonl.gz"), str(tmp_path / "out"), "--known", str(tmp_path / "known")]
    (tmp_path / "known").write_text("A\n", encoding="utf-8")
    result = CliRunner().invoke(main, [*arguments, "--id", "m"])
    assert result.exit_code == 0 and "[ 2 / 2, 1 ins, 1 del, 0 sub ]  no 95 % interval" in result.output, result.output
    kept = read_json(tmp_path / "out/score.json")
    assert kept["value"] == 100.0 and kept["low"] is None and kept["oov_found"]["low"] is None


def _with_speakers(number: int) -> list[Hypothesis]:
    return [
        Hypothesis(f"u{i}", f"s{i % number}", ("A", "B"), ("A", "B") if i % number else ("X", "Y")) for i in range(120)
    ]


def test_intervals_are_of_speakers_where_there_are_enough() -> None:
    for number, widens in ((6, True), (LEAST_SPEAKERS, True), (LEAST_SPEAKERS - 1, False)):
        hyps = _with_speakers(number)
        wrong, words = np.array([2 * (i % number == 0) for i in range(120)]), np.full(120, 2)
        low, high = interval(100 * bootstrap(wrong, words))  # utterances
        found = wer_interval(hyps, count_errors(hyps))
        if widens:
            assert found[1] - found[0] > 2 * (high - low)
        else:
            assert found == pytest.approx((low, high))


def test_sums_by_speaker_make_the_word_error_rate() -> None:
    row = wer_row("a", "test", _with_speakers(6))
    assert row["groups"]["s0"] == [100.0 * 40, 40.0] and row["groups"]["s5"] == [0.0, 40.0]
    num, den = np.array(list(row["groups"].values())).T
    assert num.sum() / den.sum() == pytest.approx(row["value"]) and row["counts"]["speakers"] == 6
    assert "groups" not in wer_row("a", "test", _with_speakers(2))


def test_comparison_is_of_speakers_where_there_are_enough() -> None:
    hyps = _with_speakers(6)
    right = [Hypothesis(h.cut_id, h.speaker, h.ref, h.ref) for h in hyps]
    found = compare(hyps, right)
    assert found["difference"] == pytest.approx(-100 / 6)
    assert found["low"] < -45 and found["high"] == 0.0  # one speaker of six; over utterances [-24, -11]


def test_a_word_that_looks_like_a_gap_counts_as_a_word() -> None:
    texts = (("A B", "A *"), ("* B", "B"), ("A", "* A"), ("*", "*"))
    hyps = [Hypothesis(str(i), "s", tuple(r.split()), tuple(h.split())) for i, (r, h) in enumerate(texts)]
    counted = total_errors(count_errors(hyps))
    assert (counted.subs, counted.dels, counted.ins, counted.words) == (1, 1, 1, 6)
    assert next(iter(error_report(hyps))) == counted.line()


def test_bootstrap_repeats_and_centres() -> None:
    num, den = np.arange(30) % 3, np.full(30, 4)
    assert np.array_equal(bootstrap(num, den, seed=3), bootstrap(num, den, seed=3))
    assert bootstrap(num, den).mean() == pytest.approx(0.25, abs=0.005)
    assert interval(np.arange(1001)) == (25.0, 975.0)


def test_compare_is_paired() -> None:
    first, second = random_hyps(2, wrong=0.5), random_hyps(2, wrong=0.1)
    better = compare(first, second)
    assert better["difference"] == pytest.approx(better["wer_second"] - better["wer_first"])
    assert better["low"] < better["difference"] < better["high"] < 0 and better["p_better"] == 1.0
    assert compare(first, first[::-1])["p_better"] == 0.0
    with pytest.raises(MismatchError):
        compare(first, second[1:])


def test_rows_are_accepted_by_the_report(tmp_path: Path) -> None:
    rows = [wer_row("mono", "test", random_hyps(3)), result_row("a", "b", "rtf", 0.0, config={"beam": 1})]
    write_json(tmp_path / "results.json", rows)
    read = read_rows(tmp_path / "results.json", tmp_path)
    assert read[0]["low"] <= read[0]["value"] <= read[0]["high"] and read[0]["counts"]["utterances"] == 60
    assert read[1]["value"] == 0.0 and read[1]["config"] == {"beam": 1}


def test_bootstrap_does_not_depend_on_how_its_draws_are_divided(monkeypatch):
    rng = np.random.default_rng(2)
    errors, words = rng.integers(0, 9, 301), rng.integers(1, 20, 301)
    whole = bootstrap(errors, words, replications=700)
    monkeypatch.setattr(score_module, "DRAWS", 1000)
    assert (bootstrap(errors, words, replications=700) == whole).all()


def test_unknown_words_are_scored_apart() -> None:
    known = {"A", "B"}
    hyps = [
        Hypothesis("u", "s", ("A", "NEW", "B"), ("A", "NEW", "B")),  # found
        Hypothesis("v", "t", ("RARE", "A"), ("RARER", "A", "NEW")),  # missed, and two that nobody said
        Hypothesis("w", "t", ("A",), ("B",)),  # wrong, but of known words
    ]
    found, right = unknown_word_rows("id", "test", hyps, known)
    assert (found["metric"], found["value"], found["counts"]) == ("oov_found", 50.0, {"correct": 1, "words": 2})
    assert (right["metric"], right["counts"]) == ("oov_right", {"correct": 1, "words": 3})
    assert right["value"] == pytest.approx(100 / 3) and "low" not in found, "draws without such a word are not rare"
    (found, _) = unknown_word_rows("id", "test", hyps * 10, known)
    assert 0 < found["low"] <= 50 <= found["high"] < 100


def test_unknown_words_that_a_system_never_writes_are_missed() -> None:
    (found,) = unknown_word_rows("id", "test", [Hypothesis("u", "s", ("NEW",), ("A",))], {"A"})
    assert found["value"] == 0.0
    with pytest.raises(DataError, match="no reference has a word that is not known"):
        unknown_word_rows("id", "test", [Hypothesis("u", "s", ("A",), ("NEW",))], {"A"})


def test_unknown_words_have_sums_by_speaker() -> None:
    hyps = random_hyps(3)
    found, _ = unknown_word_rows("id", "test", hyps, {"B", "C", "D"})
    sums = np.array(list(found["groups"].values()))
    assert len(sums) == 7 and sums[:, 0].sum() / sums[:, 1].sum() == pytest.approx(found["value"])


@pytest.mark.parametrize("known", ["text", "lang"])
def test_score_step_tells_of_unknown_words(tmp_path, known) -> None:
    save_hypotheses(tmp_path / "recogs.jsonl.gz", [Hypothesis("u", "s", ("HELLO", "NEW"), ("HELLO", "NEW"))])
    if known == "text":
        (tmp_path / "known").write_text("HELLO THERE\n", encoding="utf-8")
    else:
        make_lang(Lexicon([Pronunciation("HELLO", ("h", "o"))])).save(tmp_path / "known")
    arguments = [str(tmp_path / "recogs.jsonl.gz"), str(tmp_path / "out"), "--known", str(tmp_path / "known")]
    result = CliRunner().invoke(main, [*arguments, "--id", "m"])
    assert result.exit_code == 0 and "100.00 % recognised [ 1 / 1 ]" in result.output, result.output
    rows = [row["metric"] for row in read_rows(tmp_path / "out" / "results.json", tmp_path)]
    assert rows == ["wer", "oov_found", "oov_right"]
