"""Commands as forks of one process that has imported what they need: the start of Python and torch costs seconds."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pkgutil
import resource
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pipeline

PRELOAD = ("lhotse", "scipy.signal", "soundfile", "safetensors.torch", "matplotlib.figure", "sentencepiece", "kaldilm")
NOT_PRELOADED = ("_k2", "dask_cluster", "slurm", "parallel.worker")  # ends of modules' names: what may be missing
LEFT_OPEN = "left open:"  # begins what is told of files that a command has not closed
HANGS_SECONDS = 300.0
ORPHANS_SECONDS = 20.0  # within which processes end that a killed one had started
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Limits:
    """What a command may use.

    Attributes:
        memory: MiB of address space above what this process has.
        files: open at once.
    """

    memory: int | None = None
    files: int | None = None

    def set(self) -> None:
        """Sets them for this process."""
        if self.memory is not None:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (self.memory << 20),) * 2)
        if self.files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code, or -N for signal N; None for one that hung and was killed.
        output: what it wrote to stdout and stderr.
        processor: seconds that it has computed, as far as seen.
    """

    code: int | None
    output: str
    processor: float


def preload() -> None:
    """Imports what commands need."""
    own = (module.name for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."))
    for module in (*PRELOAD, *(name for name in own if not name.endswith(NOT_PRELOADED) and "triton" not in name)):
        importlib.import_module(module)
    assert threading.active_count() == 1, "a fork has only one thread"
    gc.freeze()


def adopt_orphans() -> None:
    """Makes this process the parent of all descendants whose parent ends, so that none gets lost."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def start(argv: Sequence[str], cwd: Path, output: Path, environment: dict[str, str], limits: Limits) -> int:
    """Starts a Python script, as `python ARGV` in a directory; its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells let background processes ignore
    os.chdir(cwd)
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(fd, number)
    os.close(fd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)
    sys.argv = list(argv)
    sys.path[0] = str(Path(argv[0]).resolve().parent)
    limits.set()
    faulthandler.enable()
    os._exit(_run(argv[0]))


def _run(script: str) -> int:
    """Runs a script as the interpreter does, and what it does at its end, but for taking all modules apart: that would
    take longer than most steps do. The exit code.
    """
    code: object = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as err:
        code = err.code
    except KeyboardInterrupt as err:
        code = 130
        if any(frame.name == "run_step" for frame in traceback.extract_tb(err.__traceback__)):
            traceback.print_exc()  # the step had begun; before that nobody can catch it
    except BaseException:
        traceback.print_exc()
        code = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    for path in map(os.path.realpath, sorted(Path("/proc/self/fd").iterdir())):
        if path.startswith(os.getcwd() + os.sep):
            print(f"{LEFT_OPEN} {path}", file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def wait(pid: int, output: Path, watch: Callable[[float], None] | None = None) -> Ended:
    """Waits for the end of a command that ``start`` started.

    Args:
        watch: called again and again until it has ended, with the seconds that it has computed.
    """
    code: int | None = None
    processor, began = 0.0, time.monotonic()
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() - began > HANGS_SECONDS:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        processor = max(processor, processor_time(pid))
        if watch is not None:
            watch(processor)
        time.sleep(0.01)
    return Ended(code, output.read_text(encoding="utf-8", errors="replace"), processor)


def reap_orphans() -> int:
    """Waits for the processes that commands have started and left; the number of those that had to be killed."""
    until, killed = time.monotonic() + ORPHANS_SECONDS, 0
    while True:
        try:
            found, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return killed
        if found:
            continue
        if time.monotonic() > until:
            left = children(os.getpid())
            killed += len(left)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            until = time.monotonic() + ORPHANS_SECONDS
        time.sleep(0.01)


def processor_time(pid: int) -> float:
    """Seconds that a process and those that it has started have computed so far."""
    total = 0
    for process in (pid, *descendants(pid)):
        total += sum(int(text.split()[0]) for text in _of_threads(process, "schedstat"))
    return total / 1e9


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    return [int(child) for text in _of_threads(pid, "children") for child in text.split()]


def _of_threads(pid: int, name: str) -> list[str]:
    """What the system says of each thread of a process; nothing of those that have ended."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/task/{thread}/{name}").read_text())
    return found
