"""Decision trees by greedy likelihood splits, cf. Kaldi build-tree; senones and chenones differ only in their lang."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import logging
from typing import Any

import numpy as np

from pipeline.artifacts.lang import SILENCE, SPOKEN_NOISE, Lang
from pipeline.artifacts.tree import Leaf, Node, Question, Root, Tree, leaves
from pipeline.base.errors import DataError
from pipeline.gmm.options import TreeOptions
from pipeline.gmm.tree_stats import TreeStats, objective

logger = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class _Branch:
    """A node while the tree grows; split once `question` is set."""

    rows: np.ndarray
    sums: np.ndarray  # (1 + 2F,)
    question: tuple[int, frozenset[int]] | None = None
    answers: tuple[_Branch, ...] = ()  # yes and no
    gain: float = 0.0  # of the split
    pdf: int = -1

    def ends(self) -> list[_Branch]:
        """Leaves below, left to right."""
        return [self] if self.question is None else [end for answer in self.answers for end in answer.ends()]

    def node(self) -> Node:
        if self.question is None:
            return Leaf(self.pdf)
        pos, phones = self.question
        yes, no = (answer.node() for answer in self.answers)
        return yes if isinstance(yes, Leaf) and yes == no else Question(pos, phones, yes, no)

    def gains(self) -> list[float]:
        """Gain of every question of node(), parents first."""
        if isinstance(self.node(), Leaf):
            return []
        return [round(self.gain, 3), *(gain for answer in self.answers for gain in answer.gains())]


@dataclasses.dataclass(frozen=True)
class Split:
    """The best question of a set of statistics: gain in log-likelihood, context position, phones."""

    gain: float
    pos: int
    phones: frozenset[int]


class Splitter:
    """Finds best splits; a question is a row of a 0/1 matrix over phones, so all are tried by one product per
    position.
    """

    def __init__(self, stats: TreeStats, questions: list[frozenset[int]], num_phones: int, min_count: float) -> None:
        self.stats, self.questions, self.min_count = stats, questions, min_count
        self._asks = np.zeros((len(questions), num_phones))
        for i, question in enumerate(questions):
            self._asks[i, sorted(question)] = 1.0

    def best(self, rows: np.ndarray) -> Split | None:
        """The split of some rows with the largest gain whose sides both have min_count frames; None without one.

        Of equal gains the first position, then the first question wins.
        """
        own = self.stats.sums[rows]
        total = own.sum(0)
        if len(rows) < 2 or total[0] < 2 * self.min_count:
            return None
        before, best = float(objective(total)), None
        for column in range(self.stats.windows.shape[1]):
            by_phone = np.zeros((self._asks.shape[1], len(total)))
            np.add.at(by_phone, self.stats.windows[rows, column], own)
            present = np.flatnonzero(by_phone[:, 0])
            if len(present) < 2:
                continue
            yes = self._asks[:, present] @ by_phone[present]  # (Q, 1 + 2F)
            no = total - yes
            allowed = (yes[:, 0] >= max(self.min_count, 1e-6)) & (no[:, 0] >= max(self.min_count, 1e-6))
            if not allowed.any():
                continue
            gain = np.where(allowed, objective(yes) + objective(no) - before, -np.inf)
            at = int(np.argmax(gain))
            if best is None or gain[at] > best.gain:
                best = Split(float(gain[at]), column - self.stats.left, self.questions[at])
        return best

    def apply(self, rows: np.ndarray, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Rows that answer yes, and the others."""
        says_yes = np.isin(self.stats.windows[rows, self.stats.left + split.pos], list(split.phones))
        return rows[says_yes], rows[~says_yes]


def build_tree(
    stats: TreeStats, questions: list[frozenset[int]], lang: Lang, options: TreeOptions
) -> tuple[Tree, dict[str, Any]]:
    """Grows a tree from one root per phone and pdf-class.

    The leaf whose best question gains the most is split next, over all roots, until there are options.num_leaves
    leaves or the best gain falls below options.min_gain. With options.merge, leaves of one root are then united as
    long as that loses less than the last split gained. Silence and spoken noise are not split. Position variants of a
    phone share a root. cf. Kaldi build-tree (there with one root for all pdf-classes of a phone).

    Returns:
        The tree and facts about it: leaves, gains, frames per leaf, roots without frames.
    """
    splitter = Splitter(stats, questions, len(lang.phones), options.min_count)
    roots, branches = _plant(stats, lang)
    unsplit = {lang.phones.id(n) for n in (SILENCE, SPOKEN_NOISE) if n in lang.phones}
    order = itertools.count()
    queue: list[tuple[float, int, _Branch, Split]] = []

    def offer(branch: _Branch) -> None:
        split = splitter.best(branch.rows)
        if split is not None and split.gain >= options.min_gain:
            heapq.heappush(queue, (-split.gain, next(order), branch, split))

    for (phones, _), branch in zip(roots, branches):
        if not phones & unsplit:
            offer(branch)
    num_leaves, gain, last_gain = len(branches), 0.0, options.min_gain
    while queue and num_leaves < options.num_leaves:
        _, _, branch, split = heapq.heappop(queue)
        sides = [_Branch(rows, stats.sums[rows].sum(0)) for rows in splitter.apply(branch.rows, split)]
        branch.question, branch.answers, branch.gain = (split.pos, split.phones), tuple(sides), split.gain
        num_leaves, gain, last_gain = num_leaves + 1, gain + split.gain, split.gain
        offer(sides[0])
        offer(sides[1])
    merged, loss = 0, 0.0
    # A hair less than the last gain, or rounding would decide whether the last split is undone.
    threshold = last_gain * (1 - 1e-6) if options.merge else -1.0
    for branch in branches:
        own_merged, own_loss = _number(branch.ends(), threshold)
        merged, loss = merged + own_merged, loss + own_loss
    pdf = _renumber(branches)
    tree = Tree(
        [Root(phones, frozenset([c]), b.node()) for (phones, c), b in zip(roots, branches)],
        lang.phones,
        stats.left,
        stats.right,
    )
    assert tree.num_pdfs == pdf, (tree.num_pdfs, pdf)
    return tree, _facts(tree, branches, stats, num_leaves, gain, merged, loss, options)


