"""Every option of every step with values that make no sense: refused by name, or taken."""

from __future__ import annotations

import contextlib
import importlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from pipeline.base.errors import ConfigError
from steps.__main__ import COMMANDS
from tests.fuzz import mutations
from tests.fuzz.formats import add

VALUES = (
    "nan inf -inf 1e400 -1e400 1e308 1e-320 0 -0 -1 1.5 2147483648 99999999999999999999999999 1e20 none None null true x "
    "é ² １ a,b 1,,2 , nan,nan 1,nan [] {} * -- /dev/null / . ../x %s \u00a0 \udc80 \u200b ' \" $HOME"
).split(" ")
VALUES = (*VALUES, "", " ", "x" * 100_000, "9" * 5000, ",".join(["1"] * 5000), "\n", "a\nb")


def command(step: str) -> click.Command:
    """The command of a step."""
    found: click.Command = importlib.import_module(f"steps.{step}").main
    return found


def options(step: str) -> list[str]:
    """The options of a step that take a value."""
    skipped = ("--help", "--config")  # of which the latter is a file, see of_experiments
    params = [p for p in command(step).params if isinstance(p, click.Option) and not (p.is_flag or p.count or p.hidden)]
    return [p.opts[0] for p in params if p.opts[0] not in skipped]


def listing(step: str) -> str:
    """A line for each option."""
    return "".join(f"{name}\n" for name in options(step))


def make(root: Path) -> None:
    """A file for each step with its options."""
    for step in COMMANDS.values():
        if options(step):
            (root / f"{step}.options").write_text(listing(step), encoding="utf-8")


def choose(data: bytes, rng: random.Random) -> bytes:
    """One of the options, with a value; once, whatever else damages a file twice."""
    if b"=" in data:
        return data
    return f"{rng.choice(data.decode().split())}={rng.choice(VALUES)}".encode("utf-8", "surrogateescape")


def read(root: Path, out: Path) -> None:
    """Calls the step whose file has been damaged."""
    for path in root.iterdir():
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        if text != listing(path.stem):
            call(path.stem, *text.split("=", 1), out)


def call(step: str, name: str, value: str, out: Path) -> None:
    """Calls a step with empty inputs; ConfigError where it ends with 2."""
    main = command(step)
    needed = [p for p in main.params if isinstance(p, click.Argument) or (p.required and p.opts[0] != name)]
    arguments = [part for p in needed for part in (*(p.opts if p.opts[0][:1] == "-" else ()), empty(p, out))]
    runner = CliRunner()
    with told_by_log() as log, runner.isolated_filesystem(out):  # a value may name a file to write, such as a log
        done = runner.invoke(main, [*arguments, f"{name}={value}"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    told = done.output + "\n".join(log)
    assert done.exit_code in (0, 2), (done.exit_code, told[-2000:])
    if done.exit_code == 2:
        places = (name, name[2:].replace("-", "_"), str(out), f"{value}: no such file", *[value] * (value[:1] == "/"))
        assert any(place in told for place in places), told[-2000:]
        raise ConfigError(f"{out}: {told[-1000:]}")


@contextlib.contextmanager
def told_by_log() -> Iterator[list[str]]:
    """What is logged meanwhile, where errors go."""
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    before = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    logging.getLogger().addHandler(handler)
    try:
        yield told
    finally:
        logging.getLogger().removeHandler(handler)
        logging.disable(before)


def empty(parameter: click.Parameter, out: Path) -> str:
    """What a parameter may name: an empty file or directory, or one that is not there."""
    path = out / str(parameter.name)
    if isinstance(parameter.type, click.Path) and parameter.type.exists:
        path.mkdir() if parameter.type.dir_okay else path.touch()
    return str(path)


mutations.KINDS[".options"] = (choose,)
add("step options", make, "*.options", read)
