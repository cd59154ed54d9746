"""The small recipe, run once, for all processes of a session."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.steps.small_recipe import STEPS, run_step


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory in which every step of the small recipe has run undisturbed; tests must not change it.

    Processes of one session share it.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory, complete = base / "recipe", base / "recipe.complete"
    with (base / "recipe.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            directory.mkdir(exist_ok=True)
            for name in STEPS:
                done = run_step(name, directory)
                assert done.returncode == 0, (name, done.stderr[-3000:])
            complete.touch()
    return directory
