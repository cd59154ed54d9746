"""Logging to the console and to a file per step, and progress with an estimate of the time left."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

CONSOLE_FORMAT = "%(asctime)s %(levelprefix)s%(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s:%(lineno)d %(message)s"


class _Formatter(logging.Formatter):
    """Names the level only from warnings upwards: most console lines are plain information."""

    def format(self, record: logging.LogRecord) -> str:
        record.levelprefix = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        return super().format(record)


class _Console(logging.Handler):
    """Writes to what sys.stderr is at the time of writing, so that redirecting it works."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Formatter(CONSOLE_FORMAT, "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:  # as in all handlers: a message that cannot be shown must not stop the work
            self.handleError(record)


def setup(verbose: bool = False) -> None:
    """Sends the log of this process to the console: information and above, or everything when `verbose`."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    logging.getLogger("pipeline").setLevel(logging.DEBUG)
    console = next((h for h in root.handlers if isinstance(h, _Console)), None)
    if console is None:
        console = _Console()
        root.addHandler(console)
    console.setLevel(logging.DEBUG if verbose else logging.INFO)


def setup_default() -> None:
    """Sets the console up unless that has been done, so that no message is lost in a program that forgot it."""
    if not any(isinstance(handler, _Console) for handler in logging.getLogger().handlers):
        setup()


_listeners: list[Callable[[int, int | None], None]] = []


@contextlib.contextmanager
def listener(hear: Callable[[int, int | None], None]) -> Iterator[None]:
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
    handler = logging.FileHandler(path, encoding="utf-8")
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


def progress(iterable: Iterable[T], total: int | None = None, desc: str = "", every: float = 20.0) -> Iterator[T]:
    """Yields the items of `iterable` and reports how many are done and how long the rest will take.

    On a terminal one line is rewritten; elsewhere a line is logged about every `every` seconds, so that work
    that ends sooner logs nothing.

    Args:
      iterable: what to go through.
      total: number of items; taken from `len(iterable)` where that exists.
      desc: what is being done.
      every: seconds between two logged lines.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    tty = sys.stderr.isatty()
    wait = 0.2 if tty else every
    start = last = time.monotonic()
    shown = False
    try:
        for done, item in enumerate(iterable, start=1):
            yield item
            for hear in _listeners:
                hear(done, total)
            now = time.monotonic()
            if now - last >= wait:
                last, shown = now, True
                line = _progress_line(desc, done, total, now - start)
                if tty:
                    sys.stderr.write(f"\r\033[K{line}")
                    sys.stderr.flush()
                else:
                    logger.info("%s", line)
    finally:
        if tty and shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


@contextlib.contextmanager
def progress_of(total: int, desc: str = "") -> Iterator[Callable[[int], None]]:
    """Reports as ``progress`` does on work that is done several items at a time.

    Returns:
      a context manager that yields a function, which is told how many more items are done.
    """
    steps = progress(range(total), total, desc)
    next(steps, None)

    def advance(count: int) -> None:
        for _ in range(count):
            next(steps, None)

    try:
        yield advance
    finally:
        steps.close()  # type: ignore[attr-defined]  # a generator


def _progress_line(desc: str, done: int, total: int | None, elapsed: float) -> str:
    prefix = f"{desc}: " if desc else ""
    if not total:
        return f"{prefix}{done:,} done in {duration(elapsed)}"
    left = elapsed / done * max(total - done, 0)
    return f"{prefix}{done:,} of {total:,} ({100 * done / total:.0f} %), {duration(left)} left"
