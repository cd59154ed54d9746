"""Lint of what is not imported by other tests: recipes, steps, shell scripts, and the commands in the prose."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(ROOT.glob("egs/*/run.sh"))
# A recipe of several sizes has conf/ in folders of their own as well, and runs in these.
TABLES = sorted([*ROOT.glob("egs/*/conf/tables/*.yaml"), *ROOT.glob("egs/*/*/conf/tables/*.yaml")])
STEPS = sorted(ROOT.glob("steps/*.py"))
SCRIPTS = sorted([*ROOT.glob("utils/*.py"), *ROOT.glob("local/*.py"), *ROOT.glob("egs/*/local/*.py")])
# Beside commands, local/ may hold modules that several of them import; those have no __main__.
COMMANDS = [*STEPS, *(path for path in SCRIPTS if "__main__" in path.read_text(encoding="utf-8"))]
SHELL = sorted([*ROOT.glob("**/run.sh"), *ROOT.glob("utils/*.sh"), *ROOT.glob("egs/*/*.sh"), ROOT / ".ci" / "run"])
SHELL = [path for path in dict.fromkeys(SHELL) if ".venv" not in str(path)]
PROSE = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("egs/*/README.md")),
]

SCRIPT = re.compile(r"(?:^|/|\$|\$\{)(?:steps|utils|local|benchmarks)\}?/[\w./-]+\.(?:py|sh)$")


def folders(recipe: Path) -> list[Path]:
    """Where a recipe may run: its folder, and those below that have conf/ of their own."""
    return [recipe.parent, *sorted(path.parent for path in recipe.parent.glob("*/conf") if path.is_dir())]


def recipe_text(path: Path) -> str:
    """The text of a recipe, with the functions of utils/asr.sh and utils/semisup.sh that it calls."""
    text = path.read_text(encoding="utf-8")
    shared = [name for name in ("asr.sh", "semisup.sh") if re.search(rf"utils\"?/{name}", text)]
    known: dict[str, str] = {}
    for name in shared:
        functions = (ROOT / "utils" / name).read_text(encoding="utf-8")
        known |= re.findall(r"^(\w+)\(\) (\{.*?^\})$", functions, re.M | re.S)
    used: list[str] = []
    called = [name for name in known if calls_function(text, name)]
    while called:
        used += called
        called = [n for n in known if n not in used and any(calls_function(known[other], n) for other in called)]
    return "\n".join([text, *(known[name] for name in used)])


def calls_function(text: str, name: str) -> bool:
    """Whether a function of the shell stands where commands do."""
    return re.search(rf"(?:^\s*|[;&|]\s*|\b(?:then|do|else)\s+|\s\w+=\S+\s){name}\b(?!\(\))", text, re.M) is not None


def ids(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def words(text: str) -> list[list[str]]:
    """The commands of a shell script as lists of words; words that come from expansions stay as they are written."""
    text = re.sub(r"\\\n\s*", " ", text)
    commands = []
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
        lexer.whitespace_split = True
        try:
            tokens = list(lexer)
        except ValueError:  # a quotation that goes on in the next line holds no call of ours
            continue
        command: list[str] = []
        for token in tokens:
            if set(token) <= set(";&|()"):
                commands.append(command)
                command = []
            else:
                command.append(token)
        commands.append(command)
    return [command for command in commands if command]


def calls(text: str) -> list[tuple[str, list[str]]]:
    """(script, words after it) for each call of a script of this project, also behind a wrapper or an assignment."""
    found = []
    for command in words(text):
        for i, word in enumerate(command):
            if SCRIPT.search(word):
                found.append((word, command[i + 1 :]))
                break
    return found


def resolve(word: str, directory: Path) -> Path | None:
    """The file that a word of a shell script means, for a script that runs in `directory`."""
    word = re.sub(r"^\$\{?(root|FULLSUM_ROOT|repo)\}?/", f"{ROOT}/", word)
    word = re.sub(r"^\$\{?(steps|utils|local)\}?/", rf"{ROOT}/\1/", word)
    for base in (directory, ROOT):
        if Path(os.path.normpath(base / word)).is_file():
            return Path(os.path.normpath(base / word))
    return None


@functools.cache
def command_of(path: Path) -> click.Command:
    """The click command of a script."""
    name = "script_" + re.sub(r"\W", "_", path.as_posix())
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    assert isinstance(module.main, click.Command), f"{path}: no click command main"
    return module.main


def check_call(path: Path, arguments: list[str], where: str) -> None:
    """Asserts that a click command knows the options it is called with."""
    command = command_of(path)
    if isinstance(command, click.Group):
        if not arguments or arguments[0].startswith("$"):
            return
        assert arguments[0] in command.commands, f"{where}: {path.name} has no command {arguments[0]}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    known = {"--help"}
    for param in command.params:
        known.update([*param.opts, *param.secondary_opts])
    for word in arguments:
        option = word.split("=")[0]
        if re.fullmatch(r"--[a-z][a-z0-9-]*", option):
            assert option in known, f"{where}: {path.name} has no option {option}"


@pytest.mark.parametrize("path", SHELL, ids=ids(SHELL))
def test_shell_syntax(path):
    result = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    text = path.read_text(encoding="utf-8")
    assert "eval " not in re.sub(r"#.*", "", text), "eval runs what a user has typed"
    if text.startswith("#!"):
        assert os.access(path, os.X_OK), f"{path} is not executable"
        assert "set -euo pipefail" in text, f"{path}: set -euo pipefail is missing"
    else:
        assert text.startswith("# Sourced"), f"{path}: neither a script with #! nor said to be sourced"


@pytest.mark.parametrize("path", RECIPES, ids=ids(RECIPES))
def test_recipe(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 200, "a recipe is read like a method section; find the split"
    for name in ("stage.sh", "parse_options.sh", "recipe.sh"):
        assert f"utils/{name}" in text, f"does not source utils/{name}"
    numbers = [int(n) for n in re.findall(r"^\s*if stage (\d+) [\"']", text, re.M)]
    assert numbers and numbers == sorted(set(numbers)), f"stages {numbers}"
    assert len(re.findall(r"\bstage \d", re.sub(r"#.*", "", text))) == len(numbers), 'write: if stage N "title"; then'
    assert text.split("\n")[1].startswith("# "), "the comment at the top is what --help prints"


@pytest.mark.parametrize("path", RECIPES, ids=ids(RECIPES))
def test_recipe_calls(path):
    """Every script that is called exists, and knows its options; files of conf/ that are named exist."""
    text = recipe_text(path)
    found = calls(text)
    assert found, "calls no step"
    for word, arguments in found:
        script = resolve(word, path.parent)
        assert script is not None, f"{path}: no {word}"
        if script.suffix == ".py":
            check_call(script, arguments, str(path.relative_to(ROOT)))
    for conf in re.findall(r"\bconf/[\w./-]+\.(?:yaml|conf|txt)", re.sub(r"#.*", "", text)):
        for folder in folders(path):
            assert (folder / conf).is_file(), f"{folder}: no {conf}"


@pytest.mark.parametrize("path", RECIPES, ids=ids(RECIPES))
def test_recipe_list_and_help(path):
    """--list and --help work at once, from any directory, in a checkout without any data or environment."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    for option, text in (("--list", "  0  "), ("--help", "Usage: ./run.sh")):
        for start in (ROOT, path.parent):
            call = ["bash", os.path.relpath(path, start), option]
            result = subprocess.run(call, cwd=start, capture_output=True, text=True, env=environment, timeout=30)
            assert result.returncode == 0 and text in result.stdout, result.stderr


