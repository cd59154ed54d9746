"""All parts of a step: handed to a back-end, waited for, with what failed by name."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from pipeline.base import errors, log
from pipeline.base.errors import PipelineError
from pipeline.parallel.backends import open_executor
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import PARTS, Done, Part, Work, arrived, clean, log_file, perform, share_done, task

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0


@contextlib.contextmanager
def done_in_parts(
    work: Work, arguments: Mapping[str, Any], out: Path, parallel: ParallelOptions
) -> Iterator[list[Done]]:
    """Makes all parts of a step that are not complete yet.

    Args:
        work: what makes a part; see ``Work``.
        arguments: JSON values for it; paths in them are made absolute by the caller.
        out: directory of the step that is being written: parts are in OUT/parts until the context has ended without an
            exception, and their logs stay in OUT/log.
    Yields:
        the parts in order, to be merged.
    Raises:
        PipelineError: names the parts that failed and their logs; of the class that the first one raised. The others
            are complete and are not made again.
    """
    directory, cluster = out / PARTS, parallel.cluster_options()
    parts = [Part(number, parallel.jobs) for number in range(parallel.jobs)]
    clean(directory, parallel.jobs, dict(arguments))
    directory.mkdir(parents=True, exist_ok=True)
    waiting = [part for part in parts if share_done(directory, part) < 1]
    if len(waiting) < len(parts):
        logger.info("%d of %d parts are done already", len(parts) - len(waiting), len(parts))
    if waiting:
        (out / "log").mkdir(exist_ok=True)
        with open_executor(parallel, cluster, len(waiting), out / "log", work.__module__) as executor:
            failed = _run(executor, work, arguments, directory, waiting)
        if failed:
            raise _error(failed, len(parts), directory, work.__name__)
    yield [arrived(directory, part, cluster.arrival_seconds) for part in parts]
    shutil.rmtree(directory)


def _run(
    executor: Executor, work: Work, arguments: Mapping[str, Any], directory: Path, parts: list[Part]
) -> dict[Part, dict[str, str]]:
    """Runs parts to their ends; what went wrong by part."""
    futures = {executor.submit(perform, task(work, part, directory, dict(arguments))): part for part in parts}
    failed: dict[Part, dict[str, str]] = {}
    _watch(set(futures), futures, directory, f"{work.__name__} in {len(parts)} parts")
    for future, part in futures.items():
        try:
            found = future.result()
        except (Exception, concurrent.futures.CancelledError) as err:  # of whatever back-end
            found = {"lost": str(err) or type(err).__name__}
        if found:
            failed[part] = found
    return failed


def _watch(waiting: set[Future[Any]], parts: Mapping[Future[Any], Part], directory: Path, what: str) -> None:
    """Waits for all futures and reports how far the parts are together."""
    before = _done(parts, waiting, directory)
    with log.Meter(what, len(parts), before) as meter:
        while waiting:
            finished, waiting = concurrent.futures.wait(waiting, POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for future in finished:
                if future.cancelled() or future.exception() is not None or future.result():
                    logger.error("part %s failed", parts[future].name)
                else:
                    logger.debug("part %s is done", parts[future].name)
            if waiting:
                meter.at(_done(parts, waiting, directory))


def _done(parts: Mapping[Future[Any], Part], waiting: set[Future[Any]], directory: Path) -> float:
    """How many parts are done, with the shares of those that are not; parts cost about the same."""
    return sum(share_done(directory, part) if f in waiting else 1.0 for f, part in parts.items())


def _error(failed: dict[Part, dict[str, str]], of: int, directory: Path, name: str) -> Exception:
    """What to raise for parts that failed: what the first one raised, with the places of all."""
    first, found = next(iter(failed.items()))
    message = found.get("message") or found.get("bug") or f"part {first.name}: {found['lost']}"
    logs = ", ".join(str(log_file(directory, part, name)) for part in list(failed)[:3])
    numbers = ", ".join(str(part.number + 1) for part in list(failed)[:20]) + (" .." if len(failed) > 20 else "")
    text = f"{message}\n{len(failed)} of {of} parts failed (number {numbers}); logs: {logs}"
    text += ". The same command repeats them alone"
    kind = getattr(errors, found.get("error", ""), PipelineError)
    return RuntimeError(text) if "bug" in found else kind(text)
