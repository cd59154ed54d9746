"""Switchboard's recipe on its clone."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.artifacts.stm import read_stm
from pipeline.base.errors import DataError
from pipeline.base.files import read_json
from tests.clones import swbd
from tests.clones.speech import ROOT, recipe_copy, run, run_cell


@pytest.fixture
def prepare(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "egs" / "swbd" / "local"), str(ROOT / "local"), *sys.path])
    import prepare_swbd

    return prepare_swbd


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return swbd.make(tmp_path / "ldc", conversations=2, turns=4)


@pytest.fixture
def prepared(corpus, prepare, tmp_path):
    """Prepares the clone; returns the folder."""

    def call() -> Path:
        prepare.prepare(corpus, tmp_path / "out", tmp_path / "out", prepare.SwitchboardOptions(dev_utterances=1))
        return tmp_path / "out"

    return call


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ("yeah", "yeah"), ("[noise]", None), ("[laughter]", None), ("[vocalized-noise]", None), ("<b_aside>", None),
        ("[laughter-yeah]", "yeah"), ("[laughter-th[e]-]", "th-"), ("th[e]-", "th-"), ("-[an]y", "-y"), ("uh-huh", "uh-huh"),
        ("[it'n/isn't]", "it'n"), ("[lem[guini]-/linguini]", "lem-"), ("ex[specially]-/especially]", "ex-"),
        ("{yuppiedom}", "yuppiedom"), ("them_1", "them"), ("[laughter-them_1]", "them"), ("I", "i"), ("h[ave]-", "h-"),
    ],
)  # fmt: skip
def test_words(prepare, token, word):
    repaired = Counter()
    assert prepare.word_of(token, repaired) == word
    assert bool(repaired) == (token == "ex[specially]-/especially]")


def test_preparation(prepared, corpus):
    out = prepared()
    parts = {part: load_cuts(out / part) for part in ("train", "dev", "hub5_00", "hub5_01")}
    for part in parts:
        assert validate_data_dir(out / part).sampling_rate == swbd.RATE
    sides = {part: {c.supervisions[0].speaker for c in parts[part]} for part in ("train", "dev")}
    assert sides == {"dev": {"sw02001-A", "sw02001-B"}, "train": {"sw02002-A", "sw02002-B"}}
    words = {word for part in ("train", "dev") for c in parts[part] for word in c.supervisions[0].text.split()}
    assert not any(set("[]{}<>/_") & set(word) for word in words), words
    # Each utterance has the samples of its own channel.
    lines = (corpus / "swb_ms98_transcriptions/20/2001/sw2001B-ms98-a-trans.text").read_text().splitlines()
    _, start, end, *_ = next(line for line in lines if "[silence]" not in line).split()
    times = f"{round(100 * float(start)):06d}-{round(100 * float(end)):06d}"
    (cut,) = [c for c in parts["dev"] if c.id == f"sw02001-B_{times}"]
    both, _ = soundfile.read(corpus / "swb1/swb1_d1/data/sw02001.sph", dtype="float32")
    first = round(float(start) * swbd.RATE)
    assert (cut.load_audio()[0] == both[first : first + cut.num_samples, 1]).all() and cut.duration > 0.3
    # The references stand beside the utterances and are about the same stretches.
    stm = [line for line in read_stm(out / "hub5_00" / "ref.stm") if not line.ignored]
    assert {line.utt_id for line in stm} == {c.id for c in parts["hub5_00"]} and len(stm) == 4 * len(swbd.SCORED)
    texts = {c.supervisions[0].text for c in parts["hub5_00"]}
    assert {"i'll know", "i like the mon- water", "%hesitation", "yeah really"} <= texts
    lexicon = (out / "lexicon.txt").read_text().splitlines()
    assert {"ab- ae b", "them dh eh m", "them eh m", "goodish g uh d ih sh"} <= set(lexicon)
    assert not any(line.startswith("[") for line in lexicon)


def test_lhotse_names_the_same_stretches(prepared, corpus):
    """lhotse's whole recipe as an oracle of names and times, on the folder that it expects."""
    from lhotse.audio.backend import audio_backend
    from lhotse.recipes.switchboard import prepare_switchboard

    with audio_backend("LibsndfileBackend"):
        theirs = prepare_switchboard(corpus / "swb1", corpus / "swb_ms98_transcriptions", absolute_paths=True)
    out = prepared()
    ours = {(c.recording_id, round(c.start, 3), round(c.end, 3)) for p in ("train", "dev") for c in load_cuts(out / p)}
    expected = {
        (f"{s.recording_id}-{'AB'[s.channel]}", round(s.start, 3), round(s.end, 3)) for s in theirs["supervisions"]
    }
    assert ours <= expected and len(ours) > 0.8 * len(expected)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("swb1/swb1_d2/data/sw02002.sph", r"sw2002A-ms98-a-trans.text has no recording: 2 of 4 .*unpacked as a whole"),
        ("swb_ms98_transcriptions/20/2002/sw2002B-ms98-a-trans.text", r"sw02002.sph has no transcript: 1 of 4"),
        ("swb_ms98_transcriptions/sw-ms98-dict.text", "ldc: has no swb_ms98_transcriptions with sw-ms98-dict.text"),
        ("LDC2002T43/reference/hub5e00.english.000405.stm", r"has no hub5e00\*.stm below it, the references of hub5_00"),
        ("LDC2002S13/en20010117_hub5.glm", r"has no en2001\*.glm below it, the references of hub5_01"),
        ("LDC2002S09/hub5e_00/english/en_4156.sph", r"hub5e00.english.000405.stm:3: no audio file en_4156.sph below"),
    ],
)  # fmt: skip
def test_half_unpacked(prepared, corpus, broken, message):
    (corpus / broken).unlink()
    with pytest.raises(DataError, match=message):
        prepared()


