"""Label files of all kinds give the times that they were written with; what is broken is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.artifacts.ali import Segment
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import read_json
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks.ali_formats import ID_TIER, TimedCut, write_ctm, write_recording_textgrids, write_textgrids
from pipeline.tasks.ali_score import score_directory
from pipeline.tasks.tiers import LabelTiers, tiers_of

WORDS = [Segment("Ann", 0.2, 0.5), Segment("bee", 0.9, 0.3)]
PHONES = [Segment("a", 0.2, 0.2), Segment("n", 0.4, 0.3), Segment("b", 0.9, 0.3)]


def cut(name: str, shift: float = 0.0) -> TimedCut:
    words, phones = ([Segment(s.symbol, s.start + shift, s.duration) for s in tier] for tier in (WORDS, PHONES))
    return TimedCut(name, phones, words, 1.5, 0.0, {"speaker": "ann"}, name, 1.5)


def write(kind: str, out: Path, shift: float = 0.0) -> Path:
    """Two utterances, u1 and s-u2, as files of a kind."""
    (out / "s").mkdir(parents=True)
    cuts = [cut("u1", shift), cut("u2", shift)]
    if kind == "ctm":
        named = [cuts[0], cut("s-u2", shift)]
        for tier in ("words", "phones"):
            write_ctm(out / f"{tier}.ctm", named, tier)
    elif kind == "textgrid":
        write_textgrids(out, cuts[:1])
        write_textgrids(out / "s", cuts[1:])
    elif kind == "speakers":
        write_recording_textgrids(out, cuts[:1])
        write_recording_textgrids(out / "s", cuts[1:])
    else:
        for place, one in ((out / "u1", cuts[0]), (out / "s/u2", cuts[1])):
            for suffix, tier in (("phn", one.phones), ("wrd", one.words)):
                lines = [f"{round(s.start * 8000)} {round(s.end * 8000)} {s.symbol}\n" for s in tier]
                Path(f"{place}.{suffix}").write_text("".join(["0 800 h#\n" if suffix == "phn" else "", *lines]))
    return out


@pytest.mark.parametrize("kind", ["ctm", "textgrid", "speakers", "phn"])
def test_all_kinds_hold_the_same_times(kind, tmp_path):
    tiers = tiers_of(write(kind, tmp_path / kind), 8000)
    assert set(tiers) == {"u1", "s-u2"} and len(tiers) == 2
    for name in tiers:
        phones = [p for p in tiers[name].phones if p.symbol != "SIL"]
        for ours, gold in ((phones, PHONES), (tiers[name].words, WORDS)):
            assert [s.symbol for s in ours] == [s.symbol for s in gold]
            assert [x for s in ours for x in (s.start, s.end)] == pytest.approx(
                [x for s in gold for x in (s.start, s.end)], abs=1e-4
            )
    assert ("s" if kind == "phn" else tiers["s-u2"].speaker) == tiers["s-u2"].speaker


@pytest.mark.parametrize("ours", ["ctm", "textgrid", "speakers"])
@pytest.mark.parametrize("gold", ["phn", "textgrid"])
def test_a_shift_is_the_error(ours, gold, tmp_path):
    """Whatever the formats: 30 ms at all boundaries; case of words does not matter."""
    reference = write(gold, tmp_path / "gold")
    if gold == "phn":
        for path in reference.rglob("*.wrd"):
            path.write_text(path.read_text().upper())
    (tmp_path / "out").mkdir()
    options = AliScoreOptions(label_rate=8000)
    score_directory(write(ours, tmp_path / "ours", 0.03), reference, tmp_path / "out", options, "x", "dev")
    found = read_json(tmp_path / "out/score.json")
    for metric in ("boundary_mae_ms", "word_boundary_mae_ms", "tse_ms"):
        assert found[metric]["value"] == pytest.approx(30.0, abs=0.1), metric
    assert found["word_boundary_mae_ms"]["counts"]["matched"] == 4
    assert found["within_20ms"]["value"] == 0.0 and found["within_50ms"]["value"] == 100.0


def conversation(out: Path, shift: float = 0.0) -> Path:
    """A recording of 4 s of which ann says two utterances that overlap each other, and bob one that overlaps both."""

    def spoken(name: str, speaker: str, start: float) -> TimedCut:
        phones = [Segment("SIL", 0.0, 0.2), Segment(name, 0.2 + shift, 0.2), Segment("n", 0.4 + shift, 0.3)]
        words = [Segment(name.upper(), 0.2 + shift, 0.5)]
        return TimedCut(name, phones, words, 1.0, start, {"speaker": speaker}, "talk", 4.0)

    write_recording_textgrids(out, [spoken("a", "ann", 0.5), spoken("b", "ann", 0.85), spoken("c", "bob", 0.6)])
    return out


def test_tiers_of_one_recording_may_overlap(tmp_path):
    """As export writes them: "ann - words", "ann (2) - words", "bob - words"; nothing of them is lost or moved."""
    path = conversation(tmp_path / "talk") / "talk.TextGrid"
    assert '"ann (2) - words"' in path.read_text() and '"bob - phones"' in path.read_text()
    found = tiers_of(tmp_path / "talk")["talk"]
    assert [(s.symbol, round(s.start, 3), round(s.end, 3)) for s in found.words] == [
        ("A", 0.7, 1.2), ("C", 0.8, 1.3), ("B", 1.05, 1.55),
    ]  # fmt: skip
    assert [s.symbol for s in found.phones] == ["a", "c", "n", "n", "b", "n"]
    assert found.duration == 4.0, "what follows the last word is silence"
    (tmp_path / "out").mkdir()
    ours = conversation(tmp_path / "ours", 0.03)
    score_directory(ours, tmp_path / "talk", tmp_path / "out", AliScoreOptions(), None, "x")
    scored = read_json(tmp_path / "out/score.json")
    for metric, matched in (("boundary_mae_ms", 6), ("word_boundary_mae_ms", 3)):
        assert scored[metric]["value"] == pytest.approx(30.0, abs=0.1)
        assert scored[metric]["counts"]["matched"] == matched
    assert scored["silence_share"]["value"] == pytest.approx(100 * (1 - 1.5 / 4))


@pytest.mark.parametrize("writer", [write_textgrids, write_recording_textgrids])
def test_ids_that_files_cannot_be_called_by_come_back(writer, tmp_path):
    writer(tmp_path, [cut("ann/1"), cut("u1")])
    found = tiers_of(tmp_path)
    assert sorted(found) == ["ann/1", "u1"] and found["ann/1"] == found["u1"]
    assert (tmp_path / "ann_1.TextGrid").is_file() and ID_TIER not in (tmp_path / "u1.TextGrid").read_text()


def test_an_error_in_a_tier_is_one_beside_others_too(tmp_path):
    path = conversation(tmp_path / "talk") / "talk.TextGrid"
    broken = path.read_text().replace("xmin = 0.9 \n", "xmin = 0.8 \n", 1)
    assert broken != path.read_text()
    path.write_text(broken)
    with pytest.raises(DataError, match="talk.TextGrid: 'n' spans .* before the end of the one before"):
        tiers_of(tmp_path / "talk")


def test_what_is_broken_is_named(tmp_path):
    def broken(name: str, text: str) -> Path:
        path = tmp_path / name / name
        path.parent.mkdir()
        path.write_text(text)
        return path

    for path, message in (
        (broken("a.phn", "0 800 h#\n900 a b\n"), "a.phn:2: needs 'FIRST_SAMPLE END_SAMPLE LABEL'"),
        (broken("b.wrd", ""), "holds no label"),
        (broken("c.ctm", "u 1 x 0.2 A\n"), "c.ctm:1: needs 'utterance channel"),
        (broken("d.ctm", "u 1 0.5 0.2 A\nu 1 0.1 0.2 B\n"), "'B' spans .* before the end of the one before"),
        (broken("e.TextGrid", "nothing"), "not a TextGrid"),
        (broken("f.txt", "A B C"), "neither a directory nor one of"),
    ):
        with pytest.raises(DataError, match=message):
            LabelTiers(path, 8000)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no alignment, data directory or label files"):
        tiers_of(tmp_path / "empty")
    with pytest.raises(DataError, match="name a folder of one kind"):
        tiers_of(_mixed(tmp_path))
    grid = write("textgrid", tmp_path / "odd")
    for path in grid.rglob("*.TextGrid"):
        path.write_text(path.read_text().replace('"words"', '"gestures"').replace('"phones"', '"gaze"'))
    with pytest.raises(DataError, match="no tier named like words or phones, but 'gestures', 'gaze'"):
        tiers_of(grid)
    with pytest.raises(DataError, match="words that another file has already"):
        LabelTiers(_twice(tmp_path), 8000)


def _mixed(tmp_path: Path) -> Path:
    write("textgrid", tmp_path / "mixed")
    write("ctm", tmp_path / "mixed/more")
    return tmp_path / "mixed"


def _twice(tmp_path: Path) -> Path:
    write("ctm", tmp_path / "twice")
    (tmp_path / "twice/again.ctm").write_bytes((tmp_path / "twice/words.ctm").read_bytes())
    return tmp_path / "twice"


def test_nothing_in_common_tells_both_names(tmp_path):
    write("ctm", tmp_path / "a")
    (tmp_path / "b.ctm").write_text("other 1 0.1 0.2 A\n")
    with pytest.raises(MismatchError, match="the one has 's-u2', 'u1', the other 'other'|the one has 'u1', 's-u2'"):
        score_directory(tmp_path / "a", tmp_path / "b.ctm", tmp_path, AliScoreOptions(), None, "x")