def _plant(stats: TreeStats, lang: Lang) -> tuple[list[tuple[frozenset[int], int]], list[_Branch]]:
    """(phones, pdf-class) of every root, in the order of monophone_tree, and its branch."""
    groups: dict[str, list[str]] = {}
    for name, base in lang.base_phones().items():
        groups.setdefault(base, []).append(name)
    roots, branches = [], []
    centre = stats.windows[:, stats.left]
    for members in groups.values():
        for pdf_class in sorted({c for m in members for c in lang.topo[m].pdf_classes}):
            phones = frozenset(lang.phones.id(m) for m in members if pdf_class in lang.topo[m].pdf_classes)
            rows = np.flatnonzero(np.isin(centre, list(phones)) & (stats.pdf_classes == pdf_class))
            roots.append((phones, pdf_class))
            branches.append(_Branch(rows, stats.sums[rows].sum(0)))
    if not roots:
        raise DataError("the lang has no phone with a topology")
    return roots, branches


def _number(ends: list[_Branch], threshold: float) -> tuple[int, float]:
    """Gives the leaves of a root numbers that united ones share; returns how many were united and the loss."""
    groups = [[e] for e in ends]
    sums = [e.sums for e in ends]
    merged, total_loss = 0, 0.0
    if threshold > 0 and len(groups) > 1:
        score = [float(objective(s)) for s in sums]
        while len(groups) > 1:
            pairs = [
                (score[i] + score[j] - float(objective(sums[i] + sums[j])), i, j)
                for j in range(len(groups))
                for i in range(j)
            ]
            loss, i, j = min(pairs)
            if loss >= threshold:
                break
            groups[i] += groups.pop(j)
            sums[i] = sums[i] + sums.pop(j)
            score.pop(j)
            score[i] = float(objective(sums[i]))
            merged, total_loss = merged + 1, total_loss + loss
    for number, group in enumerate(groups):
        for end in group:
            end.pdf = number
    return merged, total_loss


def _renumber(branches: list[_Branch]) -> int:
    """Turns the numbers within roots into pdf-ids over all; returns how many there are."""
    total = 0
    for branch in branches:
        ends = branch.ends()
        used = sorted({e.pdf for e in ends})
        for end in ends:
            end.pdf = total + used.index(end.pdf)
        total += len(used)
    return total


def _facts(
    tree: Tree,
    branches: list[_Branch],
    stats: TreeStats,
    num_leaves: int,
    gain: float,
    merged: int,
    loss: float,
    options: TreeOptions,
) -> dict[str, Any]:
    frames = np.zeros(tree.num_pdfs)
    for branch in branches:
        for end in branch.ends():
            frames[end.pdf] += end.sums[0]
    total = float(frames.sum())
    empty = [i for i, b in enumerate(branches) if b.sums[0] <= 0]
    if num_leaves < options.num_leaves:
        logger.info(
            "the data supports %d of the %d leaves asked for (min_count %g, min_gain %g)",
            num_leaves,
            options.num_leaves,
            options.min_count,
            options.min_gain,
        )
    if empty:
        names = sorted({tree.phones.name(p) for i in empty for p in tree.roots[i].phones})
        logger.warning(
            "no frames for %d of %d roots (phones %s): they keep one pdf without data",
            len(empty),
            len(branches),
            " ".join(names),
        )
    logger.info(
        "tree: %d roots, %d leaves, %d united, %d pdfs; gain per frame %.4f",
        len(branches),
        num_leaves,
        merged,
        tree.num_pdfs,
        (gain - loss) / max(total, 1.0),
    )
    return {
        "num_pdfs": tree.num_pdfs,
        "num_roots": len(branches),
        "num_leaves": num_leaves,
        "united": merged,
        "contexts": len(stats.windows),
        "frames": total,
        "gain_per_frame": (gain - loss) / max(total, 1.0),
        "roots_without_frames": len(empty),
        "frames_per_pdf": frames.tolist(),
        "leaves_per_root": [len({leaf.pdf for leaf in leaves(r.node)}) for r in tree.roots],
        "gains_per_root": [b.gains() for b in branches],
    }
