"""What a reader of a corpus format yields, and the list of what cannot go into a data directory.

A reader goes through a corpus once and yields `SourceUtterance` after `SourceUtterance`. It never opens audio. What it
cannot use it gives to `LeftOut`, by kind, and goes on: a corpus has all its problems summed up at once.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pipeline.base.errors import DataError

MAX_EXAMPLES = 3  # of each kind of problem that a message spells out
MAX_BYTES = 180  # of a name; file systems take 255, and suffixes follow


@dataclass(frozen=True)
class SourceAudio:
    """Audio of an utterance as its corpus names it.

    Attributes:
        recording: id of the recording in the corpus.
        path: file; "" where there is a command.
        command: command line that writes audio to its standard output, as Kaldi's pipes do; "" where there is a file.
        channel: from 0; None where the corpus names none.
        maybe_alone: the audio may hold this channel alone, taken out of a file with several.
        samples: length in samples by the corpus' own account; None where it says nothing.
        rate: in Hz, likewise.
    """

    recording: str
    path: str = ""
    command: str = ""
    channel: int | None = None
    samples: int | None = None
    rate: int | None = None
    maybe_alone: bool = False


Tier = list[tuple[str, float, float]]  # symbol, start and duration in seconds from the start of the utterance


@dataclass(frozen=True)
class SourceUtterance:
    """An utterance as its corpus has it.

    Attributes:
        id, speaker: as they stand there; speaker is "" where nobody is named.
        text: transcript, not yet normalised.
        where: file and line, for messages. text_where: that of the text, if it is another one.
        start, end: in seconds of the recording; end None: to its end.
        tiers: "word", "phone" -> symbols with times.
        gender, language: as lhotse's supervisions have them.
    """

    id: str
    audio: SourceAudio
    text: str
    where: str
    speaker: str = ""
    start: float = 0.0
    end: float | None = None
    tiers: dict[str, Tier] = field(default_factory=dict)
    gender: str | None = None
    language: str | None = None
    text_where: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON object that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> SourceUtterance:
        """An utterance of what `to_json` gave."""
        return cls(**{**entry, "audio": SourceAudio(**entry["audio"])})


class LeftOut:
    """Utterances that do not go in, by kind of problem: all of them in a file, counts and first examples in memory."""

    def __init__(self, path: Path | None = None) -> None:
        """Args:
        path: file with a line ``utterance TAB kind TAB reason`` each; None: nothing is written.
        """
        self.path, self.counts = path, Counter[str]()
        self._examples: dict[str, list[str]] = {}
        self._file: IO[str] | None = None

    def __enter__(self) -> LeftOut:
        if self.path is not None:
            self._file = open(self.path, "w", encoding="utf-8", errors="backslashreplace", newline="\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def total(self) -> int:
        """Utterances that were left out so far."""
        return self.counts.total()

    def add(self, name: str, kind: str, reason: str) -> None:
        """Note an utterance: its id in the corpus, a kind of problem in few words, and what it is, with its place."""
        self.counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(reason)
        if self._file is not None:
            self._file.write(f"{_one_line(name)}\t{kind}\t{_one_line(reason)}\n")

    def summary(self) -> str:
        """Lines with kind, count and examples, the most frequent kind first."""
        lines = []
        for kind, count in self.counts.most_common():
            lines.append(f"  {kind}: {count:,}")
            lines += [f"    {_one_line(example)}" for example in self._examples[kind]]
            if count > len(self._examples[kind]):
                lines.append("    ...")
        return "\n".join(lines)

    @contextlib.contextmanager
    def refusing(self, name: str, kind: str) -> Iterator[None]:
        """A DataError inside becomes an utterance that is left out."""
        try:
            yield
        except DataError as err:
            self.add(name, kind, str(err))


def _one_line(text: str) -> str:
    return " ".join(text.split()) if text.isprintable() else " ".join(repr(text)[1:-1].split())


class Unique:
    """Names as a data directory can have them, each used once: no blanks, slashes or invisible characters."""

    def __init__(self, replacement: str = "_") -> None:
        self._replacement = replacement
        self._used: set[str] = set()
        self.num_changed = 0
        self.examples: list[tuple[str, str]] = []

    def __call__(self, name: str) -> str:
        """A safe name that nothing else has got; the same name given twice gives two."""
        safe = found = safe_name(name, self._replacement)
        number = 1
        while found in self._used:
            number += 1
            found = f"{safe}{self._replacement}{number}"
        self._used.add(found)
        if found != name:
            self.num_changed += 1
            if len(self.examples) < MAX_EXAMPLES:
                self.examples.append((name, found))
        return found


def safe_name(name: str, replacement: str = "_") -> str:
    """A name without blanks, slashes, control and invisible characters, short enough for a file; never empty."""
    composed = unicodedata.normalize("NFC", name)
    parts = "".join(" " if c in "/\\" or unicodedata.category(c)[0] in "CZ" else c for c in composed).split()
    safe = replacement.join(parts) or "unnamed"
    while len(safe.encode()) > MAX_BYTES:
        safe = safe[:-1]
    return safe
