"""The synthetic corpus of egs/tiny: audio, manifests with gold times, lexicon and text for a language model."""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.corpus import save_data_dir, store_audio, utterance
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write
from pipeline.base.log import progress_of
from pipeline.synth.espeak import Voice, synthesize
from pipeline.synth.options import LargeTestOptions, TinyOptions
from pipeline.synth.sentences import SentenceGenerator
from pipeline.synth.utterance import Room, Utterance, assemble
from pipeline.synth.voices import (
    DEV_VARIANTS,
    LARGE_TEST_VARIANTS,
    TEST_VARIANTS,
    TRAIN_VARIANTS,
    draw_voices,
    make_voices,
)

logger = logging.getLogger(__name__)

_PARTS = {"train": (TRAIN_VARIANTS, 0), "dev": (DEV_VARIANTS, 1), "test": (TEST_VARIANTS, 2)}
LARGE_TEST, DRAWN_TEST = 4, 5  # numbers of parts that _PARTS and the text of the language model leave free
_MAX_LEVEL = 0.12  # root mean square; speech peaks stay below full scale


def make_tiny_corpus(work_dir: Path, final_dir: Path, options: TinyOptions) -> dict[str, Any]:
    """Write the corpus: audio/, train/, dev/, test/, lexicon.txt and lm_text.txt.

    The lexicon lists every pronunciation that espeak used, so that it can express all gold phone sequences.

    Args:
        work_dir: where the files are written.
        final_dir: where they will stand; the manifests name audio files there.
        options: size and sound.
    Returns:
        facts for the stamp: utterances, seconds, words, phones.
    """
    sizes = {"train": options.num_train, "dev": options.num_dev, "test": options.num_test}
    sentences = _draw_sentences(sizes, options)
    pronunciations: dict[str, Counter[str]] = defaultdict(Counter)
    seconds = {}
    for part, (variants, number) in _PARTS.items():
        voices = make_voices(variants, part, options.seed)
        cuts = []
        for i, words in enumerate(sentences[part]):
            voice = voices[i % len(voices)]
            rng = np.random.default_rng([options.seed, number, i])
            spoken = _speak(words, voice, options, rng)
            for word, phones in spoken.pronunciations:
                pronunciations[word][" ".join(phones)] += 1
            cuts.append(_write_utterance(f"{voice.name}-{i:04d}", voice.name, spoken, work_dir, final_dir))
        save_data_dir(work_dir / part, cuts)
        seconds[part] = round(sum(cut.duration for cut in cuts), 1)
        logger.info("%s: %d utterances, %.1f s", part, len(cuts), seconds[part])
    _write_lexicon(work_dir / "lexicon.txt", pronunciations)
    with atomic_write(work_dir / "lm_text.txt") as out:
        for words in sentences["train"] + sentences["lm"]:
            out.write(" ".join(words).upper() + "\n")
    distinct = {phone for variants in pronunciations.values() for variant in variants for phone in variant.split()}
    return {"utterances": sizes, "seconds": seconds, "words": len(pronunciations), "phones": len(distinct)}


