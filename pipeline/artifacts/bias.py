"""By how much boundaries between phones lie too late, on average: an alignment's own convention against people's."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.records import STRICT, read_record, to_json

BIAS = "bias.json"
_LARGEST = 1.0  # seconds; what lies further off is no matter of convention


@dataclass(frozen=True, config=STRICT)
class BiasTable:
    """Seconds by which boundaries lie too late: the sum of what the phone on the left, the one on the right and both
    together add; 0 for those that the table lacks.

    Attributes:
        left, right: phone without position marker -> seconds.
        pair: both phones with a blank between them -> seconds.
    """

    left: dict[str, float] = Field(default_factory=dict)
    right: dict[str, float] = Field(default_factory=dict)
    pair: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _small(self) -> BiasTable:
        for name in ("left", "right", "pair"):
            for phones, seconds in getattr(self, name).items():
                if abs(seconds) > _LARGEST:
                    raise ValueError(f"{name}: {phones!r} is {seconds} s off; at most {_LARGEST} s is a bias")
        return self

    def of(self, left: str, right: str) -> float:
        """Seconds for the boundary between two phones, named without position markers."""
        return self.left.get(left, 0.0) + self.right.get(right, 0.0) + self.pair.get(f"{left} {right}", 0.0)


@dataclass(frozen=True, config=STRICT)
class BoundaryBias:
    """Tables from the differences between an alignment and reference times.

    Speakers whose references were used get a table that was estimated without them. So what is measured on their
    utterances after the correction is what other speakers may expect.

    Attributes:
        whole: from all differences, for all other speakers.
        without: each without the speakers of a fold.
        fold: speaker -> the fold that holds them.
        differences: how many there were.
    """

    whole: BiasTable
    without: tuple[BiasTable, ...] = ()
    fold: dict[str, int] = Field(default_factory=dict)
    differences: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _folds_exist(self) -> BoundaryBias:
        for speaker, fold in self.fold.items():
            if not 0 <= fold < len(self.without):
                raise ValueError(f"fold {fold} of speaker {speaker!r} is none of {len(self.without)}")
        return self

    def table(self, speaker: str) -> BiasTable:
        """The one for a speaker's utterances."""
        return self.without[self.fold[speaker]] if speaker in self.fold else self.whole

    def save(self, directory: str | Path) -> None:
        """Writes bias.json."""
        write_json(Path(directory) / BIAS, to_json(self))

    @classmethod
    def load(cls, directory: str | Path) -> BoundaryBias:
        """Reads what `save` has written; DataError when it is missing or damaged."""
        path = Path(directory) / BIAS
        if not path.is_file():
            raise DataError(f"{directory}: has no {BIAS}; steps/estimate_bias.py makes it")
        return read_record(path, cls)
