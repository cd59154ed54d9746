"""A corpus of tones whose phone times are known by construction."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

RATE = 8000
TONES = {"a": 400.0, "b": 1000.0, "c": 2200.0}
WORDS = {"AB": ("a", "b"), "CA": ("c", "a"), "BC": ("b", "c")}


class ToneCorpus(NamedTuple):
    """data: directory with features; lang: lang directory; times: cut id -> [(phone, start, end)] in seconds."""

    data: Path
    lang: Path
    times: dict[str, list[tuple[str, float, float]]]


def make_utterance(rng: np.random.Generator) -> tuple[np.ndarray, list[str], list[tuple[str, float, float]]]:
    """Audio of three words between silences, their names and their phones' times."""
    words = [str(w) for w in rng.choice(list(WORDS), 3)]
    parts, times, now = [], [], 0.0

    def add(phone: str, seconds: float) -> None:
        nonlocal now
        time = np.arange(int(seconds * RATE)) / RATE
        wave = np.sin(2 * np.pi * TONES[phone] * time) if phone in TONES else np.zeros_like(time)
        parts.append(0.3 * wave + 0.003 * rng.standard_normal(len(time)))
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
    return np.concatenate(parts), words, times


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> ToneCorpus:
    """24 utterances with log-mel features and a lang with 3 states per phone."""
    import soundfile

    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance
    from pipeline.artifacts.lang import make_lang
    from pipeline.artifacts.lexicon import Lexicon, Pronunciation
    from pipeline.feats.compute import compute_feats
    from pipeline.feats.options import FeatureOptions

    root = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(7)
    cuts, times = [], {}
    for i in range(24):
        name = f"utt{i:02d}"
        audio, words, times[name] = make_utterance(rng)
        soundfile.write(root / f"{name}.wav", audio, RATE)
        cuts.append(utterance(name, audio_recording(name, root / f"{name}.wav"), " ".join(words), f"spk{i % 3}"))
    save_data_dir(root / "local", cuts)
    (root / "data").mkdir()
    compute_feats(root / "local", root / "data", root / "data", FeatureOptions(type="fbank", dim=16))
    lexicon = Lexicon([Pronunciation(word, phones) for word, phones in WORDS.items()])
    make_lang(lexicon).save(root / "lang")
    return ToneCorpus(root / "data", root / "lang", times)
