"""Malromur's preparation on a made-up corpus of its form."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.artifacts.corpus import load_cuts
from pipeline.base.errors import DataError
from tests.local.conftest import ROOT, write_audio


@pytest.fixture
def prepare(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "egs" / "malromur" / "local"), *sys.path])
    import prepare_malromur

    return prepare_malromur


@pytest.fixture
def corpus(tmp_path: Path, prepare) -> Path:
    """Two recordings of each of as many speakers as it takes to have one in every part, one more that listeners
    refused.
    """
    root, lines, parts = tmp_path / "malromur", [], set()
    for number in range(200):
        parts.add(prepare.part_of(f"is_is-s{number}"))
        for take in range(2):
            name = f"is_is-s{number}-{take}"
            write_audio(root / "correct" / f"{name}.wav", number)
            prompt = "Já, gott!" if take else f"Orð {'abcdefghij'[number % 10]}"
            lines.append(f"{name},a,b,female,30,{prompt},1.0,correct\n")
        if len(parts) == 3:
            break
    (root / "info.txt").write_text("".join(lines) + "is_is-s0-9,a,b,male,30,Rangt,1.0,incorrect\n")
    return root


def test_malromur(corpus, prepare, tmp_path) -> None:
    facts = prepare.prepare(corpus, tmp_path / "out")
    parts = {part: load_cuts(tmp_path / "out" / part) for part in ("train", "dev", "test")}
    speakers = {part: {c.supervisions[0].speaker for c in cuts} for part, cuts in parts.items()}
    assert not speakers["train"] & (speakers["dev"] | speakers["test"]) and facts["utterances"]["train"] == len(
        parts["train"]
    )
    assert {prepare.part_of(s) for s in speakers["dev"]} == {"dev"}
    held_out = {c.supervisions[0].text for part in ("dev", "test") for c in parts[part]}
    assert "já gott" in held_out  # case and punctuation are gone, the comma did not split the line
    lines = (tmp_path / "out" / "lm_text.txt").read_text().splitlines()
    assert lines and not held_out & set(lines)
    assert "orð o r ð" in (tmp_path / "out" / "lexicon.txt").read_text().splitlines()


def test_shares_of_speakers(prepare) -> None:
    counts = dict.fromkeys(("train", "dev", "test"), 0)
    for number in range(4000):
        counts[prepare.part_of(f"speaker{number}")] += 1
    assert abs(counts["dev"] / 4000 - 0.05) < 0.015 and abs(counts["test"] / 4000 - 0.05) < 0.015


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("a,b,female,30,", "a,", r"info.txt:1: 5 fields, expected 8"),
        ("is_is-s0-0,", "gone,", r"info.txt:1: no audio file .*gone.wav"),
        (",correct\n", ",incorrect\n", "no recording of class 'correct' falls to train"),
    ],
)
def test_malromur_broken(corpus, prepare, tmp_path, old: str, new: str, message: str) -> None:
    text = (corpus / "info.txt").read_text()
    (corpus / "info.txt").write_text(text.replace(old, new, 1 if "fields" in message or "audio" in message else -1))
    with pytest.raises(DataError, match=message):
        prepare.prepare(corpus, tmp_path / "out")
