"""TED-LIUM 2's recipe on its clone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.base.errors import DataError
from tests.clones import tedlium2
from tests.clones.speech import ROOT


@pytest.fixture
def prepare(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "egs" / "tedlium2" / "local"), str(ROOT / "local"), *sys.path])
    import prepare_tedlium2

    return prepare_tedlium2


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch) -> Path:
    few = {part: talks[:2] if part == "train" else talks[:1] for part, talks in tedlium2.TALKS.items()}
    monkeypatch.setattr(tedlium2, "TALKS", few)
    return tedlium2.make(tmp_path, sentences=8)


@pytest.fixture
def prepared(corpus, prepare, tmp_path):
    """Prepares the clone; returns the folder."""

    def call() -> Path:
        prepare.prepare(corpus, tmp_path / "out", tmp_path / "out", prepare.TedLiumOptions(lm_sentences=20))
        return tmp_path / "out"

    return call


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("they 're the(2) {SMACK} ones <sil>", "they're the ones"), ("[NOISE] it 's 'cause of it", "it's 'cause of it"),
        ("<unk> 's there", "<unk> 's there"), ("ma 'am", "ma'am"), ("don 't ' go", "don't go"), ("{UH} <sil>", ""),
    ],
)  # fmt: skip
def test_words(prepare, text, expected):
    assert prepare.normalised(text, {"ma'am"}, unknown=True) == expected
    assert "<unk>" not in prepare.normalised(text, {"ma'am"}, unknown=False)


def test_preparation(prepared):
    out = prepared()
    parts = {part: load_cuts(out / part) for part in ("train", "dev", "test")}
    assert all(validate_data_dir(out / part).sampling_rate == tedlium2.RATE for part in parts)
    lexicon = {line.split()[0] for line in (out / "lexicon.txt").read_text().splitlines()}
    for part, cuts in parts.items():
        words = {word for c in cuts for word in c.supervisions[0].text.split()}
        assert words <= lexicon | ({"<unk>"} if part == "train" else set()) and "they're" in words
        assert {c.supervisions[0].speaker for c in cuts} <= set(tedlium2.TALKS[part])
        assert all(c.start >= 2.5 - 1e-6 and c.duration < 6 for c in cuts)  # the gaps are not there
    text = (out / "lm_text.txt").read_text().splitlines()
    assert len(text) == len(parts["train"]) + 20 and not any("<" in line for line in text)
    assert {"the DH AH", "the DH IY"} <= set((out / "lexicon.txt").read_text().splitlines())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("train/sph/AaronKoblin_2011.sph", r"AaronKoblin_2011.stm has no recording: 1 of 2 files .*unpacked as a whole"),
        ("train/stm/AaronKoblin_2011.stm", r"AaronKoblin_2011.sph has no transcript: 1 of 2"),
        ("dev/sph/AlGore_2009.sph", r"dev: has no sph/\*.sph; is the corpus unpacked"),
        ("TEDLIUM.152k.dic", r"TEDLIUM_release2: has no TEDLIUM.152k.dic"),
    ],
)  # fmt: skip
def test_half_unpacked(prepared, corpus, broken, message):
    (corpus / broken).unlink()
    with pytest.raises(DataError, match=message):
        prepared()


def test_another_release(prepared, corpus):
    dictionary = corpus / "TEDLIUM.152k.dic"
    dictionary.rename(corpus / "TEDLIUM.150K.dic")
    with pytest.raises(DataError, match=r"has no TEDLIUM.152k.dic, but TEDLIUM.150K.dic: is it another release"):
        prepared()
    (corpus / "data").mkdir()
    (corpus / "legacy").mkdir()
    with pytest.raises(DataError, match="so it is TED-LIUM 3"):
        prepared()


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("test/stm/AimeeMullins_2009P.stm", "<o,f0,male> ", "", r"AimeeMullins_2009P.stm:2: needs 'TALK 1 SPEAKER"),
        ("test/stm/AimeeMullins_2009P.stm", " 2.5 ", " x ", r"AimeeMullins_2009P.stm:\d: needs"),
        ("TEDLIUM.152k.dic", "people\tP IY P AH L", "people", r"TEDLIUM.152k.dic:\d+: word 'people' has no phones"),
    ],
)  # fmt: skip
def test_broken_texts(prepared, corpus, path, old, new, message):
    text = (corpus / path).read_text()
    for sex in ("male", "female"):  # the speaker of the clone may be either
        old = old if old in text else old.replace("male", sex)
    assert old in text
    (corpus / path).write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        prepared()


def test_cut_short(prepared, corpus):
    audio = corpus / "train/sph/AaronKoblin_2011.sph"
    audio.write_bytes(audio.read_bytes()[: audio.stat().st_size // 2])
    with pytest.raises(DataError, match=r"AaronKoblin_2011.sph: .*(bytes|samples)"):
        prepared()


def test_stretch_outside(prepared, corpus):
    stm = corpus / "test/stm/AimeeMullins_2009P.stm"
    lines = stm.read_text().splitlines()
    fields = lines[3].split()
    stm.write_text("\n".join([*lines[:3], " ".join([*fields[:3], "900.0", "901.0", *fields[5:]]), *lines[4:]]) + "\n")
    with pytest.raises(DataError, match=r"test: 1 of \d stretches lie outside of their recordings"):
        prepared()
