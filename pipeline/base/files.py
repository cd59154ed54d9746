"""Reading and writing of files: writes are atomic, reads name file and line when the data is broken.

Names that end in ``.gz`` are compressed and decompressed on the way.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from pipeline.base.errors import DataError

# Files, each of which waits for the disk; of more, all that the machine has written is synced at once.
_MOST_SYNCS = 1000
BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Opens a file for writing that appears under its name only when it is complete and on disk.

    Args:
      path: the file; its directory is made when missing.
      mode: "w" for UTF-8 text, "wb" for bytes.
    Returns:
      a context manager that yields the open file; an exception inside it leaves an older file as it was.
    """
    assert mode in ("w", "wb"), mode
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(tmp, "wb", opener=no_link) as raw:
            with contextlib.ExitStack() as stack:
                out: IO[Any] = raw
                if path.suffix == ".gz":
                    # No name and no time in the header: equal content gives equal bytes.
                    out = cast(IO[bytes], stack.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0)))
                if mode == "w":
                    out = stack.enter_context(_Text(out, encoding="utf-8", newline="\n"))
                yield out
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(tmp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            tmp.unlink()
        raise
    sync_dir(path.parent)


def no_link(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a file for `open`, unless its name is a symbolic link: somebody who may write to the directory could guess
    the names of temporary files and locks, and have others write elsewhere.
    """
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise DataError(f"{path}: is a symbolic link, which nothing here makes; remove it") from None
        raise


_LONGEST_NAME = 230  # bytes; file systems take 255, and atomic_write adds some


class FileNames:
    """Names of files of a directory, made of ids, whose slashes become underscores."""

    def __init__(self, directory: str | os.PathLike[str], suffix: str, what: str = "utterances") -> None:
        """Args:
        directory: where the files go, for messages.
        suffix: of the files, such as ".png".
        what: has ids, for messages.
        """
        self._directory, self._suffix, self._what, self._taken = directory, suffix, what, set[str]()

    def of(self, name: str) -> str:
        """The file of a further id; DataError when it is another one's as well."""
        file = name.replace("/", "_") + self._suffix
        if len(file.encode()) > _LONGEST_NAME or "\0" in file:
            raise DataError(f"{self._directory}: {name[:40]!r}.. is too long for the name of a file, or holds a NUL")
        if file in self._taken:
            raise DataError(f"{self._directory}: two {self._what} would be written to {file}")
        self._taken.add(file)
        return file


def remove_unfinished(directory: Path) -> None:
    """Removes what a killed process was writing by atomic_write below a directory that nobody else writes to."""
    for path in directory.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name) and path.is_file():
            path.unlink()


class _Text(io.TextIOWrapper):
    """A text layer that leaves the file below it open when it ends, so that the caller can still fsync it."""

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.flush()
            self.detach()


def sync_dir(path: Path) -> None:
    """Makes a rename inside the directory `path` survive a loss of power."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network file systems do not sync directories; the rename itself is still atomic
    finally:
        os.close(fd)


def sync_tree(path: Path) -> None:
    """Makes all files below the directory `path` survive a loss of power."""
    found = [(Path(directory), names) for directory, _, names in os.walk(path)]
    if sum(len(names) for _, names in found) > _MOST_SYNCS:
        os.sync()
        return
    for directory, names in found:
        for name in names:
            if not (directory / name).is_symlink():
                sync_file(directory / name)
        sync_dir(directory)


def sync_file(path: Path) -> None:
    """Makes what was written to a file survive a loss of power."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_read(path: str | os.PathLike[str]) -> gzip.GzipFile | io.BufferedReader:
    """Opens a file, compressed or not, for reading bytes; a missing one is a DataError."""
    path = Path(path)
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")
    except (OSError, ValueError) as err:
        raise unopened(path, err) from None


def check_utf8(path: str) -> None:
    """DataError for a path or argument whose bytes are no UTF-8: neither stamps nor manifests can hold it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(f"{path!a}: this name is not UTF-8, and what is written here is; rename it") from None


def unopened(path: str | os.PathLike[str], err: OSError | ValueError) -> DataError:
    """The error of a file that cannot be opened, from what Python raises: ValueError for a name with a NUL in it."""
    if isinstance(err, FileNotFoundError):
        return DataError(f"{path}: no such file")
    if isinstance(err, IsADirectoryError):
        return DataError(f"{path}: is a directory, not a file")
    return DataError(f"{path}: cannot be read ({err.strerror if isinstance(err, OSError) else err})")


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line without white space around it) of a UTF-8 file.

    Bytes that are not UTF-8 and a truncated .gz file are DataErrors that name the line.
    """
    line_no = 0
    with open_read(path) as file:
        try:
            for line_no, raw in enumerate(file, start=1):
                line = raw.decode("utf-8")
                yield line_no, (line.lstrip("\ufeff") if line_no == 1 else line).strip(" \t\r\n")
        except UnicodeDecodeError as err:
            raise DataError(f"{path}:{line_no}: not UTF-8 (byte {err.start + 1} of the line)") from None
        except BROKEN_GZIP as err:
            raise DataError(f"{path}:{line_no + 1}: truncated or damaged .gz file ({err})") from None


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns a whole UTF-8 file; the errors are those of read_lines."""
    with open_read(path) as file:
        try:
            raw = file.read()
        except BROKEN_GZIP as err:
            raise DataError(f"{path}: truncated or damaged .gz file ({err})") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise DataError(f"{path}:{raw[: err.start].count(10) + 1}: not UTF-8") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """Returns what a JSON file holds; the errors are those of read_text and parse_json."""
    return parse_json(read_text(path), path, lines=True)


def parse_json(text: str, where: str | os.PathLike[str], lines: bool = False) -> Any:
    """The value of a JSON text, whatever file it stands in: the one place where JSON comes in.

    Args:
      where: file, or file and line, for messages.
      lines: add the line within the text.
    Raises:
      DataError: no JSON; or what Python makes of it could not be written again: NaN, numbers beyond floating point,
        thousands of digits or levels, halves of Unicode's surrogate pairs.
    """
    try:
        value = _JSON.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as err:
        raise DataError(f"{where}{f':{err.lineno}' if lines else ''}: not JSON: {err.msg}") from None
    except RecursionError:
        raise DataError(f"{where}: JSON that is nested too deeply") from None
    except _NotFiniteError as err:
        raise DataError(f"{where}: {_place_of_not_finite(text)}{err} is no finite number") from None
    except ValueError as err:
        raise DataError(f"{where}: JSON with a value that cannot be used: {err}") from None


class _NotFiniteError(ValueError):
    """A number of JSON, as it is written."""


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _NotFiniteError(digits)
    return number


def _place_of_not_finite(text: str) -> str:
    """``scales.prior: `` for the first number that is not finite; nothing if the text is no JSON anyway."""
    try:
        return _not_finite(json.loads(text)) or ""
    except (ValueError, RecursionError):
        return ""


def _not_finite(value: Any) -> str | None:
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found = _not_finite(inner)
            if found is not None:
                return f"{key}{'.' if found[:1] != ':' else ''}{found}"
    return ": " if isinstance(value, float) and not math.isfinite(value) else None


_JSON = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Writes `obj` as indented JSON. NaN and infinity are refused, since no JSON reader has to know them."""
    with atomic_write(path) as out:
        out.write(json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yields one object per line of a JSON-lines file; a bad line is a DataError that names it."""
    for line_no, line in read_lines(path):
        if not line:
            continue
        yield parse_json(line, f"{path}:{line_no}")


def write_jsonl(path: str | os.PathLike[str], objs: Iterable[Any]) -> int:
    """Writes one JSON object per line and returns their number."""
    count = 0
    with atomic_write(path) as out:
        for obj in objs:
            out.write(json.dumps(obj, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


_MOST_VALUES = 1_000_000  # of a YAML file


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Returns what a YAML file holds. Never runs code; a key given twice is an error, not an overwrite, and so are
    aliases (*name) that let a few lines stand for more values than memory holds.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader with checks."""

        def get_single_node(self) -> yaml.Node | None:
            node = super().get_single_node()
            if node is not None and size(node, {}) > _MOST_VALUES:
                raise DataError(f"{path}: its aliases stand for more than {_MOST_VALUES:,} values")
            return node

    def size(node: yaml.Node, known: dict[int, int]) -> int:
        """Values that a node stands for."""
        if id(node) not in known:
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            inner = [n for pair in inner for n in pair] if isinstance(node, yaml.MappingNode) else inner
            known[id(node)] = 1 + sum(size(n, known) for n in inner)
        return known[id(node)]

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if (key.tag, str(key.value)) in seen:
                raise DataError(f"{path}:{key.start_mark.line + 1}: key {key.value!r} is given twice")
            seen.add((key.tag, str(key.value)))
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    text = read_text(path)
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise DataError(f"{where}: not YAML: {getattr(err, 'problem', None) or err}") from None
    except RecursionError:
        raise DataError(f"{path}: YAML that is nested too deeply") from None
    except ValueError as err:  # dates that no calendar has, numbers of thousands of digits
        raise DataError(f"{path}: YAML with a value that cannot be used: {err}") from None


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of the bytes of a file (of the compressed bytes for .gz) as hexadecimal digits."""
    try:
        with open(path, "rb") as file:
            return sha256_stream(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None


def sha256_stream(file: IO[bytes]) -> str:
    """Returns the SHA-256 of what is left to read in an open file as hexadecimal digits."""
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


def content_id(obj: Any) -> str:
    """Short id of a JSON value: equal content gives equal ids on every machine.

    Returns:
      16 hexadecimal digits of the SHA-256 of the canonical JSON text.
    """
    text = json.dumps(obj, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
