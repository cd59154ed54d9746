"""Time and memory of a command, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

ROOT = Path(__file__).resolve().parent.parent


class Cost(NamedTuple):
    """What a process has taken.

    Attributes:
        seconds: from the start of the interpreter to its end.
        busy: processor seconds over all threads.
        peak_mib: high-water mark of resident memory in MiB.
    """

    seconds: float
    busy: float
    peak_mib: float


def measure(script: Path, arguments: Sequence[object], threads: int) -> Cost:
    """Runs a Python script with so many threads; ClickException with the end of its output if it fails."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    command = [sys.executable, str(script), *map(str, arguments)]
    # Its standard output would stand between our own lines.
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    output = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"{script.name} {' '.join(map(str, arguments))} failed:\n{output[-3000:]}")
    return Cost(time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
