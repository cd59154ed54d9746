"""Round trips through CTM, TextGrid and lhotse supervisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.ali import Alignment, AliHeader, AliSet, Segment
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError
from pipeline.base.files import write_jsonl
from pipeline.tasks.ali_formats import (
    TimedCut,
    read_ctm,
    read_textgrid,
    timed_cuts,
    write_ctm,
    write_supervisions,
    write_textgrids,
)
from pipeline.tasks.tiers import GoldTiers

CUTS = {"u1": (["SIL", "x", "y_E", "SIL", "z_E", "SIL"], [("AB", 1), ("C", 4)]), "u2": (["x", "y_E"], [("AB", 0)])}
AUDIO = 0.0137  # seconds of audio behind the last frame


def ali_set(confidence: bool = True) -> AliSet:
    """Every state of a phone lasts two frames."""
    lang = make_lang(Lexicon([Pronunciation("AB", ("x", "y")), Pronunciation("C", ("z",))]), position="word_end")
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    alignments = []
    for cut_id, (phones, words) in CUTS.items():
        tids, first = [], []
        for name in phones:
            first.append(len(tids))
            for state in np.nonzero(transitions.phone == lang.phones.id(name))[0].tolist():
                tids += [2 * state, 2 * state + 1]
        table = np.array([[lang.words.id(w), first[i]] for w, i in words], dtype=np.int32)
        scores = np.linspace(0.5, 1.0, len(tids)).astype(np.float16) if confidence else None
        alignments.append(Alignment(cut_id, np.array(tids, dtype=np.int32), -1.0, table, scores))
    header = AliHeader(lang.topo.id, tree.id, lang.id, 0.01, 0.0, "exp/mono")
    return AliSet(header, transitions, lang.words, alignments)


def data_dir(path: Path, ali: AliSet) -> Path:
    supervisions, cuts, recordings = [], [], []
    for cut_id in ali:
        duration = len(ali[cut_id].transition_ids) * 0.01 + AUDIO
        recordings.append(
            {
                "id": cut_id,
                "sources": [{"type": "file", "channels": [0], "source": "/none.wav"}],
                "sampling_rate": 16000,
                "num_samples": round(duration * 16000),
                "duration": duration,
                "channel_ids": [0],
            }
        )
        supervisions.append(
            {
                "id": cut_id,
                "recording_id": cut_id,
                "start": 0.0,
                "duration": duration,
                "channel": 0,
                "text": "AB",
                "speaker": "s",
            }
        )
        cuts.append(
            {
                "id": cut_id,
                "start": 0.0,
                "duration": duration,
                "channel": 0,
                "supervisions": supervisions[-1:],
                "recording": recordings[-1],
                "type": "MonoCut",
            }
        )
    for name, rows in (("recordings", recordings), ("supervisions", supervisions), ("cuts", cuts)):
        write_jsonl(path / f"{name}.jsonl.gz", rows)
    return path


def same(a: list, b: list, tolerance: float = 1e-4) -> bool:
    return [s.symbol for s in a] == [s.symbol for s in b] and np.allclose(
        [(s.start, s.duration) for s in a], [(s.start, s.duration) for s in b], atol=tolerance
    )


@pytest.mark.parametrize("tier", ["phones", "words"])
@pytest.mark.parametrize("confidence", [True, False])
def test_ctm_round_trip(tmp_path: Path, tier: str, confidence: bool) -> None:
    cuts = list(timed_cuts(ali_set(confidence)))
    write_ctm(tmp_path / "a.ctm", cuts, tier)
    again = read_ctm(tmp_path / "a.ctm")
    assert list(again) == ["u1", "u2"]
    for cut in cuts:
        assert same(again[cut.cut_id], getattr(cut, tier))
        assert all((s.confidence is not None) == confidence for s in again[cut.cut_id])
    assert [p.symbol for p in cuts[0].phones] == ["SIL", "x", "y", "SIL", "z", "SIL"]


def test_textgrids_cover_the_whole_utterance(tmp_path: Path) -> None:
    from praatio import textgrid

    ali = ali_set()
    cuts = list(timed_cuts(ali, data_dir(tmp_path / "data", ali)))
    paths = write_textgrids(tmp_path / "grids", cuts)
    for path, cut in zip(paths, cuts):
        again = read_textgrid(path)
        assert list(again) == ["words", "phones"]
        assert same(again["words"], cut.words) and same(again["phones"], cut.phones)
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
        for tier in grid.tiers:
            entries = tier.entries
            assert entries[0].start == 0 and entries[-1].end == pytest.approx(cut.duration, abs=1e-9)
            assert all(a.end == b.start for a, b in zip(entries[:-1], entries[1:]))
    assert cuts[1].words[-1].end == cuts[1].duration, "the last word lasts to the end of the audio"


def test_supervisions_are_read_by_lhotse_and_by_the_scorer(tmp_path: Path) -> None:
    from lhotse import SupervisionSet

    ali = ali_set()
    cuts = list(timed_cuts(ali, data_dir(tmp_path / "data", ali)))
    write_supervisions(tmp_path / "supervisions.jsonl.gz", cuts)
    read = {s.id: s for s in SupervisionSet.from_file(tmp_path / "supervisions.jsonl.gz")}
    for cut in cuts:
        items = read[cut.cut_id].alignment
        assert same(items["phone"], cut.phones) and same(items["word"], cut.words)
        assert items["phone"][0].score == pytest.approx(cut.phones[0].confidence)
        assert read[cut.cut_id].speaker == "s"


def test_utterance_that_the_data_lacks_is_refused(tmp_path: Path) -> None:
    ali = ali_set()
    data = data_dir(tmp_path / "data", AliSet(ali.header, ali.transitions, ali.word_symbols, [ali["u1"]]))
    with pytest.raises(DataError, match="'u2' is not in"):
        list(timed_cuts(ali, data))
    with pytest.raises(DataError, match="no utterance has gold times"):
        GoldTiers(data)


def test_names_that_collide_are_refused(tmp_path: Path) -> None:
    cuts = [TimedCut(name, [], [], 1.0) for name in ("a/b", "a_b")]
    with pytest.raises(DataError, match="a_b.TextGrid"):
        write_textgrids(tmp_path, cuts)


def test_comments_and_unknown_confidences_of_ctm(tmp_path: Path) -> None:
    (tmp_path / "a.ctm").write_text(';; CATEGORY "0"\nu A 0.0 0.1 a NA\n\nu A 0.1 0.2 b 0.5\n', encoding="utf-8")
    assert read_ctm(tmp_path / "a.ctm") == {"u": [Segment("a", 0.0, 0.1), Segment("b", 0.1, 0.2, 0.5)]}


@pytest.mark.parametrize(
    "line", ["u 1 nan 0.1 a", "u 1 0.0 inf a", "u 1 0.0 0.1", "u 1 x 0.1 a", "u 1 -1 0.1 a", "u 1 0.0 0.1 a b"]
)
def test_broken_ctm_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.ctm").write_text(f"u 1 0.0 0.1 a\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match="a.ctm:2: needs"):
        read_ctm(tmp_path / "a.ctm")


def test_broken_textgrid_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.TextGrid").write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(DataError, match="not a TextGrid"):
        read_textgrid(tmp_path / "a.TextGrid")
