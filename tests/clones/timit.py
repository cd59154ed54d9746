"""A miniature TIMIT as delivered: SPHERE audio named .WAV with .PHN, .WRD and .TXT, 61 labels, SA, SI and SX sentences."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from pipeline.artifacts.corpus import Span
from pipeline.synth.espeak import synthesize
from pipeline.synth.sentences import SentenceGenerator
from pipeline.synth.utterance import Room, Utterance, assemble
from tests.clones.speech import voice, write_audio

RATE = 16000
# Part -> dialect region and speaker; those of TEST are of dev (two), of the core test set (two) and of neither (one).
SPEAKERS = {
    "TRAIN": ("DR1/FCJF0", "DR1/MCPM0", "DR2/FDAW0", "DR2/MJRA0", "DR3/FALK0", "DR4/MBMA0"),
    "TEST": ("DR1/FAKS0", "DR4/FADG0", "DR1/MDAB0", "DR1/FELC0", "DR2/FRAM1"),
}
FEW = {"TRAIN": SPEAKERS["TRAIN"][:1], "TEST": (*SPEAKERS["TEST"][:1], *SPEAKERS["TEST"][2:3], SPEAKERS["TEST"][-1])}
CLOSURES = {"b": "bcl", "d": "dcl", "g": "gcl", "p": "pcl", "t": "tcl", "k": "kcl", "jh": "dcl", "ch": "tcl"}
WITH_R = {"aar": "aa", "aor": "ao", "ehr": "eh", "ihr": "ih"}  # one phone of the synthesiser, two of TIMIT
VOWELS = frozenset("aa ae ah ao aw ax ay eh el er ey ih iy ow oy uh uw".split())
ROUNDING = 0.002  # seconds
PAUSE = 0.05  # seconds between words from which on there is a label for it


def make_timit(root: Path, speakers: dict[str, tuple[str, ...]] = SPEAKERS) -> Path:
    """Write TIMIT/ below `root`: TRAIN/, TEST/, DOC/TIMITDIC.TXT; returns that folder."""
    top, number = root / "TIMIT", 0
    dictionary: dict[str, set[str]] = {}
    generate = SentenceGenerator(21, balanced=True)
    read_by_all = [generate(), generate()]
    for part, names in speakers.items():
        for name in names:
            number += 1
            sentences = {f"SA{i + 1}": words for i, words in enumerate(read_by_all)}
            sentences |= {f"SI{500 + 10 * number + i}": generate() for i in range(3)}
            sentences |= {f"SX{10 * number + i}": generate() for i in range(5)}
            for sentence, words in sentences.items():
                spoken = _speak(words, number, hash_of(name, sentence))
                _write(top / part / name / sentence, spoken, " ".join(words), dictionary)
    (top / "DOC").mkdir()
    lines = [
        "; TIMIT pronunciations",
        *(f"{w}  /{p}/" for w, known in sorted(dictionary.items()) for p in sorted(known)),
    ]
    (top / "DOC" / "TIMITDIC.TXT").write_text("\n".join(lines) + "\n")
    return top


def hash_of(*names: str) -> int:
    """A seed."""
    return sum(ord(letter) * 31**i for i, letter in enumerate("".join(names))) % 2**31


def timit_labels(phones: tuple[Span, ...], seconds: float, seed: int) -> list[tuple[str, float, float]]:
    """(label, start, end) of all of the recording: closures and releases, h# at both ends, pauses, glottal stops, and
    TIMIT's finer labels (hv, axr, ux, ix) at random in place of the phones that they belong to.
    """
    draw = random.Random(seed)
    finer = {"hh": "hv", "er": "axr", "uw": "ux", "ih": "ix", "el": "el", "ng": "eng", "n": "nx"}
    labels: list[tuple[str, float, float]] = []
    at = 0.0
    for span in phones:
        phone, start, end = span.symbol.lower(), span.start, span.start + span.duration
        if start - at < ROUNDING:
            start = at
        if start > at:
            label = "h#" if not labels else "pau" if start - at > PAUSE else "epi"
            labels.append((label, at, start))
            if phone in VOWELS and draw.random() < 0.5:
                middle = start + 0.2 * (end - start)
                labels.append(("q", start, middle))
                start = middle
        phone = finer[phone] if phone in finer and draw.random() < 0.3 else phone
        if phone in CLOSURES or phone in WITH_R:
            middle = (start + end) / 2
            first, second = (CLOSURES[phone], phone) if phone in CLOSURES else (WITH_R[phone], "r")
            labels += [(first, start, middle), (second, middle, end)]
        else:
            labels.append((phone, start, end))
        at = end
    return [*labels, ("h#", at, seconds)]


def _speak(words: list[str], number: int, seed: int) -> Utterance:
    rng = np.random.default_rng(seed)
    cut = len(words) // 2 if len(words) > 3 and seed % 3 == 0 else 0  # a pause in every third longer sentence
    phrases = [part for part in (words[:cut], words[cut:]) if part]
    room = Room((0.15,) + (0.12,) * (len(phrases) - 1) + (0.15,), 0.08, 30.0, 0.5)
    return assemble([synthesize(phrase, voice(number)) for phrase in phrases], room, RATE, rng)


def _write(stem: Path, spoken: Utterance, text: str, dictionary: dict[str, set[str]]) -> None:
    """The four files of a sentence; the dictionary learns how its words are pronounced."""
    write_audio(stem.with_suffix(".sph"), spoken.samples / 32768, RATE)
    stem.with_suffix(".sph").rename(stem.with_suffix(".WAV"))
    total = len(spoken.samples)
    labels = timit_labels(spoken.phones, total / RATE, hash_of(str(stem.name)))
    spans = [(span.symbol.lower(), span.start, span.start + span.duration) for span in spoken.words]
    for suffix, rows in (("PHN", labels), ("WRD", spans)):
        lines = [f"{round(start * RATE)} {round(end * RATE)} {label}\n" for label, start, end in rows]
        stem.with_suffix(f".{suffix}").write_text("".join(lines))
    stem.with_suffix(".TXT").write_text(f"0 {total} {text.capitalize()}.\n")
    for word, phones in spoken.pronunciations:
        plain = [
            p
            for phone in phones
            for p in ((WITH_R[phone.lower()], "r") if phone.lower() in WITH_R else (phone.lower(),))
        ]
        stressed = [f"{phone}1" if phone in VOWELS else phone for phone in plain]
        dictionary.setdefault(word.lower(), set()).add(" ".join(stressed))
