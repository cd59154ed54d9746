"""utils/parse_options.sh: sets only what the script has declared, and never runs what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

UTILS = Path(__file__).resolve().parents[2] / "utils"

SCRIPT = f"""#!/usr/bin/env bash
# Trains something.
#
# Usage: ./script [--some-name WORD]
set -euo pipefail
# not part of the help
some_name=default
count=3
flag=false
. {UTILS}/parse_options.sh
printf '%s|' "$some_name" "$count" "$flag" "$@"
"""


@pytest.fixture
def script(write_script):
    """Runs the script with the arguments given."""
    return write_script(SCRIPT)


@pytest.mark.parametrize(
    "args, printed",
    [
        ([], "default|3|false|"),
        (["--some-name", "x y"], "x y|3|false|"),
        (["--some_name", "x"], "x|3|false|"),
        (["--some-name=a=b"], "a=b|3|false|"),
        (["--some-name", ""], "|3|false|"),
        (["--some-name", "-1"], "-1|3|false|"),
        (["--some-name", "*"], "*|3|false|"),
        (["--some-name", "$(touch bad); `touch bad`"], "$(touch bad); `touch bad`|3|false|"),
        (["--flag"], "default|3|true|"),
        (["--flag", "true", "rest"], "default|3|true|rest|"),
        (["--flag", "rest", "more"], "default|3|true|rest|more|"),
        (["--flag", "--count", "4"], "default|4|true|"),
        (["--count", "1", "--count", "2"], "default|2|false|"),
        (["--count", "1", "--", "--flag"], "default|1|false|--flag|"),
    ],
)
def test_options(script, tmp_path, args, printed):
    result = script(*args)
    assert (result.returncode, result.stdout) == (0, printed), result.stderr
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    "args, message",
    [
        (["--other", "x"], "--other: no such option"),
        (["--PATH", "/tmp"], "--PATH: no such option"),
        (["--some-name[0]", "x"], "no such option"),
        (["--a[$(touch bad)]", "x"], "no such option"),
        (["--a[$(touch bad)]=x"], "no such option"),
        (["--count"], "--count needs a value"),
        (["--flag=maybe"], "--flag is true or false, not 'maybe'"),
        (["--config"], "--config needs a file"),
        (["--config", "none"], "none: no such file"),
    ],
)
def test_refused(script, tmp_path, args, message):
    result = script(*args)
    assert result.returncode == 2 and message in result.stderr and result.stdout == ""
    assert not (tmp_path / "bad").exists()


def test_config(script, tmp_path):
    (tmp_path / "a.conf").write_text(
        "# comment\n\nsome-name = x\n".replace(" = ", "=")
        + 'some_name="a # b $(touch bad)"  # comment\ncount=$(touch bad)  # comment\r\nflag=true'
    )
    assert script("--config", "a.conf").stdout == "a # b $(touch bad)|$(touch bad)|true|"
    assert script("--count", "9", "--config=a.conf").stdout == "a # b $(touch bad)|9|true|"
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    "text, message",
    [("count=1\ntouch bad\n", "a.conf:2: needs name=value"), ("cuont=1\n", "a.conf:1: cuont: no such option")],
)
def test_broken_config(script, tmp_path, text, message):
    (tmp_path / "a.conf").write_text(text)
    result = script("--config", "a.conf")
    assert result.returncode == 2 and message in result.stderr


def test_help(script):
    result = script("--help")
    assert result.stdout == "Trains something.\n\nUsage: ./script [--some-name WORD]\n" and result.returncode == 0
