"""Pictures and statistics of decision trees, as functions and as the command."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.model_dir import save_hmm
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import leaves, monophone_tree, questions
from pipeline.base.errors import DataError
from pipeline.base.files import read_json, write_json
from pipeline.gmm.cluster import build_tree
from pipeline.gmm.options import TreeOptions
from pipeline.gmm.plot_tree import depth, load_view, plot_tree, statistics
from tests.conftest import ROOT
from tests.gmm.test_tree import LANG, every_split, random_stats, some_questions


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a tree of 30 leaves and its statistics."""
    tree, facts = build_tree(random_stats(0), some_questions(0), LANG, TreeOptions(num_leaves=30, min_count=5.0))
    save_hmm(tmp_path / "tri", LANG.topo, tree, TransitionModel(tree, LANG.topo))
    write_json(tmp_path / "tri" / "tree_stats.json", facts)
    return tmp_path / "tri"


def test_gains_belong_to_the_questions(model):
    view = load_view(model)
    facts = read_json(model / "tree_stats.json")
    assert sum(len(g) for _, g in view.roots) == sum(len(list(questions(r.node))) for r, _ in view.roots) > 10
    first = {view.title(r): g[0] for r, g in view.roots if g}
    stats = random_stats(0)
    for root, gains in view.roots:
        if gains:  # the first gain of a root is that of its best question
            phone, state = next(iter(root.phones)), next(iter(root.pdf_classes))
            rows = np.flatnonzero((stats.windows[:, 1] == phone) & (stats.pdf_classes == state))
            best = max(g for g, _, _ in every_split(rows, stats, some_questions(0), 5.0))
            assert first[view.title(root)] == pytest.approx(best, abs=1e-3)
    assert sum(view.occupancy(r.node) for r, _ in view.roots) == pytest.approx(facts["frames"])


def test_statistics_tell_leaves_depth_and_frames_of_each_root(model):
    view = load_view(model)
    text = statistics(view)
    facts = read_json(model / "tree_stats.json")
    assert f"{len(view.roots)} of {len(view.roots)} roots, {facts['num_pdfs']} of {facts['num_pdfs']} pdfs" in text
    for root, gains in view.roots:
        line = re.search(rf"^{re.escape(view.title(root))} +(\d+) +(\d+) +([\d,]+) +[\d,]+ +(\S+)$", text, re.M)
        assert int(line[1]) == len({leaf.pdf for leaf in leaves(root.node)}) and int(line[2]) == depth(root.node)
        assert float(line[3].replace(",", "")) == pytest.approx(view.occupancy(root.node), abs=0.5)
        assert (line[4] == "-") == (not gains)
    assert (
        len(statistics(view, most=3).splitlines())
        == text.splitlines().index("") + 1 + len(view.roots) + 1 + 1 + 1 + 1 + 3
    )


@pytest.mark.parametrize("ending, magic", [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_pictures(model, tmp_path, ending, magic):
    view = load_view(model)
    plot_tree(view, tmp_path / f"tree.{ending}")
    data = (tmp_path / f"tree.{ending}").read_bytes()
    assert data.startswith(magic)
    if ending == "svg":
        for pdf in range(view.tree.num_pdfs):
            assert f"pdf {pdf} (".encode() in data
        plot_tree(view, tmp_path / "again.svg")
        assert (tmp_path / "again.svg").read_bytes() == data


def test_phones_with_odd_names_are_drawn(tmp_path):
    from pipeline.artifacts.lang import make_lang
    from pipeline.artifacts.lexicon import Lexicon, Pronunciation

    lang = make_lang(Lexicon([Pronunciation("W", ("$", "_", "ß<", "^x^"))]), unit="grapheme", speech_states=1)
    tree = monophone_tree(lang.phones, lang.topo)
    save_hmm(tmp_path / "m", lang.topo, tree, TransitionModel(tree, lang.topo))
    plot_tree(load_view(tmp_path / "m"), tmp_path / "m.svg")
    assert "ß&lt;, state 0" in (tmp_path / "m.svg").read_text(encoding="utf-8")


def test_parts_of_a_tree(model):
    whole, part = load_view(model), load_view(model, "a", 1)
    assert [part.title(r) for r, _ in part.roots] == ["a, state 1"] and len(load_view(model, "a").roots) == 2
    assert part.roots[0] in whole.roots
    with pytest.raises(DataError, match="no root with phone 'SIL' and state 1"):
        load_view(model, "SIL", 1)
    with pytest.raises(DataError, match="'zz'"):
        load_view(model, "zz")


def test_a_tree_without_statistics_is_drawn_without_frames(model, tmp_path):
    (model / "tree_stats.json").unlink()
    view = load_view(model)
    text = statistics(view)
    assert "frames" not in text.splitlines()[0] and "questions asked" in text
    plot_tree(view, tmp_path / "t.svg")
    assert b"pdf 0<" in (tmp_path / "t.svg").read_bytes()


def test_statistics_of_another_tree_are_refused(model):
    facts = read_json(model / "tree_stats.json")
    write_json(model / "tree_stats.json", {**facts, "frames_per_pdf": facts["frames_per_pdf"][1:]})
    with pytest.raises(DataError, match="tree_stats.json does not belong to"):
        load_view(model)


def test_the_command(model, tmp_path, run_script):
    step = ROOT / "steps" / "plot_tree.py"
    done = run_script(sys.executable, step, model, "t.png", "--text", "--phone", "a")
    assert done.returncode == 0 and "a, state 0" in done.stdout and (tmp_path / "t.png").stat().st_size > 1000
    for args, message in (
        ([model], "--text"),
        ([model, "t.gif"], "must end with .svg, .png, .pdf"),
        ([model, "t.png", "--phone", "zz"], "zz"),
    ):
        done = run_script(sys.executable, step, *args)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "t.gif").exists()