@pytest.mark.parametrize("path", RECIPES, ids=ids(RECIPES))
def test_recipe_sources(path):
    """--ali and --e2e, where a recipe has them, take what its help says and nothing else."""
    text = path.read_text(encoding="utf-8")
    for option, good in (
        ("ali", ("gmm", "nhmm", "both", "none")),
        ("e2e", ("ctc", "attention", "ctc attention transducer")),
    ):
        if not re.search(rf"^{option}=", text, re.M):
            continue
        for value in good:
            assert subprocess.run([str(path), "--list", f"--{option}", value], capture_output=True).returncode == 0
        result = subprocess.run([str(path), "--list", f"--{option}", "gmm,nhmm"], capture_output=True, text=True)
        assert result.returncode == 2 and f"--{option} is " in result.stderr


@pytest.mark.parametrize(
    "recipe, options, said",
    [
        ("librispeech", "--units grapheme", "--ali nhmm or none"),
        ("librispeech", "--models tri3", "tri1, which has to stand before it"),
        ("speechocean762", "--models mono tri3 tri2", "tri2, which has to stand before it"),
        ("samromur", "--work nowhere", "nowhere: No such file or directory"),
        ("librispeech", "--models mono trio", "--models is a list of mono tri1 tri2 tri3, not 'mono trio'"),
        ("swbd", "--models tri1,tri3", "--models is a list of"),
        ("swbd", "--tests hub5_02", "--tests is a list of hub5_00 hub5_01, not 'hub5_02'"),
        ("librispeech", "--parts dev test_clean", "--parts is a list of dev test, not"),
        ("librispeech", "--size 100 --parts dev_clean test_clean", None),
        ("speechocean762", "--parts dev,test", "--parts is a list of dev test, not"),
        ("librispeech", "--units grapheme --ali nhmm --models mono tri1 tri3", None),
        ("speechocean762", "--models tri2 tri3", None),
    ],
)
def test_options_that_would_fail_after_hours_are_refused(recipe, options, said):
    words = re.split(r" (?=--)", options)
    call = [str(ROOT / "egs" / recipe / "run.sh"), *(w for word in words for w in word.split(" ", 1)), "--list"]
    result = subprocess.run(call, capture_output=True, text=True)
    assert result.returncode == (0 if said is None else 2) and (said or "") in result.stderr, result.stderr


