"""Fixtures of the tests of shell scripts."""

from __future__ import annotations

import pytest


@pytest.fixture
def write_script(tmp_path, run_script):
    """Writes text as an executable ``run.sh``; returns a function that runs it with the arguments given."""

    def write(text):
        path = tmp_path / "run.sh"
        path.write_text(text)
        path.chmod(0o755)
        return lambda *args: run_script(path, *args)

    return write
