"""Decision trees for the eye: a picture, and statistics in text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.tree import Leaf, Node, Root, Tree, leaves, questions
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import atomic_write, read_json

FORMATS = ("svg", "png", "pdf")
STATS = "tree_stats.json"  # written beside the tree by the training
ROW, COLUMN = 0.17, 1.75  # inches per leaf and per level
PIXELS = 80e6  # of a PNG at most
SHOWN = 20  # characters of a question


@dataclass(frozen=True)
class TreeView:
    """The roots of a tree that are shown.

    Attributes:
        name: of the model directory.
        tree: the whole tree.
        roots: (root, gain of each of its questions, parents first); gains are empty when they are not known.
        frames: (P,) frames of each pdf-id in training; empty when they are not known.
    """

    name: str
    tree: Tree
    roots: tuple[tuple[Root, tuple[float, ...]], ...]
    frames: tuple[float, ...]

    def title(self, root: Root) -> str:
        """Phones and states of a root."""
        phones = " ".join(self.tree.phones.name(p) for p in sorted(root.phones))
        return f"{phones}, state {' '.join(map(str, sorted(root.pdf_classes)))}"

    def pdfs(self, node: Node) -> set[int]:
        return {leaf.pdf for leaf in leaves(node)}

    def occupancy(self, node: Node) -> float:
        """Frames of the pdfs below a node; 0 when not known."""
        return sum(self.frames[p] for p in self.pdfs(node)) if self.frames else 0.0


def load_view(model_dir: str | Path, phone: str | None = None, state: int | None = None) -> TreeView:
    """Reads the tree of a model directory.

    Args:
        phone: only roots of this phone.
        state: only roots of this pdf-class.
    Raises:
        DataError: no tree, statistics of another tree, or no root with the phone and state.
    """
    d = Path(model_dir)
    tree = load_hmm(d).tree
    stats: dict[str, Any] = read_json(d / STATS) if (d / STATS).is_file() else {}
    frames = stats.get("frames_per_pdf", [])
    gains = stats.get("gains_per_root", [() for _ in tree.roots])
    sizes = [len(list(questions(r.node))) if g else 0 for r, g in zip(tree.roots, gains)]
    if len(frames) not in (0, tree.num_pdfs) or len(gains) != len(tree.roots) or [len(g) for g in gains] != sizes:
        raise DataError(f"{d / STATS} does not belong to {d / 'tree.json'}")
    wanted = None if phone is None else tree.phones.id(phone)
    roots = tuple(
        (r, tuple(g))
        for r, g in zip(tree.roots, gains)
        if (wanted is None or wanted in r.phones) and (state is None or state in r.pdf_classes)
    )
    if not roots:
        asked = [f"phone {phone!r}"] * (phone is not None) + [f"state {state}"] * (state is not None)
        raise DataError(f"{d / 'tree.json'}: no root with {' and '.join(asked)}")
    return TreeView(d.name, tree, roots, tuple(frames))


def depth(node: Node) -> int:
    """Questions on the longest path from a node to a leaf."""
    return 0 if isinstance(node, Leaf) else 1 + max(depth(node.yes), depth(node.no))


def statistics(view: TreeView, most: int = 20) -> str:
    """Sizes of the roots and the questions that they ask, as text.

    Args:
        most: questions listed.
    """
    tree, known = view.tree, bool(view.frames)
    pdfs = set().union(*(view.pdfs(r.node) for r, _ in view.roots))
    out = [
        f"{view.name}: {tree.left} + 1 + {tree.right} phones of context, {len(view.roots)} of {len(tree.roots)} roots, "
        f"{len(pdfs)} of {tree.num_pdfs} pdfs"
    ]
    total = sum(view.frames[p] for p in pdfs) if known else 0.0
    if known:
        smallest = min(pdfs, key=lambda p: view.frames[p])
        out.append(
            f"{total:,.0f} frames, {total / len(pdfs):,.1f} per pdf, {view.frames[smallest]:,.0f} of the smallest "
            f"(pdf {smallest})"
        )
    if any(g for _, g in view.roots):
        gain = sum(sum(g) for _, g in view.roots)
        out.append(f"log-likelihood gained by all questions: {gain:,.1f}, {gain / max(total, 1):.4f} per frame")
    rows = [("root", "leaves", "depth", *(("frames", "smallest") if known else ()), "gain")]
    for root, gains in view.roots:
        own = view.pdfs(root.node)
        counts = (f"{view.occupancy(root.node):,.0f}", f"{min(view.frames[p] for p in own):,.0f}") if known else ()
        rows.append(
            (view.title(root), str(len(own)), str(depth(root.node)), *counts, f"{sum(gains):,.1f}" if gains else "-")
        )
    return "\n".join([*out, "", *_table(rows), "", *_question_table(view, most)]) + "\n"


def _question_table(view: TreeView, most: int) -> list[str]:
    """The questions that gain most (or are asked most often), with how often they are asked."""
    times: dict[tuple[int, frozenset[int]], list[float]] = defaultdict(list)
    for root, gains in view.roots:
        asked = list(questions(root.node))
        for q, gain in zip(asked, gains or [0.0] * len(asked)):
            times[q.pos, q.phones].append(gain)
    if not times:
        return ["no questions"]
    by_place: dict[int, int] = defaultdict(int)
    for (pos, _), found in times.items():
        by_place[pos] += len(found)
    places = ", ".join(f"{place_name(pos)} {by_place[pos]}" for pos in sorted(by_place))
    rows = [("times", "gain", "of", "phones")]
    ranked = sorted(times.items(), key=lambda x: (-sum(x[1]), -len(x[1]), x[0][0], sorted(x[0][1])))
    for (pos, phones), found in ranked[:most]:
        rows.append((str(len(found)), f"{sum(found):,.1f}", place_name(pos), phone_names(view.tree, phones)))
    return [
        f"{sum(by_place.values())} questions asked ({places}), {len(times)} different; those with the largest gain:",
        *_table(rows, last_left=True),
    ]


def _table(rows: Sequence[tuple[str, ...]], last_left: bool = False) -> list[str]:
    """Columns set right, the first (or the last) one left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    left = len(widths) - 1 if last_left else 0
    return [
        "  ".join(c.ljust(w) if i == left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        for row in rows
    ]


def place_name(pos: int) -> str:
    """Where the phone stands that a question asks about."""
    return {-1: "left", 0: "itself", 1: "right"}.get(pos, f"{abs(pos)} {'left' if pos < 0 else 'right'}")


def phone_names(tree: Tree, phones: frozenset[int]) -> str:
    """Phones of a question; # is the place beyond the ends of an utterance."""
    return " ".join("#" if p == 0 else tree.phones.name(p) for p in sorted(phones))


def _shortened(text: str) -> str:
    if len(text) <= SHOWN:
        return text
    kept = text[: SHOWN - 4].rsplit(" ", 1)[0]
    return f"{kept} +{len(text.split()) - len(kept.split())}"


@dataclass
class _Block:
    """One root, drawn from left to right; x counts levels, y counts rows downwards from the block's top."""

    lines: list[tuple[tuple[float, float], tuple[float, float]]] = field(default_factory=list)
    texts: list[tuple[float, float, str, str]] = field(default_factory=list)  # x, y, text, kind
    width: float = 0.0
    height: float = 0.0

    def add(self, view: TreeView, node: Node, gains: Iterator[float], level: int = 0) -> float:
        """Draws a subtree below what is there; returns the row of its node."""
        self.width = max(self.width, level + 1.0)
        if isinstance(node, Leaf):
            frames = f" ({view.frames[node.pdf]:,.0f})" if view.frames else ""
            self.height += 1
            self.texts.append((level, self.height, f"pdf {node.pdf}{frames}", "leaf"))
            return self.height
        gain = next(gains, None)
        rows = [self.add(view, side, gains, level + 1) for side in (node.yes, node.no)]
        here = sum(rows) / 2
        for row in rows:
            self.lines += [((level + 0.86, here), (level + 0.86, row)), ((level + 0.86, row), (level + 0.97, row))]
        self.lines.append(((level, here), (level + 0.86, here)))
        self.texts.append(
            (level, here, f"{place_name(node.pos)}: {_shortened(phone_names(view.tree, node.phones))}?", "question")
        )
        if gain is not None:
            self.texts.append((level, here + 0.12, f"gain {gain:,.0f}", "gain"))
        return here


def plot_tree(view: TreeView, path: str | Path) -> None:
    """Writes a picture: roots below each other in columns, yes above no, each leaf with its pdf-id and frames.

    Args:
        path: ends with .svg, .png or .pdf.
    """
    kind = Path(path).suffix[1:].lower()
    if kind not in FORMATS:
        raise ConfigError(f"{path}: the picture's name must end with {', '.join('.' + f for f in FORMATS)}")
    from matplotlib import rc_context
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    blocks = []
    for root, gains in view.roots:
        block = _Block(texts=[(0.0, 0.0, view.title(root), "root")], width=1.0)
        block.add(view, root.node, iter(gains))
        block.height += 2
        blocks.append(block)
    corners, width, height = _arrange(blocks)
    figure = Figure(figsize=(width * COLUMN, height * ROW))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.1, width)
    axes.set_ylim(height, -1)
    axes.axis("off")
    style: dict[str, dict[str, Any]] = {
        "root": {"weight": "bold", "va": "center"},
        "leaf": {"va": "center", "color": "tab:blue"},
        "question": {"va": "bottom"},
        "gain": {"va": "top", "color": "0.5", "size": 5},
    }
    lines = []
    for block, (x, y) in zip(blocks, corners):
        lines += [((x + x0, y + y0), (x + x1, y + y1)) for (x0, y0), (x1, y1) in block.lines]
        for at, row, text, what in block.texts:
            # No mathematics: phones may be called $ or _.
            axes.text(x + at, y + row, text, **{"size": 6, "parse_math": False, **style[what]})
    axes.add_collection(LineCollection(lines, colors="0.6", linewidths=0.6))
    dpi = min(120.0, math.sqrt(PIXELS / (width * COLUMN * height * ROW)))
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": view.name}), atomic_write(path, "wb") as f:
        figure.savefig(f, format=kind, dpi=dpi, metadata=dated)


def _arrange(blocks: Sequence[_Block]) -> tuple[list[tuple[float, float]], float, float]:
    """Corners of the blocks in columns that make about a square, and the size of the whole."""
    area = sum(b.width * b.height for b in blocks)
    tallest = max(max(b.height for b in blocks), math.sqrt(area * COLUMN / ROW))
    corners: list[tuple[float, float]] = []
    x, y, wide, height = 0.0, 0.0, 0.0, 0.0
    for block in blocks:
        if y and y + block.height > tallest:
            x, y, wide = x + wide, 0.0, 0.0
        corners.append((x, y))
        y, wide = y + block.height, max(wide, block.width)
        height = max(height, y)
    return corners, x + wide, height
