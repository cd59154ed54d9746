"""The small recipe, run once per session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.steps.small_recipe import ROOT, STEPS, run_step


def compiled() -> set[tuple[str, int]]:
    """The functions that numba has compiled and kept."""
    return {(str(path), path.stat().st_mtime_ns) for path in (ROOT / "pipeline").rglob("*.nbc")}


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory in which every step of the small recipe has run undisturbed; tests must not change it."""
    directory = tmp_path_factory.mktemp("recipe")
    for name, (output, _) in STEPS.items():
        known = None
        # What is compiled in the run itself may round otherwise than what is loaded: such a run is repeated.
        while known != compiled():
            known = compiled()
            shutil.rmtree(directory / output, ignore_errors=True)
            done = run_step(name, directory)
            assert done.returncode == 0, (name, done.stderr[-3000:])
    return directory
