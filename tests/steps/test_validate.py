"""fullsum validate: one report of all that is wrong with a corpus, with the verdict of an import and of an alignment."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.steps.small_recipe import ROOT, run

WORDS = ("ONE TWO", "TWO THREE", "THREE ONE", "ONE", "TWO", "THREE")


def validate(*args) -> subprocess.CompletedProcess:
    return run([sys.executable, str(ROOT / "steps/validate.py"), *map(str, args)])


@pytest.fixture
def corpus(tmp_path) -> Path:
    """A Kaldi directory of six utterances and two speakers."""
    root, rng = tmp_path / "corpus", np.random.default_rng(1)
    (root / "wav").mkdir(parents=True)
    tables: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for i, words in enumerate(WORDS):
        soundfile.write(root / f"wav/u{i}.wav", rng.integers(-99, 99, 16000 + 100 * i).astype(np.int16), 16000)
        for name, value in (("wav.scp", f"wav/u{i}.wav"), ("text", words), ("utt2spk", f"s{i % 2}")):
            tables[name].append(f"u{i} {value}\n")
    for name, lines in tables.items():
        (root / name).write_text("".join(lines))
    return root


def test_a_corpus_without_problems(corpus):
    done = validate(corpus)
    assert done.returncode == 0, done.stderr
    assert "read as kaldi; 6 utterances, 2 speakers, 0.1 min, 16000 Hz" in done.stdout and "ERROR" not in done.stderr
    assert sorted(p.name for p in corpus.iterdir()) == ["text", "utt2spk", "wav", "wav.scp"]


def test_all_kinds_of_problems_are_summed_up(corpus):
    (corpus / "wav/u0.wav").unlink()
    (corpus / "wav/u1.wav").write_bytes(b"no audio")
    soundfile.write(corpus / "wav/u2.wav", np.zeros(100, np.int16), 16000)
    text = (corpus / "text").read_text().replace("u3 ONE\n", "").replace("u4 TWO", "u4")
    (corpus / "text").write_text(text)
    done = validate(corpus)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for message in (
        "5 utterances (83.3%) cannot go in", "no audio: 1", "no transcript: 1", "no words: 1", "too short: 1",
        "u0.wav", "u1.wav", "'u3' has no line in", "u2",
    ):  # fmt: skip
        assert message in done.stderr, (message, done.stderr)
    assert "1 utterances, 1 speakers" in done.stdout
    assert validate(corpus, "--max-bad", "0.9").returncode == 0


def test_nothing_that_can_go_in(corpus):
    shutil.rmtree(corpus / "wav")
    done = validate(corpus)
    assert done.returncode == 2 and "no utterance can go in" in done.stderr and "no audio: 6" in done.stderr
    assert "fullsum-" not in done.stderr  # no names of temporary files
    done = validate(corpus, "--format", "elan")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_words_without_pronunciation(corpus, tmp_path):
    (tmp_path / "lexicon.txt").write_text("ONE w ah n\ntwo t uw\n")
    done = validate(corpus, "--lexicon", tmp_path / "lexicon.txt")
    assert done.returncode == 0
    assert "6 of 9 words (66.7%), 2 of 3 different ones, are not in" in done.stdout
    assert "capitals and small letters" in done.stdout and "three ways out" in done.stdout


def test_text_is_read_as_an_alignment_reads_it(corpus, tmp_path):
    """Punctuation is no part of words; with the language of a model numbers are words."""
    text = (corpus / "text").read_text().replace("u4 TWO", "u4 TWO .").replace("u5 THREE", 'u5 "three," 23')
    (corpus / "text").write_text(text)
    (tmp_path / "lexicon.txt").write_text("ONE w ah n\nTWO t uw\nTHREE th r iy\nthree th r iy\n23 x\n")
    done = validate(corpus, "--lexicon", tmp_path / "lexicon.txt")
    assert done.returncode == 0 and "all 10 words have a pronunciation" in done.stdout, done.stdout
    kept = validate(corpus, "--lexicon", tmp_path / "lexicon.txt", "--punctuation", "keep")
    assert "2 of 11 words" in kept.stdout, kept.stdout
    done = validate(corpus, "english")
    assert done.returncode == 0 and "has pronunciations of all 5 different words" in done.stdout, done.stdout


def test_a_model_tells_what_it_can_pronounce(corpus, recipe, tmp_path):
    from pipeline.tasks.packed import make_card, pack

    model = tmp_path / "tiny.fsm"
    pack(recipe / "exp/mono", recipe / "data/lang", model, make_card({"name": "tiny"}, "card"))
    (corpus / "text").write_text((corpus / "text").read_text().replace("u5 THREE", "u5 XYLOPHONE"))
    done = validate(corpus, model)
    assert done.returncode == 2
    assert (
        "tiny: 1 of 9 words, 1 of 4 different ones, are not in its lexicon" in done.stderr
        and "--lexicon" in done.stderr
    )
    done = validate(recipe / "data/local/test", model)
    assert done.returncode == 0, done.stderr
    assert "a data directory; 4 utterances" in done.stdout
    assert "tiny: has pronunciations of all" in done.stdout
    done = validate(corpus, "klingon")
    assert done.returncode == 2 and "neither a file nor the name of a shipped model" in done.stderr


def test_data_directories_are_checked_as_such(recipe, tmp_path):
    done = validate(recipe / "data/mfcc_test")
    assert done.returncode == 0 and "frames of 13 mfcc" in done.stdout
    data = tmp_path / "data"
    shutil.copytree(recipe / "data/local/test", data)
    with gzip.open(data / "cuts.jsonl.gz", "rt") as file:
        cuts = [json.loads(line) for line in file]
    cuts[1]["duration"] = 999.0
    cuts[2]["supervisions"][0]["text"] = ""
    with gzip.open(data / "cuts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(cut) + "\n" for cut in cuts)
    done = validate(data)
    assert done.returncode == 2 and "cuts.jsonl.gz:2" in done.stderr and "cuts.jsonl.gz:3" in done.stderr, done.stderr
