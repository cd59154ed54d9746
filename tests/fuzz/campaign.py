"""A campaign: inputs damaged at random are read in processes of their own, and what happens is counted.

What may happen: the input is read, or refused by an error for users that names the file. All else is a finding: another
exception, a process that dies, takes too long or too much memory, and a refusal that does not say where. Input number i
of a format is a function of the seed and i, so each can be made again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.base.errors import PipelineError
from tests.fuzz.formats import Format
from tests.fuzz.mutations import damaged

SECONDS = 20.0  # for one input, of which most take milliseconds
MEMORY = 1 << 30  # bytes that an input may take beyond what the process has before
READ, REFUSED = "read", "refused"


@dataclass(frozen=True)
class Finding:
    """An input that ended in another way than it may.

    Attributes:
        format, number: of the input. file: the one that was damaged, below the example.
        kind: the same for inputs that end alike: exception and line of code, "hang", "died".
        told: message and traceback.
    """

    format: str
    number: int
    file: str
    kind: str
    told: str = ""


@dataclass
class Counts:
    """What became of the inputs of a format."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    findings: list[Finding] = field(default_factory=list)

    def kinds(self) -> dict[str, int]:
        """How often each kind of finding was met."""
        return dict(Counter(f.kind for f in self.findings).most_common())

    def examples(self, most: int) -> Iterator[int]:
        """Positions of the first findings of each kind."""
        met: Counter[str] = Counter()
        for i, finding in enumerate(self.findings):
            met[finding.kind] += 1
            if met[finding.kind] <= most:
                yield i


class Example:
    """A format's example in a directory of its own, in which one file at a time is damaged."""

    def __init__(self, kind: Format, directory: Path, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.root, self.out = directory / "x", directory / "out"
        self.root.mkdir(parents=True)
        kind.make(self.root)
        self.files = sorted({p for pattern in kind.files for p in self.root.glob(pattern) if p.is_file()})
        assert self.files, kind.name
        self.sound = {path: path.read_bytes() for path in self.files}

    def damage(self, number: int) -> tuple[Path, bytes]:
        """The file that input `number` damages, and what it holds then."""
        rng = random.Random(f"{self.seed}/{self.kind.name}/{number}")
        path = rng.choice(self.files)
        return path, damaged(path.name, self.sound[path], rng)

    def read(self, path: Path, content: bytes) -> tuple[str, str]:
        """Reads the example with one file damaged, and mends it again; kind of outcome and what was told."""
        path.write_bytes(content)
        self.out.mkdir()
        try:
            self.kind.read(self.root, self.out)
            return READ, ""
        except PipelineError as err:
            places = (str(path), path.name, str(path.parent), str(self.root), str(self.out))
            named = any(place in str(err) for place in (*places, "utterance '"))
            return (REFUSED, "") if named else (f"nameless {_line(err)}", str(err))
        except Exception as err:
            return f"{type(err).__name__} {_line(err)}", "".join(traceback.format_exception(err))
        finally:
            shutil.rmtree(self.out)
            path.write_bytes(self.sound[path])


def _line(err: BaseException) -> str:
    """The last line of this project's code in a traceback."""
    frames = [f for f in traceback.extract_tb(err.__traceback__) if "/pipeline/" in f.filename]
    last = frames[-1] if frames else traceback.extract_tb(err.__traceback__)[-1]
    return f"{last.filename.rpartition('/pipeline/')[2]}:{last.lineno} {last.name}"


def run(kind: Format, numbers: Sequence[int], seed: int, seconds: float = SECONDS) -> Counts:
    """Reads inputs of a format, in a process that is replaced when one kills it."""
    counts = Counts()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk would be waited for
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as scratch:
        example = Example(kind, Path(scratch), seed)
        place = 0
        while place < len(numbers):
            with _child(example, numbers[place:]) as answers:
                for number, outcome, told in _received(answers, seconds):
                    assert number == numbers[place], (number, place)
                    place += 1
                    _count(counts, example, number, outcome, told)
                else:
                    if place < len(numbers):  # it did not come to its end
                        _count(counts, example, numbers[place], answers.ended(), "")
                        place += 1
                        example = Example(kind, Path(tempfile.mkdtemp(dir=scratch)), seed)
    return counts


def _count(counts: Counts, example: Example, number: int, outcome: str, told: str) -> None:
    counts.inputs += 1
    if outcome == READ:
        counts.read += 1
    elif outcome == REFUSED:
        counts.refused += 1
    else:
        file = example.damage(number)[0].relative_to(example.root).as_posix()
        counts.findings.append(Finding(example.kind.name, number, file, outcome, told))


class _Answers:
    """What a child process tells, line by line."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self.fd, self.late = pid, fd, False

    def ended(self) -> str:
        """How a process ended that has not answered."""
        if self.late:
            return "hang"
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return f"died ({'signal ' + signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else 'exit'})"


@contextlib.contextmanager
def _child(example: Example, numbers: Sequence[int]) -> Iterator[_Answers]:
    """A copy of this process that reads inputs and tells what became of each."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(receive)
            _work(example, numbers, send)
        finally:
            os._exit(0)
    os.close(send)
    answers = _Answers(pid, receive)
    try:
        yield answers
    finally:
        os.close(receive)
        if answers.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _work(example: Example, numbers: Sequence[int], send: int) -> None:
    faulthandler.disable()  # pytest's would tell of every child that dies
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()  # data and stack
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        outcome, told = example.read(*example.damage(number))
        os.write(send, json.dumps([number, outcome, told[-3000:]]).encode() + b"\n")


def _received(answers: _Answers, seconds: float) -> Iterator[list[Any]]:
    """Answers of a child until it ends, or takes too long for one of them."""
    rest, deadline = b"", time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([answers.fd], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            answers.late = True
            return
        got = os.read(answers.fd, 1 << 16)
        if not got:
            return
        *whole, rest = (rest + got).split(b"\n")
        for line in whole:
            yield json.loads(line)
            deadline = time.monotonic() + seconds


def keep(kind: Format, finding: Finding, seed: int, directory: Path) -> Path:
    """Writes the damaged file of a finding and what was told, for `replay`; the directory."""
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in f"{finding.format}-{finding.kind}")
    place = directory / name[:120] / str(finding.number)
    with tempfile.TemporaryDirectory() as scratch:
        example = Example(kind, Path(scratch), seed)
        path, content = example.damage(finding.number)
    place.mkdir(parents=True, exist_ok=True)
    (place / path.name).write_bytes(content)
    (place / "about.json").write_text(json.dumps({**vars(finding), "seed": seed}, indent=2) + "\n")
    return place


def replay(formats: dict[str, Format], place: Path) -> tuple[str, str]:
    """Reads the damaged file that `keep` wrote, in this process; outcome and what was told."""
    about = json.loads((place / "about.json").read_text())
    with tempfile.TemporaryDirectory() as scratch:
        example = Example(formats[about["format"]], Path(scratch), about["seed"])
        path = example.root / about["file"]
        return example.read(path, (place / path.name).read_bytes())
