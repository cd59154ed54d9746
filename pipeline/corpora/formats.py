"""The formats of corpora: which one a folder or file has, and who reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.corpora import elan, subtitles, textgrid, timed_words
from pipeline.corpora.elan import read_elan
from pipeline.corpora.folder import TEXTS, files_below, read_folder
from pipeline.corpora.kaldi import is_kaldi, read_kaldi
from pipeline.corpora.lhotse_manifests import is_lhotse, read_lhotse
from pipeline.corpora.options import CorpusFormat, ImportOptions
from pipeline.corpora.source import LeftOut, SourceUtterance
from pipeline.corpora.subtitles import read_subtitles
from pipeline.corpora.tables import is_table, read_tables
from pipeline.corpora.textgrid import read_textgrids
from pipeline.corpora.timed_words import read_timed_words

Reader = Callable[[Path, "Path | None", ImportOptions, LeftOut], Iterator[SourceUtterance]]


@dataclass(frozen=True)
class Format:
    """A format of corpora.

    Attributes:
        shows: what it looks like, in words.
        read: its reader.
        suffixes: those of its files, one of which is the corpus or stands below its folder.
        recognise: whether a folder or file has the format, whatever else is in it.
    """

    shows: str
    read: Reader
    suffixes: tuple[str, ...] = ()
    recognise: Callable[[Path], bool] = lambda source: False


# The first that recognises a source has it.
FORMATS: dict[CorpusFormat, Format] = {
    "kaldi": Format("wav.scp", read_kaldi, recognise=is_kaldi),
    "lhotse": Format("lhotse's cuts, or recordings and supervisions", read_lhotse, recognise=is_lhotse),
    "table": Format("a .csv, .tsv or .jsonl that names audio and text", read_tables, recognise=is_table),
    "textgrid": Format("Praat's .TextGrid", read_textgrids, (textgrid.SUFFIX,)),
    "elan": Format("ELAN's .eaf", read_elan, (elan.SUFFIX,)),
    "subtitles": Format(".srt or .vtt", read_subtitles, subtitles.SUFFIXES),
    "timed_words": Format(".stm or .ctm", read_timed_words, timed_words.SUFFIXES),
    "folder": Format("audio files with .txt or .lab beside them", read_folder, TEXTS),
}


def format_of(source: Path, options: ImportOptions) -> CorpusFormat:
    """Name of the format of a corpus.

    Args:
        source: folder or file.
    Raises:
        DataError: nothing is recognised, or more than one format.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or directory")
    if options.format != "auto":
        return options.format
    whole = next((name for name, entry in FORMATS.items() if entry.recognise(source)), None)
    if whole is not None:
        return whole
    there = suffixes_of(source)
    found = [name for name, entry in FORMATS.items() if there.intersection(entry.suffixes)]
    if len(found) == 1:
        return found[0]
    if options.name_pattern and source.is_dir():
        return "folder"
    known = "; ".join(f"{name} ({entry.shows})" for name, entry in FORMATS.items())
    if found:
        shown = " and ".join(f"{name} ({FORMATS[name].shows})" for name in found)
        raise DataError(f"{source}: could be {shown}; --format NAME says which")
    raise DataError(
        f"{source}: no format of a corpus that is known here: {known}; --name-pattern reads transcripts from file names"
    )


def suffixes_of(source: Path) -> set[str]:
    """Suffixes, in small letters, of a file or of the files below a folder."""
    names = (name for _, files in files_below(source) for name in files) if source.is_dir() else iter([source.name])
    return {os.path.splitext(name)[1].lower() for name in names}


def read_corpus(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """Utterances of a corpus as it has them, see `SourceUtterance`.

    Args:
        root: directory that relative paths of audio start from; None: looked for.
        out: gets what cannot be read.
    """
    yield from FORMATS[format_of(source, options)].read(source, root, options, out)
