"""recogs.jsonl.gz: round trip and broken files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pipeline.artifacts.hyp import RECOGS, TRIED, Hypothesis, load_hypotheses, load_tried, save_hypotheses, save_tried
from pipeline.base.errors import DataError
from pipeline.base.files import write_jsonl


def test_round_trip(tmp_path: Path) -> None:
    hyps = [Hypothesis("b", "s1", ("A", "Ä"), ("A",)), Hypothesis("a", "s2", ("B",), ())]
    save_hypotheses(tmp_path / RECOGS, hyps)
    assert load_hypotheses(tmp_path) == hyps
    assert load_hypotheses(tmp_path / RECOGS) == hyps


@pytest.mark.parametrize(
    "rows,message",
    [
        ([{"id": "a", "speaker": "s", "ref": "A"}], ":1: not a recognised"),
        ([{"id": "a", "speaker": "s", "ref": "A", "hyp": 3}], ":1: not a recognised"),
        ([{"id": "a", "speaker": "s", "ref": "A", "hyp": "A"}] * 2, ":2: utterance 'a' stands twice"),
        ([], "no utterances"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, rows: list, message: str) -> None:
    write_jsonl(tmp_path / RECOGS, rows)
    with pytest.raises(DataError, match=message):
        load_hypotheses(tmp_path)


def test_texts_at_all_weights_round_trip(tmp_path: Path) -> None:
    found = {
        (w, 0.5): [Hypothesis("b", "s1", ("A", "B"), ("A",)), Hypothesis("a", "s2", ("B",), ())] for w in (7.0, 8.0)
    }
    found[9.0, 0.5] = [Hypothesis("b", "s1", ("A", "B"), ("B", "B")), Hypothesis("a", "s2", ("B",), ("B",))]
    save_tried(tmp_path / TRIED, found)
    assert load_tried(tmp_path) == found


@pytest.mark.parametrize(
    "rows,message",
    [
        ([{"id": "a", "speaker": "s", "ref": "A"}], ":1: not the texts"),
        ([{"id": "a", "speaker": "s", "ref": "A", "tried": [[1.0, "A"]]}], ":1: not the texts"),
        ([{"id": "a", "speaker": "s", "ref": "A", "tried": []}], ":1: other weights"),
        (
            [{"id": c, "speaker": "s", "ref": "A", "tried": [[w, 0.0, "A"]]} for c, w in (("a", 1.0), ("b", 2.0))],
            ":2: other weights",
        ),
        ([], "no utterances"),
    ],
)
def test_broken_texts_are_refused(tmp_path: Path, rows: list, message: str) -> None:
    write_jsonl(tmp_path / TRIED, rows)
    with pytest.raises(DataError, match=message):
        load_tried(tmp_path)


def test_confidences_are_kept(tmp_path: Path) -> None:
    hyps = [
        Hypothesis("a", "s", ("A", "B"), ("A",), (0.75,)),
        Hypothesis("b", "s", ("A",), (), ()),
        Hypothesis("c", "s", ("A",), ("B",)),
    ]
    save_hypotheses(tmp_path / RECOGS, hyps)
    assert load_hypotheses(tmp_path) == hyps


@pytest.mark.parametrize("confidence", [[0.5], [0.5, 1.5], [0.5, "x"], [0.5, float("nan")], 3])
def test_confidences_that_make_no_sense_are_refused(tmp_path: Path, confidence: object) -> None:
    row = {"id": "u", "speaker": "s", "ref": "A", "hyp": "A B", "confidence": confidence}
    (tmp_path / RECOGS).write_bytes(gzip.compress(json.dumps(row).encode()))
    with pytest.raises(DataError, match=":1: (not a recognised utterance|confidence.1: NaN is no finite number)"):
        load_hypotheses(tmp_path)
