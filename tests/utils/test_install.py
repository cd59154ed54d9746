"""utils/install.sh and utils/path.sh in a copy of the checkout whose interpreters and pip are stand-ins."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# An interpreter that answers what install.sh asks: its version, -m venv, -m pip, import of a module.
PYTHON = """#!/usr/bin/env bash
echo "$0 $*" >>"$CALLS"
case "$1 ${2-}" in
  "-c import sys, venv"*) echo VERSION ;;
  "-c import sys;"*) echo "$0" ;;
  "-c import k2") [[ ! -e $BREAK/k2 ]] ;;
  "-c import "*) ;;
  "-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; : >"$3/pyvenv.cfg" ;;
  "-m pip")
    sleep "${PIP_SECONDS:-0}"
    if [[ -e $BREAK/network ]]; then rm "$BREAK/network"; echo "ReadTimeoutError: timed out"; exit 1; fi
    if [[ -e $BREAK/pip ]]; then echo "ERROR: No matching distribution found"; exit 1; fi
    ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


class Checkout:
    """A copy of what install.sh needs, an empty home and a PATH with stand-ins only."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.bin, self.home = base, base / "checkout", base / "bin", base / "home"
        (self.root / "utils").mkdir(parents=True)
        for name in ("install.sh", "path.sh"):
            shutil.copy(ROOT / "utils" / name, self.root / "utils")
        for name in ("setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, self.root)
        self.bin.mkdir()
        self.home.mkdir()
        tools = "bash cat cksum cp dirname flock grep ls mkdir rm sed sleep tail touch tr env".split()
        for tool in tools:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.calls = base / "calls"
        self.calls.touch()

    def python(self, version: str, at: str = "bin/python3.10") -> Path:
        """Puts an interpreter of that version at a place below the base."""
        path = self.base / at
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PYTHON.replace("VERSION", version))
        path.chmod(0o755)
        return path

    def start(self, *args: str, script: str = "", **env: str) -> subprocess.Popen:
        full = {"PATH": str(self.bin), "HOME": str(self.home), "CALLS": str(self.calls), "BREAK": str(self.base), **env}
        command = ["bash", "-c", script] if script else [str(self.root / "utils" / "install.sh"), *args]
        return subprocess.Popen(command, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def install(self, *args: str, **env: str) -> tuple[int, str, str]:
        """Runs install.sh and returns exit code, output and errors."""
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def pip_calls(self) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if " -m pip " in line]


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_installs_once(checkout):
    checkout.python("3.10")
    assert checkout.install()[0] == 0
    calls = checkout.pip_calls()
    assert "torch==1.13.1 k2==1.23.4 numpy<2" in calls[-1]
    assert checkout.install("--print-env") == (0, f"{checkout.root}/.venv\n", "")
    assert checkout.pip_calls() == calls


def test_k2_is_pinned_by_digest(checkout):
    """The wheels of k2 1.23.4 look alike to pip whatever Python they are for, so which one it takes must not be left
    to it.
    """
    checkout.python("3.10")
    assert checkout.install()[0] == 0
    names, digests, all_else = checkout.pip_calls()
    requirement = checkout.root / ".venv" / "k2.txt"
    assert digests.endswith(f"--no-deps -r {requirement}") and "setuptools" in names and "k2==1.23.4" in all_else
    assert requirement.read_text().startswith("k2==1.23.4 --hash=sha256:")


@pytest.mark.parametrize("name", ["setup.py", "pyproject.toml"])
def test_new_requirements_are_installed(checkout, name):
    checkout.python("3.10")
    checkout.install()
    with open(checkout.root / name, "a") as file:
        file.write("# one more\n")
    before = len(checkout.pip_calls())
    assert checkout.install()[0] == 0
    assert len(checkout.pip_calls()) > before


def test_a_shim_that_fails_is_passed_over(checkout):
    shim = checkout.bin / "python3.10"
    shim.write_text("#!/usr/bin/env bash\necho 'pyenv: python3.10: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    checkout.python("3.12", "bin/python3")
    checkout.python("3.10", "home/.pyenv/versions/3.10.13/bin/python")
    code, _, err = checkout.install()
    assert code == 0 and "versions/3.10.13/bin/python" in err


@pytest.mark.parametrize("at", ["home/miniconda3/envs/py310/bin/python", "bin/python3", "home/.conda/bin/python"])
def test_other_places(checkout, at):
    checkout.python("3.10", at)
    assert checkout.install()[0] == 0


def test_no_interpreter(checkout):
    checkout.python("3.9", "bin/python3")
    code, _, err = checkout.install()
    assert code == 2
    for way in ("pyenv install 3.12", "uv python install 3.12", "conda create", "--python PATH"):
        assert way in err
    assert not (checkout.root / ".venv").exists()


def test_python_by_name(checkout):
    other = checkout.python("3.10", "elsewhere/python")
    assert checkout.install(PYTHON=str(other))[0] == 0
    wrong = checkout.python("3.9", "elsewhere/python3.9")
    shutil.rmtree(checkout.root / ".venv")
    code, _, err = checkout.install("--python", str(wrong))
    assert code == 2 and "is Python 3.9; needed is 3.12 or 3.13" in err
    code, _, err = checkout.install("--python", "/no/python")
    assert code == 2 and "/no/python does not run" in err


@pytest.mark.parametrize(
    ("version", "k2"), [("3.10", True), ("3.11", True), ("3.12", False), ("3.13", False), ("3.14", False)]
)
def test_the_interpreter_decides_on_the_stack(checkout, version, k2):
    """k2's only wheels need old interpreters; where there is none, everything is installed without k2."""
    checkout.python(version, "bin/python3")
    assert checkout.install()[0] == 0
    installed = checkout.pip_calls()[-1].split("install", 1)[1]
    assert ("k2==1.23.4" in installed and "torch==1.13.1" in installed) == k2
    assert k2 or ("k2" not in installed and installed.endswith("torch"))
    digest = {"3.10": "1404589732", "3.11": "5b5f709b12"}.get(version)
    assert digest is None or digest in (checkout.root / ".venv" / "k2.txt").read_text()
    calls = checkout.pip_calls()
    checkout.python("3.10", "bin/python3.10")  # comes later; the environment stays what it is
    assert checkout.install()[0] == 0 and checkout.pip_calls() == calls


