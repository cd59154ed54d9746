"""Corpora drawn from a known model: frames are Gaussian around the mean of (phone, state), moved where a context
matters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.corpus import save_data_dir, utterance
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.lang import Lang, make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.feats.cmvn import CmvnStats
from pipeline.feats.storage import PackedFramesWriter

DIM, STATES, SHIFT = 4, 2, 0.01
WORDS = {"A": ("a",), "B": ("b",), "C": ("c",), "D": ("d",), "AD": ("a", "d"), "CAB": ("c", "a", "b")}


def make_world_lang() -> Lang:
    return make_lang(Lexicon([Pronunciation(word, phones) for word, phones in WORDS.items()]), speech_states=STATES)


@dataclasses.dataclass(frozen=True)
class World:
    """The true model.

    State 0 of "a" is elsewhere after "b" and "c"; state 1 of "b" is elsewhere before "d"; nothing else depends on
    context.
    """

    means: dict[tuple[str, int], np.ndarray]
    after_bc: np.ndarray
    before_d: np.ndarray

    @classmethod
    def make(cls, seed: int = 0) -> World:
        rng = np.random.default_rng(seed)
        means = {(p, s): 4 * rng.standard_normal(DIM) for p in "abcd" for s in range(STATES)}
        means["SIL", 0] = np.full(DIM, -9.0)
        return cls(means, 2.5 * rng.standard_normal(DIM), 2.5 * rng.standard_normal(DIM))

    def mean(self, phones: list[str], i: int, state: int) -> np.ndarray:
        """Mean of a state of the i-th phone of an utterance."""
        before = phones[i - 1] if i else "#"
        after = phones[i + 1] if i + 1 < len(phones) else "#"
        out = self.means[phones[i], state]
        if (phones[i], state) == ("a", 0) and before in "bc":
            return out + self.after_bc
        return out + self.before_d if (phones[i], state) == ("b", 1) and after == "d" else out

    def speak(
        self, rng: np.random.Generator, words: Iterable[str], noise: float = 1.0
    ) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
        """(T, DIM) frames of words with optional silence, and (phone, first frame, end) of each phone."""
        phones = ["SIL"]
        for word in words:
            phones += [*WORDS[word], *(["SIL"] if rng.random() < 0.3 else [])]
        frames, spans = [], []
        for i, phone in enumerate(phones):
            first = len(frames)
            for state in range(1 if phone == "SIL" else STATES):
                for _ in range(int(rng.integers(2, 5))):
                    frames.append(self.mean(phones, i, state) + noise * rng.standard_normal(DIM))
            spans.append((phone, first, len(frames)))
        return np.array(frames, dtype=np.float32), spans


@dataclasses.dataclass(frozen=True)
class Utterance:
    name: str
    speaker: str
    words: tuple[str, ...]
    feats: np.ndarray
    spans: list[tuple[str, int, int]]


def draw(
    world: World,
    number: int,
    seed: int,
    speakers: dict[str, np.ndarray] | None = None,
    num_words: int = 5,
    prefix: str = "u",
    noise: float = 1.0,
) -> list[Utterance]:
    """Utterances of random words; `speakers` gives each name a (DIM, DIM + 1) distortion."""
    rng = np.random.default_rng(seed)
    speakers = speakers or {"s": np.concatenate([np.eye(DIM), np.zeros((DIM, 1))], axis=1)}
    out = []
    for i in range(number):
        speaker = list(speakers)[i % len(speakers)]
        words = tuple(str(w) for w in rng.choice(list(WORDS), num_words))
        feats, spans = world.speak(rng, words, noise)
        matrix = speakers[speaker]
        out.append(
            Utterance(
                f"{prefix}{i:03d}", speaker, words, (feats @ matrix[:, :-1].T + matrix[:, -1]).astype(np.float32), spans
            )
        )
    return out


def write_corpus(directory: Path, utterances: list[Utterance]) -> Path:
    """A data directory whose features are the frames themselves; it has no audio."""
    from lhotse import Features, Recording
    from lhotse.audio import AudioSource
    from lhotse.utils import fastcopy

    directory.mkdir(parents=True)
    stats, cuts = CmvnStats(DIM), []
    with PackedFramesWriter(directory / "feats.bin") as writer:
        for u in utterances:
            seconds = len(u.feats) * SHIFT
            source = AudioSource("file", [0], str(directory / "nothing.wav"))
            recording = Recording(u.name, [source], 8000, round(seconds * 8000), seconds, [0])
            cut = utterance(u.name, recording, " ".join(u.words), u.speaker)
            key = writer.write(u.name, u.feats)
            stats.add(u.speaker, torch.from_numpy(u.feats))
            cuts.append(
                fastcopy(
                    cut,
                    features=Features(
                        "mfcc",
                        len(u.feats),
                        DIM,
                        SHIFT,
                        8000,
                        0,
                        seconds,
                        "packed_frames",
                        str(directory / "feats.bin"),
                        key,
                        u.name,
                        0,
                    ),
                )
            )
    save_data_dir(directory, cuts)
    stats.save(directory)
    FeatureFacts("mfcc", DIM, SHIFT, 0.025, SHIFT / 2, 8000, len(cuts), sum(len(u.feats) for u in utterances), {}).save(
        directory
    )
    return directory


def random_speakers(number: int, seed: int, strength: float, prefix: str = "s") -> dict[str, np.ndarray]:
    """Affine distortions."""
    rng = np.random.default_rng(seed)
    return {
        f"{prefix}{i}": np.concatenate(
            [np.eye(DIM) + strength * rng.standard_normal((DIM, DIM)), 4 * strength * rng.standard_normal((DIM, 1))],
            axis=1,
        )
        for i in range(number)
    }
