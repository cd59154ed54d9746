"""Kinds of faults: each disturbs one step of the recipe, and says whether what follows is as it should be.

Right is: a step that is disturbed ends with a message and no traceback, or dies of the signal that it got; then the
same command gives all files as if nothing had happened; no process and no temporary file is left.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.base.stamp import STAMP
from utils.fault_injection import warm
from utils.fault_injection.recipe import UNLIMITED, Sandbox, Step
from utils.fault_injection.shim import Action, Calls, Shim, unsynced

NO_SPACE, IO_ERROR, READ_ONLY = errno.ENOSPC, errno.EIO, errno.EROFS
MOST_KILLS = 3
MEMORY = (1, 700)  # MiB, between which a limit is drawn
DAY = 86400.0
ODD_MEMORY = 2000  # MiB, which no value of an option may exceed unnoticed
PATIENCE = 5.0  # seconds of work, beyond what a step takes, after which an odd value is taken for a large one


@dataclass
class Trial:
    """One disturbance.

    Attributes:
        step: name of the step that was disturbed.
        fault: what was done, for people.
        faults: how often the step was really disturbed; 0 where it had ended before.
        idle: how many of these came before the first call that changes a file.
        wrong: what was not as it should be.
        output: what the step said then.
    """

    step: str = ""
    fault: str = ""
    faults: int = 0
    idle: int = 0
    wrong: list[str] = field(default_factory=list)
    output: str = ""

    def expect(self, ended: warm.Ended, *codes: int) -> None:
        """Notes whatever speaks against one of these exit codes, reached in an orderly way."""
        before = len(self.wrong)
        if ended.code is None:
            self.wrong.append("hangs")
        elif ended.code < 0 and ended.code not in codes:
            self.wrong.append(f"crash: signal {-ended.code}")
        elif ended.code not in codes:
            self.wrong.append(f"exit code {ended.code}")
        if "Traceback (most recent call last)" in ended.output or "Exception ignored" in ended.output:
            self.wrong.append("traceback")
        if warm.LEFT_OPEN in ended.output:
            self.wrong.append("files left open")
        if len(self.wrong) > before:
            self.output = f"{ended.output[:2000]}[...]{ended.output[-2000:]}"


@dataclass
class Campaign:
    """What kinds of faults work with."""

    box: Sandbox
    shim: Shim
    steps: list[Step]

    def draw(self, rng: random.Random, in_parts: bool = False) -> tuple[Trial, Step]:
        """A step that makes something, in a tree where it has not run yet; the longer it takes, the more rarely."""
        steps = [s for s in self.steps if s.outputs and (s.jobs > 1 or not in_parts)]
        step = rng.choices(steps, [1 / (0.5 + s.processor) for s in steps])[0]
        self.box.reset(step)
        return Trial(step.name), step

    def run(self, trial: Trial, step: Step, *codes: int, limits: warm.Limits = UNLIMITED) -> warm.Ended:
        """Runs a step and looks at how it ended, and at what it left."""
        ended = self.box.run(step, limits)
        trial.expect(ended, *codes)
        self.look_for_leaks(trial, killed=ended.code == -signal.SIGKILL)
        return ended

    def look_for_leaks(self, trial: Trial, killed: bool) -> None:
        """Notes processes that live on, and temporary files of a step that had the time to remove them."""
        if warm.reap_orphans():
            trial.wrong.append("processes left")
        left = sorted(path.name for path in self.box.scratch.iterdir())
        if left and not killed:
            trial.wrong.append(f"temporary files left: {', '.join(left[:3])}")
        for name in left:  # what was killed could not remove them
            path = self.box.scratch / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def finish(self, trial: Trial, step: Step, reset: bool = True) -> Trial:
        """Runs a step undisturbed; afterwards everything must be as if it had never been disturbed.

        Args:
            reset: the tree lacked what the step makes.
        """
        self.run(trial, step, 0)
        different = self.box.differences([step] if reset else [])
        if different:
            trial.wrong.append(f"different: {', '.join(different[:5])}")
        return trial

    def run_and_signal(self, trial: Trial, step: Step, share: float, number: int, *codes: int) -> None:
        """Runs a step and sends it a signal when it has done a share of what it has to compute."""
        sent = False

        def send(computed: float) -> None:
            nonlocal sent
            if not sent and computed >= share * step.processor:
                os.kill(pid, number)
                sent = True

        with self.shim.armed(self.box.tree):
            pid = self.box.start(step)
            ended = warm.wait(pid, self.box.output, send)
            disturbed = sent and ended.code != 0
            trial.faults += disturbed
            trial.idle += disturbed and self.shim.count == 0
        trial.expect(ended, *(codes if disturbed else (0,)))
        self.look_for_leaks(trial, killed=ended.code == -signal.SIGKILL)


def kill(campaign: Campaign, rng: random.Random) -> Trial:
    """kill -9 at random moments, one to three times in a row."""
    trial, step = campaign.draw(rng)
    times = rng.randint(1, MOST_KILLS)
    trial.fault = f"kill -9 {times} times"
    for _ in range(times):
        campaign.run_and_signal(trial, step, rng.random(), signal.SIGKILL, -signal.SIGKILL)
    return campaign.finish(trial, step)


def _at_call(
    campaign: Campaign, rng: random.Random, action: Action, *codes: int, calls: Calls = Calls.ALL, **how: Any
) -> Trial:
    """Something happens at a random call of a step that changes a file."""
    trial, step = campaign.draw(rng)
    at = rng.randrange(max(step.calls, 1))
    trial.fault = f"{action.name.lower()} at call {at} of {step.calls}"
    if step.jobs > 1 and -signal.SIGKILL in codes:
        codes = (*codes, 2)  # a part was killed, and the step says so
    with campaign.shim.armed(campaign.box.tree, action, at, calls=calls, **how):
        ended = campaign.run(trial, step, 0, *codes)
        trial.faults = campaign.shim.done
        trial.idle = int(trial.faults > 0 and at == 0 and action in (Action.KILL, Action.TORN))
    if trial.faults and action in (Action.KILL, Action.TORN) and ended.code == 0:
        trial.wrong.append("lived on")
    return campaign.finish(trial, step)


def kill_at_call(campaign: Campaign, rng: random.Random) -> Trial:
    """kill -9 right before a random system call that changes a file."""
    return _at_call(campaign, rng, Action.KILL, -signal.SIGKILL)


def torn_write(campaign: Campaign, rng: random.Random) -> Trial:
    """kill -9 in the middle of a write, half of whose bytes arrive."""
    return _at_call(campaign, rng, Action.TORN, -signal.SIGKILL)


def short_writes(campaign: Campaign, rng: random.Random) -> Trial:
    """From a random write on, every one writes half of its bytes, as the system may: no error."""
    return _at_call(campaign, rng, Action.SHORT, forever=True)


def power_loss(campaign: Campaign, rng: random.Random) -> Trial:
    """The machine stops before a random call, or after the last one; what was not synced loses bytes."""
    trial, step = campaign.draw(rng)
    at = rng.choice((rng.randrange(max(step.calls, 1)), step.calls))
    trial.fault = f"power is lost at call {at} of {step.calls}"
    log = campaign.box.directory / "synced.txt"
    log.unlink(missing_ok=True)
    with campaign.shim.armed(campaign.box.tree, Action.KILL, at, log=log):
        campaign.run(trial, step, 0, -signal.SIGKILL, *((2,) if step.jobs > 1 else ()))
    gone = unsynced(log)
    for path in sorted(campaign.box.tree.rglob("*")):
        about = path.lstat()
        if (about.st_dev, about.st_ino) in gone:
            os.truncate(path, rng.choice((0, about.st_size // 2)))
            trial.faults += 1
    return campaign.finish(trial, step)


def full_disk(campaign: Campaign, rng: random.Random) -> Trial:
    """From a random call on, nothing can be written: no space left on the device."""
    return _at_call(campaign, rng, Action.FAIL, 2, calls=Calls.SPACE, forever=True, error=NO_SPACE)


def io_error(campaign: Campaign, rng: random.Random) -> Trial:
    """One random call fails with an input/output error."""
    return _at_call(campaign, rng, Action.FAIL, 2, calls=Calls.SPACE, error=IO_ERROR)


def kill_in_parts(campaign: Campaign, rng: random.Random) -> Trial:
    """kill -9 at a random moment of a step in two parts: of the step, of one of its processes, or of all."""
    trial, step = campaign.draw(rng, in_parts=True)
    whom, share = rng.choice(("step", "a part", "all")), rng.random()
    trial.fault = f"kill -9 of {whom}"

    def attack(computed: float) -> None:
        if trial.faults or computed < share * step.processor:
            return
        others = warm.descendants(pid)
        chosen = {"step": [pid], "a part": others[-1:], "all": [pid, *others]}[whom]
        for process in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        trial.faults = len(chosen)

    with campaign.shim.armed(campaign.box.tree):
        pid = campaign.box.start(step)
        ended = warm.wait(pid, campaign.box.output, attack)
        trial.idle = int(trial.faults and campaign.shim.count == 0)
    if ended.code == 0:
        trial.faults = trial.idle = 0
    trial.expect(ended, *((0, 2) if whom == "a part" else (-signal.SIGKILL, 0)))
    campaign.look_for_leaks(trial, killed=True)
    return campaign.finish(trial, step)


def terminate(campaign: Campaign, rng: random.Random) -> Trial:
    """SIGTERM, as clusters send it, at a random moment."""
    trial, step = campaign.draw(rng)
    trial.fault = "SIGTERM"
    campaign.run_and_signal(trial, step, rng.random(), signal.SIGTERM, 143, -signal.SIGTERM)
    return campaign.finish(trial, step)


def interrupt(campaign: Campaign, rng: random.Random) -> Trial:
    """Ctrl-C at a random moment; of steps in parts in every third case."""
    trial, step = campaign.draw(rng, in_parts=rng.random() < 1 / 3)
    trial.fault = "SIGINT"
    campaign.run_and_signal(trial, step, rng.random(), signal.SIGINT, 130)
    return campaign.finish(trial, step)


def read_only(campaign: Campaign, rng: random.Random) -> Trial:
    """Nothing may be written, from the beginning."""
    trial, step = campaign.draw(rng)
    trial.fault = "read-only file system"
    with campaign.shim.armed(campaign.box.tree, Action.FAIL, forever=True, error=READ_ONLY):
        campaign.run(trial, step, 2)
        trial.faults = campaign.shim.done
    return campaign.finish(trial, step)


def little_memory(campaign: Campaign, rng: random.Random) -> Trial:
    """A limit of the address space (RLIMIT_AS) that may be too low."""
    trial, step = campaign.draw(rng)
    memory = round(MEMORY[0] * (MEMORY[1] / MEMORY[0]) ** rng.random())
    trial.fault = f"{memory} MiB of memory"
    ended = campaign.run(trial, step, 0, 2, limits=warm.Limits(memory=memory))
    trial.faults = int(ended.code != 0)
    if ended.code == 2 and "memory" not in ended.output:
        trial.wrong.append("the message does not speak of memory")
        trial.output = ended.output[-4000:]
    return campaign.finish(trial, step)


def few_files(campaign: Campaign, rng: random.Random) -> Trial:
    """At most 64 files are open at once (ulimit -n 64), which is enough."""
    trial, step = campaign.draw(rng)
    trial.fault, trial.faults = "ulimit -n 64", 1
    campaign.run(trial, step, 0, limits=warm.Limits(files=64))
    return campaign.finish(trial, step)


def clock_jump(campaign: Campaign, rng: random.Random) -> Trial:
    """The clock is hours to decades wrong, and all files have random times."""
    trial, step = campaign.draw(rng)
    shift = rng.choice((-1, 1)) * rng.choice((3600.0, DAY, 9000 * DAY))
    trial.fault, trial.faults = f"clock {shift / 3600:+.0f} h", 1
    now = time.time()
    for path in sorted(campaign.box.tree.rglob("*")):
        os.utime(path, (now, now + rng.uniform(-9000, 9000) * DAY))
    with campaign.shim.armed(campaign.box.tree, clock_shift=shift):
        campaign.run(trial, step, 0)
    trial = campaign.finish(trial, step)
    if "up to date" not in campaign.box.output.read_text():
        trial.wrong.append("was not up to date afterwards")
    return trial


def together(campaign: Campaign, rng: random.Random) -> Trial:
    """The same step twice at once in one folder; in every other case the one that began is killed."""
    trial, step = campaign.draw(rng)
    murder, share = rng.random() < 0.5, rng.random()
    trial.fault = "two at once, the first one killed" if murder else "two at once"
    other, second = campaign.box.directory / "other.txt", 0

    def join(computed: float) -> None:
        nonlocal second
        second = second or campaign.box.start(step)
        if murder and computed >= share * step.processor:
            os.kill(first, signal.SIGKILL)

    first = campaign.box.start(step, output=other)
    ends = [warm.wait(first, other, join), warm.wait(second, campaign.box.output)]
    trial.faults = int("waiting for another process" in ends[0].output + ends[1].output)
    trial.expect(ends[0], 0, *((-signal.SIGKILL,) if murder else ()))
    trial.expect(ends[1], 0)
    if ends[0].code == 0 and sum("up to date" not in end.output for end in ends) != 1:
        trial.wrong.append("made twice")
    campaign.look_for_leaks(trial, killed=murder)
    return campaign.finish(trial, step)


def foreign_stamp(campaign: Campaign, rng: random.Random) -> Trial:
    """A stamp, of the step's output or of any other directory, lacks a field, has an unknown one or another type."""
    trial, step = campaign.draw(rng)
    campaign.box.reset()
    made = [path.parent.relative_to(campaign.box.tree).as_posix() for path in sorted(campaign.box.tree.rglob(STAMP))]
    path = campaign.box.tree / rng.choice([*step.outputs, *made]) / STAMP
    before = path.read_text()
    stamp = json.loads(before)
    key = rng.choice(sorted(stamp))
    match rng.randrange(3):
        case 0:
            del stamp[key]
            trial.fault = f"{path.parent.name}: no {key}"
        case 1:
            stamp[key] = rng.choice((None, 3, "text", [], {"a": 1}, [{"b": None}]))
            trial.fault = f"{path.parent.name}: {key} = {stamp[key]!r}"
        case _:
            stamp["of_the_future"], stamp["code"] = {"x": 1}, {"version": "99.0", "revision": None, "more": 1}
            trial.fault = f"{path.parent.name}: unknown fields"
    path.write_text(json.dumps(stamp))
    trial.faults = 1
    campaign.run(trial, step, 0, 2)
    path.write_text(before)
    return campaign.finish(trial, step, reset=False)


