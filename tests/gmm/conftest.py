"""A corpus of tones: phone times known by construction, speakers who differ by a filter, one speaker with one short
word.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

RATE = 8000
TONES = {"a": 400.0, "b": 900.0, "c": 1500.0, "d": 2300.0}
WORDS = {"AB": ("a", "b"), "CAD": ("c", "a", "d"), "BC": ("b", "c"), "D": ("d",)}


class ToneCorpus(NamedTuple):
    """data: directory with MFCC; lang: lang directory; times: cut id -> [(phone, start, end)] in seconds."""

    data: Path
    lang: Path
    times: dict[str, list[tuple[str, float, float]]]


def make_audio(
    rng: np.random.Generator, words: list[str], tilt: float
) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """Audio of words between silences, and the times of their phones; `tilt` is a speaker's one-tap filter."""
    parts, times, now = [], [], 0.0

    def add(phone: str, seconds: float) -> None:
        nonlocal now
        time = np.arange(int(seconds * RATE)) / RATE
        wave = sum(np.sin(2 * np.pi * TONES[phone] * k * time) / k for k in (1, 2)) if phone in TONES else 0 * time
        parts.append(0.2 * wave + 0.004 * rng.standard_normal(len(time)))
        if phone in TONES:
            times.append((phone, now, now + len(time) / RATE))
        now += len(time) / RATE

    add("sil", rng.uniform(0.1, 0.3))
    for word in words:
        for phone in WORDS[word]:
            add(phone, rng.uniform(0.06, 0.14))
        if rng.random() < 0.5:
            add("sil", rng.uniform(0.1, 0.2))
    add("sil", rng.uniform(0.1, 0.3))
    audio = np.concatenate(parts)
    return audio - tilt * np.concatenate([[0.0], audio[:-1]]), times


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> ToneCorpus:
    """31 utterances of 4 speakers with MFCC and a lang with 3 states per phone."""
    import soundfile

    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance
    from pipeline.artifacts.lang import make_lang
    from pipeline.artifacts.lexicon import Lexicon, Pronunciation
    from pipeline.feats.compute import compute_feats
    from pipeline.feats.options import FeatureOptions

    root = tmp_path_factory.mktemp("gmm_tones")
    rng = np.random.default_rng(5)
    cuts, times = [], {}
    for i in range(31):
        name, speaker = f"utt{i:02d}", i % 3 if i < 30 else 3
        words = [str(w) for w in rng.choice(list(WORDS), 3)] if i < 30 else ["D"]
        audio, times[name] = make_audio(rng, words, (0.0, 0.6, -0.5, 0.3)[speaker])
        soundfile.write(root / f"{name}.wav", audio / 3, RATE)
        cuts.append(utterance(name, audio_recording(name, root / f"{name}.wav"), " ".join(words), f"spk{speaker}"))
    save_data_dir(root / "local", cuts)
    (root / "data").mkdir()
    compute_feats(root / "local", root / "data", root / "data", FeatureOptions(type="mfcc"))
    lexicon = Lexicon([Pronunciation(word, phones) for word, phones in WORDS.items()])
    make_lang(lexicon).save(root / "lang")
    return ToneCorpus(root / "data", root / "lang", times)