def test_without_hub5_01(prepared, corpus):
    for path in (corpus / "LDC2002S13").glob("*_hub5.glm"), (corpus / "LDC2002S13").glob("*.stm"):
        next(path).unlink()
    assert not (prepared() / "hub5_01").exists()


@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("swb_ms98_transcriptions/20/2001/sw2001A-ms98-a-trans.text", " ", "", r"trans.text:1: needs 'sw2001A-ms98"),
        ("swb_ms98_transcriptions/sw-ms98-dict.text", "okay ow k ey", "okay", "dict.text:.*word 'okay' has no phones"),
        ("LDC2002S13/hub5e01.english.010402.stm", "{ I'LL", "I'LL", r"010402.stm:5: } without {"),
        ("LDC2002S13/hub5e01.english.010402.stm", "sw_20005 B", "sw_20005 C", "channel 'C' is neither"),
        ("LDC2002S13/hub5e01.english.010402.stm", " 1.00 ", " 91.00 ", r"spans \["),
    ],
)  # fmt: skip
def test_broken_texts(prepared, corpus, path, old, new, message):
    text = (corpus / path).read_text()
    assert old in text
    (corpus / path).write_text(text.replace(old, new))
    with pytest.raises(DataError, match=message):
        prepared()


def test_cut_short_and_twice(prepared, corpus):
    audio = corpus / "swb1/swb1_d1/data/sw02001.sph"
    whole = audio.read_bytes()
    audio.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"sw02001.sph: .*(bytes|samples)"):
        prepared()
    audio.write_bytes(whole)
    (corpus / "copy").mkdir()
    (corpus / "copy" / audio.name).write_bytes(whole)
    with pytest.raises(DataError, match="two copies of the corpus"):
        prepared()


@pytest.mark.clone
def test_recipe(tmp_path):
    """All stages, the second run, and a cell of each table."""
    corpus = swbd.make(tmp_path / "ldc")
    recipe = recipe_copy("swbd", tmp_path / "work", {"data": {"dev_utterances": 30}})
    command = ["./run.sh", "--corpus-root", corpus]
    run(recipe, *command)
    rows = {(row["id"], row["part"]): row for row in read_json(recipe / "results.json") if row["metric"] == "wer"}
    parts = ("dev", "hub5_00", "hub5_00_swbd", "hub5_00_callhome", "hub5_01", "hub5_01_swbd")
    networks = ("hybrid_gmm", "hybrid_nhmm", "mmi_gmm", "mmi_nhmm")
    e2e = [f"e2e_ctc_{source}{kind}" for source in ("gmm", "nhmm") for kind in ("", "_lm", "_ctc_lm")]
    assert set(rows) == {(model, part) for model in ("tri1", "tri3", *networks, *e2e) for part in parts}
    assert rows["tri3", "dev"]["value"] < 45 and rows["mmi_gmm", "dev"]["value"] < 80
    assert rows["tri1", "hub5_00"]["counts"]["words"] == sum(
        rows["tri1", f"hub5_00_{half}"]["counts"]["words"] for half in ("swbd", "callhome")
    )
    again = run(recipe, *command)
    assert ": done in" not in again and "up to date" in again
    for table in ("transitions", "initialisation", "scales", "priors", "viterbi"):
        run_cell(recipe, table)
    report = (recipe / "RESULTS.md").read_text(encoding="utf-8")
    assert "Transition models" in report and "not measured" not in report