def copied(campaign: Campaign, rng: random.Random) -> Trial:
    """The whole tree is copied while a step writes; the step goes on in the copy."""
    trial, step = campaign.draw(rng)
    trial.fault = "copied while it was written"
    copy, share = campaign.box.directory / "copy", rng.random()

    def take(computed: float) -> None:
        if not trial.faults and computed >= share * step.processor:
            trial.faults = 1
            _copy(campaign.box.tree, copy)

    trial.expect(warm.wait(campaign.box.start(step), campaign.box.output, take), 0)
    campaign.look_for_leaks(trial, killed=False)
    if trial.faults:
        shutil.rmtree(campaign.box.tree)
        copy.rename(campaign.box.tree)
    return campaign.finish(trial, step)


def odd_option(campaign: Campaign, rng: random.Random) -> Trial:
    """One option of a step has a value that makes no sense; the inputs are sound. It is refused, or means something."""
    from steps.__main__ import COMMANDS
    from tests.fuzz.of_options import VALUES, options

    ours = set(COMMANDS.values())
    # The file of --log-json may be anywhere.
    named = {s.name: [n for n in options(s.script) if n != "--log-json"] for s in campaign.steps if s.script in ours}
    known = [s for s in campaign.steps if s.outputs and s.jobs == 1 and named.get(s.name)]
    step = rng.choices(known, [1 / (0.5 + s.processor) for s in known])[0]
    name = rng.choice(named[step.name])
    value = rng.choice([value for value in VALUES if "\0" not in value])
    trial = Trial(step.name, f"{name}={value[:40]!r}", faults=1)
    campaign.box.reset(step)
    odd = replace(step, argv=[*step.argv, f"{name}={value}"])

    stopped = False

    def stop(computed: float) -> None:  # 99999999 epochs are allowed
        nonlocal stopped
        if not stopped and computed > 3 * step.processor + PATIENCE:
            os.kill(pid, signal.SIGINT)
            stopped = True

    pid = campaign.box.start(odd, warm.Limits(memory=ODD_MEMORY))
    ended = warm.wait(pid, campaign.box.output, stop)
    trial.expect(ended, 0, 2, 130)
    campaign.look_for_leaks(trial, killed=False)
    begun = any((campaign.box.tree / f"{output}.tmp").exists() for output in step.outputs)
    return campaign.finish(trial, step) if begun and ended.code != 0 else trial


def _copy(source: Path, target: Path) -> None:
    """As `cp -r` does: what is gone before its turn comes is left out."""
    target.mkdir()
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                _copy(Path(entry.path), target / entry.name)
            else:
                shutil.copy2(entry.path, target / entry.name, follow_symlinks=False)


KINDS: dict[str, Callable[[Campaign, random.Random], Trial]] = {
    function.__name__: function
    for function in (
        *(kill, kill_at_call, torn_write, power_loss, kill_in_parts, terminate, interrupt),
        *(full_disk, io_error, short_writes, read_only, little_memory, few_files),
        *(clock_jump, together, foreign_stamp, copied, odd_option),
    )
}
