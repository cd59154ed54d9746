"""A back-end for tests that runs parts one after the other in this process, the last one first."""

from __future__ import annotations

import contextlib
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest

from pipeline.parallel import run


class Inline(Executor):
    """Calls when it ends, in reverse order, so that nothing can depend on the order of parts."""

    def __init__(self) -> None:
        self._calls: list = []

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        self._calls.append((future, fn, args))
        return future

    def call_all(self) -> None:
        for future, fn, args in reversed(self._calls):
            future.set_result(fn(*args))


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes all steps use it for the rest of a test."""

    @contextlib.contextmanager
    def open_executor(*args):
        yield Inline()

    watch = run._watch

    def call_first(waiting, parts, *args):
        executors[-1].call_all()
        watch(waiting, parts, *args)

    executors: list[Inline] = []
    monkeypatch.setattr(run, "open_executor", open_executor)
    monkeypatch.setattr(run, "_watch", call_first)
    init = Inline.__init__

    def remember(self) -> None:
        init(self)
        executors.append(self)

    monkeypatch.setattr(Inline, "__init__", remember)


def content(directory: Path) -> dict[str, bytes]:
    """All files of a directory but logs."""
    files = (p for p in sorted(directory.rglob("*")) if p.is_file() and "log" not in p.relative_to(directory).parts)
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in files}
