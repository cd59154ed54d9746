"""Questions of decision trees: sets of phones, from a clustering of the phones or from a file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from pipeline.artifacts.lang import POSITIONS, SILENCE, Lang
from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.tree import BOUNDARY
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines
from pipeline.gmm.tree_stats import TreeStats, objective

logger = logging.getLogger(__name__)


def cluster_phones(stats: TreeStats, lang: Lang) -> list[frozenset[int]]:
    """Automatic questions: every cluster on the way from single phones to the set of all, cf. Kaldi cluster-phones.

    Bottom-up: the two clusters whose union loses the least likelihood are merged, each pdf-class being a Gaussian of
    its own. Position variants of a phone are one phone here; questions about the position are added. A set with
    silence also holds the place beyond the utterance's ends.

    Returns:
        Sets of phone ids, without repeats, smallest first.
    """
    base = lang.base_phones()
    members: dict[str, list[int]] = {}
    for name, group in base.items():
        members.setdefault(group, []).append(lang.phones.id(name))
    centre = stats.windows[:, stats.left]
    seen = [g for g, ids in members.items() if np.isin(centre, ids).any()]
    unseen = sorted(set(members) - set(seen))
    if unseen:
        logger.warning("no frames of the phones %s: no question asks for them", " ".join(unseen))
    sums = [_class_sums(stats, np.isin(centre, members[g])) for g in seen]
    clusters = [frozenset(members[g]) for g in seen]
    found = set(clusters) | set(_merges(sums, clusters))
    found |= {frozenset([p]) for ids in members.values() if len(ids) > 1 for p in ids if (centre == p).any()}
    at_position = (frozenset(lang.phones.id(p) for p, plain in base.items() if p == plain + mark) for mark in POSITIONS)
    found |= {question for question in at_position if question}
    silence = lang.phones.id(SILENCE)
    questions = {q | {BOUNDARY} if silence in q else q for q in found}
    return sorted(questions, key=lambda q: (len(q), sorted(q)))


def _class_sums(stats: TreeStats, rows: np.ndarray) -> np.ndarray:
    """(C, 1 + 2F) statistics of some rows by pdf-class."""
    out = np.zeros((int(stats.pdf_classes.max()) + 1, stats.sums.shape[1]))
    np.add.at(out, stats.pdf_classes[rows], stats.sums[rows])
    return out


def _merges(sums: list[np.ndarray], clusters: list[frozenset[int]]) -> list[frozenset[int]]:
    """The unions made by agglomerative clustering, the last one (all phones) excepted."""
    sums, clusters = list(sums), list(clusters)
    score = [float(objective(s).sum()) for s in sums]
    size = len(sums)
    loss = np.full((size, size), np.inf)
    for i in range(size):
        for j in range(i):
            loss[i, j] = score[i] + score[j] - float(objective(sums[i] + sums[j]).sum())
    alive = set(range(size))
    out = []
    while len(alive) > 2:
        i, j = (int(k) for k in np.unravel_index(int(np.argmin(loss)), loss.shape))  # j < i
        sums[j], clusters[j] = sums[j] + sums[i], clusters[j] | clusters[i]
        score[j] = float(objective(sums[j]).sum())
        alive.remove(int(i))
        loss[i, :] = loss[:, i] = np.inf
        for k in alive - {int(j)}:
            loss[max(j, k), min(j, k)] = score[j] + score[k] - float(objective(sums[j] + sums[k]).sum())
        out.append(clusters[j])
    return out


def load_questions(path: str | Path, phones: SymbolTable) -> list[frozenset[int]]:
    """Reads questions, one per line: names of phones, ``<eps>`` for the place beyond the utterance's ends.

    Raises:
        DataError: with file and line, for an unknown phone, a phone named twice, a repeated question or an empty line.
    """
    out: dict[frozenset[int], int] = {}
    for line_no, line in read_lines(path):
        names = line.split()
        where = f"{path}:{line_no}"
        if not names:
            raise DataError(f"{where}: empty line")
        for name in names:
            if name not in phones:
                raise DataError(f"{where}: phone {name!r} is not in phones.txt")
        question = frozenset(phones.id(n) for n in names)
        if len(question) < len(names):
            raise DataError(f"{where}: a phone stands twice")
        if question in out:
            raise DataError(f"{where}: same question as line {out[question]}")
        out[question] = line_no
    if not out:
        raise DataError(f"{path}: holds no question")
    return list(out)


def save_questions(path: str | Path, questions: list[frozenset[int]], phones: SymbolTable) -> None:
    """Writes the file that load_questions reads."""
    with atomic_write(path) as f:
        for question in questions:
            f.write(" ".join(phones.name(p) for p in sorted(question)) + "\n")
