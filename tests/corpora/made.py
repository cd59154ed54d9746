"""Small corpora made for tests: noises as speech, and what an import has made of them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.corpora.importer import import_corpus
from pipeline.corpora.options import ImportOptions

RATE = 16000


def noise(name: str, seconds: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """int16 (T,) or (T, C), a function of the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    samples = rng.integers(-9000, 9000, (round(seconds * rate), channels)).astype(np.int16)
    return samples[:, 0] if channels == 1 else samples


def audio(path: Path, seconds: float = 0.5, rate: int = RATE, channels: int = 1, **kinds: str) -> Path:
    """Write a noise; ``kinds`` are format and subtype."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = noise(path.name, seconds, rate, channels)
    if kinds.get("subtype") in ("FLOAT", "DOUBLE"):
        samples = samples / 32768  # libsndfile does not scale integers on their way into such files
    soundfile.write(str(path), samples, rate, **{"subtype": "PCM_16", **kinds})
    return path


def lines(path: Path, *rows: str) -> Path:
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


class Imported:
    """What `import_corpus` made: facts, cuts by id, lines of left_out.txt by utterance."""

    def __init__(self, source: Path, out: Path, root: Path | None = None, **options: Any) -> None:
        out.mkdir(parents=True)
        self.dir = out
        self.facts = import_corpus(source, root, out, out, ImportOptions(**options))
        self.checked = validate_data_dir(out, decode=True)
        self.cuts = {cut.id: cut for cut in load_cuts(out)}
        rows = [line.split("\t") for line in (out / "left_out.txt").read_text(encoding="utf-8").splitlines()]
        self.left_out = {name: (kind, reason) for name, kind, reason in rows}

    def texts(self) -> dict[str, str]:
        """Utterance -> transcript."""
        return {cut_id: cut.supervisions[0].text for cut_id, cut in self.cuts.items()}

    def speakers(self) -> dict[str, str]:
        """Utterance -> speaker."""
        return {cut_id: cut.supervisions[0].speaker for cut_id, cut in self.cuts.items()}

    def spans(self) -> dict[str, tuple[float, float]]:
        """Utterance -> start and end in its recording."""
        return {cut_id: (cut.start, round(cut.end, 6)) for cut_id, cut in self.cuts.items()}

    def samples(self, cut_id: str) -> np.ndarray:
        """int16 (T,) of an utterance."""
        return np.rint(self.cuts[cut_id].load_audio()[0] * 32768).astype(np.int16)
