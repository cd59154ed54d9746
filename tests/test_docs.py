"""README and docs: links lead somewhere, named modules and commands exist, and marked blocks run."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
LINKED = [
    *PAGES,
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("egs/*/README.md")),
    *sorted(ROOT.glob("egs/*/RESULTS.md")),
    *sorted(ROOT.glob("benchmarks/*.md")),
]
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
# A line <!-- run: tiny --> before a block: it runs after egs/tiny/run.sh.
BLOCK = re.compile(r"^(?:<!-- run: (\w+) -->\n)?```(bash|python)\n(.*?)^```$", re.M | re.S)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str, marked: bool = False) -> list[str]:
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    return [text for mark, kind, text in found if kind == language and (mark or not marked)]


def anchors(path: Path) -> set[str]:
    """The names that a heading can be reached by."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", LINKED, ids=map(name_of, LINKED))
def test_links(path):
    for link in LINK.findall(re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        target, _, anchor = link.partition("#")
        where = path.parent / target if target else path
        assert where.exists(), f"{name_of(path)}: {link} leads nowhere"
        assert where.resolve().is_relative_to(ROOT), f"{name_of(path)}: {link} leaves the repository"
        # A recipe's run writes its RESULTS.md again, with the headings of what was run.
        assert not (target and anchor and where.name == "RESULTS.md"), (
            f"{name_of(path)}: {link}: headings of results change"
        )
        if anchor:
            assert anchor in anchors(where), f"{name_of(path)}: {link}: no such heading"


def test_every_page_is_listed():
    index, config = (ROOT / "docs/index.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    for path in ROOT.glob("docs/*.md"):
        assert f"  - {path.name}\n" in config, f"mkdocs.yml lacks {path.name}"
        assert path.name == "index.md" or f"({path.name})" in index, f"docs/index.md lacks {path.name}"
    assert (ROOT / "README.md").read_text().count("\n") <= 150


@pytest.mark.parametrize("path", PAGES, ids=map(name_of, PAGES))
def test_named_files_exist(path):
    # Names of other programs stand in the first cells of tables.
    text = re.sub(r"^\|[^|]*\|", "", path.read_text(encoding="utf-8"), flags=re.M)
    for name in re.findall(
        r"`((?:pipeline|steps|utils|tests|benchmarks|local|conf)/[\w./]+\.(?:py|sh|md))(?:[:`])", text
    ):
        assert (ROOT / name).exists(), f"{name_of(path)}: no {name}"


@pytest.mark.parametrize("path", PAGES, ids=map(name_of, PAGES))
def test_fullsum_commands(path):
    """fullsum NAME is a command, and it has the options that it is shown with, in blocks and in prose."""
    from steps.__main__ import main

    text = path.read_text(encoding="utf-8")
    shown = [line for block in blocks(path, "bash") for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    for line in shown:
        words = line.split("#")[0].split()
        if not words or words[0] != "fullsum" or len(words) < 2 or words[1].startswith("-"):
            continue
        command = main.get_command(click.Context(main), words[1])
        assert command is not None, f"{name_of(path)}: no command {words[1]}"
        known = {"--help", *(option for param in command.params for option in (*param.opts, *param.secondary_opts))}
        for word in words[2:]:
            assert not word.startswith("--") or word in known, f"{name_of(path)}: {line}: no option {word}"


@pytest.mark.parametrize("path", PAGES, ids=map(name_of, PAGES))
def test_steps_are_shown_with_options_that_they_have(path):
    for line in [line for block in blocks(path, "bash") for line in block.splitlines()]:
        words = re.sub(r"^python (?=steps/|utils/)", "", line.split(" #")[0]).split()
        if not words or not re.fullmatch(r"(steps|utils)/\w+\.py", words[0]):
            continue
        command = importlib.import_module(words[0].removesuffix(".py").replace("/", ".")).main
        known = {"--help", *(option for param in command.params for option in (*param.opts, *param.secondary_opts))}
        for word in words[1:]:
            assert not word.startswith("--") or word in known, f"{name_of(path)}: {line}: no option {word}"


RECIPES = [
    (path, line.split(" #")[0].strip(), above)
    for path in PAGES
    for block in blocks(path, "bash")
    for above in [re.search(r"^cd (egs/\w+)$", block, re.M)]
    for line in block.splitlines()
    if re.match(r"(egs/\w+|\.)/run\.sh( |$)", line) or line.startswith("./egs/")
]


@pytest.mark.parametrize("path, line, above", RECIPES, ids=[f"{name_of(p)}: {line}" for p, line, _ in RECIPES])
def test_recipes_take_the_options_that_they_are_shown_with(path, line, above):
    """With --list they read their options and say their stages."""
    place = ROOT / (above[1] if above else "egs/an4" if line.startswith("./run.sh") else ".")
    done = subprocess.run(["bash", "-c", f"{line} --list"], cwd=place, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "  0  " in done.stdout, f"{line}: {done.stderr}"


def test_ten_jobs_are_two_clicks_away():
    """README leads to the page of jobs, and that has a command for each of ten."""
    assert "(docs/jobs.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    jobs = re.split(r"^\*\*(\d+)\. ", (ROOT / "docs/jobs.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert list(map(int, jobs[::2])) == list(range(1, 11))
    assert all("```bash\n" in text for text in jobs[1::2])


MARKED = [path for path in PAGES if any(mark for mark, _, _ in BLOCK.findall(path.read_text(encoding="utf-8")))]


@pytest.mark.slow
@pytest.mark.parametrize("path", MARKED, ids=map(name_of, MARKED))
def test_marked_blocks_run(path, tmp_path):
    if not (ROOT / "egs/tiny/exp/hybrid_gmm/stamp.json").is_file():
        pytest.skip("egs/tiny/run.sh has not run in this checkout")
    for name in ("egs", "steps", "utils"):
        (tmp_path / name).symlink_to(ROOT / name)
    fullsum = tmp_path / "bin" / "fullsum"
    fullsum.parent.mkdir()
    fullsum.write_text(f'#!/bin/sh\nexec {sys.executable} -m steps "$@"\n')
    fullsum.chmod(0o755)
    python = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{fullsum.parent}:{python}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    found = BLOCK.findall(path.read_text(encoding="utf-8"))
    for _, kind, text in [block for block in found if block[0]]:
        call = ["bash", "-euc", text] if kind == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{text}\n{done.stderr}"


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    if shutil.which("mkdocs") is None:
        pytest.skip("pip install 'fullsum[dev]' brings the generator")
    call = ["mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/results/index.html").read_text(encoding="utf-8")
    assert "../egs/tiny/plots/scales1.svg" in page and (tmp_path / "site/egs/tiny/plots/scales1.svg").is_file()
    table = (tmp_path / "site/egs/an4/RESULTS/index.html").read_text(encoding="utf-8")
    linked = re.findall(r'(?:src|href)="\.\./(plots/\w+\.svg|results\.json)"', table)
    assert "results.json" in linked and len(linked) > 2  # what the tables of a recipe link to came along
    assert all((tmp_path / "site/egs/an4" / name).is_file() for name in linked)
