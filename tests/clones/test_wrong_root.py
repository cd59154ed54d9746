"""Preparations that get a folder without their corpus: exit code 2, and what should be there."""

from __future__ import annotations

import sys

import pytest

from tests.clones.speech import ROOT


@pytest.mark.parametrize(
    ("script", "needed"),
    [
        ("swbd/local/prepare_swbd.py", "sw02001.sph and the others of LDC97S62"),
        ("tedlium2/local/prepare_tedlium2.py", "train/, dev/ and test/ with sph/ and stm/ each"),
        ("babel_tagalog/local/prepare_babel.py", "conversational/ of the language pack"),
    ],
)
def test_wrong_root(script, needed, tmp_path, run_script):
    (tmp_path / "empty").mkdir()
    done = run_script(sys.executable, ROOT / "egs" / script, "data", "--corpus-root", "empty")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"not found in empty: name its folder with --corpus-root, which holds {needed}" in done.stderr
    assert not (tmp_path / "data").exists()
