"""Synthetic speech: the same every time, and its times agree with what is in the audio."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.base.errors import DataError
from pipeline.base.files import read_lines
from pipeline.synth.espeak import Voice, synthesize
from pipeline.synth.options import LargeTestOptions, TinyOptions
from pipeline.synth.phones import PHONE_OF, phone_symbol
from pipeline.synth.sentences import MAX_WORDS, MIN_WORDS, SentenceGenerator, vocabulary
from pipeline.synth.tiny import make_large_test, make_tiny_corpus
from pipeline.synth.utterance import Room, assemble
from pipeline.synth.voices import (
    DEV_VARIANTS,
    LARGE_TEST_VARIANTS,
    TEST_VARIANTS,
    TRAIN_VARIANTS,
    draw_voices,
    make_voices,
)

PHRASE = "the cat can see seven happy apples on a chair".split()
VOWELS = {"AA", "AE", "AH", "AX", "AO", "AY", "EH", "EY", "IH", "IY", "OW", "OY", "UH", "UW", "EHR"}
VOICELESS_STOPS = {"P", "T", "K"}


def all_voices() -> list[Voice]:
    parts = (TRAIN_VARIANTS, DEV_VARIANTS, TEST_VARIANTS, LARGE_TEST_VARIANTS)
    return [voice for variants in parts for voice in make_voices(variants, "v", 1)] + draw_voices(12, "drawn", 1)


def digest(voice: Voice) -> str:
    return hashlib.sha256(synthesize(PHRASE, voice).samples.tobytes()).hexdigest()


def test_voices_are_many_and_held_out():
    parts = [set(TRAIN_VARIANTS), set(DEV_VARIANTS), set(TEST_VARIANTS), set(LARGE_TEST_VARIANTS)]
    assert min(len(parts[0]), len(parts[3])) >= 24 and sum(map(len, parts)) == len(set().union(*parts))


def test_audio_depends_on_text_and_voice_alone():
    first = {voice: digest(voice) for voice in all_voices()}
    assert len(set(first.values())) == len(first)  # every voice sounds different
    assert {voice: digest(voice) for voice in reversed(all_voices())} == first


def test_audio_is_the_same_in_another_process():
    code = "import sys; sys.path.insert(0, {!r}); from test_synth import *; print(*map(digest, all_voices()))"
    result = subprocess.run(
        [sys.executable, "-c", code.format(str(Path(__file__).parent))],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert result.stdout.split() == [digest(voice) for voice in all_voices()]


@pytest.mark.parametrize("voice", all_voices(), ids=lambda voice: voice.variant)
def test_times_against_the_samples(voice):
    """Silences are exact zeros in espeak's output: a plosive begins with its closure, a vowel never touches a zero
    run.
    """
    speech = synthesize(PHRASE, voice)
    phones = [phone for word in speech.words for phone in word.phones]
    assert [word.text for word in speech.words] == PHRASE
    for before, after in zip(phones, phones[1:]):
        assert before.end == after.start and before.start < before.end
    silent = int(0.01 * speech.rate)
    for before, phone in zip(phones, phones[1:]):
        zeros = np.flatnonzero(speech.samples[phone.start : phone.end])[0]
        if phone_symbol(phone.mnemonic) in VOICELESS_STOPS:
            assert zeros > silent, (phone, zeros)
        if phone_symbol(phone.mnemonic) in VOWELS:
            assert zeros < silent, (phone, zeros)
        assert speech.samples[phone.start - 1] != 0, phone  # what comes before sounds up to the boundary
    assert not speech.samples[phones[-1].end : phones[-1].end + 100].any()


def test_boundary_between_vowel_and_fricative_shows_in_the_spectrum():
    """The step in the level above 4 kHz lies within 2 ms of the stated time, half a millisecond on average."""
    errors = []
    for voice in make_voices("m1 m3 m4 m5 m7 f1 rob max".split(), "v", 1):
        for text in ("this", "office", "juice", "bus", "yes", "lease"):
            speech = synthesize([text], voice)
            phones = speech.words[0].phones
            for before, phone in zip(phones, phones[1:]):
                if phone_symbol(before.mnemonic) in VOWELS | {"AO"} and phone.mnemonic == "s":
                    errors.append(step(speech.samples, speech.rate, phone.start))
    assert len(errors) == 48
    assert max(map(abs, errors)) < 0.002 and float(np.mean(np.abs(errors))) < 0.0005


def step(samples: np.ndarray, rate: int, boundary: int) -> float:
    """Seconds from ``boundary`` to the step that fits the level above 4 kHz, in dB, best within 30 ms on both sides."""
    size, reach = int(0.004 * rate), int(0.03 * rate)
    starts = np.arange(boundary - reach, boundary + reach, 8)
    frames = np.stack([samples[s - size // 2 : s + size - size // 2] for s in starts]) * np.hanning(size)
    level = 10 * np.log10((np.abs(np.fft.rfft(frames, 256)[:, int(4000 / rate * 256) :]) ** 2).sum(1) + 1)
    splits = range(8, len(level) - 8)
    best = min(splits, key=lambda k: level[:k].var() * k + level[k:].var() * (len(level) - k))
    return (starts[best] - boundary) / rate


def test_assembling_keeps_the_times():
    """Without noise, the utterance is silent exactly where no phone is, after resampling too."""
    voice = make_voices(["m3"], "v", 1)[0]
    phrases = [synthesize(["seven", "apples"], voice), synthesize(["see", "a", "man"], voice)]
    room = Room(silences=(0.2, 0.3, 0.1), level=0.1, snr_db=300.0, noise_colour=0.0)
    spoken = assemble(phrases, room, 16000, np.random.default_rng(0))
    level = np.abs(spoken.samples / 32768).reshape(-1)
    gaps = [(0.0, spoken.phones[0].start)]
    for before, after in zip(spoken.phones, spoken.phones[1:]):
        end = before.start + before.duration
        if after.start - end > 1e-5:
            gaps.append((end, after.start))
    end = spoken.phones[-1].start + spoken.phones[-1].duration
    gaps.append((end, len(level) / 16000))
    assert [round(b - a, 3) for a, b in gaps] == [0.2, 0.3, 0.1]
    for start, stop in gaps:  # 1 ms for the ringing of the resampling filter
        inside = level[int((start + 0.001) * 16000) : int((stop - 0.001) * 16000)]
        assert inside.max() < 0.004, (start, stop)
    assert [word.symbol for word in spoken.words] == ["SEVEN", "APPLES", "SEE", "A", "MAN"]


def test_unknown_voice_and_words_without_phones():
    with pytest.raises(DataError, match="no voice 'en-us[+]nobody'"):
        synthesize(["cat"], Voice("x", "nobody", language="en-us"))
    with pytest.raises(DataError, match=r"gives no phones to \['the'\]"):
        synthesize(["in", "the", "house"], Voice("x", "m3"))
    with pytest.raises(DataError, match="no time of its own to phoneme 'l'"):
        synthesize(["small"], Voice("x", "m3"))
    with pytest.raises(DataError, match="has no phone symbol"):
        phone_symbol("x^")


def test_sentences():
    words = set(vocabulary())
    assert 200 <= len(words) <= 250
    drawn = [SentenceGenerator(3, balanced=True)() for _ in range(2)]
    assert drawn[0] == drawn[1]
    generate = SentenceGenerator(3)
    sentences = [generate() for _ in range(3000)]
    assert all(MIN_WORDS <= len(sentence) <= MAX_WORDS for sentence in sentences)
    assert {word for sentence in sentences for word in sentence} == words


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    options = TinyOptions(num_train=30, num_dev=8, num_test=8, num_lm_sentences=50)
    facts = make_tiny_corpus(out, out, options)
    return out, options, facts


def test_tiny_corpus_is_valid_and_expressible_by_its_lexicon(tiny):
    out, _, facts = tiny
    lexicon: dict[str, set[str]] = {}
    for _, line in read_lines(out / "lexicon.txt"):
        word, phones = line.split(" ", 1)
        lexicon.setdefault(word, set()).add(phones)
    assert {phone for variants in lexicon.values() for v in variants for phone in v.split()} <= set(PHONE_OF.values())
    speakers = []
    for part in ("train", "dev", "test"):
        assert validate_data_dir(out / part, decode=True).num_utterances == facts["utterances"][part]
        cuts = load_cuts(out / part)
        speakers.append({cut.supervisions[0].speaker for cut in cuts})
        for cut in cuts:
            ali = cut.supervisions[0].alignment
            assert " ".join(item.symbol for item in ali["word"]) == cut.supervisions[0].text
            phones = list(ali["phone"])
            for word in ali["word"]:  # the phones of each word fill it, and make one of its pronunciations
                inside = [p for p in phones if word.start - 1e-4 <= p.start and p.end <= word.end + 1e-4]
                assert " ".join(p.symbol for p in inside) in lexicon[word.symbol]
                assert abs(sum(p.duration for p in inside) - word.duration) < 1e-4
    assert not speakers[0] & speakers[1] and not speakers[0] & speakers[2] and not speakers[1] & speakers[2]


def test_tiny_corpus_is_deterministic(tiny, tmp_path):
    out, options, _ = tiny
    make_tiny_corpus(tmp_path, out, options)
    made = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert len(made) > 46
    for path in made:
        assert (tmp_path / path).read_bytes() == (out / path).read_bytes(), path


def test_large_test_part(tiny, tmp_path):
    out, options, _ = tiny
    more = LargeTestOptions(**{**dataclasses.asdict(options), "num_utterances": 30})
    facts = make_large_test(out, tmp_path / "a", tmp_path / "a", more)
    assert facts["utterances"] == validate_data_dir(tmp_path / "a", decode=True).num_utterances == 30
    cuts = {part: load_cuts(out / part) for part in ("train", "dev", "test")}
    known = {line.split()[0] for _, line in read_lines(out / "lexicon.txt")}
    speakers = set()
    for cut in load_cuts(tmp_path / "a"):
        (supervision,) = cut.supervisions
        speakers.add(supervision.speaker)
        assert set(supervision.text.split()) <= known
        for part in cuts.values():
            assert all(supervision.text != other.supervisions[0].text for other in part)
    assert len(speakers) == 24 and not speakers & {c.supervisions[0].speaker for part in cuts.values() for c in part}
    make_large_test(out, tmp_path / "b", tmp_path / "a", more)
    assert (tmp_path / "b/cuts.jsonl.gz").read_bytes() == (tmp_path / "a/cuts.jsonl.gz").read_bytes()
    other = LargeTestOptions(**{**dataclasses.asdict(more), "seed": 77, "num_train": 200})
    with pytest.raises(DataError, match="not of the corpus with these options"):
        make_large_test(out, tmp_path / "c", tmp_path / "c", other)


def test_large_test_part_by_drawn_voices(tiny, tmp_path):
    out, options, _ = tiny
    more = LargeTestOptions(**{**dataclasses.asdict(options), "num_utterances": 12, "drawn_voices": 6})
    facts = make_large_test(out, tmp_path / "a", tmp_path / "a", more)
    assert facts["speakers"] == 6
    speakers = sorted(cut.supervisions[0].speaker for cut in load_cuts(tmp_path / "a"))
    assert speakers == sorted(2 * [f"drawn{i:03d}" for i in range(1, 7)])
    named = LargeTestOptions(**{**dataclasses.asdict(options), "num_utterances": 12})
    make_large_test(out, tmp_path / "b", tmp_path / "b", named)
    texts = {folder: [cut.supervisions[0].text for cut in load_cuts(tmp_path / folder)] for folder in "ab"}
    assert texts["a"] != texts["b"]  # sentences of its own
    assert draw_voices(3, "drawn", 1) == draw_voices(6, "drawn", 1)[:3] != draw_voices(3, "drawn", 2)


def test_any_number_of_voices_may_be_drawn(capfd):
    """espeak has place for 350 voices, those of its languages among them, and complains at each start of more."""
    for voice in draw_voices(300, "drawn", 1):
        synthesize(["cat"], voice)
    assert capfd.readouterr() == ("", "")


def test_test_sentences_do_not_occur_in_training(tiny):
    out, _, _ = tiny
    texts = {part: {cut.supervisions[0].text for cut in load_cuts(out / part)} for part in ("train", "dev", "test")}
    assert not texts["train"] & (texts["dev"] | texts["test"])
    lm_text = {line for _, line in read_lines(out / "lm_text.txt")}
    assert texts["train"] <= lm_text
