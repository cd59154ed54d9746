"""Phonetic decision trees: from a phone in context and a pdf-class to a pdf-id (senone or chenone)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.topo import Topo
from pipeline.base.errors import DataError
from pipeline.base.files import content_id, read_json, write_json

BOUNDARY = 0  # phone id of the context beyond an utterance's ends


@dataclass(frozen=True)
class Leaf:
    """End of a path through the tree."""

    pdf: int


@dataclass(frozen=True)
class Question:
    """Inner node: is the phone at context position ``pos`` (0 = the phone itself, -1 = left, +1 = right) in
    ``phones``?
    """

    pos: int
    phones: frozenset[int]
    yes: Node
    no: Node


Node = Leaf | Question


@dataclass(frozen=True)
class Root:
    """Tree for some central phones and pdf-classes, which share it."""

    phones: frozenset[int]
    pdf_classes: frozenset[int]
    node: Node


class Tree:
    """Maps windows of phone ids (left context, phone, right context) and pdf-classes to pdf-ids.

    cf. Kaldi's ContextDependency / EventMap; here the tree is one readable JSON file.
    """

    def __init__(self, roots: list[Root], phones: SymbolTable, left: int = 0, right: int = 0) -> None:
        """Args:
        roots: every (phone, pdf-class) in use must belong to exactly one.
        phones: names for the file; ids in the nodes are ids of this table.
        left, right: number of context phones on either side.
        """
        self.roots, self.phones, self.left, self.right = list(roots), phones, left, right
        self._root_of: dict[tuple[int, int], int] = {}
        for i, root in enumerate(self.roots):
            for phone in root.phones:
                for pdf_class in root.pdf_classes:
                    if (phone, pdf_class) in self._root_of:
                        raise DataError(f"tree: phone {phones.name(phone)!r}, pdf-class {pdf_class} has two roots")
                    self._root_of[phone, pdf_class] = i
        pdfs = sorted({leaf.pdf for root in self.roots for leaf in leaves(root.node)})
        if pdfs != list(range(len(pdfs))):
            raise DataError(
                f"tree: pdf-ids do not count up from 0 ({len(pdfs)} pdfs, largest {pdfs[-1] if pdfs else None})"
            )
        for root in self.roots:
            for q in questions(root.node):
                if not -left <= q.pos <= right:
                    raise DataError(
                        f"tree: a question asks position {q.pos} of a window with {left} left and {right} right phones"
                    )
        self.num_pdfs = len(pdfs)

    @property
    def id(self) -> str:
        """Content hash that models and alignments carry."""
        return content_id(self._as_json())

    def root(self, phone: int, pdf_class: int) -> Root:
        try:
            return self.roots[self._root_of[phone, pdf_class]]
        except KeyError:
            raise DataError(f"tree: phone {self.phones.name(phone)!r}, pdf-class {pdf_class} has no root") from None

    def pdfs_of(self, phone: int, pdf_class: int) -> list[int]:
        """All pdf-ids that the phone's pdf-class can have in some context, ascending."""
        return sorted({leaf.pdf for leaf in _reachable(self.root(phone, pdf_class).node, phone)})

    def lookup(self, windows: npt.NDArray[Any], pdf_classes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """pdf-ids of many windows at once.

        Args:
            windows: (M, left + 1 + right) int, phone ids; BOUNDARY outside the utterance.
            pdf_classes: (M,) int.
        Returns:
            (M,) int32 pdf-ids.
        """
        assert windows.ndim == 2 and windows.shape[1] == self.left + 1 + self.right, (
            windows.shape,
            self.left,
            self.right,
        )
        key = np.concatenate([windows, pdf_classes[:, None]], axis=1)
        unique, inverse = np.unique(key, axis=0, return_inverse=True)
        out = np.empty(len(unique), dtype=np.int32)
        root_ids = np.array([self._root_index(int(w[self.left]), int(w[-1])) for w in unique], dtype=np.int64)
        for i in np.unique(root_ids):
            self._descend(self.roots[i].node, unique, np.nonzero(root_ids == i)[0], out)
        pdfs: npt.NDArray[np.int32] = out[inverse.reshape(-1)]
        return pdfs

    def _root_index(self, phone: int, pdf_class: int) -> int:
        self.root(phone, pdf_class)
        return self._root_of[phone, pdf_class]

    def _descend(self, node: Node, windows: npt.NDArray[Any], rows: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
        if isinstance(node, Leaf):
            out[rows] = node.pdf
        elif len(rows):
            says_yes = np.isin(windows[rows, self.left + node.pos], list(node.phones))
            self._descend(node.yes, windows, rows[says_yes], out)
            self._descend(node.no, windows, rows[~says_yes], out)

    def _as_json(self) -> dict[str, Any]:
        def names(ids: frozenset[int]) -> list[str]:
            return [self.phones.name(i) for i in sorted(ids)]

        def encode(node: Node) -> dict[str, Any]:
            if isinstance(node, Leaf):
                return {"pdf": node.pdf}
            return {"pos": node.pos, "phones": names(node.phones), "yes": encode(node.yes), "no": encode(node.no)}

        return {
            "left": self.left,
            "right": self.right,
            "num_pdfs": self.num_pdfs,
            "roots": [
                {"phones": names(r.phones), "pdf_classes": sorted(r.pdf_classes), "tree": encode(r.node)}
                for r in self.roots
            ],
        }

    def save(self, path: str | Path) -> None:
        write_json(path, self._as_json())

    @classmethod
    def load(cls, path: str | Path, phones: SymbolTable) -> Tree:
        """Reads a tree for a phone table; DataError when it names phones that the table lacks."""
        data = read_json(path)

        def ids(names: list[str]) -> frozenset[int]:
            return frozenset(phones.id(n) for n in names)

        def decode(node: dict[str, Any]) -> Node:
            if "pdf" in node:
                return Leaf(int(node["pdf"]))
            return Question(int(node["pos"]), ids(node["phones"]), decode(node["yes"]), decode(node["no"]))

        try:
            roots = [
                Root(ids(r["phones"]), frozenset(int(c) for c in r["pdf_classes"]), decode(r["tree"]))
                for r in data["roots"]
            ]
            return cls(roots, phones, int(data["left"]), int(data["right"]))
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"{path}: not a tree file ({e!r})") from None
        except DataError as e:
            raise DataError(f"{path}: {e}") from None


def leaves(node: Node) -> Iterator[Leaf]:
    """All leaves below a node, left to right."""
    if isinstance(node, Leaf):
        yield node
    else:
        yield from leaves(node.yes)
        yield from leaves(node.no)


def questions(node: Node) -> Iterator[Question]:
    """All questions below a node, parents first."""
    if isinstance(node, Question):
        yield node
        yield from questions(node.yes)
        yield from questions(node.no)


def _reachable(node: Node, phone: int) -> Iterator[Leaf]:
    if isinstance(node, Leaf):
        yield node
    elif node.pos == 0:
        yield from _reachable(node.yes if phone in node.phones else node.no, phone)
    else:
        yield from _reachable(node.yes, phone)
        yield from _reachable(node.no, phone)


def monophone_tree(phones: SymbolTable, topo: Topo, shared: dict[str, str] | None = None) -> Tree:
    """One pdf per phone and pdf-class, no context.

    Args:
        phones: the lang's phones; those without topology (disambiguation symbols) are left out.
        shared: phone name -> name of the group that shares its pdfs (for position-dependent phones); default: itself.
    """
    groups: dict[str, list[str]] = {}
    for name in phones:
        if name in topo.phones:
            groups.setdefault((shared or {}).get(name, name), []).append(name)
    roots, pdf = [], 0
    for members in groups.values():
        classes = {c for m in members for c in topo[m].pdf_classes}
        for pdf_class in sorted(classes):
            with_class = frozenset(phones.id(m) for m in members if pdf_class in topo[m].pdf_classes)
            roots.append(Root(with_class, frozenset([pdf_class]), Leaf(pdf)))
            pdf += 1
    return Tree(roots, phones)
