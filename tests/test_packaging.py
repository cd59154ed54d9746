"""What an installed wheel brings: the command `fullsum` with all steps, in a directory that has no checkout."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from steps.__main__ import RENAMED

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory into which a wheel was installed, without what it depends on; bin/fullsum runs it."""
    base = tmp_path_factory.mktemp("wheel")
    source = base / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("pipeline", "steps"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    offline = ["--no-deps", "--no-index"]
    for command in (
        ["wheel", "--no-build-isolation", *offline, "-w", str(base), str(source)],
        ["install", *offline, "--target", str(base / "site"), str(base / "fullsum-")],
    ):
        if command[0] == "install":
            command[-1] = str(next(base.glob("fullsum-*.whl")))
        done = subprocess.run([*pip, *command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return base / "site"


def fullsum(site: Path, cwd: Path, *args: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(site / "bin" / "fullsum"), *args]
    full = {**os.environ, "PYTHONPATH": str(site), **env}
    return subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, timeout=120)


def test_wheel_holds_the_packages_and_nothing_else(installed):
    with zipfile.ZipFile(next(installed.parent.glob("fullsum-*.whl"))) as wheel:
        names = set(wheel.namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pipeline", "fullsum_steps"}
    expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / "pipeline").rglob("*.py")} | {"pipeline/py.typed"}
    expected |= {f"fullsum_steps/{p.name}" for p in (ROOT / "steps").glob("*.py")}
    expected |= {f"pipeline/models/{p.name}" for p in (ROOT / "pipeline/models").iterdir()}
    assets = "pipeline/experiments/html/assets"
    expected |= {f"{assets}/{p.name}" for p in (ROOT / assets).iterdir()}
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_help_lists_every_step_and_is_quick(installed, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = fullsum(installed, tmp_path, "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 1.0, f"{seconds:.2f} s"
    listed = re.findall(r"^  ([a-z][a-z0-9-]+)  +\S", done.stdout.split("Options:")[1], re.M)
    steps = [path.stem for path in (ROOT / "steps").glob("[!_]*.py")]
    assert sorted(listed) == sorted(RENAMED.get(name, name.replace("_", "-")) for name in steps)
    assert "Forced alignment of a data directory" in done.stdout


def test_a_step_runs(installed, tmp_path):
    """make-lang by the installed code, named in the stamp as others may repeat it."""
    (tmp_path / "lexicon.txt").write_text("HELLO HH AH L OW\nWORLD W ER L D\n")
    done = fullsum(installed, tmp_path, "make-lang", "lexicon.txt", "lang")
    assert done.returncode == 0, done.stderr
    stamp = json.loads((tmp_path / "lang" / "stamp.json").read_text())
    assert stamp["facts"]["command_line"] == "fullsum make-lang lexicon.txt lang" and stamp["command"] == "make_lang"
    script = [sys.executable, str(ROOT / "steps" / "make_lang.py"), "lexicon.txt", "lang"]
    again = subprocess.run(script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert again.returncode == 0 and b"up to date" in again.stderr  # the same work, whichever way it is called


def test_help_of_a_step_and_unknown_names(installed, tmp_path):
    done = fullsum(installed, tmp_path, "make-lang", "--help")
    assert done.returncode == 0 and "fullsum make-lang [OPTIONS]" in done.stdout and "--silence-prob" in done.stdout
    done = fullsum(installed, tmp_path, "import", "--help")
    assert done.returncode == 0 and "Converts the corpus SOURCE" in done.stdout
    done = fullsum(installed, tmp_path, "make_lang")
    assert done.returncode == 2 and "No such command" in done.stderr


@pytest.mark.parametrize(
    "words, expected",
    [("fullsum export-", {"export-ali", "export-e2e"}), ("fullsum make-lang --si", {"--silence-prob"})],
)
def test_completion(installed, tmp_path, words, expected):
    number = str(words.count(" "))
    done = fullsum(installed, tmp_path, COMP_WORDS=words, COMP_CWORD=number, _FULLSUM_COMPLETE="bash_complete")
    found = {line.split(",")[1] for line in done.stdout.splitlines() if line.startswith("plain,")}
    assert expected <= found and all(name.startswith(words.split()[-1]) for name in found), done.stderr
