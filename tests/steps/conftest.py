"""The small recipe, run once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.steps.small_recipe import STEPS, run_step


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory in which every step of the small recipe has run undisturbed; tests must not change it."""
    directory = tmp_path_factory.mktemp("recipe")
    for name in STEPS:
        done = run_step(name, directory)
        assert done.returncode == 0, (name, done.stderr[-3000:])
    return directory
