"""utils/mutate.py: which faults it knows, which tests it runs, and that what has been run is not run again."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

SCRIPT = Path(__file__).resolve().parents[2] / "utils" / "mutate.py"


@pytest.fixture
def mutate(monkeypatch):
    spec = importlib.util.spec_from_file_location("mutate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutate", module)
    spec.loader.exec_module(module)
    return module


SOURCE = '''"""Text with é, 1 and <."""

def f(a: "x < 1", b=0.5):
    """Docs."""
    assert a < 7, "not 3"
    logger.info("a %d", a - 1)
    if a <= b and not b:
        raise ValueError(f"{a - 1}")
    a[0] = max(a, -b)
    a += "é"
    return (a if b
            else x.ceil())
'''
EXPECTED = {
    ("0.5", "2.0"),
    ("a <= b and not b", "(a <= b or not b)"),
    ("a <= b", "(a < b)"),
    ("not b", "(b)"),
    ("a[0] = max(a, -b)", "pass"),
    ("0", "1"),
    ("max", "(min)"),
    ("-b", "(b)"),
    ('a += "é"', "pass"),
    ("a if b\n            else x.ceil()", "(x.ceil() if b else a)"),
    ("x.ceil", "(x.floor)"),
}


def test_faults_of_a_module(mutate, tmp_path):
    """Each is where it says, and the module can still be read; texts, checks and messages stay as they are."""
    found = mutate.faults_of("m.py", SOURCE)
    assert {(f.before, f.after) for f in found} == EXPECTED and len(found) == len(EXPECTED)
    for fault in found:
        mutate.put_in(tmp_path, fault, SOURCE)
        changed = (tmp_path / "m.py").read_text(encoding="utf-8")
        ast.parse(changed)
        assert changed != SOURCE and SOURCE.splitlines()[fault.line - 1] != changed.splitlines()[fault.line - 1]


def test_faults_are_run_once_and_counted(mutate, tmp_path, monkeypatch):
    """Of two faults in a module one makes its test fail; a later run has nothing to do, and the score can be asked for."""
    for name in ("pipeline/m", "tests/m"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "pipeline/m/x.py").write_text("def f(a, b):\n    return a + b\n\n\ndef g(a, b):\n    return a < b\n")
    test = "from pipeline.m.x import f, g\n\n\ndef test_f():\n    assert f(1, 2) == 3 and g(1, 2)\n"
    (tmp_path / "tests/m/test_x.py").write_text(test)
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.setattr(mutate, "COPIED", ("pipeline", "tests"))
    assert mutate.tests_of("pipeline/m/x.py") == ["tests/m/test_x.py"]
    arguments = ["pipeline/m", "--out", str(tmp_path / "out.jsonl")]
    first = CliRunner().invoke(mutate.main, arguments, catch_exceptions=False)
    assert first.exit_code == 0 and "1 of 2 faults were noticed: 50 %" in first.output
    assert "pipeline/m/x.py:6: 'a < b' -> '(a <= b)'" in first.output
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows] == ["killed", "survived"]
    assert [row["by"] for row in rows] == ["tests/m/test_x.py::test_f", ""]
    (tmp_path / "tests/m/test_x.py").write_text("from pipeline.m.x import h\n")  # other tests, other outcomes
    other = CliRunner().invoke(mutate.main, arguments)
    assert other.exit_code == 1 and "its tests fail without any fault: tests/m/test_x.py" in other.output
    (tmp_path / "tests/m/test_x.py").write_text(test)
    monkeypatch.setattr(mutate, "run_tests", None)
    again = CliRunner().invoke(mutate.main, [*arguments, "--least-score", "0.9"], catch_exceptions=False)
    assert again.exit_code == 1 and again.output == first.output