@pytest.mark.parametrize("path", RECIPES, ids=ids(RECIPES))
def test_recipe_configs(path):
    """A YAML file that a step gets by --config holds only options that the step has."""
    from pipeline.base.files import read_yaml

    for word, arguments in calls(recipe_text(path)):
        script = resolve(word, path.parent)
        if script is None or script.suffix != ".py" or "--config" not in arguments[:-1]:
            continue
        conf = arguments[arguments.index("--config") + 1]
        known = {param.name for param in command_of(script).params}
        for file in (folder / conf for folder in folders(path) if (folder / conf).is_file()):
            unknown = {str(key).replace("-", "_") for key in read_yaml(file) or {}} - known
            assert not unknown, f"{file}: {script.name} has no option {sorted(unknown)}"


@pytest.mark.parametrize("path", TABLES, ids=ids(TABLES))
def test_tables(path):
    """The commands of a sweep call scripts that exist with options that they have."""
    from pipeline.experiments.tables import load_table

    recipe = path.parents[2]
    for command in load_table(path).commands:
        command = getattr(command, "run", command)
        found = calls(command)
        assert found, f"{command!r} calls no script"
        for word, arguments in found:
            script = resolve(word, recipe)
            assert script is not None, f"no {word}"
            check_call(script, arguments, path.name)
            for conf in re.findall(r"\bconf/[\w./-]+\.yaml", command):
                assert (recipe / conf).is_file(), f"no {conf}"


@pytest.mark.parametrize("path", TABLES, ids=ids(TABLES))
def test_cells_of_tables(path, monkeypatch, capsys):
    """The commands of all cells of a sweep are taken by their scripts, up to the point where they would read data."""
    from pipeline.experiments.tables import cell_commands, cell_dir, load_table

    started = []
    monkeypatch.chdir(path.parents[2])
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: Path(value))
    monkeypatch.setattr("pipeline.base.cli.run_step", lambda *args, **more: started.append(args))
    table = load_table(path)
    commands = {c: None for cell in table.cells() for c in cell_commands(table, cell, 1, cell_dir("t", cell, 1))}
    for command in commands:
        word, *arguments = shlex.split(command)
        before = len(started)
        with contextlib.suppress(SystemExit):  # of those that look for what run_step would have made
            command_of(resolve(word, path.parents[2])).main(arguments, standalone_mode=False)
        assert len(started) == before + 1, f"{command}: {capsys.readouterr().err}"


