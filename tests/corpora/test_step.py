"""The step: stamps, audio as part of the identity, interruption, messages with final paths, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpora.made import audio, lines

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    data = tmp_path / "train"
    names = [f"u{i:02d}" for i in range(20)]
    for name in names:
        audio(tmp_path / "wav" / f"{name}.wav", seconds=0.2)
    lines(data / "wav.scp", *(f"{name} wav/{name}.wav" for name in names))
    lines(data / "text", *(f"{name} Word, again" for name in names))
    return data


def step(cwd: Path, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "steps" / "import_data.py"), *args]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_stamp(corpus, tmp_path):
    done = step(tmp_path, "train", "data", "--case", "upper")
    assert done.returncode == 0, done.stderr
    stamp = json.loads((tmp_path / "data" / "stamp.json").read_text())
    assert stamp["facts"]["utterances"] == 20 and stamp["facts"]["text"]["upper case"] == 20
    assert "text: upper case: 20 transcripts, as 'Word, again' -> 'WORD, AGAIN'" in done.stderr
    assert "up to date" in step(tmp_path, "train", "data", "--case", "upper").stderr
    audio(tmp_path / "wav" / "u03.wav", seconds=0.3)  # audio is part of the identity, though no path is an argument
    again = step(tmp_path, "train", "data", "--case", "upper")
    assert again.returncode == 2 and "another 'audio'" in again.stderr
    check = [sys.executable, str(ROOT / "utils" / "validate_data.py"), "data", "--decode"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    assert step(tmp_path, "train", "data", "--case", "upper", "--overwrite").returncode == 0
    told = subprocess.run(check, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert told.returncode == 0 and "20 utterances, 20 speakers" in told.stdout, told.stderr


def test_left_out(corpus, tmp_path):
    """Below the share a warning names the final file, above it the one that is there; all kinds are summed up."""
    (tmp_path / "wav" / "u03.wav").write_bytes(b"")
    done = step(tmp_path, "train", "data")
    assert done.returncode == 0 and "1 utterances are left out, listed in data/left_out.txt" in done.stderr
    row = (tmp_path / "data" / "left_out.txt").read_text().split("\t")
    assert row[:2] == ["u03", "empty audio file"]
    raw = (tmp_path / "wav" / "u04.wav").read_bytes()
    (tmp_path / "wav" / "u04.wav").write_bytes(raw[:200])
    (tmp_path / "wav" / "u05.wav").unlink()
    audio(tmp_path / "wav" / "u06.wav", channels=2)
    failed = step(tmp_path, "train", "other")
    assert failed.returncode == 2 and "Traceback" not in failed.stderr and not (tmp_path / "other").exists()
    assert "4 of 20 utterances cannot be imported, more than the allowed share of 5%" in failed.stderr
    for kind in ("empty audio file: 1", "audio cut short: 1", "no audio: 1", "several channels: 1"):
        assert kind in failed.stderr
    listed = next(line for line in failed.stderr.splitlines() if "All are listed" in line).split("listed in ")[1]
    assert len(Path(tmp_path, listed.split(";")[0]).read_text().splitlines()) == 4


def test_kinds_are_counted_not_lines(corpus, tmp_path):
    for i in range(15):
        (tmp_path / "wav" / f"u{i:02d}.wav").unlink()
    (tmp_path / "wav" / "u19.wav").write_bytes(b"")
    failed = step(tmp_path, "train", "data")
    assert failed.returncode == 2 and "no audio: 15" in failed.stderr and "empty audio file: 1" in failed.stderr
    assert failed.stderr.count("wav.scp:") <= 5


def test_unknown_format(tmp_path):
    lines(tmp_path / "nothing" / "readme.md", "no corpus")
    failed = step(tmp_path, "nothing", "data")
    assert failed.returncode == 2 and "no format of a corpus that is known here: kaldi (wav.scp)" in failed.stderr


def test_lexicon(corpus, tmp_path):
    """Words that a lexicon lacks are counted, the near ones named, all of them listed."""
    lines(tmp_path / "lexicon.txt", "WORD W ER D", "AGAIN AH G EH N")
    done = step(tmp_path, "train", "data", "--lexicon", "lexicon.txt")
    assert done.returncode == 0, done.stderr
    assert "40 of 40 words (100.0%), 2 of 2 different ones, are not in lexicon.txt" in done.stderr
    assert "--punctuation strip, --case): Word, (WORD)" in done.stderr and "--case upper): again (AGAIN)" in done.stderr
    assert "all are listed in data/oov.tsv" in done.stderr and "three ways out" in done.stderr
    assert (tmp_path / "data" / "oov.tsv").read_text().startswith("Word,\t20\tWORD\t")
    done = step(
        tmp_path, "train", "good", "--lexicon", "lexicon.txt", "--case", "upper", "--punctuation", "strip"
    )  # fmt: skip
    assert "all 40 words are in lexicon.txt" in done.stderr
