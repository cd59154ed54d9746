"""What a step made and from what: the stamp in each output directory, and the one way in which steps write.

A step's output directory OUT is built as OUT.tmp and renamed when complete. OUT/stamp.json holds the command, its
options and the ids of its inputs; their hash is the identity of the work, which answers "is this up to date?"
without file times. The id under which later steps record the directory covers its content as well, so that a step
made anew after a change of the code makes what follows it stale.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import platform
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pipeline
from pipeline.base import log
from pipeline.base.digests import Digests, tree_digest
from pipeline.base.errors import DataError, StaleError
from pipeline.base.files import check_utf8, read_json, remove_unfinished, sync_dir, sync_tree, write_json
from pipeline.base.lock import beside, leftovers, lock, tidy
from pipeline.base.records import from_json
from pipeline.base.stamp_file import StampFile

logger = logging.getLogger(__name__)

STAMP = "stamp.json"
PENDING = "pending.json"
DIGESTS = "digests.tsv.gz"  # of the files of inputs without a stamp, so that each is read once
# Made from other files of a directory when these are read, see pipeline.artifacts.index.
DERIVED = ("index.safetensors",)

# What a directory without a stamp must hold, one of these files, to be the input that it is given as: any other one is
# refused before all that lies below it is read.
MARKS = {
    "data": ("cuts.jsonl.gz", "shar.json"),
    "dev": ("cuts.jsonl.gz", "shar.json"),
    "lang": ("lang.json",),
    "tokens": ("tokens.json",),
    "model": ("model.json",),
    "graph": ("graph.json",),
    "dev_ali": ("ali.json",),
}

# Times that were measured while an output was made: who makes it again gets other ones, and the same output.
_TIMES = rb'"(seconds|train_seconds|real_time_factor)": [\d.e+-]+|"metric": "(rtf|seconds)",\s*"value": [\d.e+-]+'
MEASURED = re.compile(_TIMES)

Action = Callable[[Path], "Mapping[str, Any] | None"]


@dataclasses.dataclass(frozen=True)
class Work:
    """What decides the content of an output directory.

    Attributes:
      command: name of the step.
      options: option name -> JSON value, all options that can change the result.
      inputs: input name -> id of what was read, see artifact_id.
      sources: name -> id of what inputs only refer to, such as the audio of a manifest.
    """

    command: str
    options: dict[str, Any]
    inputs: dict[str, str]
    sources: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Hash of all attributes, 32 hexadecimal digits: an output of the same identity is up to date."""
        return self._hash_of(("sources",) if self.sources else ())

    @property
    def core(self) -> str:
        """Hash without the sources, which later steps see in the output alone."""
        return self._hash_of(())

    def _hash_of(self, more: tuple[str, ...]) -> str:
        values = dataclasses.asdict(self)
        counted = {name: values[name] for name in ("command", "options", "inputs", *more)}
        return _hash(json.dumps(counted, sort_keys=True, allow_nan=False))


def run(
    out: Path,
    work: Work,
    action: Action,
    paths: Mapping[str, Path],
    overwrite: bool = False,
    resume: bool = True,
    record: Mapping[str, Any] | None = None,
    digests: Digests | None = None,
) -> bool:
    """Makes the directory `out` by `action`, unless it holds the same work already.

    The action gets OUT.tmp to write into. If a former run of the same work was interrupted, OUT.tmp still holds
    what it wrote, so an action can resume from its own checkpoints; the leftovers of other work are removed.

    Args:
      out: the directory to make.
      work: identity of what is made.
      action: called with OUT.tmp; may return facts (JSON) to keep in the stamp.
      paths: input name -> path, recorded for people; not part of the identity.
      overwrite: replace an `out` that holds other work.
      resume: False removes the leftovers of an interrupted run of the same work as well.
      record: further facts to keep in the stamp beside those of the action, such as the command line.
      digests: those by which `work` was identified; kept in `out` so that the next run need not read the inputs.
    Returns:
      True when the action ran, False when `out` was up to date.
    Raises:
      StaleError: `out` holds other work and `overwrite` is False.
      DataError: `out` exists and was not made by a step; a path that is not UTF-8.
    """
    for name in (*map(os.path.abspath, (out, *paths.values())), str((record or {}).get("command_line"))):
        check_utf8(name)
    digests = digests or Digests()
    _keep(out, digests)
    if _up_to_date(out, work, overwrite):
        if leftovers(out):
            tidy(out)
        return False
    tmp, old = beside(out, ".tmp"), beside(out, ".old")
    with lock(out):
        _finish_rename(out, tmp, old)
        if _up_to_date(out, work, overwrite):
            return False
        _prepare(tmp, work, resume)
        digests.save(tmp / DIGESTS)
        with log.to_file(tmp / "log" / f"{work.command}.log"):
            start = time.monotonic()
            try:
                facts = action(tmp)
            except BaseException:
                logger.debug("%s: stopped", out, exc_info=True)  # for the log file; the console is told by the caller
                raise
            seconds = time.monotonic() - start
            facts = {**(record or {}), **(facts or {})}
            write_json(tmp / STAMP, _stamp(out, tmp, work, paths, facts, seconds))
            sync_tree(tmp)
            (tmp / PENDING).unlink()
            _replace(out, tmp, old)
            logger.info("%s: done in %s", out, log.duration(seconds))
    return True


