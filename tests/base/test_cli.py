"""Options from dataclass, file and command line; run_step from the command line with its exit codes."""

from __future__ import annotations

import enum
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.base import cli, log, stamp
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.option_values import fields_of


class Kind(enum.Enum):
    """An option with named values."""

    FLAT = "flat"
    GUESSED = "guessed"


@dataclass(frozen=True, config={"extra": "forbid"})
class Options:
    """One field of every sort that options may have."""

    required: str = Field(description="A word.")
    count: int = Field(3, ge=1, description="A number.")
    scale: float | None = Field(1.0, description="A scale or none.")
    mode: Literal["a", "b"] = Field("a", description="A choice.")
    factor: Literal[1, 2, 4] = Field(1, description="A choice of numbers.")
    kind: Kind = Field(Kind.FLAT, description="An enumeration.")
    dims: tuple[int, ...] = Field((40, 80), description="A tuple.")
    window: tuple[float, float] | None = Field(None, description="A pair or none.")
    either: int | Literal["all"] = Field("all", description="A number or a word.")
    deltas: bool = Field(True, description="A flag.")
    device: str = Field("cpu", description="Not part of the stamp.", json_schema_extra={"stamp": False})


def parse(*args: str, config: Path | None = None):
    """What the command line makes of `args`: the options and the click result."""
    seen = []

    @click.command()
    @cli.options(Options)
    def main(config):
        seen.append(config)

    given = ["--config", str(config)] if config else []
    result = CliRunner().invoke(main, [*given, *args])
    return (seen[0] if seen else None), result


def test_defaults():
    options, result = parse("--required", "x")
    assert result.exit_code == 0
    assert options == Options("x")


@pytest.mark.parametrize(
    "args, field, value",
    [
        (["--count", "5"], "count", 5),
        (["--scale", "1e-3"], "scale", 1e-3),
        (["--scale", "none"], "scale", None),
        (["--mode=b"], "mode", "b"),
        (["--factor", "4"], "factor", 4),
        (["--kind", "guessed"], "kind", Kind.GUESSED),
        (["--dims", "1,2,3"], "dims", (1, 2, 3)),
        (["--dims", "7"], "dims", (7,)),
        (["--window", "0.5,1"], "window", (0.5, 1.0)),
        (["--either", "7"], "either", 7),
        (["--either", "all"], "either", "all"),
        (["--no-deltas"], "deltas", False),
        (["--deltas"], "deltas", True),
    ],
)
def test_values(args, field, value):
    options, result = parse("--required", "x", *args)
    assert result.exit_code == 0, result.output
    assert getattr(options, field) == value and type(getattr(options, field)) is type(value)
    others = {name: getattr(options, name) for name in vars(Options("x")) if name in fields_of(Options)}
    assert {**others, field: None} == {**{n: getattr(Options("x"), n) for n in others}, field: None}


@pytest.mark.parametrize(
    "args, words",
    [
        ([], ["--required is required"]),
        (["--required", "x", "--count", "many"], ["--count", "integer", "'many'"]),
        (["--required", "x", "--count", "0"], ["--count", "greater than or equal to 1", "'0'"]),
        (["--required", "x", "--count", "none"], ["--count", "None"]),
        (["--required", "x", "--mode", "c"], ["--mode", "'a' or 'b'", "'c'"]),
        (["--required", "x", "--factor", "3"], ["--factor", "1, 2 or 4"]),
        (["--required", "x", "--kind", "best"], ["--kind", "'flat' or 'guessed'"]),
        (["--required", "x", "--dims", "1,b"], ["--dims", "integer"]),
        (["--required", "x", "--window", "1"], ["--window"]),
        (["--required", "x", "--unknown", "1"], ["No such option"]),
        (["--required", "x", "--count", "9" * 20], ["--count", "64 bits"]),
        (["--required", "x", "--dims", f"1,-{'9' * 20}"], ["--dims", "64 bits"]),
        *(
            (["--required", "x", flag, value], [flag, "finite"])
            for flag, values in (("--scale", "{}"), ("--window", "1,{}"))
            for value in map(values.format, ("nan", "inf", "-inf", "1e400"))
        ),
    ],
)
def test_bad_values(args, words, caplog):
    options, result = parse(*args)
    assert options is None and result.exit_code == 2
    for word in words:
        assert word in caplog.text + result.output


