"""Work on part i of n: which utterances it has, where it writes, and what tells that it is complete.

A part is a contiguous run of units, balanced by their cost. A unit (an utterance, or a batch of a network) is the same
for every n, and whoever merges the parts goes through the units in their order, so no result depends on n. A part
writes DIRECTORY/3-of-7.HOST-PID.tmp and renames it to DIRECTORY/3-of-7 when all its files are on disk; part.json in it
lists them with their sizes, and says of what arguments they are. A directory without a complete part.json is none,
whoever died while writing it.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic

import pipeline.base.cli  # noqa: F401  chooses the code path of MKL, as in the process that merges
from pipeline.base import errors, log
from pipeline.base.errors import DataError, PipelineError
from pipeline.base.files import content_id, read_json, sync_dir, sync_file, write_json
from pipeline.parallel.options import ParallelOptions

logger = logging.getLogger(__name__)

PARTS, PART = "parts", "part.json"
PROGRESS_SECONDS = 2.0  # between two reports of how far a part is


@dataclass(frozen=True)
class Part:
    """Number `number` (from 0) of `of` parts."""

    number: int = 0
    of: int = 1

    @property
    def name(self) -> str:
        """Counted from 1, for people and directories."""
        return f"{self.number + 1}-of-{self.of}"

    def of_costs(self, costs: npt.ArrayLike) -> slice:
        """Which units belong to this part: those whose middle lies in its share of the total cost.

        Args:
            costs: (M,) cost of each unit, for instance frames; none negative.
        Returns:
            a slice of the units. The slices of all parts are contiguous, in order, and hold each unit once; with more
            parts than units some are empty.
        """
        cost = np.maximum(np.asarray(costs, dtype=np.float64), 1e-9)
        ends = np.cumsum(cost)
        middle = (ends - cost / 2) / (ends[-1] if len(ends) else 1.0)
        first, last = np.searchsorted(middle, [self.number / self.of, (self.number + 1) / self.of])
        return slice(int(first), len(cost) if self.number + 1 == self.of else int(last))


Work = Callable[[Part, Path, Any], "Mapping[str, Any] | None"]
"""Makes a part: (part, empty directory to write into, arguments as JSON values) -> facts, JSON as well.