def digests_of(out: Path) -> Digests:
    """The digests that an earlier run, complete or interrupted, has kept of its inputs."""
    return Digests(beside(out, ".tmp") / DIGESTS, out / DIGESTS)


def artifact_id(path: str | os.PathLike[str], digests: Digests | None = None, name: str = "") -> str:
    """Returns the id of an input: the one in its stamp, or a hash of the content where there is none.

    Args:
      path: file or directory.
      digests: where digests of files come from and go to; without them every file is read.
      name: of the input, see MARKS.
    """
    path, digests = Path(path), digests or Digests()
    if path.is_dir():
        if (path / STAMP).is_file():
            return str(read_stamp(path)["id"])
        marks = MARKS.get(name, ())
        if marks and not any((path / mark).is_file() for mark in marks):
            raise DataError(f"{path}: has neither {STAMP} nor {' or '.join(marks)}, so it is no {name} directory")
        if path.resolve() == Path(path.resolve().anchor):
            raise DataError(f"{path}: is the whole file system, and no input")
        return _tree_hash(path, digests)
    if path.is_file():
        return digests.of([path])[0][:32]
    if beside(path, ".tmp").is_dir():
        raise DataError(f"{path}: the step that makes it was interrupted; run that step again")
    raise DataError(f"{path}: no such file or directory")


