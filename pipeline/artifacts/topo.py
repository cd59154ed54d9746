"""HMM topologies: how many states a phone has and which of them share a distribution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass as record

from pipeline.base.errors import DataError, naming
from pipeline.base.files import content_id, write_json
from pipeline.base.records import STRICT, read_record

PdfClass = Annotated[int, Field(ge=0, le=10_000)]


@dataclass(frozen=True)
class PhoneTopo:
    """Left-to-right HMM with one loop and one forward transition per state.

    Attributes:
        pdf_classes: one entry per HMM-state; equal entries share their distribution (minimum duration without more
            pdfs).
        forward_prob: initial probability of leaving a state per frame; mean state duration is its inverse.
    """

    pdf_classes: tuple[int, ...]
    forward_prob: float

    @property
    def num_states(self) -> int:
        return len(self.pdf_classes)


@record(frozen=True, config=STRICT)
class _Entry:
    """Phones with one topology."""

    phones: tuple[str, ...]
    pdf_classes: tuple[PdfClass, ...]
    forward_prob: float


@record(frozen=True, config=STRICT)
class _Facts:
    """What topo.json holds."""

    entries: tuple[_Entry, ...]


class Topo:
    """Topology of every phone, by phone name.

    Neural HMM practice (Mann et al. 2023) is 3 states per phoneme and 1 for silence, loop and forward only.
    """

    def __init__(self, phones: dict[str, PhoneTopo]) -> None:
        for name, topo in phones.items():
            if not topo.pdf_classes or min(topo.pdf_classes) < 0:
                raise DataError(
                    f"phone {name!r}: pdf-classes {list(topo.pdf_classes)} must be one number >= 0 per state"
                )
            if not 0.0 < topo.forward_prob < 1.0:
                raise DataError(f"phone {name!r}: forward probability {topo.forward_prob} is outside (0, 1)")
        self.phones = dict(phones)

    def __getitem__(self, phone: str) -> PhoneTopo:
        if phone not in self.phones:
            raise DataError(f"phone {phone!r} has no topology")
        return self.phones[phone]

    @property
    def id(self) -> str:
        """Content hash that alignments and models carry."""
        return content_id(self._entries())

    def _entries(self) -> list[dict[str, Any]]:
        groups: dict[PhoneTopo, list[str]] = {}
        for name, topo in self.phones.items():
            groups.setdefault(topo, []).append(name)
        return [{"phones": sorted(names), **asdict(topo)} for topo, names in groups.items()]

    def save(self, path: str | Path) -> None:
        write_json(path, {"entries": self._entries()})

    @classmethod
    def load(cls, path: str | Path) -> Topo:
        """Reads ``{"entries": [{"phones": [...], "pdf_classes": [...], "forward_prob": p}]}``; a phone may stand
        once.
        """
        phones: dict[str, PhoneTopo] = {}
        for entry in read_record(Path(path), _Facts).entries:
            for name in entry.phones:
                if name in phones:
                    raise DataError(f"{path}: phone {name!r} has two topologies")
                phones[name] = PhoneTopo(entry.pdf_classes, entry.forward_prob)
        with naming(path):
            return cls(phones)


def make_topo(
    speech: Iterable[str],
    silence: Iterable[str],
    speech_states: int = 3,
    silence_states: int = 1,
    speech_forward: float = 1 / 3,
    silence_forward: float = 1 / 40,
) -> Topo:
    """The usual two classes of phones; the initial probabilities are those guessed in Mann et al. 2023."""
    phones = {p: PhoneTopo(tuple(range(silence_states)), silence_forward) for p in silence}
    phones.update({p: PhoneTopo(tuple(range(speech_states)), speech_forward) for p in speech})
    return Topo(phones)
