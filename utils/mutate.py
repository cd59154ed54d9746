#!/usr/bin/env python3
"""Puts single faults into modules, one at a time and in a copy, and counts those that their tests notice."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
PLACES = (
    "pipeline/hmm",
    "pipeline/gmm",
    "pipeline/graph",
    "pipeline/nn",
    "pipeline/e2e",
    "pipeline/tasks/ali_score.py",
    "pipeline/tasks/align.py",
    "pipeline/tasks/bias.py",
    "pipeline/tasks/boundaries.py",
    "pipeline/tasks/respacing.py",
    "pipeline/artifacts/ali.py",
)
COPIED = ("pipeline", "tests", "steps", "utils", "local", "benchmarks", "egs", "pyproject.toml")
LEFT_OUT = ("options.py", "*_options.py", "__init__.py")  # descriptions and defaults
COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmin": "argmax", "argmax": "argmin"}
NAMES |= {"ceil": "floor", "floor": "ceil", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}
LIMIT = 1800.0  # seconds that the tests of a module may take: some faults make them run without end


@dataclass(frozen=True)
class Fault:
    """A place in a module and what stands there instead.

    Attributes:
        path: of the module. line: its line, from 1.
        begin, end: bytes of the source that are replaced.
        before, after: what was there and what is.
    """

    path: str
    line: int
    begin: int
    end: int
    before: str
    after: str


def faults_of(path: str, source: str) -> list[Fault]:
    """All faults that this script knows for a module: other operators, bounds, constants and names, branches swapped,
    statements left out. Messages, assertions, annotations and decorators stay as they are.
    """
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, other in _changes(ast.parse(source)):
        assert node.end_lineno is not None and node.end_col_offset is not None
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(other)
        after = text if isinstance(other, (ast.stmt, ast.Constant)) else f"({text})"
        found.append(Fault(path, node.lineno, begin, end, source.encode()[begin:end].decode(), after))
    return found


def _changes(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    """Nodes of a tree and what may take their place."""
    if isinstance(node, (ast.Assert, ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr)):
        return
    if isinstance(node, ast.Call) and _is_message(node):
        return
    yield from _changes_of(node)
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _changes(child)


def _is_message(call: ast.Call) -> bool:
    text = ast.unparse(call.func)
    return text.startswith(("logger.", "logging.", "warnings.")) or text.endswith("Error")


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _changes_of(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    other = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and isinstance(other, ast.Compare) and type(node.ops[0]) in COMPARE:
        other.ops[0] = COMPARE[type(node.ops[0])]()
        yield node, other
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(other, (ast.BinOp, ast.AugAssign)):
        if type(node.op) in ARITHMETIC and not any(map(_is_text, ast.iter_child_nodes(node))):
            other.op = ARITHMETIC[type(node.op)]()
            yield node, other
    elif isinstance(node, ast.BoolOp) and isinstance(other, ast.BoolOp):
        other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        yield node, node.operand
    elif isinstance(node, ast.IfExp):
        yield node, ast.IfExp(node.test, node.orelse, node.body)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        yield (
            node,
            ast.Constant(
                not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 2 * value + 1
            ),
        )
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in NAMES:
            yield node.func, ast.Name(NAMES[node.func.id])
        elif isinstance(node.func, ast.Attribute) and node.func.attr in NAMES:
            yield node.func, ast.Attribute(node.func.value, NAMES[node.func.attr])
    if isinstance(node, ast.AugAssign) or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)):
        yield node, ast.Pass()
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not _is_message(node.value):
        yield node, ast.Pass()


@functools.cache
def tests_of(path: str) -> list[str]:
    """Test modules that import a module, the one of its name first; if there are none, all of its package."""
    root = ROOT
    name = path[: -len(".py")].replace("/", ".")
    package = root / "tests" / Path(path).parent.relative_to("pipeline")
    own: list[str] = []
    others: list[str] = []
    for test in sorted((root / "tests").rglob("test_*.py"), key=lambda t: (t.name != f"test_{Path(path).name}", t)):
        if name in _imported(test.read_text(encoding="utf-8")):
            (own if test.parent == package else others).append(str(test.relative_to(root)))
    return own or others or [str(t.relative_to(root)) for t in sorted(package.glob("test_*.py"))]


def _imported(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def run_tests(copy_of: Path, tests: Iterable[str]) -> tuple[str, float]:
    """Runs tests in a copy until one fails: "" if all pass, "timeout", or the name of what failed; and the seconds."""
    began = time.monotonic()
    options = ["-q", "-x", "-rfE", "--no-header", "-p", "no:cacheprovider", "-m", "not slow and not cuda"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=copy_of,
            env={**os.environ, "PYTHONPATH": str(copy_of)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return "timeout", LIMIT
    seconds = time.monotonic() - began
    if done.returncode == 0:
        return "", seconds
    told = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout, re.M)
    return (told[-1] if told else done.stdout[-500:]), seconds


def put_in(copy_of: Path, fault: Fault, source: str) -> None:
    """Writes the module with the fault."""
    raw = source.encode()
    (copy_of / fault.path).write_bytes(raw[: fault.begin] + fault.after.encode() + raw[fault.end :])


def key_of(fault: Fault, source: str) -> str:
    """Names a fault in a state of its module and of its tests, for what has been run already."""
    tests = "\0".join((ROOT / test).read_text(encoding="utf-8") for test in tests_of(fault.path))
    return hashlib.sha256(f"{source}\0{tests}\0{asdict(fault)}".encode()).hexdigest()[:16]


@click.command()
@click.argument("places", nargs=-1)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="File of outcomes; what is in it is not run again."
)
@click.option("--sample", type=int, default=0, help="So many faults, drawn by --seed from all places; 0: every one.")
@click.option("--seed", type=int, default=1, help="Seed of the sample.")
@click.option(
    "--least-score", type=float, default=0.0, help="Ends with 1 below this share of faults that were noticed."
)
def main(places: tuple[str, ...], out: Path, sample: int, seed: int, least_score: float) -> None:
    """Tries the faults of PLACES (modules or directories of the checkout; default: models, graphs and alignments)."""
    paths = [f for place in places or PLACES for f in _modules(ROOT / place)]
    sources = {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}
    faults = [fault for path in paths for fault in faults_of(path, sources[path])]
    if sample:
        faults = random.Random(seed).sample(faults, min(sample, len(faults)))
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    known = {row["key"]: row for row in map(json.loads, lines)}
    with tempfile.TemporaryDirectory() as name, out.open("a", encoding="utf-8") as f:
        copy_of = _copied(Path(name) / "copy")
        passes: set[str] = set()
        for number, fault in enumerate(faults, 1):
            source = sources[fault.path]
            key = key_of(fault, source)
            if key not in known:
                row = {"key": key, **asdict(fault), **_outcome(copy_of, fault, source, passes)}
                known[key] = row
                f.write(json.dumps(row) + "\n")
                f.flush()
            outcome = known[key]["outcome"]
            click.echo(
                f"{number} of {len(faults)}: {fault.path}:{fault.line}: {fault.before!r} -> {fault.after!r}: {outcome}"
            )
    _report([known[key_of(fault, sources[fault.path])] for fault in faults], least_score)


def _outcome(copy_of: Path, fault: Fault, source: str, passes: set[str]) -> dict[str, object]:
    """What the tests say of a fault. The test that fails with it has to pass without it: PASSES keeps those that do."""
    tests = tests_of(fault.path)
    try:
        put_in(copy_of, fault, source)
        failed, seconds = run_tests(copy_of, tests)
    finally:
        (copy_of / fault.path).write_text(source, encoding="utf-8")
    if failed and failed not in passes:
        without = tests if failed == "timeout" else [failed]
        result, _ = run_tests(copy_of, without)
        if result:
            raise click.ClickException(f"{fault.path}: its tests fail without any fault: {' '.join(without)}: {result}")
        if failed != "timeout":
            passes.add(failed)
    return {"outcome": "killed" if failed else "survived", "by": failed, "seconds": round(seconds, 1)}


def _modules(place: Path) -> list[str]:
    found = [place] if place.is_file() else sorted(place.rglob("*.py"))
    if not found:
        raise click.UsageError(f"{place}: no module there")
    return [str(p.relative_to(ROOT)) for p in found if not any(p.match(pattern) for pattern in LEFT_OUT)]


def _copied(target: Path) -> Path:
    ignore = shutil.ignore_patterns("data", "exp", "__pycache__", "*.log", ".*")
    for name in COPIED:
        source = ROOT / name
        shutil.copytree(source, target / name, ignore=ignore) if source.is_dir() else shutil.copy(source, target / name)
    return target


def _report(rows: list[dict], least_score: float) -> None:
    killed = sum(row["outcome"] == "killed" for row in rows)
    for row in rows:
        if row["outcome"] == "survived":
            click.echo(f"{row['path']}:{row['line']}: {row['before']!r} -> {row['after']!r}")
    score = killed / max(len(rows), 1)
    click.echo(f"{killed} of {len(rows)} faults were noticed: {100 * score:.0f} %")
    if score < least_score:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