def test_file_is_between_defaults_and_command_line(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("required: y\ncount: 7\nscale: null\ndims: [1, 2]\nkind: guessed\ndeltas: false\nfactor: 2\n")
    options, result = parse("--count", "8", config=config)
    assert result.exit_code == 0, result.output
    expected = dict(count=8, scale=None, dims=(1, 2), kind=Kind.GUESSED, deltas=False, factor=2)
    assert options == Options("y", **expected)


def test_ctrl_c_while_options_are_read(caplog):
    """click's own commands end with 1."""

    def interrupted(*_):
        raise KeyboardInterrupt

    @cli.command()
    @click.option("--slow", callback=interrupted)
    def parsing(slow):
        pass

    @cli.command()
    def before_the_guard():
        interrupted()

    for main in (parsing, before_the_guard):
        result = CliRunner().invoke(main, [])
        assert result.exit_code == 130 and "Aborted" not in result.output
        assert caplog.messages.pop() == "interrupted; the same command resumes the work"


def test_none_on_the_command_line_beats_the_file(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("required: y\nscale: 3\n")
    assert parse("--scale", "none", config=config)[0].scale is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("required: x\ncuont: 7\n", r"a\.yaml: unknown option 'cuont'; known: required, count"),
        ("required: x\ncount: many\n", r"a\.yaml: --count: .*integer.*\(got 'many'\)"),
        ("- 1\n", r"a\.yaml: needs lines like 'name: value'"),
        ("required: x\nscale: .inf\n", r"a\.yaml: --scale: needs a finite number \(got inf\)"),
        ("required: x\ncount: none\n", r"a\.yaml: --count: .*integer.*\(got 'none'\)"),
    ],
)
def test_bad_file(tmp_path, text, message):
    config = tmp_path / "a.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError, match=message):
        cli.load_options(Options, config, {})


def test_one_option_by_both_its_names(tmp_path):
    from pipeline.parallel.options import ClusterOptions

    (tmp_path / "a.yaml").write_text("memory-gib: 1\nmemory_gib: 2\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: 'memory_gib' is given twice, with - and with _"):
        cli.load_options(ClusterOptions, tmp_path / "a.yaml", {})


