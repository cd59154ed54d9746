"""What is known of features: the facts about those of a data directory (features.json, the only place where they live),
and what is done to features when they are loaded.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import write_json
from pipeline.base.records import STRICT, read_record, to_json

FEATURES_JSON = "features.json"

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class FeatureKind:
    """What features must have in common for one model to read them. Times in seconds.

    Args:
        type: mfcc, fbank, gammatone, or "transformed" by a model.
        dim: features per frame as stored.
        frame_shift: time between frames.
        window: length of the window.
        frame_offset: the centre of frame i lies at i * frame_shift + frame_offset.
        sampling_rate: of the audio, in Hz.
        extractor: options of the lhotse extractor; of transformed features, what the transform was.
    """

    type: str
    dim: Positive
    frame_shift: Seconds
    window: Seconds
    frame_offset: float
    sampling_rate: Positive
    extractor: dict[str, Any]

    def check_same(self, other: FeatureKind, where: str | Path, where_other: str | Path) -> None:
        """MismatchError, naming both directories, unless both are the same kind of features."""
        for name in ("type", "dim", "frame_shift", "window", "sampling_rate", "extractor"):
            if getattr(self, name) != getattr(other, name):
                raise MismatchError(
                    f"{where} and {where_other} do not belong together: {name} of their features is "
                    f"{getattr(self, name)!r} and {getattr(other, name)!r}"
                )


@dataclass(frozen=True, config=STRICT)
class FeatureFacts:
    """Facts about the features of a data directory: the fields of ``FeatureKind``, and how much there is of them.

    Args:
        num_utterances, num_frames: totals of the directory.
    """

    type: str
    dim: Positive
    frame_shift: Seconds
    window: Seconds
    frame_offset: float
    sampling_rate: Positive
    num_utterances: Count
    num_frames: Count
    extractor: dict[str, Any]

    @property
    def kind(self) -> FeatureKind:
        """These facts without the size of the directory."""
        return FeatureKind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(FeatureKind)})

    def save(self, data_dir: Path) -> None:
        """Write features.json."""
        write_json(Path(data_dir) / FEATURES_JSON, to_json(self))

    @staticmethod
    def load(data_dir: Path) -> FeatureFacts:
        """Read features.json; DataError if the directory has no features or the file is damaged."""
        path = Path(data_dir) / FEATURES_JSON
        if not path.is_file():
            raise DataError(f"{data_dir}: has no features (no {FEATURES_JSON}); run steps/compute_feats.py")
        return read_record(path, FeatureFacts)


@dataclass(frozen=True, config=STRICT)
class FeatLoadOptions:
    """What is done to stored features when they are loaded, in this order: cmvn, deltas, splice."""

    cmvn: Literal["none", "utterance", "speaker", "global"] = Field(
        default="speaker", description="Over what means are normalised to 0."
    )
    norm_vars: bool = Field(default=False, description="Normalise variances to 1 as well.")
    deltas: int = Field(
        default=0, ge=0, le=3, description="Order of time derivatives that are appended; 2 is the usual number."
    )
    delta_window: int = Field(default=2, ge=1, description="Frames on each side from which a derivative is estimated.")
    splice_left: int = Field(default=0, ge=0, description="Frames of left context that are stacked.")
    splice_right: int = Field(default=0, ge=0, description="Frames of right context that are stacked.")

    def output_dim(self, dim: int) -> int:
        """Features per frame after loading, from those stored."""
        return dim * (self.deltas + 1) * (self.splice_left + 1 + self.splice_right)
