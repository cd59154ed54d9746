"""What is known about the features of a data directory: features.json, the only place where these facts live."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import read_json, write_json

FEATURES_JSON = "features.json"


@dataclasses.dataclass(frozen=True)
class FeatureFacts:
    """Facts about stored features. Times in seconds.

    Args:
        type: mfcc, fbank or gammatone.
        dim: features per frame as stored.
        frame_shift: time between frames.
        window: length of the window.
        frame_offset: the centre of frame i lies at i * frame_shift + frame_offset.
        sampling_rate: of the audio, in Hz.
        num_utterances, num_frames: totals of the directory.
        extractor: options of the lhotse extractor.
    """

    type: str
    dim: int
    frame_shift: float
    window: float
    frame_offset: float
    sampling_rate: int
    num_utterances: int
    num_frames: int
    extractor: dict

    def save(self, data_dir: Path) -> None:
        """Write features.json."""
        write_json(Path(data_dir) / FEATURES_JSON, dataclasses.asdict(self))

    @staticmethod
    def load(data_dir: Path) -> FeatureFacts:
        """Read features.json; DataError if the directory has no features or the file is incomplete."""
        path = Path(data_dir) / FEATURES_JSON
        if not path.is_file():
            raise DataError(f"{data_dir}: has no features (no {FEATURES_JSON}); run steps/compute_feats.py")
        entry = read_json(path)
        names = {field.name for field in dataclasses.fields(FeatureFacts)}
        if not isinstance(entry, dict) or set(entry) != names:
            raise DataError(f"{path}: keys differ from {sorted(names)}")
        return FeatureFacts(**entry)

    def check_same_kind(self, other: FeatureFacts, where: Path, where_other: Path) -> None:
        """Raise MismatchError, naming both directories, unless both hold the same kind of features."""
        for name in ("type", "dim", "frame_shift", "window", "sampling_rate", "extractor"):
            if getattr(self, name) != getattr(other, name):
                values = f"{getattr(self, name)!r} and {getattr(other, name)!r}"
                raise MismatchError(f"{where} and {where_other} hold different features: {name} is {values}")