def test_versions_are_remembered(checkout):
    """A recipe calls install.sh without options; it must not undo what was chosen by hand."""
    checkout.python("3.11", "bin/python3.11")
    args = ("--torch", "2.4.0", "--k2", "1.24.4", "--find-links", "https://example.org/k2")
    assert checkout.install(*args)[0] == 0
    calls = checkout.pip_calls()
    assert "--find-links https://example.org/k2" in calls[-1] and "torch==2.4.0 k2==1.24.4" in calls[-1]
    assert "numpy<2" not in calls[-1]
    assert checkout.install()[0] == 0
    assert checkout.pip_calls() == calls


def test_the_modern_stack_is_an_environment_of_its_own(checkout):
    checkout.python("3.10", "bin/python3.10")
    checkout.python("3.12", "bin/python3.12")
    code, out, _ = checkout.install("--modern", "--print-env")
    assert code == 0 and out.strip().endswith("/.venv-modern")
    assert "k2" not in checkout.pip_calls()[-1].split("install", 1)[1]
    assert not (checkout.root / ".venv").exists()


def test_interrupted_build_is_made_anew(checkout):
    checkout.python("3.10")
    (checkout.base / "pip").touch()
    code, _, err = checkout.install()
    assert code == 2 and "No matching distribution" in err and "install.log" in err
    assert len(checkout.pip_calls()) == 1  # not a matter of the network: no second try
    (checkout.base / "pip").unlink()
    (checkout.root / ".venv" / "rubbish").touch()
    assert checkout.install()[0] == 0
    assert not (checkout.root / ".venv" / "rubbish").exists()


def test_network_failure_is_tried_again(checkout):
    checkout.python("3.10")
    (checkout.base / "network").touch()
    (checkout.bin / "sleep").unlink()
    (checkout.bin / "sleep").symlink_to(shutil.which("true"))
    code, _, err = checkout.install()
    assert code == 0 and "trying again" in err


def test_failing_import_is_named(checkout):
    checkout.python("3.10")
    (checkout.base / "k2").touch()
    code, _, err = checkout.install()
    assert code == 2 and "module k2" in err
    assert not (checkout.root / ".venv" / ".complete").exists()


def test_environment_made_by_hand_is_kept(checkout):
    python = checkout.python("3.10")
    (checkout.root / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(python, checkout.root / ".venv" / "bin" / "python")
    (checkout.root / ".venv" / "mine").touch()
    assert checkout.install()[0] == 0
    assert (checkout.root / ".venv" / "mine").exists()


def test_foreign_directory_is_not_removed(checkout):
    checkout.python("3.10")
    (checkout.root / ".venv").mkdir()
    (checkout.root / ".venv" / "thesis").touch()
    code, _, err = checkout.install()
    assert code == 2 and "no Python environment" in err
    assert (checkout.root / ".venv" / "thesis").exists()


def test_two_at_once(checkout):
    checkout.python("3.10")
    both = [checkout.start(PIP_SECONDS="0.3") for _ in range(2)]
    texts = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(checkout.pip_calls()) == 3  # those of one install.sh
    assert sum("waiting for another" in text for text in texts) == 1


@pytest.mark.parametrize("args", [["--unknown"], ["--torch"]])
def test_bad_options(checkout, args):
    assert checkout.install(*args)[0] == 2


def test_path(checkout):
    """path.sh puts the environment first, or what FULLSUM_ENV names, and installs nothing for --list."""
    checkout.python("3.10")
    script = f". {checkout.root}/utils/path.sh; echo $PATH $PYTHONPATH"

    def run(prefix: str = "", **env: str) -> str:
        return checkout.start(script=prefix + script, **env).communicate(timeout=60)[0]

    assert run("list=true; ") == f"{checkout.bin} {checkout.root}\n"
    assert run(FULLSUM_ENV="/other") == f"/other/bin:{checkout.bin} {checkout.root}\n"
    assert run(FULLSUM_ENV="system") == f"{checkout.bin} {checkout.root}\n"
    assert not (checkout.root / ".venv").exists()
    assert run() == f"{checkout.root}/.venv/bin:{checkout.bin} {checkout.root}\n"