def make_large_test(corpus: Path, work_dir: Path, final_dir: Path, options: LargeTestOptions) -> dict[str, Any]:
    """Writes a test part that is large enough to tell systems apart: audio/ and the manifests of the part itself.

    Its voices are those of no other part, and with ``drawn_voices`` those of no file of espeak's; its sentences are of the
    corpus's words and in none of the parts of ``make_tiny_corpus``.

    Args:
        corpus: where make_tiny_corpus has written with the same options.
        work_dir, final_dir: as there.
    Returns:
        facts for the stamp: utterances, seconds, words, speakers.
    Raises:
        DataError: words that the corpus does not have.
    """
    sizes = {"train": options.num_train, "dev": options.num_dev, "test": options.num_test}
    known = {line.split()[0] for line in (corpus / "lexicon.txt").read_text(encoding="utf-8").splitlines()}
    drawn = _draw_sentences(sizes, options)
    taken = {tuple(words) for part in sizes for words in drawn[part]}
    if not {word.upper() for words in taken for word in words} <= known:
        raise DataError(f"{corpus / 'lexicon.txt'}: not of the corpus with these options")
    part = DRAWN_TEST if options.drawn_voices else LARGE_TEST
    generate = SentenceGenerator(options.seed * 10 + part)
    if options.drawn_voices:
        voices = draw_voices(options.drawn_voices, "drawn", options.seed)
    else:
        voices = make_voices(LARGE_TEST_VARIANTS, "large", options.seed)
    cuts: list[Any] = []
    words = 0
    with progress_of(options.num_utterances, "utterances") as done:
        while len(cuts) < options.num_utterances:
            sentence = generate()
            if tuple(sentence) in taken or not {word.upper() for word in sentence} <= known:
                continue
            voice, number = voices[len(cuts) % len(voices)], len(cuts)
            rng = np.random.default_rng([options.seed, part, number])
            spoken = _speak(sentence, voice, options, rng)
            cuts.append(_write_utterance(f"{voice.name}-{number:04d}", voice.name, spoken, work_dir, final_dir))
            words += len(sentence)
            done(1)
    save_data_dir(work_dir, cuts)
    seconds = round(sum(cut.duration for cut in cuts), 1)
    return {"utterances": len(cuts), "seconds": seconds, "words": words, "speakers": len(voices)}


def _draw_sentences(sizes: dict[str, int], options: TinyOptions) -> dict[str, list[list[str]]]:
    """Sentences per part and for the language model; those of dev and test do not occur in train."""
    drawn: dict[str, list[list[str]]] = {}
    taken: set[tuple[str, ...]] = set()
    for number, (part, size) in enumerate(sizes.items()):
        generate = SentenceGenerator(options.seed * 10 + number, balanced=part == "train")
        drawn[part] = []
        while len(drawn[part]) < size:
            words = generate()
            if tuple(words) not in taken:
                taken.add(tuple(words))
                drawn[part].append(words)
    generate = SentenceGenerator(options.seed * 10 + len(sizes))
    drawn["lm"] = [generate() for _ in range(options.num_lm_sentences)]
    trained = {word for words in drawn["train"] for word in words}
    unseen = {word for part in ("dev", "test", "lm") for words in drawn[part] for word in words} - trained
    if unseen and sizes["train"] >= TinyOptions().num_train:
        raise DataError(f"words without training data: {sorted(unseen)}; choose another seed")
    drawn["lm"] = [words for words in drawn["lm"] if unseen.isdisjoint(words)]
    return drawn


def _speak(words: list[str], voice: Voice, options: TinyOptions, rng: np.random.Generator) -> Utterance:
    """Synthesise a sentence with pauses, level and noise drawn from ``rng``."""
    phrases = [[words[0]]]
    for word in words[1:]:
        if rng.random() < options.pause_probability:
            phrases.append([word])
        else:
            phrases[-1].append(word)
    ranges = [options.edge_seconds] + [options.pause_seconds] * (len(phrases) - 1) + [options.edge_seconds]
    draw = random.Random(voice.name)  # level and noise belong to the speaker
    room = Room(
        silences=tuple(float(rng.uniform(*limits)) for limits in ranges),
        level=draw.uniform(0.4, 1.0) * _MAX_LEVEL,
        snr_db=draw.uniform(*options.snr_db),
        noise_colour=draw.uniform(0.0, 0.9),
    )
    return assemble([synthesize(phrase, voice) for phrase in phrases], room, options.sampling_rate, rng)


def _write_utterance(utt_id: str, speaker: str, spoken: Utterance, work_dir: Path, final_dir: Path) -> Any:
    relative = Path("audio", speaker, f"{utt_id}.flac")
    recording = store_audio(utt_id, spoken.samples, spoken.sampling_rate, work_dir / relative, final_dir / relative)
    text = " ".join(span.symbol for span in spoken.words)
    return utterance(utt_id, recording, text, speaker, spoken.words, spoken.phones, language="English")


def _write_lexicon(path: Path, pronunciations: dict[str, Counter[str]]) -> None:
    """Lines ``WORD phone phone ...``, the most frequent pronunciation of a word first."""
    with atomic_write(path) as out:
        for word in sorted(pronunciations):
            for phones, _ in sorted(pronunciations[word].items(), key=lambda item: (-item[1], item[0])):
                out.write(f"{word} {phones}\n")
