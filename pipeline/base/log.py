"""Logging to the console, to a file per step and as JSON lines, and progress with an estimate of the time left."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

CONSOLE_FORMAT = "%(asctime)s %(levelprefix)s%(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s:%(lineno)d %(message)s"
CLEAR = "\r\033[K"  # takes away what stands in the terminal's line


class _Formatter(logging.Formatter):
    """Names the level only from warnings upwards: most console lines are plain information."""

    def format(self, record: logging.LogRecord) -> str:
        record.levelprefix = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        return super().format(record)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, the step if it is known, the message, progress in numbers."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    def format(self, record: logging.LogRecord) -> str:
        time_of = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line: dict[str, Any] = {"time": time_of.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
        line["level"] = record.levelname.lower()
        if self._step:
            line["step"] = self._step
        line["message"] = record.getMessage()
        state: Progress | None = getattr(record, "progress", None)
        if state is not None:
            numbers = (round(state.done, 3), state.total, round(state.seconds, 3), state.left)
            line["progress"] = {"what": state.what, **dict(zip(("done", "total", "seconds", "left"), numbers))}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Console(logging.Handler):
    """Writes to what sys.stderr is at the time of writing, so that redirecting it works."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if hasattr(record, "progress") and _is_live():
                return  # the terminal shows it already
            sys.stderr.write((CLEAR if _is_live() and _meters else "") + self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # as in all handlers: a message that cannot be shown must not stop the work
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Without memory the bare message, which needs less than what logging itself would print."""
        if isinstance(sys.exc_info()[1], MemoryError):
            with contextlib.suppress(MemoryError, OSError):
                os.write(2, f"{record.getMessage()}\n".encode())
        else:
            super().handleError(record)


class _File(logging.FileHandler):
    """Appends to a file; a disk that is full, or fails, stops the messages there and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Tells of the first failure, in one line, where logging itself would print tracebacks for each."""
        error = sys.exc_info()[1]
        if isinstance(error, MemoryError):
            return  # the console has the message
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.close()
        logging.getLogger().removeHandler(self)
        logger.warning("%s: no further messages (%s)", self.baseFilename, error.strerror)

    def close(self) -> None:
        """As far as that can be done: what is still to be written may not find room."""
        with contextlib.suppress(OSError):
            super().close()


class _JsonFile(_File):
    """Adds lines to a file that several processes may share."""


class Settings(NamedTuple):
    """What ``setup`` is called with; may be handed to another process.

    Attributes:
        verbose: debug messages too. quiet: warnings and errors alone, and no progress.
        json_to: file that gets JSON lines, of information and above whether `quiet` or not; "-": they take the place
            of the text on the console.
        step: name of the step in them.
    """

    verbose: bool = False
    quiet: bool = False
    json_to: str | None = None
    step: str = ""


_settings = Settings()


def settings() -> Settings:
    """What the log of this process was set up with."""
    return _settings


def setup(verbose: bool = False, quiet: bool = False, json_to: str | None = None, step: str = "") -> None:
    """Sends the log of this process to the console and, with `json_to`, to a file; see ``Settings``.

    Raises:
        OSError: the file cannot be written.
    """
    global _settings
    _settings = Settings(verbose, quiet, json_to, step)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    logging.getLogger("pipeline").setLevel(logging.DEBUG)
    for handler in [h for h in root.handlers if isinstance(h, (_Console, _JsonFile))]:
        root.removeHandler(handler)
        if isinstance(handler, _JsonFile):
            handler.close()
    level = logging.DEBUG if verbose else logging.INFO
    console = _Console(logging.WARNING if quiet and json_to != "-" else level)
    console.setFormatter(_JsonFormatter(step) if json_to == "-" else _Formatter(CONSOLE_FORMAT, "%H:%M:%S"))
    root.addHandler(console)
    if json_to is not None and json_to != "-":
        lines = _JsonFile(json_to, encoding="utf-8", errors="backslashreplace")  # names of files may be any bytes
        lines.setLevel(level)
        lines.setFormatter(_JsonFormatter(step))
        root.addHandler(lines)


def setup_default() -> None:
    """Sets the console up unless that has been done, so that no message is lost in a program that forgot it."""
    if not any(isinstance(handler, _Console) for handler in logging.getLogger().handlers):
        setup()


def _is_live() -> bool:
    """Whether progress is a line of the terminal that is written over and over."""
    return sys.stderr.isatty() and not _settings.quiet and _settings.json_to != "-"


_listeners: list[Callable[[float, int | None], None]] = []


@contextlib.contextmanager
def listener(hear: Callable[[float, int | None], None]) -> Iterator[None]:
    """Tells `hear` of all progress for as long as the context lasts: items done, and their number if it is known."""
    _listeners.append(hear)
    try:
        yield
    finally:
        _listeners.remove(hear)


@contextlib.contextmanager
def to_file(path: Path) -> Iterator[None]:
    """Appends the log to a file, debug messages and tracebacks included, for as long as the context lasts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _File(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter(FILE_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def duration(seconds: float) -> str:
    """Returns a time span for people: "4.2 s", "3 min 07 s", "2 h 05 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, secs = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {secs:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Progress(NamedTuple):
    """How far a piece of work is.

    Attributes:
        what: is being done. done, total: items, with the share of one that is being worked on; None: not known.
        seconds: since its start. left: seconds that the rest will take, if that can be told.
    """

    what: str
    done: float
    total: int | None
    seconds: float
    left: float | None

    @property
    def text(self) -> str:
        """For people: "align data/train: 40 of 160 (25 %), 1 min 12 s left"."""
        prefix = f"{self.what}: " if self.what else ""
        if not self.total:
            return f"{prefix}{int(self.done):,} done in {duration(self.seconds)}"
        text = f"{prefix}{int(self.done):,} of {self.total:,} ({100 * self.done / self.total:.0f} %)"
        return text if self.left is None else f"{text}, {duration(self.left)} left"


class Meter:
    """Reports how far a piece of work is, as a context.

    On a terminal one line is rewritten; elsewhere a line is logged about every `every` seconds, so that work that ends
    sooner logs nothing. Meters within one another (batches of an epoch of a training) report as one: the outermost says
    how far all of it is, with the share that those within it have done of its next item.
    """

    def __init__(self, what: str, total: int | None, first: float = 0.0, every: float = 20.0) -> None:
        """
        Args:
            what: is being done. total: number of items, if it is known.
            first: items that were done before, which tell nothing about the time that the others take.
            every: seconds between two logged lines.
        """
        self._what, self._total, self._first, self._every = what, total, first, every
        self._done = first
        self._start = self._shown = self._logged = time.monotonic()

    def __enter__(self) -> Meter:
        _meters.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _meters.remove(self)
        if not _meters and _is_live() and self._shown > self._start:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()

    def at(self, done: float) -> None:
        """Tells that so many items are done, those before the start included."""
        self._done = done
        share = 0.0
        for meter in reversed(_meters[1:]):
            share = min((meter._done + share) / meter._total, 1.0) if meter._total else 0.0
        (_meters[0] if _meters else self)._report(share)

    def _report(self, share: float) -> None:
        now, done = time.monotonic(), self._done + share
        for hear in _listeners:
            hear(done, self._total)
        log_it, show_it = now - self._logged >= self._every, _is_live() and now - self._shown >= 0.2
        if not (log_it or show_it):
            return
        seconds, fresh = now - self._start, done - self._first
        left = seconds / fresh * max(self._total - done, 0) if self._total and fresh > 0 else None
        state = Progress(self._what, done, self._total, seconds, left if left is None else round(left, 3))
        if log_it:
            self._logged = now
            logger.info("%s", state.text, extra={"progress": state})
        if show_it:
            self._shown = now
            sys.stderr.write(CLEAR + state.text)
            sys.stderr.flush()


_meters: list[Meter] = []  # from the outermost to the innermost


def progress(iterable: Iterable[T], total: int | None = None, desc: str = "", every: float = 20.0) -> Iterator[T]:
    """Yields the items of `iterable` and reports how many are done and how long the rest will take, see ``Meter``.

    Args:
      iterable: what to go through.
      total: number of items; taken from `len(iterable)` where that exists.
      desc: what is being done.
      every: seconds between two logged lines.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    with Meter(desc, total, every=every) as meter:
        for done, item in enumerate(iterable, start=1):
            yield item
            meter.at(done)


@contextlib.contextmanager
def progress_of(total: int, desc: str = "") -> Iterator[Callable[[int], None]]:
    """Reports as ``progress`` does on work that is done several items at a time.

    Returns:
      a context manager that yields a function, which is told how many more items are done.
    """
    with Meter(desc, total) as meter:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            meter.at(done)

        yield advance
