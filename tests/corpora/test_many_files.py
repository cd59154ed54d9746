"""A folder of 100,000 files, few of which are wanted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline.base import stamp
from tests.corpora.made import Imported, audio, lines

FILES, UTTERANCES = 100_000, 20
MOST_SECONDS = 30.0  # of processor time, for all that is tried here; it takes about five


@pytest.mark.slow
def test_a_hundred_thousand_files_in_a_folder(tmp_path: Path) -> None:
    """They are listed and identified as an input, and the audio among them is imported."""
    top = tmp_path / "corpus"
    for number in range(UTTERANCES):
        audio(top / f"u{number:02d}.wav")
        lines(top / f"u{number:02d}.txt", f"words {number}")
    for number in range(FILES - 2 * UTTERANCES):
        (top / f"page{number:06d}.pdf").touch()
    began = time.process_time()
    before = stamp.artifact_id(top)
    made = Imported(top, tmp_path / "out")
    assert made.texts() == {f"u{number:02d}": f"words {number}" for number in range(UTTERANCES)}
    (top / "page000123.pdf").write_text("another")
    assert stamp.artifact_id(top) != before
    assert time.process_time() - began < MOST_SECONDS
