"""Babel's recipe on the clone of its Tagalog."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.artifacts.stm import read_stm
from pipeline.base.errors import DataError
from tests.clones import babel_tagalog
from tests.clones.speech import ROOT


@pytest.fixture
def prepare(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "egs" / "babel_tagalog" / "local"), str(ROOT / "local"), *sys.path])
    import prepare_babel

    return prepare_babel


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return babel_tagalog.make(tmp_path, conversations=2, tested=1) / "conversational"


@pytest.fixture
def prepared(corpus, prepare, tmp_path):
    """Prepares the clone; returns the folder."""

    def call(**options) -> Path:
        prepare.prepare(corpus, tmp_path / "out", tmp_path / "out", prepare.BabelOptions(dev_utterances=1, **options))
        return tmp_path / "out"

    return call


@pytest.mark.parametrize(
    ("text", "train", "scored"),
    [
        ("oo <hes> ako *ngayon* ~", "oo <unk> ako ngayon", "oo (%hesitation) ako ngayon"),
        ("<laugh> kuma- kumain <breath>", "kuma- kumain", "(kuma-) kumain"),
        ("(()) ako", "<unk> ako", "ignore_time_segment_in_scoring"),
        ("ako <foreign>", "ako <unk>", "ignore_time_segment_in_scoring"),
        ("<no-speech>", "", "ignore_time_segment_in_scoring"),
        ("<hes>", "<unk>", "(%hesitation)"),
        ("ng~ New_York <male-to-female>", "ng new_york", "ng new_york"),
    ],
)  # fmt: skip
def test_words(prepare, text, train, scored):
    from pipeline.artifacts.stm import StmLine

    assert prepare.train_text(text) == train
    assert prepare.scored(StmLine("r", "1", "s", 0.0, 1.0, text, "x:1")).text == scored


def test_preparation(prepared, corpus):
    out = prepared()
    parts = {part: load_cuts(out / part) for part in ("train", "dev", "test")}
    assert all(validate_data_dir(out / part).sampling_rate == 8000 for part in parts)  # also what was at 48 kHz
    assert {c.recording_id.split("_")[3] for c in parts["train"]} == {"10288"}
    assert {c.recording_id.split("_")[3] for c in parts["dev"]} == {"10188"}
    assert {c.recording_id.split("_")[3] for c in parts["test"]} == {"10238"}
    assert any((corpus / "training" / "audio" / f"{c.recording_id}.wav").is_file() for c in parts["train"])
    assert all(np.abs(c.load_audio()).max() > 0.1 for c in parts["train"])
    lexicon = {line.split()[0] for line in (out / "lexicon.txt").read_text().splitlines()}
    words = {word for part in parts for c in parts[part] for word in c.supervisions[0].text.split()}
    assert words - lexicon == {"<unk>", "kuma-"} and "maria" in lexicon and not lexicon & {"<hes>", "<foreign>"}
    assert {"ako a k o", "ano ? a n o", "ano ? a n u"} <= set((out / "lexicon.txt").read_text().splitlines())
    stm = [line for line in read_stm(out / "test" / "ref.stm") if not line.ignored]
    assert {line.utt_id for line in stm} == {c.id for c in parts["test"]} and len(stm) == 20
    assert {"(%hesitation) ano na ngayon", "(kuma-) kumain ka na"} <= {line.text for line in stm}


def test_lhotse_names_the_same_stretches(prepared, corpus, prepare):
    """lhotse's recipe as an oracle of names and times. It makes one <unk> of tags that the scoring tells apart, and
    where a pause follows without a tag it counts that as speech.
    """
    from lhotse.audio.backend import audio_backend
    from lhotse.recipes.babel import prepare_single_babel_language

    with audio_backend("LibsndfileBackend"):
        theirs = prepare_single_babel_language(corpus.parent, no_eval_ok=True)["training"]["supervisions"]
    ours, _ = prepare.read_part(corpus / "training", prepare.BabelOptions())
    said = {(line.recording, line.start): line.end for line in ours if line.text != "<no-speech>"}
    expected = {(s.recording_id, s.start): round(s.end, 3) for s in theirs if s.text != "<silence>"}
    assert said.keys() == expected.keys() and all(end <= expected[key] for key, end in said.items())
    assert sum(end == expected[key] for key, end in said.items()) > len(said) / 2


@pytest.mark.parametrize("missing", ["audio", "transcription"])
def test_half_unpacked(prepared, corpus, missing):
    next(path for path in sorted((corpus / "training" / missing).iterdir()) if "inLine" in path.name).unlink()
    what = "recording" if missing == "audio" else "transcript"
    with pytest.raises(DataError, match=rf"inLine.* has no {what}: 1 of 4 files .*unpacked as a whole"):
        prepared()


def test_folders_that_are_missing(prepared, corpus):
    (corpus / "dev" / "audio").rename(corpus / "dev" / "sound")
    with pytest.raises(DataError, match=r"dev: has no audio/\*.sph; is it unpacked"):
        prepared()
    (corpus / "reference_materials" / "lexicon.txt").unlink()
    with pytest.raises(DataError, match=r"lexicon.txt: no such file; is the language pack unpacked"):
        prepared()


@pytest.mark.parametrize("kind", ["sph", "wav"])
def test_recordings_cut_short(prepared, corpus, kind):
    audio = next(iter(sorted((corpus / "training" / "audio").glob(f"*.{kind}"))))
    audio.write_bytes(audio.read_bytes()[: audio.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{audio.name}: .*(bytes|samples|cut short)"):
        prepared()


def test_another_language(prepared, corpus):
    for folder in ("audio", "transcription"):
        for path in (corpus / "training" / folder).iterdir():
            path.rename(path.with_name(path.name.replace("_106_", "_101_")))
    with pytest.raises(DataError, match="is of language 101; Tagalog is 106"):
        prepared()


def test_romanized(prepared, corpus):
    """Packs of other scripts have a column more, which is noticed."""
    lexicon = corpus / "reference_materials" / "lexicon.txt"
    plain = prepared()
    expected = (plain / "lexicon.txt").read_text()
    rows = (line.split("\t", 1) for line in lexicon.read_text().splitlines())
    lexicon.write_text("".join(f"{word}\t{word}roman\t{rest}\n" for word, rest in rows))
    with pytest.raises(DataError, match="looks like a romanisation.*--romanized"):
        prepared()
    assert (prepared(romanized=True) / "lexicon.txt").read_text() == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1.370]", "[1.37", r"inLine.txt:3: needs a time such as \[12.345\], found '\[1.37'"),
        ("[1.370]", "[0.000]", r"inLine.txt:3: time 0.0 does not come behind 0.0"),
        ("[0.000]", "", r"inLine.txt:1: needs a time"),
        ("<no-speech>\n[1.370]", "<no-speech>", "does not come|no-speech|"),
    ],
)  # fmt: skip
def test_broken_transcripts(prepared, corpus, old, new, message):
    path = next(iter(sorted((corpus / "training" / "transcription").glob("*inLine.txt"))))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    if message.endswith("|"):
        prepared()  # two texts in one stretch are one
        return
    with pytest.raises(DataError, match=message):
        prepared()


def test_cut_off_and_outside(prepared, corpus):
    path = next(iter(sorted((corpus / "training" / "transcription").glob("*inLine.txt"))))
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n" + ("oo\n" if lines[-2].startswith("[") else ""))
    with pytest.raises(DataError, match="inLine.txt: ends without a time; cut short"):
        prepared()
    path.write_text("\n".join([*lines, "oo", "[999.0]"]) + "\n")
    with pytest.raises(DataError, match=r"inLine.txt:\d+: .* spans \[.*999.0\] s of"):
        prepared()
