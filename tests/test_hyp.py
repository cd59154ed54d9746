"""recogs.jsonl.gz: round trip and broken files."""
from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.files import write_jsonl
from pipeline.hyp import RECOGS, Hypothesis, load_hypotheses, save_hypotheses


def test_round_trip(tmp_path: Path) -> None:
    hyps = [Hypothesis("b", "s1", ("A", "Ä"), ("A",)), Hypothesis("a", "s2", ("B",), ())]
    save_hypotheses(tmp_path / RECOGS, hyps)
    assert load_hypotheses(tmp_path) == hyps
    assert load_hypotheses(tmp_path / RECOGS) == hyps


@pytest.mark.parametrize("rows,message", [
    ([{"id": "a", "speaker": "s", "ref": "A"}], ":1: not a recognised"),
    ([{"id": "a", "speaker": "s", "ref": "A", "hyp": 3}], ":1: not a recognised"),
    ([{"id": "a", "speaker": "s", "ref": "A", "hyp": "A"}] * 2, ":2: utterance 'a' stands twice"),
    ([], "no utterances"),
])
def test_broken_files_are_refused(tmp_path: Path, rows: list, message: str) -> None:
    write_jsonl(tmp_path / RECOGS, rows)
    with pytest.raises(DataError, match=message):
        load_hypotheses(tmp_path)
