"""Decision trees as pages of questions that unfold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.artifacts.tree import Leaf, Node
from pipeline.base.errors import DataError
from pipeline.experiments.html.markup import file_name, filled, text, write_text
from pipeline.experiments.html.sources import Sources
from pipeline.gmm.plot_tree import TreeView, depth, load_view, phone_names, place_name


class TreePage(NamedTuple):
    """A tree that has a page.

    Attributes:
        model: of which model, below EXP.
        link: its page, from the first page.
        roots, leaves, deepest: numbers of roots and leaves, and most questions on a path.
    """

    model: str
    link: str
    roots: int
    leaves: int
    deepest: int


def write_trees(sources: Sources, out_dir: Path) -> list[TreePage]:
    """Writes trees/MODEL.html for every model whose tree asks questions; models with the same tree share the page."""
    made: dict[str, TreePage] = {}
    for directory in sources.models:
        try:
            view = load_view(directory)
        except DataError:
            continue  # no tree, as end-to-end models
        deepest = max(depth(root.node) for root, _ in view.roots)
        if not deepest or view.tree.id in made:
            continue
        (out_dir / "trees").mkdir(exist_ok=True)
        name = directory.relative_to(sources.exp).as_posix()
        link = f"trees/{file_name(name)}.html"
        content = "\n".join(_root(view, number) for number in range(len(view.roots)))
        write_text(out_dir / link, filled("tree.html", {"title": text(f"Tree of {name}"), "roots": content}))
        leaves = len(set().union(*(view.pdfs(root.node) for root, _ in view.roots)))
        made[view.tree.id] = TreePage(name, link, len(view.roots), leaves, deepest)
    return list(made.values())


def _root(view: TreeView, number: int) -> str:
    root, gains = view.roots[number]
    count = len(view.pdfs(root.node))
    size = f"{count} {'leaf' if count == 1 else 'leaves'}" + _frames(view, root.node)
    return (
        f"<details><summary>{text(view.title(root))} ({size})</summary>{_node(view, root.node, iter(gains))}</details>"
    )


def _node(view: TreeView, node: Node, gains: Iterator[float]) -> str:
    """A question with what follows from yes and from no, or a leaf."""
    if isinstance(node, Leaf):
        return f"<p>pdf {node.pdf}{_frames(view, node)}</p>"
    gain = next(gains, None)
    asked = f"{place_name(node.pos)}: {phone_names(view.tree, node.phones)}?"
    told = "" if gain is None else f" gain {gain:,.0f}"
    sides = "".join(
        f"<li><details open><summary>{answer}{_frames(view, side)}</summary>{_node(view, side, gains)}</details></li>"
        if not isinstance(side, Leaf)
        else f"<li>{answer}: pdf {side.pdf}{_frames(view, side)}</li>"
        for answer, side in (("yes", node.yes), ("no", node.no))
    )
    return f"<p>{text(asked)}<small>{told}</small></p><ul>{sides}</ul>"


def _frames(view: TreeView, node: Node) -> str:
    return f", {view.occupancy(node):,.0f} frames" if view.frames else ""
