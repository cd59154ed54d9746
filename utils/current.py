#!/usr/bin/env python3
"""Tells a recipe which of its steps are up to date: one process for all, where each step would start Python anew.

Reads requests from stdin, each as strings that end with NUL: their number, the directory, the script and its arguments.
Answers each with a line: "current" or "run". Whatever is not plainly up to date is for the step itself to deal with.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import IO

from pipeline.base import cli

logger = logging.getLogger("pipeline")


@cli.command(help=__doc__)
@cli.log_options
def main() -> None:
    """Serves until the end of stdin."""
    for directory, script, *arguments in requests(sys.stdin.buffer):
        found = current(Path(directory), Path(script), arguments)
        for out in found or []:
            logger.info("%s: up to date", out)
        sys.stdout.write("current\n" if found else "run\n")
        sys.stdout.flush()


def requests(stream: IO[bytes]) -> Iterator[list[str]]:
    """The strings of each request."""
    rest = b""
    strings: list[str] = []
    while block := os.read(stream.fileno(), 1 << 16):
        *whole, rest = (rest + block).split(b"\0")
        strings += [os.fsdecode(string) for string in whole]
        while strings and len(strings) > (count := int(strings[0])):
            yield strings[1 : count + 1]
            strings = strings[count + 1 :]


def current(directory: Path, script: Path, arguments: list[str]) -> list[Path] | None:
    """The outputs of a step if all of them are up to date."""
    os.chdir(directory)
    logging.disable(logging.CRITICAL)  # the step itself says what is wrong
    try:
        step = _module(script.resolve())
        with cli.checking() as found:
            if step is not None:
                step.main.main(args=arguments, prog_name=str(script), standalone_mode=False)
        return found
    except (cli.NotCurrentError, SystemExit, Exception):
        return None
    finally:
        logging.disable(logging.NOTSET)


@functools.cache
def _module(script: Path) -> ModuleType | None:
    """A step as a module; None for one that may be a helper of another process, which its environment tells."""
    if "environ" in script.read_text(encoding="utf-8"):
        return None
    spec = importlib.util.spec_from_file_location(f"step_{script.stem}", script)
    assert spec is not None and spec.loader is not None, script
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