Its module may have a tuple PRELOAD with the names of modules that the work imports: local processes share one import.
"""


@dataclass(frozen=True)
class Done:
    """A complete part: its directory and what its work returned."""

    directory: Path
    facts: dict[str, Any]


def as_json(options: Any) -> dict[str, Any]:
    """All fields of a pydantic dataclass as JSON values, from which its class makes it again; paths become absolute,
    since parts may run elsewhere.
    """
    values: dict[str, Any] = pydantic.TypeAdapter(type(options)).dump_python(options, mode="json")
    paths = {name: getattr(options, name) for name in values if isinstance(getattr(options, name), Path)}
    return {**values, **{name: str(path.resolve()) for name, path in paths.items()}}


def task(work: Work, part: Part, directory: Path, arguments: Any) -> dict[str, Any]:
    """Describes a part for ``perform`` in another process or on another machine, as JSON values.

    Args:
        work: a function of a module of this package.
        directory: of all parts, on a disk that all machines share.
    """
    return {
        "work": f"{work.__module__}:{work.__qualname__}",
        "number": part.number,
        "of": part.of,
        "directory": str(directory.resolve()),
        "arguments": arguments,
    }


def log_file(directory: Path, part: Part, command: str) -> Path:
    """Where a part logs: a place that outlives the parts."""
    return directory.parent / "log" / f"{command}.{part.name}.log"


def progress_file(directory: Path, part: Part) -> Path:
    """Where a part says how far it is."""
    return directory / f"{part.name}.progress"


def perform(described: dict[str, Any]) -> dict[str, str]:
    """Makes the part that ``task`` has described, unless it is complete; back-ends call this wherever parts run.

    Returns:
        {} when it is complete, else {"error": class of PipelineError, "message"} or {"bug": message}: the traceback is
        in its log, and no exception has to travel between machines.
    """
    part, directory = Part(described["number"], described["of"]), Path(described["directory"])
    module, _, name = described["work"].partition(":")
    if (directory / part.name / PART).is_file():
        return {}
    with log.to_file(log_file(directory, part, name)):
        logging.getLogger("pipeline").setLevel(logging.DEBUG)
        try:
            work: Work = getattr(importlib.import_module(module), name)
            with log.listener(_Reporter(progress_file(directory, part))):
                _make(part, directory, work, described["arguments"])
        except PipelineError as err:
            logger.debug("part %s", part.name, exc_info=True)
            known = next(kind for kind in type(err).__mro__ if kind.__module__ == errors.__name__)
            return {"error": known.__name__, "message": str(err)}
        except Exception as err:
            logger.exception("part %s", part.name)
            if type(err).__module__.startswith("submitit"):
                raise  # what its signal handler says of a time limit is for its own ears
            told = errors.of_environment(err, directory)
            if told is not None:
                return {"error": PipelineError.__name__, "message": told}
            return {"bug": f"{type(err).__name__}: {err}"}
    return {}


def _make(part: Part, directory: Path, work: Work, arguments: Any) -> None:
    # Another machine may still be writing this part, given up by its scheduler but alive: each has its own directory.
    tmp = directory / f"{part.name}.{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    tmp.mkdir(parents=True)
    start = time.monotonic()
    facts = work(part, tmp, arguments)
    sizes = {p.relative_to(tmp).as_posix(): p.stat().st_size for p in sorted(tmp.rglob("*")) if p.is_file()}
    for name in sizes:
        sync_file(tmp / name)
    seconds = round(time.monotonic() - start, 3)
    made_of = content_id(arguments)
    write_json(tmp / PART, {"facts": dict(facts or {}), "files": sizes, "seconds": seconds, "arguments": made_of})
    target = directory / part.name
    try:
        os.rename(tmp, target)
    except OSError:
        if not (target / PART).is_file():
            raise
        shutil.rmtree(tmp, ignore_errors=True)  # the other one was faster; what it wrote is the same
    sync_dir(directory)
    logger.info(
        "part %s: done in %s; the process has used %.2f s", part.name, log.duration(seconds), time.process_time()
    )


class _Reporter:
    """Tells the process that waits how far this one is, by a file of two numbers."""

    def __init__(self, path: Path) -> None:
        self._path, self._last = path, 0.0

    def __call__(self, done: float, total: int | None) -> None:
        now = time.monotonic()
        if total and now - self._last >= PROGRESS_SECONDS:
            self._last = now
            tmp = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
            tmp.write_text(f"{done:g} {total}\n", encoding="ascii")
            os.replace(tmp, self._path)


def share_done(directory: Path, part: Part) -> float:
    """How far a part is, from 0 to 1."""
    if (directory / part.name / PART).is_file():
        return 1.0
    try:
        done, total = progress_file(directory, part).read_text(encoding="ascii").split()
        return min(float(done) / max(int(total), 1), 1.0)
    except (OSError, ValueError):
        return 0.0


def arrived(directory: Path, part: Part, seconds: float) -> Done:
    """A part that is said to be complete, once all its files are here: shared disks show some late.

    Raises:
        DataError: names the file that has not come within `seconds`.
    """
    place, until = directory / part.name, time.monotonic() + seconds
    while True:
        os.listdir(directory)  # makes clients of network file systems ask their server again
        missing = _missing(place)
        if missing is None:
            return Done(place, read_json(place / PART)["facts"])
        if time.monotonic() >= until:
            raise DataError(
                f"{missing}: part {part.name} is said to be done, but this file has not come within "
                f"{log.duration(seconds)}; do all machines share this disk? The same command repeats what is missing"
            )
        time.sleep(0.2)


def _missing(place: Path) -> Path | None:
    """A file of a part that is not there, or not whole; None when all are."""
    try:
        sizes = read_json(place / PART)["files"]
    except (DataError, OSError, KeyError, TypeError):
        return place / PART
    for name, size in sizes.items():
        try:
            if (place / name).stat().st_size != size:
                return place / name
        except OSError:
            return place / name
    return None


def in_process(parallel: ParallelOptions, out: Path) -> bool:
    """Whether a step is not divided; parts that an interrupted run of it has left in OUT are removed then."""
    if parallel.jobs > 1 or parallel.backend != "local":
        return False
    shutil.rmtree(out / PARTS, ignore_errors=True)
    return True


def clean(directory: Path, of: int, arguments: Any) -> None:
    """Leaves of earlier runs only the complete parts of the same number of parts and the same arguments: even options
    that change no result, such as the size of batches, may change what is in which part.
    """
    if not directory.is_dir():
        return
    made_of = content_id(arguments)
    for path in directory.iterdir():
        whole = re.fullmatch(rf"\d+-of-{of}", path.name) and path.is_dir() and _missing(path) is None
        if not whole or read_json(path / PART).get("arguments") != made_of:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
