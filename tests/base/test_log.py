"""Progress reports and time spans."""

from __future__ import annotations

import logging

import pytest

from pipeline.base import log


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
