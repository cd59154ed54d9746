"""Tables with a row for each utterance: .csv, .tsv, LJSpeech's | without a heading, JSON lines as of Hugging Face."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.characters import WHOLE_NUMBER
from pipeline.artifacts.cut_checks import MOST_SECONDS
from pipeline.base.errors import DataError
from pipeline.corpora import json_files
from pipeline.corpora.folder import id_of
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.places import Places, roots_above
from pipeline.corpora.source import LeftOut, SourceAudio, SourceUtterance
from pipeline.corpora.text_files import encoding_of, text_lines

SUFFIXES = (".csv", ".tsv", ".psv")
# What columns are called, the likelier name first.
NAMES = {
    "audio": "audio audio_path audio_filepath audio_file audiofile path filepath file_path file_name filename file wav "
    "wav_path wav_file wav_filename wavfile mp3 clip recording",
    "text": "text sentence transcript transcription transcription_text normalized_text normalised_text sentence_norm "
    "normalized_transcription raw_transcription utterance words orthography label",
    "speaker": "speaker speaker_id speakerid spk spk_id client_id reader_id reader user_id",
    "id": "id utt_id utterance_id uttid utt segment_id",
    "start": "start start_time begin offset start_sec start_seconds",
    "end": "end end_time stop end_sec end_seconds",
    "duration": "duration",
    "channel": "channel",
    "gender": "gender sex",
    "language": "language locale lang",
}
_FOLDERS = ("wavs", "clips", "audio", "wav", "data", "audios", "flac", "mp3")
_GENDERS = {"f": "female", "m": "male", "female": "female", "male": "male", "female_feminine": "female",
            "male_masculine": "male"}  # fmt: skip


def is_table(source: Path) -> bool:
    """Whether a file, or a file in a folder, is a table that names audio and text."""
    return bool(_tables(source))


def _tables(source: Path) -> list[Path]:
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    return [path for path in files if path.is_file() and _looks_like_table(path)]


def _looks_like_table(path: Path) -> bool:
    if path.name.lower().endswith(json_files.SUFFIXES):
        first = json_files.first_object(path)
        return {"audio", "text"} <= set(_known(list(first)))
    if not path.name.lower().endswith(SUFFIXES):
        return False
    try:
        rows = _Rows(path)
        return {"audio", "text"} <= set(_known(rows.heading)) or rows.without_heading()
    except (DataError, OSError):
        return False


def _known(heading: Sequence[str]) -> dict[str, int]:
    """Column -> position, of the columns whose names are known."""
    plain = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in heading]
    found = {}
    for column, names in NAMES.items():
        at = next((plain.index(name) for name in names.split() if name in plain), None)
        if at is not None:
            found[column] = at
    return found


def read_tables(source: Path, root: Path | None, options: ImportOptions, out: LeftOut) -> Iterator[SourceUtterance]:
    """An utterance for each row of a table.

    Args:
        source: the table, or a folder that has one.
        root: directory that the paths of audio start from; None: looked for around the table.
    """
    if source.is_dir():
        tables = _tables(source)
        if len(tables) != 1:
            shown = ", ".join(path.name for path in tables) or "none"
            raise DataError(f"{source}: needs one table that names audio and text, has {shown}; give one as SOURCE")
        source = tables[0]
    reader = _Reader(source, root, options)
    for where, name, row in reader.rows(out):
        with out.refusing(name, "row of a table"):
            yield from reader.utterance(where, row, out)


class _Rows:
    """Rows of a .csv or its like: the delimiter is that of --delimiter, else the one that the first line shows."""

    def __init__(self, path: Path, encoding: str | None = None, delimiter: str | None = None) -> None:
        self.path = path
        self.encoding = encoding_of(path, encoding)
        first = next((line for _, line in text_lines(path, encoding)), "")
        self.delimiter = {"tab": "\t"}.get(delimiter or "", delimiter) or _delimiter(first)
        # Quotes are text in tables with tabs or bars: Common Voice and LJSpeech have single ones.
        self.quoting: Any = csv.QUOTE_MINIMAL if self.delimiter in ",;" else csv.QUOTE_NONE
        self.heading = next((row for _, row in self), [])

    def _open(self) -> io.TextIOWrapper:
        return open(self.path, encoding=self.encoding, newline="")  # closed by those who call

    def without_heading(self) -> bool:
        """Whether the first row is one of data, as LJSpeech's: a name and one or two texts between bars."""
        row = self.heading
        places = Places(_roots(self.path, None))
        return self.delimiter in "|\t" and len(row) in (2, 3) and places.find(row[0]) is not None

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        with self._open() as file:
            reader = csv.reader(file, delimiter=self.delimiter, quoting=self.quoting, strict=True)
            try:
                for row in reader:
                    if any(field.strip() for field in row):
                        yield reader.line_num, row
            except csv.Error as err:
                raise DataError(f"{self.path}:{reader.line_num}: {err}") from None
            except UnicodeError as err:
                told = f"{self.path}, behind line {reader.line_num}: not {self.encoding}"
                raise DataError(f"{told}; --encoding NAME tells how to read it ({err})") from None


