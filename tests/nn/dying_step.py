"""Runs a step for torchrun and has its last process killed once: tests/nn/dying_step.py EPOCH FILE STEP ARGUMENTS."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

from pipeline.nn import train


def main() -> None:
    """Kills this process in the middle of an epoch, if it is the last one and FILE is not there."""
    epoch, died = int(sys.argv[1]), Path(sys.argv[2])
    del sys.argv[:3]
    update = train._Run._update

    def dying(run, group, done):
        if run.state.epoch + 1 == epoch and group[0][0] and not died.exists() and run.world.rank + 1 == run.world.size:
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        update(run, group, done)

    train._Run._update = dying
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
