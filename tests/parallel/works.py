"""Work on parts for tests; a process that runs it finds it under a name of the package."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.base.errors import DataError
from pipeline.base.files import read_json
from pipeline.parallel.parts import Part

PRELOAD = ("colorsys",)


def place() -> dict[str, Any]:
    """The process, the one that it was forked from, and whether that had imported PRELOAD."""
    return {"pid": os.getpid(), "parent": os.getppid(), "imported": PRELOAD[0] in sys.modules}


def squares(part: Part, out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Writes the squares of the part's numbers; some parts may go wrong until a file is there."""
    mended = Path(arguments.get("mended", "/")).exists()
    wrong = {} if mended or "wrong" not in arguments else read_json(Path(arguments["wrong"]))
    how = wrong.get(str(part.number))
    if how == "data":
        raise DataError(f"line {part.number}: broken")
    if how == "bug":
        raise ZeroDivisionError("bug")
    if how == "disk":
        raise OSError(errno.EIO, os.strerror(errno.EIO), "sums.bin")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "killed once":
        first = out.parent.parent / f"killed{part.number}"
        if not first.exists():
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if how == "slow":
        (out.parent.parent / f"pid{part.number}").write_text(str(os.getpid()))
        time.sleep(600)
    if how in ("dies before it renames", "dies when it has renamed"):
        _die_renaming(how == "dies when it has renamed")
    numbers = list(range(arguments["count"]))[part.of_costs([1] * arguments["count"])]
    (out / "numbers.txt").write_text("".join(f"{n * n}\n" for n in numbers))
    with open(Path(arguments["ran"]), "a") as f:
        f.write(f"{part.name}\n")
    return {"sum": sum(n * n for n in numbers), "threads": os.environ.get("OMP_NUM_THREADS")}


def _die_renaming(done: bool) -> None:
    """The machine is gone at the next renaming of a directory, which has been done or not."""
    rename = os.rename

    def dying(source: Any, target: Any) -> None:
        if Path(source).is_dir():
            if done:
                rename(source, target)
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.rename = dying
