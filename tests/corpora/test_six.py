"""Six corpora that nobody has prepared, each imported by one command and taken by the steps that follow."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from praatio import textgrid

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.artifacts.lexicon import grapheme_lexicon
from pipeline.feats.compute import compute_feats
from pipeline.feats.options import FeatureOptions
from tests.corpora.made import audio, lines

ROOT = Path(__file__).resolve().parents[2]
WORDS = "zero one two three four five six seven eight nine".split()


def kaldi(top: Path) -> list[str]:
    """wav.scp relative to the corpus, Opus under another suffix than it says, as speechocean762 is kept here."""
    ids = [f"{speaker:04d}{i:05d}" for speaker in (1, 5) for i in range(3)]
    for name in ids:
        audio(top / "WAVE" / f"SPEAKER{name[:4]}" / f"{name}.opus", format="OGG", subtype="OPUS")
    lines(top / "train" / "wav.scp", *(f"{name}\tWAVE/SPEAKER{name[:4]}/{name}.WAV" for name in ids))
    lines(top / "train" / "text", *(f"{name}\tHELLO WORLD" for name in ids))
    lines(top / "train" / "utt2spk", *(f"{name} {name[:4]}" for name in ids))
    lines(top / "train" / "spk2gender", "0001 m", "0005 f")
    return ["train"]


def digits(top: Path) -> list[str]:
    """The text is in the names of files, 8 kHz, as in free-spoken-digit."""
    for i, name in enumerate(("jackson", "theo")):
        for digit in range(3):
            audio(top / f"{digit}_{name}_{i}.wav", rate=8000)
    return [".", "--name-pattern", r"^(?P<text>\d)_(?P<speaker>\w+)_\d+$", "--digits", "en"]


def labs(top: Path) -> list[str]:
    """Speaker folders with .lab, audio at several rates, stereo among it, as users of MFA have it."""
    for i, name in enumerate(("anna/a1", "anna/a2", "ben/b1", "ben/b2", "ben/b3", "ben/b4")):
        audio(top / f"{name}.wav", rate=44100 if i % 2 else 16000, channels=1 + (i == 3))
        (top / f"{name}.lab").write_bytes("\ufeff“Grüß Gott,” sagte er.\r\n".encode())
    return [".", "--rate", "16000", "--channel", "0", "--punctuation", "strip", "--case", "lower"]


def textgrids(top: Path) -> list[str]:
    """Long recordings, a tier for each speaker, UTF-16 with CRLF."""
    for name in ("talk1", "talk2"):
        audio(top / f"{name}.wav", seconds=8.0, rate=48000)
        grid = textgrid.Textgrid(0.0, 8.0)
        grid.addTier(textgrid.IntervalTier("Änne", [(0.5, 2.0, "ja"), (4.0, 5.5, "nein")], 0.0, 8.0))
        grid.addTier(textgrid.IntervalTier("Bob", [(2.0, 3.5, "was"), (5.0, 7.75, "gut")], 0.0, 8.0))
        grid.save(str(top / f"{name}.TextGrid"), format="long_textgrid", includeBlankSpaces=True)
        text = (top / f"{name}.TextGrid").read_text(encoding="utf-8")
        (top / f"{name}.TextGrid").write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    return [".", "--rate", "16000"]


def table(top: Path) -> list[str]:
    """A CSV with columns of its own."""
    with open(top / "list.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Recording", "Speaker", "Prompt", "Note"])
        for i in range(6):
            audio(top / "sound" / f"r{i}.flac")
            rows.writerow([f"r{i}.flac", f"s{i % 2}", 'Say "yes", please', "x"])
    columns = "audio=Recording,text=Prompt,speaker=Speaker"
    return ["list.csv", "--format", "table", "--columns", columns, "--punctuation", "strip"]


def manifests(top: Path) -> list[str]:
    """lhotse cuts of whole recordings with several supervisions each."""
    recordings, supervisions = [], []
    for name in ("x", "y"):
        recordings.append(Recording.from_file(audio(top / f"{name}.wav", seconds=6.0), recording_id=name))
        supervisions += [
            SupervisionSegment(f"{name}{i}", name, 2.0 * i, 1.5, text="one two", speaker=f"s{i % 2}") for i in range(3)
        ]
    cuts = CutSet.from_manifests(RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions))
    cuts.to_file(top / "cuts.jsonl")
    return ["cuts.jsonl"]


# Maker -> utterances, speakers, seconds, words.
CORPORA: dict[Callable[[Path], list[str]], tuple[int, int, float, set[str]]] = {
    kaldi: (6, 2, 3.0, {"HELLO", "WORLD"}),
    digits: (6, 2, 3.0, {"zero", "one", "two"}),
    labs: (6, 2, 3.0, {"grüß", "gott", "sagte", "er"}),
    textgrids: (8, 2, 14.5, {"ja", "nein", "was", "gut"}),
    table: (6, 2, 3.0, {"Say", "yes", "please"}),
    manifests: (6, 2, 9.0, {"one", "two"}),
}


@pytest.mark.parametrize("make", CORPORA, ids=lambda make: make.__name__)
def test_corpus(tmp_path, make):
    """One command, no code; then features, which read every sample of every utterance."""
    source = tmp_path / "corpus"
    source.mkdir()
    arguments = make(source)
    command = [sys.executable, str(ROOT / "steps" / "__main__.py"), "import", *arguments, str(tmp_path / "data")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    count, speakers, seconds, words = CORPORA[make]
    facts = validate_data_dir(tmp_path / "data", decode=True)
    assert (facts.num_utterances, facts.num_speakers) == (count, speakers)
    assert facts.seconds == pytest.approx(seconds, abs=1e-3)
    cuts = list(load_cuts(tmp_path / "data"))
    assert {word for cut in cuts for word in cut.supervisions[0].text.split()} == words
    assert json.loads((tmp_path / "data" / "stamp.json").read_text())["facts"]["left_out"] == {}
    grapheme_lexicon(words)
    (tmp_path / "feats").mkdir()
    feats = compute_feats(tmp_path / "data", tmp_path / "feats", tmp_path / "feats", FeatureOptions(type="mfcc"))
    assert feats.num_utterances == count and feats.num_frames == pytest.approx(100 * seconds, abs=count)
