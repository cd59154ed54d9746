"""The sources as ruff and mypy see them, with the settings in pyproject.toml."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(tool: str, *args: str) -> None:
    """Runs a tool on the checkout and asserts that it has nothing to say; continuous integration must have it."""
    if importlib.util.find_spec(tool) is None and not os.environ.get("CI"):
        pytest.skip(f"{tool} is not installed; the extra dev brings it")
    done = subprocess.run([sys.executable, "-m", tool, *args], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_check():
    run("ruff", "check", "--no-cache", ".")


def test_ruff_format():
    run("ruff", "format", "--check", "--no-cache", ".")


def test_mypy():
    """In the environment of reference only: other versions of torch and numpy describe their functions otherwise."""
    if not importlib.metadata.version("torch").startswith("1.13.1"):
        pytest.skip("types are checked against torch 1.13.1")
    run("mypy")
