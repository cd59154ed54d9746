"""Makes the scripts of local/ importable, and small copies of corpora in their official layouts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session", autouse=True)
def _local_on_path():
    sys.path.insert(0, str(ROOT / "local"))
    yield
    sys.path.remove(str(ROOT / "local"))


def tone(seed: int, seconds: float = 0.5, rate: int = 16000) -> np.ndarray:
    """A smooth signal, int16, as speech is: its neighbouring samples are alike."""
    time = np.arange(round(seconds * rate)) / rate
    return (8000 * np.sin(2 * np.pi * (200 + 30 * seed) * time)).astype(np.int16)


def write_audio(path: Path, seed: int, rate: int = 16000) -> None:
    """Write a tone in the format of the suffix: .flac, .wav, .sph, .raw (little-endian) or .be.raw (big-endian, named
    .raw).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = tone(seed, rate=rate)
    if path.suffix == ".raw":
        path.write_bytes(samples.astype("<i2").tobytes())
    elif path.suffix == ".sph":
        soundfile.write(str(path), samples, rate, format="NIST", subtype="PCM_16", endian="BIG")
    else:
        soundfile.write(str(path), samples, rate, subtype="PCM_16")


@pytest.fixture
def make_an4(tmp_path: Path):
    """Writes a small AN4: two utterances of each of four women and four men in train, one test speaker."""

    def make(suffix: str = ".flac") -> Path:
        root = tmp_path / "an4"
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "an4.dic").write_text(
            "A                    AH\nA(2)                 EY\nNINE                 N AY N\n"
        )
        (root / "etc" / "an4.filler").write_text("<s>             SIL\n</s>            SIL\n<sil>           SIL\n")
        speakers = {"train": ["fa", "fb", "fc", "fd", "ma", "mb", "mc", "md"], "test": ["mt"]}
        for part, folder in (("train", "an4_clstk"), ("test", "an4test_clstk")):
            ids, lines = [], []
            for number, speaker in enumerate(speakers[part]):
                for name in (f"an{number}-{speaker}-b", f"cen1-{speaker}-b"):
                    ids.append(f"{folder}/{speaker}/{name}")
                    lines.append(f"<s> A NINE </s> ({name})" if part == "train" else f"NINE A ({name})")
                    write_audio(root / "wav" / folder / speaker / f"{name}{suffix}", number)
            (root / "etc" / f"an4_{part}.fileids").write_text("\n".join(ids) + "\n")
            (root / "etc" / f"an4_{part}.transcription").write_text("\n".join(lines) + "\n")
        return root

    return make