def _delimiter(first: str) -> str:
    counts = {delimiter: first.count(delimiter) for delimiter in "\t|;,"}
    return max(counts, key=lambda delimiter: counts[delimiter]) if any(counts.values()) else ","


def _roots(table: Path, root: Path | None) -> list[Path]:
    tops = [root] if root is not None else roots_above(table.parent, levels=1)
    return [*tops, *(top / below for top in tops for below in _FOLDERS)]


class _Reader:
    def __init__(self, path: Path, root: Path | None, options: ImportOptions) -> None:
        self.path, self.options = path, options
        self.places = Places(_roots(path, root), options.suffix, below=root or path.parent)
        self.json = path.name.lower().endswith(json_files.SUFFIXES)
        self.table = None if self.json else _Rows(path, options.encoding, options.delimiter)
        self.heading = self._first_keys() if self.table is None else self.table.heading
        self.has_heading = True
        self.columns = self._columns()
        self.top = os.path.abspath(root or path.parent)
        self.shared = self._shared_folder()

    def _first_keys(self) -> list[str]:
        return list(next((entry for _, entry in json_files.objects(self.path, LeftOut(), self.options.encoding)), {}))

    def _columns(self) -> dict[str, int]:
        """Column -> position: those that are named in the options, else known names, else LJSpeech's."""
        found = _known(self.heading)
        given = dict(entry.split("=", 1) for entry in self.options.columns)
        if given and all(map(WHOLE_NUMBER.fullmatch, given.values())) and not set(given.values()) & set(self.heading):
            self.has_heading = False
            found = {column: int(value) - 1 for column, value in given.items()}
            beyond = next((column for column, at in found.items() if at >= len(self.heading)), None)
            if beyond is not None:
                raise DataError(f"{self.path}:1: --columns {beyond}={given[beyond]}, of {len(self.heading)} columns")
        else:
            for column, name in given.items():
                if name not in self.heading:
                    raise DataError(f"{self.path}:1: no column {name!r} in {', '.join(map(repr, self.heading))}")
                found[column] = self.heading.index(name)
        if not {"audio", "text"} <= set(found) and not given and self.table and self.table.without_heading():
            self.has_heading = False
            found = {"audio": 0, "text": len(self.heading) - 1}
        for column in ("audio", "text"):
            if column not in found:
                raise DataError(
                    f"{self.path}:1: no column for {column} in {', '.join(map(repr, self.heading))}; "
                    f"--columns {column}=NAME names it (or its number from 1 where there is no heading)"
                )
        return found

    def _shared_folder(self) -> str | None:
        """The folder of all files, where those of different folders share a name, so that the name alone makes no id;
        else None.
        """
        if "id" in self.columns:
            return None
        stems, paths = set(), set()
        shared = ""
        for _, name, _ in self.rows(LeftOut()):
            if not name.strip():
                continue  # refused later
            path = self._whole(name.strip())
            paths.add(hash(path))  # of millions of rows the texts themselves would be large
            stems.add(hash(os.path.basename(path)))
            shared = os.path.commonpath([shared or path, os.path.dirname(path)])
        return shared if len(stems) < len(paths) else None

    def _whole(self, named: str) -> str:
        """Absolute path that a row names, without its suffix; whether it is there is another question."""
        return os.path.splitext(os.path.normpath(os.path.join(self.top, named)))[0]

    def _stem(self, named: str) -> str:
        """What a row's file gives to the ids of its utterance and recording."""
        whole = self._whole(named)
        return os.path.basename(whole) if self.shared is None else id_of(os.path.relpath(whole, self.shared))

    def rows(self, out: LeftOut) -> Iterator[tuple[str, str, Callable[[str], str]]]:
        """(file:line, name for messages, column -> value) of each row."""
        if self.table is None:
            names = {column: self.heading[at] for column, at in self.columns.items()}
            for where, entry in json_files.objects(self.path, out, self.options.encoding):
                yield where, str(entry.get(names["audio"])), self._json_values(entry, names)
            return
        for number, (line_no, row) in enumerate(self.table):
            where = f"{self.path}:{line_no}"
            if number == 0 and self.has_heading:
                continue
            if len(row) != len(self.heading):
                told = f"{where}: {len(row)} columns, where the first row has {len(self.heading)}"
                out.add(row[0], "number of columns", told)
                continue
            yield where, row[self.columns["audio"]], self._values(row)

    def _values(self, row: list[str]) -> Callable[[str], str]:
        return lambda column: row[self.columns[column]].strip() if column in self.columns else ""

    def _json_values(self, entry: dict[str, Any], names: dict[str, str]) -> Callable[[str], str]:
        def value(column: str) -> str:
            found = entry.get(names.get(column, ""))
            if found is None or isinstance(found, (str, int, float)):
                return "" if found is None else str(found)
            raise DataError(f"field {names[column]!r} should be a text or number, and is {found!r}")

        return value

    def utterance(self, where: str, row: Callable[[str], str], out: LeftOut) -> Iterator[SourceUtterance]:
        """The utterance of a row."""
        try:
            named, start, end = row("audio"), self._seconds(row("start")), self._seconds(row("end"))
            duration = self._seconds(row("duration"))
            channel, text = row("channel"), row("text")
        except DataError as err:
            raise DataError(f"{where}: {err}") from None
        if not named:
            raise DataError(f"{where}: names no audio file")
        stem = self._stem(named)
        path = self.places.find(named)
        utt_id = row("id") or stem
        if start is not None:
            end = start + duration if end is None and duration is not None else end
            utt_id = row("id") or f"{stem}-{round(start * 1000):08d}"
            if end is not None and not start < end:
                raise DataError(f"{where}: spans [{start}, {end}] s")
        if path is None:
            out.add(utt_id, "no audio", f"{where}: {self.places.missing(named)}")
            return
        if channel and not WHOLE_NUMBER.fullmatch(channel):
            raise DataError(f"{where}: channel {channel!r} is no number from 0 on")
        whole = start is None and end is None
        recording = SourceAudio(utt_id if whole else stem, path=path, channel=int(channel) if channel else None)
        yield SourceUtterance(
            utt_id,
            recording,
            text,
            where,
            row("speaker"),
            start or 0.0,
            end,
            gender=_GENDERS.get(row("gender").lower()),
            language=row("language") or None,
        )

    def _seconds(self, value: str) -> float | None:
        if not value:
            return None
        try:
            found = float(value)
        except ValueError:
            found = -1.0
        if not 0 <= found < MOST_SECONDS:
            raise DataError(f"{value!r} is no time in seconds")
        return found
