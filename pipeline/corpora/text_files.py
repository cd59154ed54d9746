"""Text files of any origin: UTF-8, UTF-16 with its mark, or an encoding that is named; any line ends."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.base.files import BROKEN_GZIP, open_read

_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}


def encoding_of(path: Path, encoding: str | None) -> str:
    """The encoding to read a file with: that of its mark, else the one given, else UTF-8."""
    with open_read(path) as file, _undamaged(path):
        head = file.read(3)
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), encoding or "utf-8")


def whole_text(path: Path, encoding: str | None = None) -> str:
    """What a file holds, with \\n between lines.

    Raises:
        DataError: it is in another encoding, or a damaged .gz file.
    """
    name = encoding_of(path, encoding)
    with open_read(path) as file, _undamaged(path):
        raw = file.read()
    try:
        return raw.decode(name).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeError as err:
        raise _undecodable(path, name, err) from None


def text_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end and the blanks around it) of a file, read line by line.

    Raises:
        DataError: names the line in another encoding.
    """
    name = encoding_of(path, encoding)
    line_no = 0
    with open_read(path) as raw, io.TextIOWrapper(raw, encoding=name, newline="\n") as file:
        try:
            for line_no, line in enumerate(file, start=1):
                yield line_no, line.strip(" \t\r\n")
        except UnicodeError as err:
            raise _undecodable(path, name, err, line_no) from None
        except (*BROKEN_GZIP, OSError) as err:
            raise DataError(f"{path}:{line_no + 1}: truncated or damaged file ({err})") from None


@contextlib.contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    try:
        yield
    except BROKEN_GZIP as err:
        raise DataError(f"{path}: truncated or damaged .gz file ({err})") from None


def _undecodable(path: Path, encoding: str, err: UnicodeError, line_no: int = 0) -> DataError:
    where = f"{path}, behind line {line_no}" if line_no else f"{path}"
    return DataError(
        f"{where}: not {encoding.removesuffix('-sig').upper()}; --encoding NAME tells how to read it ({err})"
    )