def read_stamp(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the stamp of a directory that a step made."""
    path = Path(directory) / STAMP
    stamp: dict[str, Any] = read_json(path)
    from_json(StampFile, stamp, path)
    return stamp


def check_same(directory: Path, work: Work) -> None:
    """Raises StaleError, naming the first difference, unless the stamp in `directory` says it holds `work`."""
    stamp = read_stamp(directory)
    if stamp["identity"] == work.identity:
        return
    was, now = stamp.get("options", {}), work.options
    if stamp.get("command") != work.command:
        what = f"was made by {stamp.get('command')}, not by {work.command}"
    elif any(was.get(k) != now.get(k) or (k in was) != (k in now) for k in {**was, **now}):
        key = next(k for k in {**now, **was} if was.get(k) != now.get(k) or (k in was) != (k in now))
        what = f"was made with {key} = {_show(was, key)}, and now {key} = {_show(now, key)}"
    else:
        inputs = {name: entry.get("id") for name, entry in stamp.get("inputs", {}).items()}
        names = [n for n in {**work.inputs, **inputs} if inputs.get(n) != work.inputs.get(n)]
        what = _other_content(stamp.get("sources"), names, work.sources)
    raise StaleError(f"{directory} {what}; --overwrite makes it anew")


def _other_content(had: dict[str, str] | None, names: list[str], sources: Mapping[str, str]) -> str:
    """Which inputs or sources differ from those that an output was made from.

    Args:
      had: sources in its stamp; None in stamps of version 0.1, which went by the sizes of files in large directories.
      names: inputs that differ.
    """
    unknown = [name for name in sources if name not in (had or {})]
    if not names and unknown:
        shown = " and ".join(map(repr, unknown))
        return f"was made when stamps did not tell the content of {shown} yet, which may have changed since"
    names = names or [name for name in {**sources, **(had or {})} if (had or {}).get(name) != sources.get(name)]
    shown = " and ".join(map(repr, names)) or "state"
    older = "" if had is not None else " (or it has more than 200 MiB, of which older stamps knew only the sizes)"
    return f"was made from another {shown} than there is now{older}"


def _up_to_date(out: Path, work: Work, overwrite: bool) -> bool:
    """True when `out` holds `work`; False when it has to be made; else raises what speaks against making it."""
    if not out.exists():
        above = next((parent for parent in out.parents if parent.exists()), None)
        if above is not None and not above.is_dir():
            raise DataError(f"{above}: is a file, so {out} cannot be made below it")
        return False
    if not out.is_dir():
        raise DataError(f"{out}: is a file; a step writes a directory")
    if not (out / STAMP).is_file():
        if any(out.iterdir()):
            raise DataError(f"{out}: holds files but no {STAMP}, so no step made it; move it away first")
        return False
    try:
        check_same(out, work)
    except StaleError:
        if not overwrite:
            raise
        return False
    logger.info("%s: up to date", out)
    return True


def _keep(out: Path, digests: Digests) -> None:
    """Keeps the digests of inputs that had to be read again (a tree that was copied) with what is there of `out`."""
    if digests.num_read and digests.worth_keeping and (out / STAMP).is_file():
        with contextlib.suppress(OSError), lock(out):
            digests.save(out / DIGESTS)


def _prepare(tmp: Path, work: Work, resume: bool) -> None:
    """Leaves in `tmp` what an interrupted run of the same work wrote, or an empty directory."""
    if tmp.exists():
        same = False
        with contextlib.suppress(DataError, TypeError, KeyError):
            same = read_json(tmp / PENDING)["identity"] == work.identity
        if same and resume:
            logger.info("%s: going on with an interrupted run", tmp)
            remove_unfinished(tmp)
            return
        shutil.rmtree(tmp)
    tmp.mkdir(parents=True)
    write_json(tmp / PENDING, {"identity": work.identity, **dataclasses.asdict(work)})


def _replace(out: Path, tmp: Path, old: Path) -> None:
    """Puts the complete `tmp` in the place of `out`; _finish_rename mends an interruption at any point."""
    if out.exists():
        os.rename(out, old)
    os.rename(tmp, out)
    sync_dir(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _is_whole(tmp: Path) -> bool:
    """Whether a directory has all that its stamp was written for: a copy that was taken meanwhile may lack files."""
    with contextlib.suppress(DataError, TypeError, KeyError, AttributeError):
        stamp = read_stamp(tmp)
        inputs = {name: entry["id"] for name, entry in stamp["inputs"].items()}
        return bool(stamp["id"] == _id_of(Work(stamp["command"], stamp["options"], inputs), tmp))
    return False


def _id_of(work: Work, made: Path) -> str:
    """The id under which later steps record what was made, in the directory where it is."""
    return _hash(work.core + _tree_hash(made, Digests(), empty_ok=True, left_out=MEASURED))


def _finish_rename(out: Path, tmp: Path, old: Path) -> None:
    """Completes a _replace that was interrupted."""
    if not out.exists():
        if (tmp / STAMP).is_file() and not (tmp / PENDING).exists() and _is_whole(tmp):
            os.rename(tmp, out)
        elif old.exists():
            os.rename(old, out)
    if old.exists():
        shutil.rmtree(old)


def _stamp(
    out: Path, tmp: Path, work: Work, paths: Mapping[str, Path], facts: dict[str, Any], seconds: float
) -> dict[str, Any]:
    return {
        "identity": work.identity,
        "id": _id_of(work, tmp),
        "command": work.command,
        "options": work.options,
        # Relative to the directory of the stamp, so that a tree of experiments can be moved.
        "inputs": {n: {"path": os.path.relpath(paths[n], out), "id": i} for n, i in work.inputs.items()},
        "sources": work.sources,
        "code": code_version(),
        "device": cpu_name(),
        "facts": facts,
        "seconds": round(seconds, 3),
        "peak_rss_mib": _peak_rss_mib(),
    }


def _peak_rss_mib() -> int:
    """Largest resident memory of this process or of one of its children so far, in MiB."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(w).ru_maxrss for w in who)
    return round(peak / (1 << 20 if platform.system() == "Darwin" else 1 << 10))


# Where code lives. What else is edited in a checkout stands in stamps (options, commands) or is what recipes write.
CODE = ("pipeline", "steps", "utils", "local", ":(glob)egs/*/local/**")


@functools.cache
def code_version() -> dict[str, str | None]:
    """Returns the version of this package and, in a git checkout, the revision ("+" at its end: code was edited
    since; configurations and results of recipes may be).
    """
    root = Path(pipeline.__file__).resolve().parent.parent
    revision = None
    if (root / ".git").exists():
        git = ["git", "-C", str(root)]
        edited = [*git, "status", "--porcelain", "--untracked-files=no", "--", *CODE]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            head, changes = (
                subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
                for command in ([*git, "rev-parse", "--short=12", "HEAD"], edited)
            )
            revision = head + "+" * bool(changes)
    return {"version": pipeline.__version__, "revision": revision}


@functools.cache
def cpu_name() -> str:
    """Returns the processor's name and the number of cores this process may use, such as "AMD EPYC, 2 cores"."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} {'core' if cores == 1 else 'cores'}"


def _tree_hash(root: Path, digests: Digests, empty_ok: bool = False, left_out: re.Pattern[bytes] | None = None) -> str:
    """Hash over the files below `root`, without logs, temporary files, and those that this module or a reader made."""

    def skip(parts: Sequence[str]) -> bool:
        own = len(parts) == 1 and parts[0] in (STAMP, PENDING, DIGESTS)
        return own or "log" in parts[:-1] or parts[-1].endswith((".tmp", ".lock")) or parts[-1] in DERIVED

    found = tree_digest(root, digests, skip, left_out)
    if found is None and not empty_ok:
        raise DataError(f"{root}: empty directory")
    return found or _hash("")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _show(options: Mapping[str, Any], key: str) -> str:
    return json.dumps(options[key], ensure_ascii=False) if key in options else "(no such option)"
