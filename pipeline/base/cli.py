"""From the command line to a call: options of a dataclass, outputs with stamps, errors as exit codes.

The only module of the package that knows of click, of the command line and of exit codes. A step looks like this::

    @cli.command()
    @click.argument("data", type=click.Path(path_type=Path))
    @click.argument("out", type=click.Path(path_type=Path))
    @cli.options(MonoOptions)
    @cli.step_options
    def main(data, out, config, overwrite):
        '''Trains ...'''
        def action(tmp):
            from pipeline.gmm.train import train_mono  # heavy imports only when there is work to do
            ...
        cli.run_step(out, {"data": data}, config, action, overwrite, command="train_mono")
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import enum
import functools
import logging
import math
import os
import shlex
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from pipeline.base import log, stamp
from pipeline.base.digests import Digests
from pipeline.base.errors import PipelineError, of_environment
from pipeline.base.limits import watch_over
from pipeline.base.lock import leftovers
from pipeline.base.option_values import extra_of, fields_of
from pipeline.base.option_values import load_options as load_options
from pipeline.base.option_values import options_json as options_json

logger = logging.getLogger(__name__)

_Function = Callable[..., Any]

ROOT = Path(__file__).resolve().parents[2]


def _let_mkl_use_avx2() -> None:
    """On AMD processors the MKL of torch 1.13 (2020.0) falls back to SSE, which makes matrix products take 2.4 times as
    long.

    The variable is read at the first product; later versions of MKL ignore it.
    """
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
            amd = "AuthenticAMD" in file.read(4096)
    except OSError:
        return
    if amd:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


_let_mkl_use_avx2()

# oneDNN keeps the code of a thousand convolutions, one for each shape of a batch: hundreds of MiB that grow with the
# corpus. Eight cost an epoch of a TDNN 6 % of its time, none would cost 28 %. It is read at the first convolution.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")


def environment(threads: int, own: bool = True) -> dict[str, str]:
    """Environment of a fresh interpreter that finds this package and computes with so many threads.

    Args:
      own: with all variables of this process, for a child; otherwise only what others need beside their own.
    """
    number, path = str(threads), os.environ.get("PYTHONPATH")
    limits = {f"{of}_NUM_THREADS": number for of in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    found = {**limits, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)}
    return {**os.environ, **found} if own else found


class _Command(click.Command):
    """Ctrl-C ends it as ``main_guard`` says, also before that is reached; click's own say "Aborted!" and end with 1."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _interrupts():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _interrupts():
            return super().invoke(ctx)


def command(**attributes: Any) -> Callable[[_Function], click.Command]:
    """Decorator: ``click.command`` for all commands of this project."""
    return click.command(cls=_Command, **attributes)


def options(cls: type, name: str = "config") -> Callable[[_Function], _Function]:
    """Decorator: one command-line option per field of `cls`, and `--config FILE.yaml` for many at once.

    Values come from the defaults of `cls`, then the file, then the command line. The function is called with
    `config=cls(...)`. Tuples are written with commas (`--dims 40,80`), None as `none`, a boolean as
    `--name / --no-name`. A field with `Field(json_schema_extra={"stamp": False})` (device, number of jobs) does
    not count when stamps are compared; one with `{"stamp": "if_set"}` counts only when it differs from its default,
    so that an option that is added later leaves existing outputs up to date. A field with `{"env": NAME}` may also be
    given as an environment variable, for what a whole recipe has in common.

    Args:
      cls: a frozen pydantic dataclass; each field has a description, which becomes the help text.
      name: under which the function gets it; only "config" has the option `--config`.
    """
    fields = fields_of(cls)

    def decorate(func: _Function) -> _Function:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            config_file: Path | None = kwargs.pop("config_file") if name == "config" else None
            given = {field: kwargs.pop(field) for field in fields}
            given = {field: None if value is _NONE else value for field, value in given.items() if value is not None}
            with main_guard():
                config = load_options(cls, config_file, given)
            return func(*args, **{name: config}, **kwargs)

        decorated: _Function = wrapper
        for field_name, field in reversed(list(fields.items())):
            decorated = _option(field_name, field)(decorated)
        if name != "config":
            return decorated
        add_config = click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="YAML file with values for the options below.",
        )
        return add_config(decorated)

    return decorate


