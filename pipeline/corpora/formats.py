"""The formats of corpora: which one a folder or file has, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.corpora.kaldi import is_kaldi, read_kaldi
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.source import LeftOut, SourceUtterance

Reader = Callable[[Path, "Path | None", ImportOptions, LeftOut], Iterator[SourceUtterance]]


@dataclass(frozen=True)
class Format:
    """A format: what it looks like in words, whether a folder or file has it, and its reader."""

    shows: str
    recognise: Callable[[Path], bool]
    read: Reader


# The first that recognises a source has it.
FORMATS: dict[str, Format] = {
    "kaldi": Format("wav.scp", is_kaldi, read_kaldi),
}


def format_of(source: Path, wanted: str) -> str:
    """Name of the format of a corpus.

    Args:
        source: folder or file.
        wanted: a name, or auto.
    Raises:
        DataError: nothing is recognised.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or directory")
    if wanted != "auto":
        return wanted
    for name, entry in FORMATS.items():
        if entry.recognise(source):
            return name
    known = "; ".join(f"{name}: {entry.shows}" for name, entry in FORMATS.items())
    raise DataError(f"{source}: no format of a corpus that is known here ({known}); --format NAME says which it is")


def read_corpus(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances of a corpus as it has them, see `SourceUtterance`.

    Args:
        root: directory that relative paths of audio start from; None: looked for.
        out: gets what cannot be read.
    """
    yield from FORMATS[format_of(source, options.format)].read(source, root, options, out)
