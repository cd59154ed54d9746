"""Packed models: what goes in comes out and aligns as before; words that are new; files that are none or were tampered with."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.features import FeatLoadOptions
from pipeline.artifacts.lang import Lang
from pipeline.base.errors import ConfigError, DataError
from pipeline.feats.dataset import Dataset
from tests.steps.small_recipe import ROOT, run


@pytest.fixture(scope="module")
def packed(recipe, tmp_path_factory) -> Path:
    """The monophones of the small recipe, with a model that pronounces words by their letters."""
    d = tmp_path_factory.mktemp("packed")
    for args in (
        ["steps/train_g2p.py", recipe / "data/local/lexicon.txt", d / "g2p"],
        ["steps/pack.py", recipe / "exp/mono", recipe / "data/lang", d / "tiny.fsm", "--g2p", d / "g2p"],
    ):
        done = run([sys.executable, str(ROOT / args[0]), *map(str, args[1:])])
        assert done.returncode == 0, done.stderr[-3000:]
    return d / "tiny.fsm"


def align(packed: Path, data: Path, out: Path, *more: str):
    return run([sys.executable, str(ROOT / "steps/align_corpus.py"), str(packed), str(data), str(out), *more])


def test_a_packed_model_aligns_as_the_one_it_was_made_of(recipe, packed, tmp_path):
    done = align(packed, recipe / "data/local/train", tmp_path / "out", "--keep", "--format", "textgrid,ctm,json")
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = AliSet.load(tmp_path / "out/work/ali"), AliSet.load(recipe / "exp/mono_ali")
    assert set(ours) == set(theirs)
    for cut_id in theirs:
        assert ours[cut_id].transition_ids.tolist() == theirs[cut_id].transition_ids.tolist()
    kept = Dataset.open(tmp_path / "out/work/feats", FeatLoadOptions())
    assert len(kept) == len(ours) and torch.isfinite(kept.flat(np.arange(2))).all()
    judged = (tmp_path / "out/quality.csv").read_text().splitlines()
    assert judged[0].startswith("utterance,flagged,suspicion,gop") and len(judged) == len(ours) + 1
    told = [json.loads(line) for line in (tmp_path / "out/alignment.jsonl").read_text().splitlines()]
    assert {t["id"] for t in told} == set(theirs)
    for t in told:
        assert [w["symbol"] for w in t["words"]] == t["text"].split()
        assert all(a["end"] <= b["start"] + 1e-6 for a, b in zip(t["words"], t["words"][1:]))
    assert len(list((tmp_path / "out/textgrids").iterdir())) == len(told)
    with (tmp_path / "out/quality_words.csv").open() as file:
        rows = list(csv.DictReader(file))
    for t in told:
        assert [r["word"] for r in rows if r["utterance"] == t["id"]] == t["text"].split()


def test_a_bias_is_taken_off(recipe, packed, tmp_path):
    """Against labels that lie 20 ms earlier, boundaries within utterances move by 20 ms to the left."""
    data = recipe / "data/local/train"
    assert align(packed, data, tmp_path / "first", "--format", "ctm").returncode == 0
    (tmp_path / "labels").mkdir()
    rows = [line.split() for line in (tmp_path / "first/phones.ctm").read_text().splitlines()]
    told = [
        f"{u} {c} {float(at) - 0.02:.4f} {length} {phone}\n" for u, c, at, length, phone, *_ in rows if float(at) > 0.02
    ]
    (tmp_path / "labels/phones.ctm").write_text("".join(told))
    command = [sys.executable, str(ROOT / "steps/estimate_bias.py"), str(tmp_path / "first/phones.ctm")]
    done = run([*command, str(tmp_path / "labels/phones.ctm"), str(tmp_path / "bias"), "--weight", "0"])
    assert done.returncode == 0 and "20.00 ms on average, 0.00 corrected" in done.stderr, done.stderr[-3000:]
    done = align(packed, data, tmp_path / "second", "--format", "ctm", "--bias", str(tmp_path / "bias"))
    assert done.returncode == 0, done.stderr[-3000:]
    new = [line.split() for line in (tmp_path / "second/phones.ctm").read_text().splitlines()]
    assert [r[4] for r in new] == [r[4] for r in rows]
    moved = np.array([float(a[2]) - float(b[2]) for a, b in zip(rows, new) if float(a[2]) > 0])
    assert np.mean(np.abs(moved - 0.02) < 0.003) > 0.9 and moved.min() >= 0


def test_textgrids_are_by_recording_with_tiers_of_each_speaker(tmp_path):
    from pipeline.artifacts.ali import Segment
    from pipeline.tasks.ali_formats import TimedCut, read_textgrid, write_recording_textgrids

    def cut(name: str, start: float, speaker: str) -> TimedCut:
        words, phones = [Segment("A", 0.2, 0.5)], [Segment("a", 0.2, 0.2), Segment("b", 0.4, 0.3)]
        return TimedCut(name, phones, words, 1.0, start, {"speaker": speaker}, "talk", 10.0)

    cuts = [cut("u1", 1.0, "ann"), cut("u3", 6.0, "ann"), cut("u2", 2.5, "bob")]
    (path,) = write_recording_textgrids(tmp_path, cuts)
    tiers = read_textgrid(path)
    assert list(tiers) == ["ann - words", "ann - phones", "bob - words", "bob - phones"]
    assert [(s.symbol, round(s.start, 3), round(s.end, 3)) for s in tiers["ann - words"]] == [
        ("A", 1.2, 1.7), ("A", 6.2, 6.7),
    ]  # fmt: skip
    assert [round(s.start, 3) for s in tiers["bob - phones"]] == [2.7, 2.9]


def test_overlapping_utterances_of_a_speaker_get_further_tiers(tmp_path, caplog):
    """Nothing is lost; where only silence overlaps there is no further tier."""
    from pipeline.artifacts.ali import Segment
    from pipeline.tasks.ali_formats import TimedCut, read_textgrid, write_recording_textgrids

    def cut(name: str, start: float, recording: str = "talk") -> TimedCut:
        words = [Segment(name, 0.2, 1.7)]
        phones = [Segment("SIL", 0.0, 0.2), Segment(name, 0.2, 1.7), Segment("SIL", 1.9, 0.2)]
        return TimedCut(name, phones, words, 2.1, start, {"speaker": "ann"}, recording, 10.0)

    def times(tier: list[Segment]) -> list[tuple[str, float, float]]:
        return [(s.symbol, round(s.start, 3), round(s.end, 3)) for s in tier]

    (path,) = write_recording_textgrids(tmp_path / "silence", [cut("a", 0.0), cut("b", 1.8)])
    tiers = read_textgrid(path)
    assert list(tiers) == ["words", "phones"] and times(tiers["words"]) == [("a", 0.2, 1.9), ("b", 2.0, 3.7)]
    assert [s.symbol for s in tiers["phones"]] == ["SIL", "a", "SIL", "b", "SIL"] and not caplog.records
    assert times(tiers["phones"])[2:4] == [("SIL", 1.9, 2.0), ("b", 2.0, 3.7)]

    cuts = [cut("a", 0.0), cut("b", 1.0), cut("c", 2.0), cut("d", 5.0, "other")]
    path, other = write_recording_textgrids(tmp_path / "speech", cuts)
    tiers = read_textgrid(path)
    assert list(tiers) == ["ann - words", "ann - phones", "ann (2) - words", "ann (2) - phones"]
    assert times(tiers["ann - words"]) == [("a", 0.2, 1.9), ("c", 2.2, 3.9)]
    assert times(tiers["ann (2) - words"]) == [("b", 1.2, 2.9)]
    assert list(read_textgrid(other)) == ["words", "phones"]
    assert "overlap in 1 of 2 recordings; what overlaps has tiers of its own: talk" in caplog.text


def test_utterances_without_a_speaker_share_tiers(tmp_path):
    """Each is a speaker of its own to the data, which would be two tiers for each."""
    from pipeline.artifacts.ali import Segment
    from pipeline.tasks.ali_formats import TimedCut, read_textgrid, write_recording_textgrids

    def cut(name: str, start: float, speaker: str) -> TimedCut:
        return TimedCut(
            name, [Segment("a", 0, 1)], [Segment("A", 0, 1)], 1.0, start, {"speaker": speaker}, "talk", 10.0
        )

    cuts = [cut("u1", 1.0, "u1"), cut("u2", 3.0, "u2"), cut("u3", 5.0, "u3")]
    (path,) = write_recording_textgrids(tmp_path, cuts)
    assert {name: [s.start for s in tier] for name, tier in read_textgrid(path).items()} == {
        "words": [1.0, 3.0, 5.0], "phones": [1.0, 3.0, 5.0],
    }  # fmt: skip
    (path,) = write_recording_textgrids(tmp_path / "named", [*cuts, cut("u4", 5.5, "u4"), cut("u5", 5.5, "ann")])
    assert list(read_textgrid(path))[::2] == ["words", "(2) - words", "ann - words"]


def test_words_that_are_new_are_pronounced_and_case_does_not_matter(recipe, packed):
    from pipeline.tasks.aligner import Aligner

    aligner = Aligner.load(packed)
    lexicon = Lang.load(recipe / "data/lang").base_lexicon()
    known = next(w for w in lexicon.words() if w.isalpha())
    new = known + known
    assert new not in aligner.words and set(aligner.words) == set(lexicon.words())
    made = aligner.pronounce([known.lower() + ",", new])
    assert {e.phones for e in made.by_word[known.lower() + ","]} == {e.phones for e in lexicon.by_word[known]}
    assert len(made.by_word[new]) == 1 and set(made.by_word[new][0].phones) <= set(lexicon.phones())
    with pytest.raises(DataError, match="cannot be pronounced"):
        aligner.pronounce(["日本"])


def test_aligner_in_python(recipe, packed):
    """A file, samples and floats give the same words at the same times."""
    import soundfile

    from pipeline.artifacts.corpus import iter_cuts
    from pipeline.tasks.aligner import Aligner

    _, cut = next(iter_cuts(recipe / "data/local/train"))
    path, text = cut["recording"]["sources"][0]["source"], cut["supervisions"][0]["text"]
    samples, rate = soundfile.read(path, dtype="int16")
    aligner = Aligner.load(packed)
    spoken = aligner.align(path, text)
    assert [w.symbol for w in spoken.words] == text.split()
    assert all(0 < w.confidence <= 1.001 for w in spoken.words) and spoken.log_like_per_frame < 0
    assert aligner.align(samples, text, rate) == spoken
    assert [w.start for w in aligner.align(samples / np.float32(32768), text, rate).words] == pytest.approx(
        [w.start for w in spoken.words], abs=0.03
    )
    with pytest.raises(DataError, match="one channel"):
        aligner.align(np.zeros((2, 16000), np.int16), text)
    with pytest.raises(DataError, match=r"within -1 \.\. 1"):
        aligner.align(np.full(16000, 7.0), text)


@pytest.mark.parametrize("name", ["english", "english_nhmm"])
def test_the_shipped_english_models(recipe, name):
    """They name their sources, and find words of synthetic speech that they have never heard within 60 ms on the median."""
    from pipeline.artifacts.corpus import iter_cuts
    from pipeline.tasks.aligner import SHIPPED, Aligner
    from pipeline.tasks.packed import read_card

    path = SHIPPED / f"{name}.fsm"
    card = read_card(path)
    assert card.name == name and "CC BY 4.0" in card.licence and "LibriSpeech" in card.data and card.scores
    assert path.stat().st_size < 5 << 20
    aligner, errors = Aligner.load(name), []
    for _, cut in list(iter_cuts(recipe / "data/local/train"))[:4]:
        said = cut["supervisions"][0]
        spoken = aligner.align(cut["recording"]["sources"][0]["source"], said["text"].lower() + " xylophonically")
        assert [w.symbol for w in spoken.words][:-1] == said["text"].lower().split()
        assert all(0 <= w.confidence <= 1.001 for w in spoken.words)
        errors += [abs(w.start - gold[1]) for w, gold in zip(spoken.words, said["alignment"]["word"])]
    assert float(np.median(errors)) < 0.06


def test_help_names_the_shipped_models():
    from pipeline.tasks.aligner import SHIPPED

    shown = run([sys.executable, str(ROOT / "steps/align_corpus.py"), "--help"]).stdout
    names = sorted(path.stem for path in SHIPPED.glob("*.fsm"))
    assert f"({', '.join(names)})" in " ".join(shown.split())


def test_the_card_says_which_prior_a_network_aligns_with(recipe, tmp_path):
    from pipeline.tasks.aligner import Aligner
    from pipeline.tasks.packed import make_card, pack

    for scale in (0.0, 0.7):
        card = make_card({"name": "net", "align": {"prior_scale": scale}}, "card")
        pack(recipe / "exp/nhmm", recipe / "data/lang", tmp_path / "net.fsm", card)
        assert Aligner.load(tmp_path / "net.fsm").model.prior_scale == scale


def rewritten(packed: Path, target: Path, change: dict[str, bytes | None], extra: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name, content in extra.items():
            new.writestr(name, content)
    return target


@pytest.mark.parametrize(
    ("change", "extra", "message"),
    [
        ({"model/model.safetensors": None}, {}, "has no model/model.safetensors"),
        ({"card.json": None}, {}, "no card.json"),
        ({"card.json": b"{"}, {}, "not JSON"),
        ({"card.json": b'{"name": 3}'}, {}, "name"),
        ({"card.json": b'{"name": "x", "format": 9}'}, {}, "later version"),
        ({}, {"../outside.txt": b"x"}, "does not belong"),
        ({}, {"/etc/passwd": b"x"}, "does not belong"),
        ({}, {"model/run.py/x": b"x"}, "does not belong"),
        ({"model/model.safetensors": b"\x00" * 100}, {}, "model.safetensors"),
        ({"lang/lexiconp.txt": b""}, {}, "empty"),
    ],
)
def test_tampered_files_are_refused(packed, tmp_path, change, extra, message):
    from pipeline.tasks.aligner import Aligner

    broken = rewritten(packed, tmp_path / "broken.fsm", change, extra)
    with pytest.raises(DataError, match=message):
        Aligner.load(broken, tmp_path / "unpacked")
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"OTHER 1.0 x\nWORD 1.0 nophone\n", "'nophone' of word 'word' is none of the model's"),
        (b"OTHER 1.0 x\nWORD 1.5 a\n", r"lexiconp.txt:2: probability 1.5 is outside \(0, 1\]"),
        (b"OTHER 1.0 x\n\nWORD 1.0\n", "lexiconp.txt:3: word 'WORD' has no phones"),
        (b"WORD 1.0 SIL\n", "phone 'SIL' of word 'word' is none of the model's"),
    ],
)
def test_a_broken_entry_is_refused_when_its_word_is_asked_for(packed, tmp_path, lines, message):
    from pipeline.tasks.aligner import Aligner

    aligner = Aligner.load(rewritten(packed, tmp_path / "broken.fsm", {"lang/lexiconp.txt": lines}, {}))
    with pytest.raises(DataError, match=message):
        aligner.lang.with_lexicon(aligner.pronounce(["word"]), "the text")


def test_a_file_that_is_none_and_a_name_that_is_none(tmp_path):
    from pipeline.tasks.aligner import Aligner

    (tmp_path / "text").write_text("hello")
    with zipfile.ZipFile(tmp_path / "later", "w") as archive:
        archive.writestr("card.json", "{}")
    content = bytearray((tmp_path / "later").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 128  # version 12.8 of the format
    (tmp_path / "later").write_bytes(content)
    for name in ("text", "later"):
        with pytest.raises(DataError, match="not a packed model"):
            Aligner.load(tmp_path / name)
    with pytest.raises(ConfigError, match="neither a file nor the name of a shipped model"):
        Aligner.load("klingon")


def test_entries_that_unpack_to_too_much(packed, tmp_path, monkeypatch):
    from pipeline.tasks import packed as module

    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(DataError, match="would unpack to more than"):
        module.unpack(packed, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_equal_models_give_equal_bytes(recipe, packed, tmp_path):
    from pipeline.tasks.packed import pack, read_card

    g2p = packed.parent / "g2p"
    pack(recipe / "exp/mono", recipe / "data/lang", tmp_path / "again.fsm", read_card(packed), g2p)
    assert (tmp_path / "again.fsm").read_bytes() == packed.read_bytes()


def test_a_folder_of_recordings_is_aligned_as_it_is(recipe, packed, tmp_path):
    """Audio beside .txt files, at another rate, in small letters with punctuation; words in the text's own spelling."""
    import soundfile

    from pipeline.artifacts.corpus import iter_cuts
    from pipeline.tasks.ali_formats import read_textgrid

    cuts = [cut for _, cut in iter_cuts(recipe / "data/local/train")][:3]
    for cut in cuts:
        samples, rate = soundfile.read(cut["recording"]["sources"][0]["source"], dtype="int16")
        name = tmp_path / "mine" / cut["supervisions"][0]["speaker"] / cut["id"]
        name.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(f"{name}.wav", np.repeat(samples, 2), 2 * rate)
        Path(f"{name}.txt").write_text(cut["supervisions"][0]["text"].lower().capitalize() + ".\n")
    done = align(packed, tmp_path / "mine", tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    grids = sorted((tmp_path / "out/textgrids").iterdir())
    assert len(grids) == 3
    said = {tuple(w.symbol.lower().strip(".") for w in read_textgrid(grid)["words"]) for grid in grids}
    assert said == {tuple(cut["supervisions"][0]["text"].lower().split()) for cut in cuts}


def test_data_of_another_rate_are_refused(recipe, packed, tmp_path):
    import soundfile

    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance

    soundfile.write(tmp_path / "a.wav", np.zeros(8000, np.int16), 8000)
    save_data_dir(tmp_path / "data", [utterance("a", audio_recording("a", tmp_path / "a.wav"), "ONE", "x")])
    done = align(packed, tmp_path / "data", tmp_path / "out")
    assert done.returncode == 2 and "8000 Hz" in done.stderr and "--rate 16000" in done.stderr


def adapt(packed: Path, data: Path, out: Path, *more: str):
    return run([sys.executable, str(ROOT / "steps/adapt.py"), str(packed), str(data), str(out), *more])


def test_a_packed_model_is_adapted_and_aligns(recipe, packed, tmp_path):
    """The new file aligns the corpus better, keeps words and pronunciation model, and tells what it was made of."""
    from pipeline.tasks.packed import read_card

    for name in ("one.fsm", "two.fsm"):
        done = adapt(packed, recipe / "data/local/train", tmp_path / name, "--tau", "5", "--name", "mine")
        assert done.returncode == 0, done.stderr[-3000:]
        assert "24 utterances" in done.stderr
    assert (tmp_path / "one.fsm").read_bytes() == (tmp_path / "two.fsm").read_bytes() != packed.read_bytes()
    card = read_card(tmp_path / "one.fsm")
    assert card.name == "mine" and "adapted to" in card.data and "train" in card.data and card.scores == {}
    likes = []
    for model in (packed, tmp_path / "one.fsm"):
        done = align(model, recipe / "data/local/train", tmp_path / f"out_{model.stem}")
        assert done.returncode == 0, done.stderr[-3000:]
        likes.append(json.loads((tmp_path / f"out_{model.stem}/stamp.json").read_text())["facts"]["log_like_per_frame"])
    assert likes[1] > likes[0]
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(tmp_path / "one.fsm") as new:
        assert old.namelist() == new.namelist()
        changed = {name for name in old.namelist() if old.read(name) != new.read(name)}
    assert changed == {"card.json", "model/model.json", "model/model.safetensors"}


def test_what_cannot_be_adapted(recipe, packed, tmp_path):
    from pipeline.tasks.packed import make_card, pack

    pack(recipe / "exp/nhmm", recipe / "data/lang", tmp_path / "net.fsm", make_card({"name": "net"}, "card"))
    for args, message in (
        ((tmp_path / "net.fsm", recipe / "data/local/train"), "is a network; only Gaussian mixtures"),
        (("klingon", recipe / "data/local/train"), "neither a file nor the name of a shipped model"),
        ((packed, recipe / "data/lang"), "lang"),
    ):
        done = adapt(*args, tmp_path / "out.fsm")
        assert done.returncode == 2 and message in done.stderr, done.stderr[-3000:]
        assert not (tmp_path / "out.fsm").exists() and "Traceback" not in done.stderr
    done = adapt(packed, recipe / "data/local/train", tmp_path / "out.fsm", "--tau", "0")
    assert done.returncode == 2 and "tau" in done.stderr


def test_long_recordings_are_refined_in_stretches(recipe, tmp_path, monkeypatch):
    """With enough context nearly every boundary lies where it would in one piece."""
    from pipeline.tasks import boundaries

    ali, source = AliSet.load(recipe / "exp/mono_ali"), boundaries.Source(recipe / "exp/mono", recipe / "data/mfcc")

    def refined(name: str) -> AliSet:
        (tmp_path / name).mkdir()
        boundaries.refine(ali, [source], tmp_path / name, boundaries.BoundaryOptions(), "test")
        return AliSet.load(tmp_path / name)

    whole = refined("whole")
    monkeypatch.setattr(boundaries, "WHOLE_SECONDS", 0.5)
    monkeypatch.setattr(boundaries, "STRETCH_SECONDS", 0.7)
    monkeypatch.setattr(boundaries, "CONTEXT_SECONDS", 0.5)
    pieces = refined("pieces")
    off = []
    for cut_id in whole:
        ours, theirs = pieces.phones(cut_id), whole.phones(cut_id)
        assert [p.symbol for p in ours] == [p.symbol for p in theirs]
        off += [abs(a.start - b.start) for a, b in zip(ours, theirs)]
    assert len(boundaries.stretches(np.arange(0, 3, 0.1), 3.0)) == 5
    assert np.mean(np.array(off) <= 0.0025) > 0.95 and max(off) < 0.1