def log_options(func: _Function) -> _Function:
    """Decorator: sets the log up by `--verbose`, `--quiet` and `--log-json`. For commands without an output."""

    def set_up(context: click.Context, option: click.Parameter, value: Any) -> None:
        given = context.meta.setdefault("pipeline.log", {"step": Path(context.info_name or "").stem})
        given[option.name] = value
        if given.get("verbose") and given.get("quiet"):
            raise click.UsageError("--verbose or --quiet, not both.", context)
        try:
            log.setup(**given)
        except OSError as err:
            raise click.BadParameter(f"{value}: {err.strerror}", context, option) from None

    def option(*names: str, **more: Any) -> Callable[[_Function], _Function]:
        return click.option(*names, expose_value=False, is_eager=True, callback=set_up, **more)

    verbose = option("--verbose", is_flag=True, help="Show debug messages.")
    quiet = option(
        "--quiet", is_flag=True, envvar="FULLSUM_QUIET", help="Show warnings and errors alone, and no progress."
    )
    lines = option(
        "--log-json",
        "json_to",
        metavar="FILE",
        envvar="FULLSUM_LOG_JSON",
        help="Add the log and the progress to FILE as JSON lines; -: write them to stderr in place of text.",
    )
    return verbose(quiet(lines(func)))


def step_options(func: _Function) -> _Function:
    """Decorator: `--overwrite`, passed on to the function, and ``log_options``, which are dealt with here."""
    return click.option("--overwrite", is_flag=True, help="Remake an output whose options or inputs differ.")(
        log_options(func)
    )


@dataclasses.dataclass(frozen=True)
class Processes:
    """Which of the processes that torchrun has started this one is; by default the only one."""

    rank: int = 0
    size: int = 1


def torchrun_options(func: _Function) -> _Function:
    """Decorator: what torchrun says in the environment, as the argument `processes`."""

    @functools.wraps(func)
    def wrapper(*args: Any, rank: int, world_size: int, **kwargs: Any) -> Any:
        return func(*args, processes=Processes(rank, world_size), **kwargs)

    decorated: _Function = wrapper
    for name, default, what in (("rank", 0, "number of this process"), ("world-size", 1, "number of processes")):
        variable, text = name.upper().replace("-", "_"), f"torchrun: {what}."
        decorated = click.option(f"--{name}", envvar=variable, default=default, hidden=True, help=text)(decorated)
    return decorated


class NotCurrentError(BaseException):
    """Within ``checking``: a step has work to do. No Exception, so that nobody takes it for an error."""


@contextlib.contextmanager
def checking() -> Iterator[list[Path]]:
    """Within the context ``run_step`` does nothing but look: it raises NotCurrentError for what has to be made.

    Returns:
      a context manager that yields a list, to which the outputs that are up to date are added.
    """
    global _current
    _current = []
    try:
        yield _current
    finally:
        _current = None


_current: list[Path] | None = None


def run_step(
    out_dir: str | os.PathLike[str],
    inputs: Mapping[str, str | os.PathLike[str] | None],
    options: Any,
    action: stamp.Action,
    overwrite: bool = False,
    command: str = "",
    resume: bool = True,
    sources: Mapping[str, Callable[[Digests], str]] | None = None,
) -> bool:
    """Makes `out_dir` by `action(tmp_dir)`, or says that it is up to date; see pipeline.base.stamp.run.

    Args:
      out_dir: the directory to make.
      inputs: name -> file or directory that the action reads; None for an optional one that is not given.
      options: the dataclass (or a dict of JSON values) of all options that decide the result.
      action: gets the temporary directory to write into; returns None or a dict of facts for the stamp. After an
        interruption it gets the same directory again, with what is in it, unless `resume` is False.
      overwrite: replace an output made with other options or inputs; an equal one is up to date all the same.
      command: name of the step.
      resume: False for an action that cannot stand files of its interrupted run.
      sources: name -> function that identifies what inputs only refer to, see pipeline.artifacts.audio_id.
    Returns:
      True when the action ran, False when the output was up to date. Errors end the process with 2 or 1.
    """
    assert command, "run_step needs the name of the step"
    out = Path(out_dir)
    with main_guard(out):
        if _current is not None and (not (out / stamp.STAMP).is_file() or leftovers(out)):
            raise NotCurrentError  # before inputs are read, which the step itself would do again
        paths = {name: Path(path) for name, path in inputs.items() if path is not None}
        digests = stamp.digests_of(out)
        ids = {name: stamp.artifact_id(path, digests, name) for name, path in paths.items()}
        referred = {name: identify(digests) for name, identify in (sources or {}).items()}
        work = stamp.Work(command, options_json(options), ids, referred)
        if _current is not None:
            if stamp.read_stamp(out)["identity"] != work.identity or (digests.num_read and digests.worth_keeping):
                raise NotCurrentError
            _current.append(out)
            return False
        record = {"command_line": command_line(sys.argv, Path.cwd())}
        return stamp.run(out, work, action, paths, overwrite, resume, record, digests)


