"""Parts of a corpus that has none."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from pipeline.artifacts.corpus import audio_recording, iter_cuts, save_data_dir, utterance
from pipeline.artifacts.index import load_index
from pipeline.base.errors import DataError
from pipeline.tasks.split import hold_out_words, split, split_corpus
from pipeline.tasks.train_options import HoldOutOptions, SplitOptions
from tests.artifacts.test_corpus import write_audio

OPTIONS = SplitOptions()


def corpus(speakers: dict[str, int], seconds: float = 3.0) -> tuple[dict[str, float], dict[str, str]]:
    """Utterances by speaker -> number."""
    names = {f"{s}-{i:03d}": s for s, n in speakers.items() for i in range(n)}
    return dict.fromkeys(names, seconds), names


def test_whole_speakers_about_the_shares():
    seconds, speakers = corpus({f"s{i}": 10 + i % 7 for i in range(60)})
    parts, by = split(seconds, speakers, OPTIONS)
    assert by == "speakers" and sorted(u for p in parts.values() for u in p) == sorted(seconds)
    met = {part: {speakers[u] for u in utts} for part, utts in parts.items()}
    assert not met["train"] & met["dev"] and not met["train"] & met["test"] and not met["dev"] & met["test"]
    for part in ("dev", "test"):
        assert 0.09 < sum(seconds[u] for u in parts[part]) / sum(seconds.values()) < 0.13
    assert split(seconds, speakers, OPTIONS)[0] == parts
    assert split(seconds, speakers, SplitOptions(seed=2))[0] != parts


@pytest.mark.parametrize("speakers", [{"one": 60}, {"a": 40, "b": 40, "c": 40}, {"a": 300, "b": 5, "c": 4}])
def test_too_few_speakers(speakers, caplog):
    seconds, names = corpus(speakers)
    parts, by = split(seconds, names, OPTIONS)
    assert by == "utterances" and "speakers cannot be dealt" in caplog.text
    assert len(parts["dev"]) == len(parts["test"]) == round(len(seconds) / 10)
    assert sorted(u for p in parts.values() for u in p) == sorted(seconds)


def test_a_speaker_that_is_half_of_the_corpus_is_train():
    seconds, speakers = corpus({"long": 100, **{f"s{i}": 10 for i in range(10)}})
    parts, by = split(seconds, speakers, OPTIONS)
    assert by == "speakers" and {speakers[u] for u in parts["train"]} >= {"long"}
    assert len(parts["dev"]) == len(parts["test"]) == 20


def test_a_handful_of_utterances(caplog):
    seconds, speakers = corpus({"a": 19})
    assert split(seconds, speakers, OPTIONS) == ({"train": sorted(seconds), "dev": [], "test": []}, "nothing")
    assert "19 utterances are too few" in caplog.text
    lengths = {"hour": 3600.0, **{f"u{i}": 1.0 for i in range(25)}}
    assert split(lengths, dict.fromkeys(lengths, "x"), OPTIONS)[1] == "nothing"


def test_folds_are_disjoint_in_speakers_and_cover_the_corpus():
    seconds, speakers = corpus({f"s{i}": 3 + i % 9 for i in range(31)})
    tested: list[str] = []
    before: list[str] = []
    for fold in range(5):
        parts, by = split(seconds, speakers, SplitOptions(folds=5, fold=fold))
        assert by == "speakers" and sorted(u for p in parts.values() for u in p) == sorted(seconds)
        met = [{speakers[u] for u in parts[part]} for part in ("train", "dev", "test")]
        assert not met[0] & met[1] and not met[0] & met[2] and not met[1] & met[2]
        assert 0.17 < len(parts["test"]) / len(seconds) < 0.23
        if fold:
            assert parts["test"] == before  # the dev part of one fold is the test part of the next
        tested, before = tested + parts["test"], parts["dev"]
    assert sorted(tested) == sorted(seconds)


@pytest.mark.parametrize("options", [{"folds": 2}, {"folds": 5, "fold": 5}, {"fold": 1}])
def test_folds_that_cannot_be(options):
    with pytest.raises(ValueError, match="fold"):
        SplitOptions(**options)


def test_fewer_speakers_than_folds():
    seconds, speakers = corpus({"a": 30, "b": 30})
    with pytest.raises(DataError, match="2 speakers cannot be dealt into 5 folds"):
        split(seconds, speakers, SplitOptions(folds=5))


def test_held_out_words_are_nowhere_in_training(tmp_path):
    texts = {f"u{i}": f"THE {word} SLEEPS" for i, word in enumerate(["CAT", "DOG", "FOX", "COW", "HEN"] * 3)}
    recording = audio_recording("r", write_audio(tmp_path / "r.flac"))
    save_data_dir(tmp_path / "data", [utterance(name, recording, text, "s") for name, text in texts.items()])
    (tmp_path / "text").write_text("THE CAT\nTHE DOG\nTHE FOX\nTHE COW\nTHE HEN\n", encoding="utf-8")
    (tmp_path / "lexicon").write_text("CAT k a t\nDOG d o g\nFOX f o x\nCOW k au\nHEN h e n\n", encoding="utf-8")
    sources = [tmp_path / name for name in ("data", "text", "lexicon")]
    facts = hold_out_words(*sources, tmp_path / "out", HoldOutOptions(share=0.3, most=3))
    held_out = set((tmp_path / "out" / "held_out.txt").read_text().split())
    assert len(held_out) == 2 == facts["words"] and held_out < {"CAT", "DOG", "FOX", "COW", "HEN"}  # of 7 words
    left = [text for text in texts.values() if text.split()[1] not in held_out]
    index = load_index(tmp_path / "out" / "data")
    assert sorted(index.text(i) for i in range(len(index))) == sorted(left) and facts["utterances"] == 9
    for name in ("text", "lexicon"):
        before = (tmp_path / name).read_text().splitlines()
        expected = [line for line in before if held_out.isdisjoint(line.split())]
        assert (tmp_path / "out" / f"{name}.txt").read_text().splitlines() == expected and len(expected) == 3
    with pytest.raises(DataError, match="no word of at most 1 utterances"):
        hold_out_words(*sources, tmp_path / "other", HoldOutOptions(most=1))


def test_several_directories_are_split_as_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16000)
    for name, speakers in (("one", "abc"), ("two", "de")):
        cuts = [
            utterance(f"{s}{i}", audio_recording(f"{s}{i}", tmp_path / "a.wav"), "A", s) for s in speakers for i in "12"
        ]
        save_data_dir(tmp_path / name, cuts)
    facts = split_corpus([tmp_path / "one", tmp_path / "two"], tmp_path / "out", SplitOptions(folds=5, fold=4))
    found = {part: [cut["id"] for _, cut in iter_cuts(tmp_path / "out" / part)] for part in ("train", "dev", "test")}
    assert [len(found[part]) for part in found] == [6, 2, 2] and facts["test"]["utterances"] == 2
    assert sorted(utt for utts in found.values() for utt in utts) == sorted(s + i for s in "abcde" for i in "12")
    with pytest.raises(DataError, match="one: utterance a1 stands in a directory before"):
        split_corpus([tmp_path / "one", tmp_path / "one"], tmp_path / "again", SplitOptions(folds=3))
