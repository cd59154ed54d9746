"""Progress reports and time spans."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base import log

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def as_before():
    """The console of the other tests."""
    yield
    log.setup()


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert log.duration(seconds) == text


def test_progress_yields_everything_and_says_what_is_left(caplog, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    caplog.set_level("INFO")
    assert list(log.progress([1, 2, 3, 4, 5], desc="aligning")) == [1, 2, 3, 4, 5]
    # Ten seconds an item, a line every twenty: after the second and the fourth.
    assert [r.message for r in caplog.records] == [
        "aligning: 2 of 5 (40 %), 30.0 s left",
        "aligning: 4 of 5 (80 %), 10.0 s left",
    ]


def test_progress_without_total(caplog, monkeypatch):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(log.time, "monotonic", lambda: next(clock))
    caplog.set_level("INFO")
    assert list(log.progress(iter("ab"))) == ["a", "b"]
    assert caplog.records[0].message == "1 done in 30.0 s"


def test_quick_work_logs_nothing(caplog):
    caplog.set_level("INFO")
    assert sum(log.progress(range(1000))) == 499500
    assert not caplog.records


def test_work_within_work_reports_as_one(caplog, monkeypatch):
    """Four batches in each of three epochs, of which one was done before: the time left is that of all epochs."""
    seconds = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: seconds)
    caplog.set_level("INFO")
    heard: list[float] = []
    with log.Meter("epochs", 3, 1) as meter, log.listener(lambda done, total: heard.append(done / (total or 1))):
        for epoch in (1, 2):
            for _ in log.progress(range(4), desc="batches"):
                seconds += 10.0
            meter.at(epoch + 1)
    assert [r.message for r in caplog.records] == [
        "epochs: 1 of 3 (50 %), 1 min 00 s left",
        "epochs: 2 of 3 (67 %), 40.0 s left",
        "epochs: 2 of 3 (83 %), 20.0 s left",
        "epochs: 3 of 3 (100 %), 0.0 s left",
    ]
    assert heard == sorted(heard) and heard[0] == 1.25 / 3 and heard[-1] == 1


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_cleared(monkeypatch):
    seconds, terminal = 0.0, Terminal()
    monkeypatch.setattr(log.time, "monotonic", lambda: seconds)
    monkeypatch.setattr(sys, "stderr", terminal)
    log.setup()
    for i in log.progress(range(3), desc="aligning"):
        seconds += 30.0
        if i == 1:
            logging.getLogger("pipeline").warning("trouble")
    shown = terminal.getvalue()
    first, second, third, rest = shown.split(log.CLEAR)[1:5]
    assert first == "aligning: 1 of 3 (33 %), 1 min 00 s left" and "WARNING trouble\n" in second
    assert third == "aligning: 2 of 3 (67 %), 30.0 s left" and rest == "aligning: 3 of 3 (100 %), 0.0 s left"
    assert shown.endswith(log.CLEAR) and shown.count("\n") == 1
    log.setup(quiet=True)
    terminal.truncate(0)
    for _ in log.progress(range(3)):
        seconds += 30.0
    logging.getLogger("pipeline").info("done")
    assert terminal.getvalue() == ""


def test_json_lines(tmp_path, capsys, monkeypatch):
    """A file gets all of it though the console is quiet; "-" puts them in the place of text."""
    seconds = 0.0
    monkeypatch.setattr(log.time, "monotonic", lambda: seconds)
    logger = logging.getLogger("pipeline.test")
    log.setup(quiet=True, json_to=str(tmp_path / "log.jsonl"), step="align")
    for _ in log.progress(range(3), desc='a "b"'):
        seconds += 20.0
    logger.warning("zwei\nZeilen ü")
    try:
        raise ValueError("x")
    except ValueError:
        logger.exception("bug")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["level"] for line in lines] == ["info"] * 3 + ["warning", "error"]
    assert {line["step"] for line in lines} == {"align"}
    assert lines[0]["progress"] == {"what": 'a "b"', "done": 1, "total": 3, "seconds": 20.0, "left": 40.0}
    assert lines[3]["message"] == "zwei\nZeilen ü" and "ValueError: x" in lines[4]["traceback"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])
    err = capsys.readouterr().err
    assert "zwei" in err and "of 3" not in err
    log.setup(json_to="-", step="align")
    logger.info("done")
    assert json.loads(capsys.readouterr().err)["message"] == "done"
    log.setup()
    logger.info("done")
    assert capsys.readouterr().err.endswith(" done\n") and len(lines) == 5


def test_file_gets_debug_messages_and_the_console_does_not(tmp_path, capsys):
    log.setup()
    logger = logging.getLogger("pipeline.test")
    with log.to_file(tmp_path / "log" / "a.log"):
        logger.debug("detail")
        logger.warning("trouble")
    logger.info("later")
    text = (tmp_path / "log" / "a.log").read_text()
    assert "DEBUG pipeline.test" in text and "WARNING" in text and "later" not in text
    err = capsys.readouterr().err
    assert "WARNING trouble" in err and "later" in err and "detail" not in err
    log.setup(verbose=True)
    logger.debug("detail")
    assert capsys.readouterr().err.count("detail") == 1


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    """Python's own handlers would print a traceback for each message. (In a process of its own: pytest cannot send such
    a message from one of its processes to another.)
    """
    program = (
        "import logging, os, pathlib\n"
        "from pipeline.base import log\n"
        "log.setup(json_to='lines.jsonl')\n"
        "with log.to_file(pathlib.Path('a.log')):\n"
        "    logging.getLogger('pipeline.test').info('%s', os.fsdecode(b'caf\\xe9'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert "caf\\udce9" in (tmp_path / "a.log").read_text()
    assert json.loads((tmp_path / "lines.jsonl").read_text())["message"] == "caf\udce9"
    assert b"caf" in done.stderr and b"Traceback" not in done.stderr


def test_a_log_file_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path, capsys):
    """/dev/full takes the opening, and no byte: the disk that is full while a step runs."""
    log.setup()
    logger = logging.getLogger("pipeline.test")
    (tmp_path / "a.log").symlink_to("/dev/full")
    with log.to_file(tmp_path / "a.log"):
        for number in range(3):
            logger.info("message %d", number)
    told = capsys.readouterr().err
    assert [told.count(f"message {number}") for number in range(3)] == [1, 1, 1]
    assert told.count("a.log: no further messages (No space left on device)") == 1 and "Traceback" not in told


def test_a_message_without_memory(capfd, monkeypatch, tmp_path):
    """It is told bare, and no traceback of logging itself."""

    def fails(*_):
        raise MemoryError

    for kind in (log._Console, log._File):
        monkeypatch.setattr(kind, "format", fails)
    log.setup()
    with log.to_file(tmp_path / "x.log"):
        logging.getLogger("pipeline").error("out of memory (%s)", "main memory")
    assert capfd.readouterr().err == "out of memory (main memory)\n"