def command_line(argv: Sequence[str], cwd: Path) -> str:
    """The command as others may repeat it: relative paths; the step as seen from a recipe, whichever checkout runs
    it, or `fullsum` and its name.
    """
    parts = [os.path.relpath(part, cwd) if os.path.isabs(part) else part for part in argv]
    script = (cwd / argv[0]).resolve()
    if script.name in ("fullsum", "__main__.py") or script.is_dir():  # python steps
        parts[0] = "fullsum"
    elif script.is_relative_to(ROOT) and not cwd.resolve().is_relative_to(ROOT):
        parts[0] = os.path.join("..", "..", script.relative_to(ROOT))
    return shlex.join(parts)


@contextlib.contextmanager
def main_guard(out: Path | None = None) -> Iterator[None]:
    """Turns exceptions into exit codes: 2 for what the user can mend, 130 for Ctrl-C, 1 with traceback for a bug.

    Under a limit of memory another process tells if native code ends this one, see ``limits.watch_over``.
    """
    log.setup_default()
    code = watch_over(logger.error)
    if code is not None:
        os._exit(code)  # what is to be done at the end the other process has done
    before = threading.excepthook
    threading.excepthook = functools.partial(_in_thread, before)
    try:
        with _interrupts():
            yield
    except PipelineError as err:
        logger.debug("traceback", exc_info=True)
        _fail(f"{err}", 2)
    except Exception as err:
        message = of_environment(err, out)
        if message is None:
            broken = " or broken environment" if isinstance(err, OSError) else "; the traceback follows"
            logger.exception("bug%s", broken)
            sys.exit(1)
        logger.debug("traceback", exc_info=True)
        _fail(message, 2)
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def _interrupts() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        log.setup_default()
        _fail("interrupted; the same command resumes the work", 130)


def _in_thread(otherwise: Callable[[threading.ExceptHookArgs], Any], args: threading.ExceptHookArgs) -> None:
    """Tells what ended a thread, such as the one that writes TensorBoard's curves, by a line where that is enough."""
    message = of_environment(args.exc_value, None) if isinstance(args.exc_value, Exception) else None
    if message is None:
        otherwise(args)
    else:
        logger.warning("%s", message.split(";")[0])


# What _Value makes of "none": click itself uses None for an option that is not given.
_NONE = object()


class _Value(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.4 on
    """A value that pydantic will check: here only what a command line needs is done (none, commas)."""

    def __init__(self, annotation: Any) -> None:
        parts = [annotation]
        if typing.get_origin(annotation) in (typing.Union, types.UnionType):
            parts = list(typing.get_args(annotation))
        self.optional = type(None) in parts
        parts = [part for part in parts if part is not type(None)]
        self.sequence = any(typing.get_origin(p) in (tuple, list, collections.abc.Sequence) for p in parts)
        self.choices: dict[str, Any] = {}
        for part in parts:
            if typing.get_origin(part) is typing.Literal:
                self.choices.update({str(value): value for value in typing.get_args(part)})
            elif isinstance(part, type) and issubclass(part, enum.Enum):
                self.choices.update({str(member.value): member for member in part})
        plain = "|".join(getattr(p, "__name__", str(p)) for p in parts)
        self.name = "|".join(self.choices) if self.choices else "A,B,.." if self.sequence else plain.upper()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if self.optional and value.lower() == "none":
            return _NONE
        if value in self.choices:
            return self.choices[value]
        if self.sequence:
            return [part.strip() for part in value.split(",") if part.strip()]
        return value


class Number(click.FloatRange):
    """A number within bounds, which click alone lets NaN pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


def _option(name: str, field: FieldInfo) -> Callable[[_Function], _Function]:
    flag = f"--{name.replace('_', '-')}"
    text = field.description or ""
    assert text, f"option {flag} has no description"
    if not field.is_required():
        default = field.get_default(call_default_factory=True)
        shown = default.value if isinstance(default, enum.Enum) else default
        if isinstance(shown, (tuple, list)):
            shown = ",".join(map(str, shown))
        text += f"  [default: {str(shown).lower() if isinstance(shown, (bool, type(None))) else shown}]"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    value = _Value(field.annotation)
    variable = extra_of(field).get("env")
    if variable:
        text += f"  [variable: {variable}]"
    return click.option(flag, name, type=value, default=None, metavar=value.name, help=text, envvar=variable)


def _fail(message: str, code: int) -> typing.NoReturn:
    logger.error("%s", message)
    sys.exit(code)