@pytest.mark.parametrize("path", COMMANDS, ids=ids(COMMANDS))
def test_command(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env python3\n"), "first line"
    assert os.access(path, os.X_OK), "not executable"
    if path.parent.name == "steps":
        assert text.count("\n") <= 80, "a step holds options, loading, one call, saving; the rest belongs to pipeline"
    command = command_of(path)
    for each in [command, *getattr(command, "commands", {}).values()]:
        assert each.help, "no help text"
        for param in each.params:
            if isinstance(param, click.Option):
                assert param.help, f"{param.opts[0]} has no help text"


@pytest.mark.parametrize("path", COMMANDS, ids=ids(COMMANDS))
def test_help_is_quick(path):
    """At most a second of processor time; other work on the machine counts little then."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(path), "--help"], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 1.0, f"{seconds:.2f} s"


@pytest.mark.parametrize("path", PROSE, ids=ids(PROSE))
def test_prose(path):
    """Scripts named in ```bash blocks exist and know their options; links to files lead somewhere."""
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.S):
        for command in words(re.sub(r"^\$ ", "", block, flags=re.M)):
            for i, word in enumerate(command):
                if not re.fullmatch(r"(?:\./|\.\./)*(?:egs|steps|utils|local|benchmarks)/[\w./-]+", word):
                    continue
                name = word.removeprefix("./")
                script = resolve(name, path.parent) or resolve(name, ROOT / "egs" / "any")
                if i == 0 or word.endswith((".py", ".sh")):
                    assert script is not None, f"{path.name}: no {word}"
                    if script.suffix == ".py":
                        check_call(script, command[i + 1 :], path.name)
    for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text):
        assert (path.parent / link).exists(), f"{path.name}: link to {link}, which is not there"


def test_lint_sees_mistakes(tmp_path):
    """The lint itself on a line with everything: continuation, comment, quoting, redirection, wrapper."""
    text = 'nice ../../steps/align.py --num-jobs 2 "$a b" \\\n  --beam=3 out >log 2>&1 # --comment\nx=1; utils/b.sh && echo'
    assert calls(text) == [
        ("../../steps/align.py", ["--num-jobs", "2", "$a b", "--beam=3", "out", ">", "log", "2", ">&", "1"]),
        ("utils/b.sh", []),
    ]
    assert calls('for p in a; do python "$steps/a.py" $p; done') == [("$steps/a.py", ["$p"])]
    script = tmp_path / "step.py"
    script.write_text("import click\n@click.command()\n@click.option('--beam')\ndef main(beam):\n  pass\n")
    check_call(script, ["--beam=3", "$out", "--help"], "run.sh")
    with pytest.raises(AssertionError, match="run.sh: step.py has no option --baem"):
        check_call(script, ["--baem", "3"], "run.sh")
    assert resolve("$root/utils/stage.sh", tmp_path) == ROOT / "utils" / "stage.sh"
    assert resolve("${utils}/stage.sh", tmp_path) == ROOT / "utils" / "stage.sh"
    assert resolve("steps/no_such_step.py", tmp_path) is None


CLUSTERS = ROOT / "docs" / "clusters.md"


def test_files_about_clusters_are_ones(tmp_path):
    """The examples of conf/cluster.yaml have known keys and good values."""
    from pipeline.parallel.options import ClusterOptions, ParallelOptions

    blocks = re.findall(r"```yaml\n(.*?)```", CLUSTERS.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 2
    for block in blocks:
        (tmp_path / "cluster.yaml").write_text(block)
        options = ParallelOptions(cluster=tmp_path / "cluster.yaml").cluster_options()
        assert options != ClusterOptions()


def test_scripts_for_clusters_are_bash():
    """Those with #! parse, and all steps that are said to take parts or processes do."""
    text = CLUSTERS.read_text(encoding="utf-8")
    scripts = re.findall(r"```bash\n(#!.*?)```", text, re.S)
    assert len(scripts) == 4
    for script in scripts:
        result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
    parts, processes = re.search(r"\n(`compute_feats`.*?) take parts; (.*?) take `torchrun`", text, re.S).groups()
    for names, option in ((parts, "--jobs"), (processes, "--rank")):
        found = re.findall(r"`(\w+)`", names)
        assert len(found) >= 7
        for name in found:
            known = {option for param in command_of(ROOT / "steps" / f"{name}.py").params for option in param.opts}
            assert option in known and (option == "--rank" or "--backend" in known), name
    takers = {path.stem for path in STEPS if "torchrun_options" in path.read_text(encoding="utf-8")}
    assert takers == set(re.findall(r"`(\w+)`", processes))


def test_messages_about_clusters_are_ours():
    """What the table of failures quotes stands in the sources."""
    source = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("pipeline/**/*.py"))
    rows = re.findall(r"^\| (`.*?) \| ", CLUSTERS.read_text(encoding="utf-8").partition("## What goes wrong")[2], re.M)
    quoted = [words for row in rows for words in re.findall(r"`(.+?)`", row)]
    assert len(quoted) >= 12
    for words in quoted:
        for piece in re.split(
            r"\.\.\.|sbatch here|qsub here|submitit|distributed|dask-jobqueue|\(number 3, 7\)", words
        ):
            assert piece.strip() in source, words
