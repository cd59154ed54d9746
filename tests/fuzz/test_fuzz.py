"""Damaged inputs of every reader: each is read or refused with its file; and the campaign notices what is neither."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import ConfigError, DataError
from steps.__main__ import COMMANDS
from tests.fuzz import of_options
from tests.fuzz.campaign import Example, keep, replay, run
from tests.fuzz.formats import Format, all_formats
from tests.fuzz.mutations import damaged

FORMATS = all_formats()
INPUTS, SEED = 2000, 20  # of the ordinary tests; utils/fuzz.py runs others


@pytest.mark.parametrize("name", FORMATS)
def test_every_input_is_read_or_refused(name):
    counts = run(FORMATS[name], range(-(-INPUTS // len(FORMATS))), SEED)
    assert not counts.findings, counts.findings[0].told or counts.findings[0]
    assert counts.inputs == counts.read + counts.refused


def test_the_examples_are_sound_and_inputs_are_a_function_of_seed_and_number(tmp_path):
    for kind in FORMATS.values():
        example = Example(kind, tmp_path / kind.name, 1)
        path = example.files[0]
        assert example.read(path, example.sound[path]) == ("read", ""), kind.name
        again = Example(kind, tmp_path / f"{kind.name} again", 1)
        for number in range(3):
            path, content = example.damage(number)
            assert content != example.sound[path]
            assert again.damage(number)[0].relative_to(again.root) == path.relative_to(example.root)
    data = b'{"a": [1, 2]}\n'
    assert damaged("x.json", data, random.Random(5)) == damaged("x.json", data, random.Random(5))
    assert len({damaged("x.json", data, random.Random(i)) for i in range(50)}) > 30


@pytest.mark.parametrize("step", [step for step in COMMANDS.values() if "--device" in of_options.options(step)])
def test_a_device_that_nobody_has_is_refused_before_any_work(step, tmp_path):
    """With sound inputs torch was asked for it, and its answer was taken for a bug."""
    for name in ("true", "cuda:x", "", "*"):
        (out := tmp_path / f"out{len(list(tmp_path.iterdir()))}").mkdir()
        with pytest.raises(ConfigError, match="device"):
            of_options.call(step, "--device", name, out)


def reader(text: str) -> None:
    """Goes wrong in the way that a text says."""
    if text == "hang":
        time.sleep(60)
    if text == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if text == "large":
        np.ones(1 << 29)
    if text == "bug":
        raise ValueError(text)
    if text == "nameless":
        raise DataError("wrong")


@pytest.mark.parametrize(
    "text, kind",
    [
        ("hang", "hang"),
        ("die", "died (signal SIGSEGV)"),
        ("large", "MemoryError"),
        ("bug", "ValueError"),
        ("nameless", "nameless"),
    ],
)
def test_what_must_not_happen_is_found(tmp_path, text, kind):
    """And the inputs behind it are read all the same."""

    def read(root: Path, out: Path) -> None:
        reader(text if b"!" not in (root / "x.txt").read_bytes() else "")

    made = Format("x", lambda root: (root / "x.txt").write_text("!\n"), ("*",), read)
    example = Example(made, tmp_path / "x", 3)
    marked = [b"!" in example.damage(i)[1] for i in range(40)]
    bad, good = marked.index(False), marked.index(True)
    counts = run(made, [bad, good], 3, seconds=1.0)
    assert (counts.inputs, counts.read, len(counts.findings)) == (2, 1, 1), counts
    assert counts.findings[0].kind.startswith(kind) and counts.findings[0].number == bad
    if text == "bug":
        place = keep(made, counts.findings[0], 3, tmp_path / "kept")
        assert replay({"x": made}, place)[0] == counts.findings[0].kind
