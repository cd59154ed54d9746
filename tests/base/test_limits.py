"""Steps under a limit of memory: what native code does to a process is told, signals arrive, nothing is left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.base.limits import how_ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux alone")

STEP = """
import os, signal, sys, time
from pathlib import Path
from pipeline.base import cli

def action(tmp):
    (tmp / "file").write_text("x")
    {body}

cli.run_step(Path("out"), {{}}, {{}}, action, command="toy")
cli.run_step(Path("second"), {{}}, {{}}, lambda tmp: (tmp / "file").write_text("y") and None, command="toy")
"""
LIMIT = 4 << 30  # bytes, which is enough
WAITS = "Path('ready').write_text(str(os.getpid())); time.sleep(60)"


def start(directory: Path, body: str, limit: int | None = LIMIT) -> subprocess.Popen[str]:
    """A step in a process of its own, in a directory."""

    def set_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    (directory / "toy.py").write_text(STEP.format(body=body))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "toy.py"]
    return subprocess.Popen(
        command, cwd=directory, env=environment, preexec_fn=set_limit, stderr=subprocess.PIPE, text=True
    )


def until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


@pytest.mark.parametrize(
    "body, by",
    [("os.abort()", "SIGABRT"), ("import ctypes; ctypes.string_at(0)", "SIGSEGV"), ("os._exit(127)", "exit code 127")],
)
def test_a_crash_is_told_and_the_same_command_goes_on(tmp_path, body, by):
    done = start(tmp_path, body)
    told = done.communicate()[1]
    assert done.returncode == 2 and "Traceback" not in told
    assert f"out of memory: the step was ended by {by}, most likely for want of memory within the limit of 4096" in told
    assert not (tmp_path / "out").exists()
    done = start(tmp_path, "pass")
    assert done.communicate()[1] and done.returncode == 0
    assert (tmp_path / "out" / "file").is_file() and (tmp_path / "second" / "file").is_file()


def test_without_a_limit_a_crash_is_one(tmp_path):
    done = start(tmp_path, "os.abort()", None)
    done.communicate()
    assert done.returncode == -signal.SIGABRT


@pytest.mark.parametrize(
    "body, code, said", [("1 / 0", 1, "ZeroDivisionError"), ("[0] * 10**9", 2, "out of memory"), ("sys.exit(7)", 7, "")]
)
def test_all_else_is_as_ever(tmp_path, body, code, said):
    done = start(tmp_path, body)
    told = done.communicate()[1]
    assert done.returncode == code and said in told and "ended by" not in told


@pytest.mark.parametrize(
    "number, code", [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_reaches_the_work(tmp_path, number, code):
    """And nobody goes on working whom nobody waits for."""
    done = start(tmp_path, WAITS)
    until(lambda: (tmp_path / "ready").is_file() and (tmp_path / "ready").read_text())
    worker = int((tmp_path / "ready").read_text())
    assert worker != done.pid
    os.kill(done.pid, number)
    told = done.communicate(timeout=20)[1]
    assert done.returncode == code and "Traceback" not in told and "memory" not in told
    until(lambda: not Path(f"/proc/{worker}/exe").exists())


def test_the_work_alone_is_killed(tmp_path):
    """As the system does where memory is short; whoever started the step sees it."""
    done = start(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    done.communicate()
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "code, told",
    [
        (0, "ended with exit code 0"),
        (127, "was ended by exit code 127, most likely for want of memory"),
        (-6, "was ended by SIGABRT, most likely for want of memory"),
        (-9, "was killed (SIGKILL; the machine may have been short of memory)"),
        (-15, "was ended by SIGTERM"),
        (-63, "was ended by signal 63"),
    ],
)
def test_words(code, told):
    assert how_ended(code) == told
