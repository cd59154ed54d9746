"""utils/faults.py: what it must call right, and what it must find, on steps that are made for it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

if shutil.which("gcc") is None or sys.platform != "linux":
    pytest.skip("needs gcc and Linux", allow_module_level=True)

# A step that makes three files; {body} is what it does for each.
STEP = """
import os, signal, subprocess, sys, tempfile, time
from pathlib import Path
from pipeline.base import cli
from pipeline.base.files import atomic_write

kept = []

def spin(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))

def write(path, text):
    with atomic_write(path) as f:
        f.write(text)

def action(tmp):
    for number in range(3):
        spin(0.02)
        path, text = tmp / f"{{number}}.txt", "x" * 100 + str(number)
        {body}

cli.run_step(Path("out"), {{}}, {{}}, action, command="toy")
"""
SOUND = "write(path, text)"
SWALLOWS = """try:
            with open(path, "w") as f:
                for letter in text:
                    print(letter, file=f, end="", flush=True)
        except OSError:
            path.unlink(missing_ok=True)"""
BUG = """try:
            path.write_text(text)
        except OSError as err:
            raise KeyError(number) from err"""
OTHERWISE = "signal.signal(signal.SIGINT, lambda *a: sys.exit(3)); spin(0.1); write(path, text)"
# What is wrong with a step -> its body, the kind of fault that shows it, and what is said then.
WRONG = {
    "trusts what is there": ("path.exists() or path.write_text(text)", "torn_write", "different: out/"),
    "swallows errors": (SWALLOWS, "io_error", "different: out/"),
    "makes a bug of them": (BUG, "full_disk", "traceback"),
    "leaves a temporary file": ("write(path, text); tempfile.mkstemp()", "few_files", "temporary files left"),
    "leaves a process": ("write(path, text); subprocess.Popen(['sleep', '100'])", "few_files", "processes left"),
    "leaves a file open": ("write(path, text); os.open(path, os.O_RDONLY)", "few_files", "files left open"),
    "ends otherwise by Ctrl-C": (OTHERWISE, "interrupt", "exit code 3"),
    "believes the clock": ("write(path, time.strftime('%Y%m%d'))", "clock_jump", "different: out/"),
    "needs many files": (
        "write(path, text); kept.extend(open(os.devnull) for _ in range(30))",
        "few_files",
        "exit code 2",
    ),
}
DRIVER = """
import json, random, shutil, sys
from dataclasses import replace, asdict
from pathlib import Path
from utils.fault_injection import shim, warm
from utils.fault_injection.kinds import KINDS, Campaign
from utils.fault_injection.recipe import Sandbox, Step

directory, script, *kinds = Path(sys.argv[1]), sys.argv[2], *sys.argv[3:]
shim.loaded(directory) or shim.load(directory)
import pydantic, click, pipeline.base.cli
warm.ORPHANS_SECONDS = 0.3
warm.adopt_orphans()
box, injected = Sandbox(directory), shim.Shim()
box.empty()
step = Step("00_toy", [script], ("out",))
with injected.armed(box.tree):
    ended = box.run(step)
    assert ended.code == 0, ended.output
    step = replace(step, processor=ended.processor, calls=injected.count)
warm.reap_orphans()
for path in box.scratch.iterdir():
    path.unlink()
box.keep()
campaign = Campaign(box, injected, [step, replace(step, jobs=2)])
for request in kinds:
    kind, count = request.split("=")
    for number in range(int(count)):
        print(json.dumps({"kind": kind, **asdict(KINDS[kind](campaign, random.Random(f"{kind} {number}")))}))
"""


def trials(run_script, tmp_path: Path, body: str, *kinds: str) -> list[dict]:
    (tmp_path / "toy.py").write_text(STEP.format(body=body))
    (tmp_path / "driver.py").write_text(DRIVER)
    done = run_script(sys.executable, tmp_path / "driver.py", tmp_path / "campaign", tmp_path / "toy.py", *kinds)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def campaign_dir(tmp_path) -> Path:
    path = tmp_path / "campaign"
    path.mkdir()
    return path


KINDS = (
    "kill=3 kill_at_call=4 torn_write=4 power_loss=4 terminate=2 interrupt=2 full_disk=4 io_error=4 short_writes=2 read_only=1 "
    "few_files=1 clock_jump=1 together=2 foreign_stamp=3 copied=2"
)


def test_a_sound_step_is_right_whatever_happens(run_script, tmp_path, campaign_dir):
    found = trials(run_script, tmp_path, SOUND, *KINDS.split())
    assert not (wrong := [row for row in found if row["wrong"]]), wrong
    disturbed = {row["kind"] for row in found if row["faults"]}
    assert disturbed >= {"kill", "kill_at_call", "torn_write", "full_disk", "io_error", "short_writes", "read_only"}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_step_that_is_wrong_is_found(run_script, tmp_path, campaign_dir, name):
    body, kind, said = WRONG[name]
    found = trials(run_script, tmp_path, body, f"{kind}=5")
    assert any(said in wrong for row in found for wrong in row["wrong"]), found


def test_a_step_that_ended_before_the_kill_was_not_disturbed(run_script, tmp_path, campaign_dir):
    """It takes a small part of the time that it took when it was measured."""
    slow_once = "been = Path(sys.argv[0]).with_name('been'); been.exists() or spin(0.3); write(path, text); "
    slow_once += "number == 2 and been.touch()"
    found = trials(run_script, tmp_path, slow_once, "kill=5")
    assert all(not row["wrong"] for row in found) and any(row["faults"] == 0 for row in found)
