"""Processes of this machine behind the interface of ``concurrent.futures``.

Unlike ProcessPoolExecutor a process that dies (out of memory, a crash in native code) fails its own task alone and is
replaced, tasks and results are JSON, and processes never see Ctrl-C, nor outlive the one that started them. Each is a
fresh interpreter that serves many tasks.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from pipeline.base import cli
from pipeline.base.errors import PipelineError

_Item = tuple["Future[Any]", str]
_Queue = queue.SimpleQueue["_Item | None"]


class WorkerDied(PipelineError):
    """The process of a task ended before the task did."""


class LocalExecutor(Executor):
    """Runs functions of modules, with JSON values as arguments and result, in `jobs` processes."""

    def __init__(self, jobs: int, threads: int = 1, output: Path | None = None) -> None:
        """Args:
        jobs: processes at most. threads: of each.
        output: file to which the processes' own output is appended, of libraries and of crashes; None: stderr.
        """
        assert jobs >= 1, jobs
        self._jobs, self._threads, self._output = jobs, threads, output
        self._queue: _Queue = queue.SimpleQueue()
        self._servers: list[threading.Thread] = []
        self._processes: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = self._killed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Sends a call to the next process that is free; exceptions of `fn` end its process, so it had better return
        them.
        """
        assert not kwargs and "<" not in fn.__qualname__, fn
        future: Future[Any] = Future()
        call = json.dumps({"function": f"{fn.__module__}:{fn.__qualname__}", "arguments": args})
        with self._lock:
            if self._stopped:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.put((future, call))
            if len(self._servers) < self._jobs:
                self._servers.append(threading.Thread(target=self._serve, daemon=True))
                self._servers[-1].start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes after the tasks that are waiting, or, with `cancel_futures`, at once, with the tasks that
        they are working on.
        """
        with self._lock:
            self._stopped = True
            if cancel_futures:
                self._killed = True
                for process in self._processes:
                    process.terminate()
            for _ in self._servers:
                self._queue.put(None)
        if wait:
            for server in self._servers:
                server.join()

    def _serve(self) -> None:
        """Has one process at a time and gives it tasks."""
        process: subprocess.Popen[str] | None = None
        while (item := self._queue.get()) is not None:
            future, call = item
            if self._killed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                process = process or self._start()
                future.set_result(json.loads(_answer(process, call)))
            except WorkerDied as err:
                assert process is not None
                self._end(process)
                process = None
                future.set_exception(err)
            except BaseException as err:
                future.set_exception(err)
        if process is not None:
            self._end(process)

    def _start(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._killed:
                raise WorkerDied("stopped before it began")
            stderr = None if self._output is None else open(self._output, "ab")  # noqa: SIM115
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "pipeline.parallel.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=cli.environment(self._threads),
                    start_new_session=True,
                    text=True,
                    encoding="utf-8",
                )
            finally:
                if stderr is not None:
                    stderr.close()
            self._processes.add(process)
            return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Lets an idle process go."""
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):  # it may be gone already
            process.stdin.close()
        process.wait()
        process.stdout.close()
        with self._lock:
            self._processes.discard(process)


def _answer(process: subprocess.Popen[str], call: str) -> str:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(call + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        line = ""
    if line:
        return line
    code = process.wait()
    raise WorkerDied(f"its process {_how_ended(code)}")


def _how_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL; the machine may have been short of memory)"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
