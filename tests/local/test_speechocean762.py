"""The recipe of speechocean762 on a small corpus of the same form: parts by speakers, the archive's WAV or other audio."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.artifacts.hyp import Hypothesis, load_hypotheses, save_hypotheses
from pipeline.artifacts.index import load_index

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "egs/speechocean762"


def corpus(root: Path, suffix: str) -> Path:
    """Ten speakers with two utterances each in train, one speaker in test; wav.scp names .WAV, as the archive does."""
    rng = np.random.default_rng(1)
    for part, speakers in (("train", range(10)), ("test", [77])):
        (root / part).mkdir(parents=True)
        tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": [], "spk2gender": []}
        for speaker in speakers:
            tables["spk2gender"].append(f"{speaker:04d} {'mf'[speaker % 2]}\n")
            folder = root / f"WAVE/SPEAKER{speaker:04d}"
            folder.mkdir(parents=True)
            for i in range(2):
                utt_id = f"{speaker:04d}{i:05d}"
                soundfile.write(folder / f"{utt_id}{suffix}", rng.integers(-99, 99, 16000).astype(np.int16), 16000)
                tables["wav.scp"].append(f"{utt_id}\tWAVE/SPEAKER{speaker:04d}/{utt_id}.WAV\n")
                tables["text"].append(f"{utt_id}\tABLE A\n")
                tables["utt2spk"].append(f"{utt_id} {speaker:04d}\n")
        for name, lines in tables.items():
            (root / part / name).write_text("".join(lines))
    (root / "resource").mkdir()
    (root / "resource/lexicon.txt").write_text("A\tAH0\nA\tEY0\nABLE\tEY1 B AH0 L\nABLE\tEY0 B AH0 L\n")
    return root


def run_recipe(tmp_path: Path, *args: str) -> subprocess.CompletedProcess:
    """The recipe in a tree of its own."""
    work = tmp_path / "tree/egs/speechocean762"
    if not work.is_dir():
        shutil.copytree(RECIPE, work, ignore=shutil.ignore_patterns("data", "exp"))
        for name in ("steps", "utils", "local", "pipeline"):
            (tmp_path / "tree" / name).symlink_to(ROOT / name)
    env = {**os.environ, "FULLSUM_ENV": "system", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run([str(work / "run.sh"), *args], capture_output=True, text=True, env=env)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".WAV", ".flac"])
def test_the_parts_are_by_speakers(tmp_path, suffix):
    root = corpus(tmp_path / "corpus", suffix)
    done = run_recipe(tmp_path, "--stop-stage", "0", "--corpus-root", str(root))
    assert done.returncode == 0, done.stderr[-3000:]
    data = tmp_path / "tree/egs/speechocean762/data/local"
    parts = {part: load_index(data / part) for part in ("train", "dev", "test")}
    assert {name: len(index) for name, index in parts.items()} == {"train": 16, "dev": 4, "test": 2}
    speakers = {name: {index.speaker_of(i) for i in range(len(index))} for name, index in parts.items()}
    assert speakers["dev"] == {"0000", "0008"} and speakers["test"] == {"0077"}
    assert len(speakers["train"]) == 8 and not speakers["train"] & speakers["dev"]
    assert (data / "lexicon.txt").read_text() == "A\tAH\nA\tEY\nABLE\tEY B AH L\n"
    again = run_recipe(tmp_path, "--stop-stage", "0", "--corpus-root", str(root))
    assert again.returncode == 0 and again.stderr.count("up to date") == 3, again.stderr


def test_no_corpus(tmp_path):
    done = run_recipe(tmp_path, "--stop-stage", "0", "--corpus-root", str(tmp_path))
    assert done.returncode == 2 and f"no speechocean762 in {tmp_path}" in done.stderr


def new_sentences(*args: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(RECIPE / "local/new_sentences.py"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_utterances_with_known_sentences_are_taken_out(tmp_path):
    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance

    soundfile.write(tmp_path / "a.wav", np.ones(16000, np.int16), 16000)
    audio = audio_recording("a", tmp_path / "a.wav")
    save_data_dir(tmp_path / "train", [utterance("a", audio, "A B", "x")])
    hyps = [Hypothesis(f"u{i}", "s", tuple(ref), ("C",)) for i, ref in enumerate(["AB", "A", "ABC", "AB"])]
    (tmp_path / "decoded").mkdir()
    save_hypotheses(tmp_path / "decoded/recogs.jsonl.gz", hyps)
    done = new_sentences(tmp_path / "decoded", tmp_path / "train", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert [h.cut_id for h in load_hypotheses(tmp_path / "new")] == ["u1", "u2"]
    save_hypotheses(tmp_path / "decoded/recogs.jsonl.gz", hyps[:1])
    done = new_sentences(tmp_path / "decoded", tmp_path / "train", tmp_path / "other")
    assert done.returncode == 2 and "all its sentences stand in" in done.stderr
