"""Shared set-up of the tests: hypothesis without a clock, what is skipped where."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

import pipeline.base.cli  # noqa: F401  chooses the code path of MKL, before the first product, as in all steps

ROOT = Path(__file__).resolve().parent.parent

# Other work on the machine makes single examples slow; that is no failure.
hypothesis.settings.register_profile("pipeline", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pipeline")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--slow, which utils/test.sh hands on."""
    parser.addoption("--slow", action="store_true", help="also run recipes on miniature clones of their corpora")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what is marked `clone` without --slow, and what is marked `cuda` where there is no CUDA device."""
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("clone"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; utils/test.sh --slow runs it"))
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _quiet_console():
    """Removes the console handlers that a command under test has set up."""
    before = list(logging.getLogger().handlers)
    yield
    for handler in list(logging.getLogger().handlers):
        if handler not in before and type(handler).__module__.startswith("pipeline"):
            logging.getLogger().removeHandler(handler)


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command with the environment of a recipe, in `tmp_path`, and returns what it did and printed."""

    def run(
        *command: str | Path, cwd: Path = tmp_path, timeout: float = 120, **env: str
    ) -> subprocess.CompletedProcess:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        full = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "FULLSUM_ENV": "system", **env}
        return subprocess.run(
            [str(part) for part in command], cwd=cwd, env=full, capture_output=True, text=True, timeout=timeout
        )

    return run
