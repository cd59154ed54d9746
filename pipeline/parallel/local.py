"""Processes of this machine behind the interface of ``concurrent.futures``.

Unlike ProcessPoolExecutor a process that dies (out of memory, a crash in native code) fails its own task alone and is
replaced, tasks and results are JSON, and processes never see Ctrl-C, nor outlive the one that started them. Each serves
many tasks. All are forked from one fresh interpreter, which imports what they need before.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from pipeline.base import cli
from pipeline.base.errors import PipelineError
from pipeline.base.limits import how_ended

_Item = tuple["Future[Any]", str]
_Queue = queue.SimpleQueue["_Item | None"]


class WorkerDied(PipelineError):
    """The process of a task ended before the task did."""


class LocalExecutor(Executor):
    """Runs functions of modules, with JSON values as arguments and result, in `jobs` processes."""

    def __init__(self, jobs: int, threads: int = 1, output: Path | None = None, modules: Sequence[str] = ()) -> None:
        """Args:
        jobs: processes at most. threads: of each.
        output: file to which the processes' own output is appended, of libraries and of crashes; None: stderr.
        modules: whose tuples PRELOAD name what tasks import.
        """
        assert jobs >= 1, jobs
        self._jobs, self._threads, self._output, self._modules = jobs, threads, output, modules
        self._nursery: _Nursery | None = None
        self._queue: _Queue = queue.SimpleQueue()
        self._servers: list[threading.Thread] = []
        self._processes: set[_Process] = set()
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
                server = threading.Thread(target=self._serve, daemon=True)
                server.start()  # which fails where memory is short: then there is nobody to wait for
                self._servers.append(server)
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
            if self._nursery is not None:
                self._nursery.close()
                self._nursery = None

    def _serve(self) -> None:
        """Has one process at a time and gives it tasks."""
        process: _Process | None = None
        while (item := self._queue.get()) is not None:
            future, call = item
            if self._killed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                process = process or self._start()
                future.set_result(json.loads(process.answer(call)))
            except WorkerDied as err:
                if process is not None:
                    self._end(process)
                process = None
                future.set_exception(err)
            except BaseException as err:
                future.set_exception(err)
        if process is not None:
            self._end(process)

    def _start(self) -> _Process:
        with self._lock:
            if self._killed:
                raise WorkerDied("stopped before it began")
            self._nursery = self._nursery or _Nursery(self._threads, self._output, self._modules)
            process = self._nursery.process()
            self._processes.add(process)
            return process

    def _end(self, process: _Process) -> None:
        """Lets an idle process go."""
        process.connection.close()
        with contextlib.suppress(WorkerDied):  # then nobody knows how it ended
            process.wait()
        with self._lock:
            self._processes.discard(process)


class _Process:
    """A process that does tasks."""

    def __init__(self, nursery: _Nursery, pid: int, connection: socket.socket) -> None:
        self._nursery, self._pid, self.connection = nursery, pid, connection
        self._answers = connection.makefile("r", encoding="utf-8")
        self._status: int | None = None

    def answer(self, call: str) -> str:
        """The line that answers a task; WorkerDied when there is none."""
        try:
            self.connection.sendall((call + "\n").encode())
            line = self._answers.readline()
        except OSError:
            line = ""
        if line:
            return line
        raise WorkerDied(f"its process {how_ended(os.waitstatus_to_exitcode(self.wait()))}")

    def wait(self) -> int:
        """How it ended, as ``os.waitpid`` says, once it has."""
        self._answers.close()
        if self._status is None:
            self._status = self._nursery.ask(b"%d" % self._pid)
        return self._status

    def terminate(self) -> None:
        """Ends it, unless it has ended."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)


class _Nursery:
    """The process that all others are copies of, with what they need imported: that takes a second."""

    def __init__(self, threads: int, output: Path | None, modules: Sequence[str]) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            stack.callback(theirs.close)
            stderr = None if output is None else stack.enter_context(open(output, "ab"))
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.parallel.worker"],
                stdin=theirs.fileno(),
                stdout=2 if stderr is None else stderr,  # what libraries print
                stderr=stderr,
                env=cli.environment(threads),
                start_new_session=True,
            )
        self.ask(json.dumps(list(modules)).encode())

    def process(self) -> _Process:
        """A new one."""
        ours, theirs = socket.socketpair()
        with theirs:
            return _Process(self, self.ask(b"fork", theirs.fileno()), ours)

    def ask(self, message: bytes, *given: int) -> int:
        """The number that answers a message with file descriptors; WorkerDied when there is none."""
        with self._lock:
            try:
                socket.send_fds(self._control, [message], given)
                answer = self._control.recv(64)
            except OSError:
                answer = b""
            if not answer:
                code = self._process.wait()
                raise WorkerDied(f"the process that starts all others {how_ended(code)}")
            return int(answer)

    def close(self) -> None:
        """Lets it go."""
        self._control.close()
        self._process.wait()
