"""`fullsum train`: from a folder of audio and text to TextGrids and a packed aligner that aligns another folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.tasks.ali_formats import read_textgrid
from tests.steps.small_recipe import ROOT, run


def train(corpus: Path, out: Path, *more: str):
    return run([sys.executable, str(ROOT / "steps/train_aligner.py"), str(corpus), str(out), *more])


def folder(recipe: Path, top: Path, part: str) -> dict[str, dict]:
    """A part of the small recipe as speaker folders of .wav and .txt with capital and full stop; stem -> supervision."""
    from pipeline.artifacts.corpus import iter_cuts

    said = {}
    for _, cut in iter_cuts(recipe / "data/local" / part):
        samples, rate = soundfile.read(cut["recording"]["sources"][0]["source"], dtype="int16")
        told = cut["supervisions"][0]
        path = top / told["speaker"] / cut["id"]
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(f"{path}.wav", samples, rate)
        Path(f"{path}.txt").write_text(told["text"].lower().capitalize() + ".\n")
        said[cut["id"]] = told
    return said


@pytest.fixture(scope="module")
def corpus(recipe, tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("mine")
    folder(recipe, top / "train", "train")
    folder(recipe, top / "test", "test")
    return top


@pytest.fixture(scope="module")
def trained(recipe, corpus) -> Path:
    out = corpus / "out"
    done = train(corpus / "train", out, "--lexicon", str(recipe / "data/local/lexicon.txt"), "--language", "en")
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_a_folder_becomes_textgrids_and_an_aligner(recipe, corpus, trained):
    """Words begin near where the synthesiser put them, half of them within 40 ms; the aligner does the same elsewhere."""
    done = run(
        [sys.executable, str(ROOT / "steps/align_corpus.py"), str(trained / "aligner.fsm"), str(corpus / "test"),
         str(corpus / "test_out")]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for part, out in (("train", trained), ("test", corpus / "test_out")):
        gold, errors = folder(recipe, corpus / part, part), []
        for name, told in gold.items():
            (grid,) = (out / "textgrids").glob(f"*{name}.TextGrid")
            words = [s for s in read_textgrid(grid)["words"] if s.symbol]
            assert [w.symbol.lower() for w in words] == told["text"].lower().split()
            errors += [abs(w.start - g[1]) for w, g in zip(words, told["alignment"]["word"])]
        assert float(np.median(errors)) < 0.04, part
        assert len((out / "quality.csv").read_text().splitlines()) == len(gold) + 1
        assert (out / "words.ctm").stat().st_size and (out / "phones.ctm").stat().st_size
    assert not (trained / "training").exists() and not (trained / "work").exists()


def test_again_is_up_to_date_and_other_options_are_told(recipe, corpus, trained):
    lexicon = ("--lexicon", str(recipe / "data/local/lexicon.txt"), "--language", "en")
    done = train(corpus / "train", trained, *lexicon)
    assert done.returncode == 0 and "up to date" in done.stderr
    done = train(corpus / "train", trained, *lexicon, "--num-gauss", "99")
    assert done.returncode == 2 and "--overwrite" in done.stderr


def test_letters_and_what_an_interrupted_run_has_left(corpus, tmp_path, monkeypatch):
    """Without a lexicon letters are aligned; a run that failed after the first model does not train it again."""
    from pipeline.tasks import train_aligner as module
    from pipeline.tasks.train_options import TrainAlignerOptions

    calls = []
    import pipeline.gmm.mono as mono

    real = mono.train_mono

    def once(data, lang, options, tmp):
        calls.append(options.deltas)
        if len(calls) == 2:
            raise RuntimeError("the machine goes down")
        return real(data, lang, options, tmp)

    monkeypatch.setattr(mono, "train_mono", once)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(RuntimeError, match="goes down"):
        module.train_aligner(corpus / "train", out, TrainAlignerOptions())
    facts = module.train_aligner(corpus / "train", out, TrainAlignerOptions())
    assert calls == [1, 0, 0] and facts["unit"] == "grapheme" and facts["failed"] == 0
    first = (out / "words.txt").read_text().splitlines()[0].split()
    assert "".join(first[1:]) == first[0].lower()


def silent(top: Path, seconds: float) -> Path:
    top.mkdir()
    for i in range(4):
        soundfile.write(top / f"a{i}.wav", np.zeros(round(seconds * 16000), np.int16), 16000)
        (top / f"a{i}.txt").write_text("one two\n")
    return top


def noise(top: Path, seconds: float, number: int) -> Path:
    top.mkdir()
    for i in range(number):
        samples = np.random.default_rng(i).normal(0, 1000, round(seconds * 16000)).astype(np.int16)
        soundfile.write(top / f"a{i}.wav", samples, 16000)
        (top / f"a{i}.txt").write_text("one two three\n")
    return top


@pytest.mark.parametrize(
    ("make", "more", "message"),
    [
        (lambda top: top.mkdir() or top, (), "empty directory"),
        (lambda top: silent(top, 10.0), (), "silen"),
        (lambda top: noise(top, 5.0, 1), (), "too little to train on"),
        (lambda top: noise(top, 12.0, 4), ("--lexicon", "other.txt"), "Is it a lexicon of this language"),
        (lambda top: noise(top, 12.0, 4), ("--lexicon", "empty.txt"), "empty.txt"),
    ],
    ids=["empty", "silence", "one", "other-lexicon", "empty-lexicon"],
)
def test_bad_input(tmp_path, monkeypatch, make, more, message):
    monkeypatch.chdir(tmp_path)
    Path("other.txt").write_text("bal b a l\nden d e n\n")
    Path("empty.txt").write_text("")
    done = train(make(tmp_path / "mine"), tmp_path / "out", *more)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert not (tmp_path / "out").exists()


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    done = train(noise(tmp_path / "mine", 12.0, 3), tmp_path / "file" / "out")
    assert done.returncode == 2 and "is a file" in done.stderr and "Traceback" not in done.stderr


def test_one_recording_of_a_minute_is_enough_to_go_on(tmp_path):
    """Nothing can be learned from it, but nothing breaks either."""
    done = train(noise(tmp_path / "mine", 60.0, 1), tmp_path / "out")
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out/textgrids").iterdir())) == 1
    assert json.loads((tmp_path / "out/stamp.json").read_text())["facts"]["aligned"] == 1
