"""The house rules that can be read from the source: layers, imports, what pipeline must not do, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only from its own layer and from those with a smaller number.
LAYERS = {
    0: "base",
    1: "artifacts corpora parallel",
    2: "hmm graph",
    3: "feats gmm nn e2e g2p synth",
    4: "tasks semisup",
    5: "experiments",
}
LAYER = {name: number for number, names in LAYERS.items() for name in names.split()}

# Importing the artifacts must be quick: steps do it before they know whether there is work to do.
HEAVY = {"torch", "k2", "lhotse", "numba", "scipy", "matplotlib", "tensorboard"}

# Functions and modules that are better whole than split, each with its reason.
LONGER = {
    "pipeline/hmm/triton_kernels.py:backward": "one compiled recursion",
    "pipeline/hmm/numba_occupancy.py:backward_sweep": "one compiled recursion",
}

SOURCES = sorted((ROOT / "pipeline").rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in SOURCES]


def module_of(path: Path) -> str:
    """Dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that is imported anywhere in a module, in functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(package.split(".")[: -node.level + 1 or None] + ([base] if base else []))
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def layer_of(name: str) -> int | None:
    """Layer of a dotted name of this package; None for the package itself and for foreign names."""
    parts = name.split(".")
    if parts[0] != "pipeline" or len(parts) == 1 or parts[1].startswith("__"):
        return None
    assert parts[1] in LAYER, f"pipeline.{parts[1]} has no layer: add it to LAYERS in {Path(__file__).name}"
    return LAYER[parts[1]]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_layers(path):
    module = module_of(path)
    own = layer_of(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for line, name in imports(ast.parse(path.read_text(encoding="utf-8")), package):
        other = layer_of(name)
        if own is not None and other is not None:
            assert other <= own, f"{path.name}:{line}: layer {own} imports {name} of layer {other}"
        top = name.split(".")[0]
        if top == "k2":
            allowed = module.startswith("pipeline.graph.") and module.endswith("_k2")
            assert allowed, f"{path.name}:{line}: only pipeline/graph/*_k2.py imports k2"
        if top == "click":
            assert module == "pipeline.base.cli", f"{path.name}:{line}: only pipeline/base/cli.py knows of click"
        assert top not in ("pickle", "argparse"), f"{path.name}:{line}: {top} is not used here"


def calls_and_names(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, dotted text) of every attribute access and of every plain name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            found.append((node.lineno, ast.unparse(node)))
    return found


def test_every_program_of_a_recipe_ends_by_ctrl_c_as_all_do():
    """Those of click alone say "Aborted!" and end with 1 while their options are read."""
    programs = [p for folder in ("steps", "local", "egs/*/local") for p in ROOT.glob(f"{folder}/*.py")]
    assert len(programs) > 70
    assert not [path.name for path in programs if "@click.command" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_pipeline_is_a_library(path):
    """It never reads the command line or the environment, never exits, prints or runs what it has read."""
    if path.name == "cli.py":
        return
    banned = {"print", "exit", "quit", "eval", "exec", "input", "sys.exit", "os._exit", "sys.argv", "os.environ"}
    banned |= {"os.getenv", "os.system", "pickle.load", "yaml.unsafe_load", "yaml.full_load"}
    if path.name == "numba_cache.py":
        banned -= {"os._exit"}  # ends the copy of the process that it has made
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for line, text in calls_and_names(tree):
        assert text not in banned, f"{path.name}:{line}: {text}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)
            assert safe, f"{path.name}:{node.lineno}: torch.load without weights_only=True"


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_style(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    name = path.relative_to(ROOT).as_posix()
    assert path.stem not in ("utils", "common", "helpers", "misc"), "name the module after what it does"
    body = [node for node in tree.body if not isinstance(node, ast.Expr)]
    if body:
        first = body[0]
        future = isinstance(first, ast.ImportFrom) and first.module == "__future__"
        assert future or path.name == "__init__.py", f"{name}: from __future__ import annotations comes first"
        assert ast.get_docstring(tree), f"{name}: no docstring"
    assert text.count("\n") <= 400 or name in LONGER, f"{name}: {text.count(chr(10))} lines; find the split"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            where = f"{name}:{node.lineno}: {node.name}"
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                length = node.end_lineno - node.lineno + 1 - docstring.count("\n")
                assert length <= 60 or f"{name}:{node.name}" in LONGER, f"{where}: {length} lines"
            public = not node.name.startswith("_") and node in tree.body
            assert not public or ast.get_docstring(node), f"{where} has no docstring"


def run_python(code: str) -> str:
    """Output of `code` in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_light_modules_import_nothing_heavy():
    """Layers 0 and 1 and every module of options."""
    light = [module_of(p) for p in SOURCES if (layer_of(module_of(p)) in (0, 1)) or p.name == "options.py"]
    assert "pipeline.base.cli" in light and len(light) > 8
    code = f"""
import importlib, sys
for name in {light!r}:
    importlib.import_module(name)
    heavy = {HEAVY!r} & set(sys.modules)
    assert not heavy, f"import {{name}} brings in {{heavy}}"
"""
    run_python(code)


def test_all_but_two_modules_import_without_k2():
    names = [module_of(p) for p in SOURCES if not p.stem.endswith("_k2")]
    assert len(names) == len(SOURCES) - 2
    code = f"""
import importlib, sys
sys.modules["k2"] = None
for name in {names!r}:
    importlib.import_module(name)
"""
    run_python(code)


def test_few_tests_need_k2():
    """The newest torch has no k2: what is tested only where k2 is installed are the comparisons with it."""
    needing = [p.name for p in (ROOT / "tests").rglob("test_*.py") if 'importorskip("k2")' in p.read_text("utf-8")]
    assert set(needing) <= {"test_k2.py", "test_layers.py"} and needing.count("test_k2.py") == 2
