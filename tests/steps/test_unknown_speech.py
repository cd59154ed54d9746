"""Speech that a text lacks, and words that nobody can pronounce: <unk>."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.errors import ConfigError, DataError
from pipeline.tasks.ali_formats import read_ctm
from tests.steps.small_recipe import ROOT, run


@pytest.fixture(scope="module", params=["mono", "nhmm"])
def packed(recipe, tmp_path_factory, request) -> Path:
    from pipeline.tasks.packed import make_card, pack

    path = tmp_path_factory.mktemp("packed") / f"{request.param}.fsm"
    pack(recipe / "exp" / request.param, recipe / "data/lang", path, make_card({"name": request.param}, "card"))
    return path


@pytest.fixture(scope="module")
def corpus(recipe, tmp_path_factory) -> tuple[Path, list[tuple[float, float, list[str]]]]:
    """One recording of some utterances, whose text lacks two of them; (begin, end, words) of each."""
    import soundfile

    from pipeline.artifacts.corpus import iter_cuts

    parts, times, end, rate = [], [], 0.0, 0
    for _, cut in itertools.islice(iter_cuts(recipe / "data/local/train"), 8):
        samples, rate = soundfile.read(cut["recording"]["sources"][0]["source"], dtype="int16")
        parts.append(samples)
        times.append((end, end + len(samples) / rate, cut["supervisions"][0]["text"].split()))
        end = times[-1][1]
    folder = tmp_path_factory.mktemp("corpus")
    soundfile.write(folder / "long.wav", np.concatenate(parts), rate)
    said = [word for i, (_, _, words) in enumerate(times) for word in words if i not in LACKING]
    (folder / "long.txt").write_text(" ".join(said) + "\n")
    return folder, times


LACKING = (1, 2)


def align(packed: Path, corpus: Path, out: Path, *more: str):
    done = run([sys.executable, str(ROOT / "steps/align_corpus.py"), str(packed), str(corpus), str(out), *more])
    assert done.returncode == 0, done.stderr[-3000:]
    return done, read_ctm(out / "words.ctm")["long"]


def test_a_recording_whose_text_lacks_a_part_is_aligned_around_it(packed, corpus, tmp_path):
    if packed.stem == "nhmm":
        pytest.skip("three epochs on 24 utterances know no words")
    folder, times = corpus
    done, words = align(packed, folder, tmp_path / "out", "--skip-speech")
    spoken = [w for w in words if w.symbol != "<unk>"]
    expected = [(b, e, w) for i, (b, e, said) in enumerate(times) if i not in LACKING for w in said]
    assert [w.symbol for w in spoken] == [w for _, _, w in expected]
    inside = [b - 0.1 <= w.start and w.end <= e + 0.1 for w, (b, e, _) in zip(spoken, expected)]
    assert np.mean(inside) > 0.9
    gap = times[LACKING[0]][0], times[LACKING[-1]][1]
    unknown = [w for w in words if w.symbol == "<unk>"]
    covered = sum(max(0.0, min(w.end, gap[1]) - max(w.start, gap[0])) for w in unknown)
    assert covered > 0.5 * (gap[1] - gap[0]) and covered > 0.8 * sum(w.duration for w in unknown)
    assert "<unk>" in done.stderr


def test_all_of_a_text_that_is_complete_is_found(packed, corpus, tmp_path):
    """Where nothing is lacking, the option changes next to nothing."""
    folder, times = corpus
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "long.wav").symlink_to(folder / "long.wav")
    (whole / "long.txt").write_text(" ".join(w for _, _, said in times for w in said))
    _, plain = align(packed, whole, tmp_path / "plain")
    _, words = align(packed, whole, tmp_path / "skipping", "--skip-speech")
    spoken = [w for w in words if w.symbol != "<unk>"]
    assert [w.symbol for w in spoken] == [w.symbol for w in plain] and len(words) - len(spoken) <= 2
    assert np.mean([abs(a.start - b.start) < 0.03 for a, b in zip(spoken, plain)]) > 0.9


def test_words_without_pronunciation(recipe, packed, corpus, tmp_path):
    from pipeline.tasks.aligner import Aligner

    folder, times = corpus
    other = tmp_path / "other"
    other.mkdir()
    (other / "long.wav").symlink_to(folder / "long.wav")
    text = [w for _, _, said in times for w in said]
    text[3] = "日本"
    (other / "long.txt").write_text(" ".join(text))
    with pytest.raises(DataError, match="日本"):
        Aligner.load(packed).pronounce(["日本"])
    done, words = align(packed, other, tmp_path / "out", "--unknown-words", "skip")
    assert [w.symbol for w in words] == [*text[:3], "<unk>", *text[4:]] and "日本" in done.stderr


def test_the_label_of_unknown_speech_scores_the_mean_of_all(recipe, packed):
    from pipeline.feats.dataset import Dataset
    from pipeline.tasks.aligner import Aligner
    from pipeline.tasks.model import OnDemandModel
    from pipeline.tasks.unknown_speech import COST

    plain, wider = Aligner.load(packed), Aligner.load(packed, unknown_speech=True)
    data = Dataset.open(recipe / "data/mfcc", plain.model.feat_options, cache_mib=0)
    batch, speakers = data.batch(np.arange(2)), [data.speaker(0), data.speaker(1)]
    scores, lens = plain.model.log_likes(batch.feats, batch.lens, speakers)
    both, _ = wider.model.log_likes(batch.feats, batch.lens, speakers)
    num_pdfs = plain.model.num_pdfs
    assert wider.model.num_pdfs == num_pdfs + 1 == both.shape[2]
    for n, length in enumerate(lens.tolist()):
        torch.testing.assert_close(both[n, :length, :num_pdfs], scores[n, :length], rtol=1e-4, atol=1e-3)
        mean = torch.logsumexp(scores[n, :length], 1) - np.log(num_pdfs) - COST
        torch.testing.assert_close(both[n, :length, num_pdfs], mean, rtol=1e-4, atol=1e-3)
    if isinstance(wider.model, OnDemandModel):
        dense = wider.model.on_demand(data.each(np.arange(2)), speakers).dense()
        torch.testing.assert_close(dense[0, : lens[0]], both[0, : lens[0]], rtol=1e-4, atol=1e-3)
    hmm, old = wider.model.hmm, plain.model.hmm
    assert (hmm.transitions.log_probs()[: old.transitions.num_tids] == old.transitions.log_probs()).all()
    hmm.check_lang(wider.lang, "lang")


def test_words_of_a_path_with_unknown_speech_among_them():
    from pipeline.tasks.unknown_speech import with_found

    positions = np.array([-1, -2, -2, 0, 0, -1, -2, -1, -2, 1, 2, 2, -2])
    words, new = with_found([7, 8, 9], positions, 5)
    assert words == [5, 7, 5, 5, 8, 9, 5]
    assert new.tolist() == [-1, 0, 0, 1, 1, -1, 2, -1, 3, 4, 5, 5, 6]
    assert with_found([7], np.array([-1, 0, 0]), 5)[0] == [7]


def test_a_lang_without_a_word_for_it_is_refused(recipe, tmp_path):
    from pipeline.artifacts.lang import Lang
    from pipeline.tasks.align import AlignOptions, align
    from pipeline.tasks.model import load_model

    lang, model = Lang.load(recipe / "data/lang"), load_model(recipe / "exp/mono")
    with pytest.raises(ConfigError, match="--skip-speech needs a lang with an out-of-vocabulary word"):
        align(model, lang, recipe / "data/mfcc", tmp_path / "ali", AlignOptions(skip_speech=True), "test")


def test_what_is_no_speech_is_flagged(recipe, packed, tmp_path):
    """Noise and hum with a text, and a text that was not said, are the most suspicious; all their words are doubtful."""
    import csv

    import soundfile

    from pipeline.artifacts.corpus import iter_cuts

    if packed.stem == "nhmm":
        pytest.skip("three epochs on 24 utterances know no words")
    rng, seconds = np.random.default_rng(1), np.arange(32000) / 16000
    sounds = {"noise": 10 * rng.standard_normal(32000), "hum": 8000 * np.sin(2 * np.pi * 50 * seconds)}
    for _, cut in iter_cuts(recipe / "data/local/train"):
        name = tmp_path / "mine" / cut["supervisions"][0]["speaker"] / cut["id"]
        name.parent.mkdir(parents=True)
        Path(f"{name}.flac").symlink_to(cut["recording"]["sources"][0]["source"])
        Path(f"{name}.txt").write_text(cut["supervisions"][0]["text"])
    for kind, samples in sounds.items():
        (tmp_path / "mine" / kind).mkdir()
        soundfile.write(tmp_path / "mine" / kind / "a.flac", samples.astype(np.int16), 16000)
        (tmp_path / "mine" / kind / "a.txt").write_text("THE LONG HOUSE")
    align_folder = run(
        [
            sys.executable,
            str(ROOT / "steps/align_corpus.py"),
            str(packed),
            str(tmp_path / "mine"),
            str(tmp_path / "out"),
        ]
    )
    assert align_folder.returncode == 0, align_folder.stderr[-3000:]
    rows = list(csv.DictReader((tmp_path / "out/quality.csv").open()))
    assert {row["utterance"] for row in rows[:2]} == {"noise-a", "hum-a"}
    assert [row["flagged"] for row in rows[:2]] == ["1", "1"] and sum(row["flagged"] == "1" for row in rows) <= 4
    words = list(csv.DictReader((tmp_path / "out/quality_words.csv").open()))
    assert sum(row["flagged"] == "1" for row in words if row["utterance"] in ("noise-a", "hum-a")) >= 4
    right = [row["flagged"] == "1" for row in words if row["utterance"] not in ("noise-a", "hum-a")]
    assert np.mean(right) < 0.1