def test_none_in_a_file_is_what_help_calls_none(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("required: y\nscale: none\nwindow: None\n")
    options = cli.load_options(Options, config, {})
    assert options.scale is None and options.window is None


def test_empty_file_and_dashes_in_names(tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("")
    assert cli.load_options(Options, config, {"required": "x"}) == Options("x")


def test_options_json_leaves_out_what_does_not_count():
    values = cli.options_json(Options("x", kind=Kind.GUESSED))
    assert values["kind"] == "guessed" and values["dims"] == [40, 80] and "device" not in values
    assert cli.options_json({"path": Path("a"), "n": 1}) == {"path": "a", "n": 1}


def test_help_shows_descriptions_and_defaults():
    _, result = parse("--help")
    assert result.exit_code == 0
    for text in ("--config FILE", "A number.", "[default: 40,80]", "[default: flat]", "--deltas / --no-deltas", "a|b"):
        assert text in result.output


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(Options)
@cli.step_options
def step(data: Path, out: Path, config: Options, overwrite: bool) -> None:
    """Writes its options."""

    def action(tmp: Path) -> dict:
        if config.count == 13:
            raise ValueError("unlucky")
        (tmp / "result").write_text(f"{config.count}")
        return {"facts": config.count}

    inputs = {"data": data, "extra": None}
    cli.run_step(out, inputs=inputs, options=config, action=action, overwrite=overwrite, command="step")


def test_step(tmp_path, caplog):
    data, out = tmp_path / "data", tmp_path / "out"
    data.write_text("x")

    def run(*args: str) -> int:
        caplog.clear()
        return CliRunner().invoke(step, [str(data), str(out), "--required", "x", *args]).exit_code

    assert run() == 0
    assert stamp.read_stamp(out)["facts"]["facts"] == 3
    assert list(stamp.read_stamp(out)["inputs"]) == ["data"]
    assert run("--device", "cuda", "--verbose") == 0 and "up to date" in caplog.text
    assert run("--count", "4") == 2 and "count = 3, and now count = 4" in caplog.text
    assert run("--count", "4", "--overwrite") == 0
    assert (out / "result").read_text() == "4"
    assert run("--count", "13", "--overwrite") == 1
    assert (out / "result").read_text() == "4"
    data.unlink()
    assert run("--count", "4") == 2 and f"{data}: no such file or directory" in caplog.text


@pytest.mark.parametrize("which", ["data", "out", "text"])
def test_names_that_are_not_utf8_are_refused_before_the_work(tmp_path, which, monkeypatch, caplog):
    """The stamp could not hold them, when all is done."""
    names = {"data": "data", "out": "out", "text": "x"} | {which: os.fsdecode(b"not\xffutf8")}
    data = tmp_path / names["data"]
    data.write_text("x")
    args = [str(data), str(tmp_path / names["out"]), "--required", "x"]
    monkeypatch.setattr(sys, "argv", ["step.py", *args, names["text"]])
    assert CliRunner().invoke(step, args).exit_code == 2
    assert re.search(r"not\\udcffutf8'\"?: this name is not UTF-8", caplog.text)
    assert not list(tmp_path.glob("*.tmp"))


def test_quiet_and_json(tmp_path, monkeypatch):
    """By options or, for whole recipes, by the environment."""
    (tmp_path / "data").write_text("x")
    lines = tmp_path / "log.jsonl"
    args = [str(tmp_path / "data"), str(tmp_path / "out"), "--required", "x"]

    def run(*more: str):
        return CliRunner().invoke(step, [*args, *more], prog_name="step.py")

    try:
        done = run("--quiet", "--log-json", str(lines))
        assert done.exit_code == 0 and done.output == ""
        said = [json.loads(line) for line in lines.read_text().splitlines()]
        assert {line["step"] for line in said} == {"step"} and any("done in" in line["message"] for line in said)
        done = run("--quiet", "--count", "4")
        assert done.exit_code == 2 and "ERROR" in done.output and "up to date" not in done.output
        monkeypatch.setenv("FULLSUM_QUIET", "true")
        monkeypatch.setenv("FULLSUM_LOG_JSON", "-")
        last = json.loads(run().output.splitlines()[-1])
        assert last["level"] == "info" and "up to date" in last["message"]
        assert run("--verbose").exit_code == 2
        monkeypatch.setenv("FULLSUM_LOG_JSON", str(tmp_path / "none" / "log.jsonl"))
        done = run()
        assert done.exit_code == 2 and "No such file or directory" in done.output
    finally:
        log.setup()


def test_a_step_in_the_way_of_a_file(tmp_path):
    (tmp_path / "data").write_text("x")
    (tmp_path / "file").write_text("x")
    args = [str(tmp_path / "data"), str(tmp_path / "file" / "out"), "--required", "x"]
    assert CliRunner().invoke(step, args).exit_code == 2


def test_an_option_added_later_counts_only_when_set():
    @dataclass(frozen=True, config={"extra": "forbid"})
    class Older:
        count: int = Field(3, description="A number.")

    @dataclass(frozen=True, config={"extra": "forbid"})
    class Newer(Older):
        added: float = Field(0.5, description="A later option.", json_schema_extra={"stamp": "if_set"})

    assert cli.options_json(Newer()) == cli.options_json(Older()) == {"count": 3}
    assert cli.options_json(Newer(added=0.7)) == {"count": 3, "added": 0.7}


def test_command_line_has_no_absolute_paths(tmp_path):
    """From outside the checkout a step is named as a recipe would; inside, by its way from here."""
    step = str(cli.ROOT / "steps" / "align.py")
    assert cli.command_line([step, str(tmp_path / "a b")], tmp_path) == "../../steps/align.py 'a b'"
    assert cli.command_line([step, "data"], cli.ROOT / "egs" / "tiny") == "../../steps/align.py data"
    assert cli.command_line(["steps/align.py", "data"], cli.ROOT) == "steps/align.py data"
    for group in ("/usr/local/bin/fullsum", str(cli.ROOT / "steps"), str(cli.ROOT / "steps" / "__main__.py")):
        assert cli.command_line([group, "align", "data"], cli.ROOT / "egs" / "tiny") == "fullsum align data"


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_names_beyond_ascii_where_the_locale_is_plain(tmp_path, locale):
    (tmp_path / "orð.txt").write_text("ÞÚ TH UW\n", encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    environment |= {"LC_ALL": locale, "PYTHONPATH": str(cli.ROOT)}
    command = [sys.executable, str(cli.ROOT / "steps" / "make_lang.py"), "orð.txt", "mál"]
    for said in ("mál: done", "mál: up to date"):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60)
        assert done.returncode == 0 and said in done.stderr.decode(), done.stderr.decode()
    assert "ÞÚ" in (tmp_path / "mál" / "words.txt").read_text(encoding="utf-8")


def test_a_source_that_cannot_be_told_is_an_error_of_the_user(tmp_path, caplog):
    (tmp_path / "data").write_text("x")

    def lost(_digests) -> str:
        raise DataError("cuts.jsonl.gz:3: not JSON")

    with pytest.raises(SystemExit) as error:
        cli.run_step(
            tmp_path / "out", {"data": tmp_path / "data"}, {}, lambda tmp: None, command="a", sources={"x": lost}
        )
    assert error.value.code == 2 and "cuts.jsonl.gz:3: not JSON" in caplog.text
