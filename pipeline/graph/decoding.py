"""Decoding graphs (HLG): building and the artifact on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass as record

from pipeline.artifacts.arpa import Arpa
from pipeline.artifacts.checkpoint import forget_pages, map_arrays
from pipeline.artifacts.features import Positive
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, write_json
from pipeline.base.records import OPEN, read_record
from pipeline.graph.context import expand_context
from pipeline.graph.grammar import grammar_from_arpa
from pipeline.graph.hmm_expansion import COLUMNS, EmittingArcs, expand_hmm
from pipeline.graph.phone_graph import PhoneGraph, build_phone_graph

logger = logging.getLogger(__name__)

FACTS, ARCS = "graph.json", "graph.safetensors"
_COLUMNS = ("splits", "dst", "pdf", "tid", "word", "lm", "lex")


@record(frozen=True, config=OPEN)
class _Facts:
    """What graph.json holds beside figures for people."""

    lang_id: str
    tree_id: str
    topo_id: str
    num_pdfs: Positive
    num_tids: Positive
    word_sequences: tuple[tuple[Positive, ...], ...]


def _dtype(column: str) -> np.dtype[Any]:
    return np.dtype("f4" if column in ("lm", "lex") else "i4")


@dataclass(frozen=True)
class DecodingGraph:
    """An epsilon-free graph over pdf-ids with word output; state 0 is the start, the last state is superfinal.

    The scores lie apart, so that the scales of language model and transitions, and transition probabilities trained
    further, need no new graph.

    Attributes:
        splits: (S + 1,) int32, arcs out of state s are splits[s]:splits[s + 1], sorted by pdf.
        dst: (A,) int32.
        pdf: (A,) int32, -1 on the arcs into the superfinal state.
        tid: (A,) int32 transition-id, -1 for none.
        word: (A,) int32 word id, 0 for none; ids from len(words) on are word_sequences.
        lm: (A,) float32 natural-log language model score.
        lex: (A,) float32 pronunciation and silence score.
        words: the lang's word table.
        word_sequences: tuples of word ids, for arcs with more than one word.
        lang_id, tree_id, topo_id: content hashes.
        num_pdfs, num_tids: sizes that the labels refer to.
    """

    splits: np.ndarray
    dst: np.ndarray
    pdf: np.ndarray
    tid: np.ndarray
    word: np.ndarray
    lm: np.ndarray
    lex: np.ndarray
    words: SymbolTable
    word_sequences: tuple[tuple[int, ...], ...]
    lang_id: str
    tree_id: str
    topo_id: str
    num_pdfs: int
    num_tids: int

    @property
    def num_states(self) -> int:
        return len(self.splits) - 1

    @property
    def num_arcs(self) -> int:
        return len(self.dst)

    def spell(self, labels: list[int]) -> list[int]:
        """Word ids of output labels: epsilons are left out, sequences written out."""
        out: list[int] = []
        for label in labels:
            if label >= len(self.words):
                out.extend(self.word_sequences[label - len(self.words)])
            elif label > 0:
                out.append(label)
        return out

    def words_per_label(self) -> np.ndarray:
        """(number of labels,) int64, how many words each output label stands for."""
        counts = [0] + [1] * (len(self.words) - 1) + [len(s) for s in self.word_sequences]
        return np.array(counts, dtype=np.int64)

    def save(self, directory: str | Path, facts: dict[str, Any] | None = None) -> None:
        """Writes graph.json and graph.safetensors."""
        from safetensors.numpy import save

        d = Path(directory)
        arrays = {name: getattr(self, name) for name in _COLUMNS}
        with atomic_write(d / ARCS, "wb") as f:
            f.write(save(arrays))
        self.words.save(d / "words.txt")
        write_json(
            d / FACTS,
            {
                "lang_id": self.lang_id,
                "tree_id": self.tree_id,
                "topo_id": self.topo_id,
                "num_pdfs": self.num_pdfs,
                "num_tids": self.num_tids,
                "num_states": self.num_states,
                "num_arcs": self.num_arcs,
                "word_sequences": [list(s) for s in self.word_sequences],
                **(facts or {}),
            },
        )

    @classmethod
    def load(cls, directory: str | Path) -> DecodingGraph:
        """Reads a graph directory, its arrays mapped into memory; DataError when a file is missing or damaged."""
        d = Path(directory)
        facts = read_record(d / FACTS, _Facts)
        arrays = map_arrays(d / ARCS)
        for name in _COLUMNS:
            if name not in arrays or arrays[name].dtype != _dtype(name) or arrays[name].ndim != 1:
                raise DataError(f"{d / ARCS}: damaged (no {_dtype(name)} array {name!r} of one axis)")
        columns: dict[str, Any] = {name: arrays[name] for name in _COLUMNS}
        graph = cls(**columns, words=SymbolTable.load(d / "words.txt"), **vars(facts))
        graph.validate(d)
        forget_pages(graph.lm)
        return graph

    def validate(self, where: str | Path) -> None:
        """DataError unless all numbers are within their ranges."""
        if any(word >= len(self.words) for words in self.word_sequences for word in words):
            raise DataError(f"{Path(where) / FACTS}: a label stands for words that words.txt lacks")
        labels = len(self.words) + len(self.word_sequences)
        sizes = {len(getattr(self, n)) for n in _COLUMNS[1:]}
        limits = {
            "dst": (0, self.num_states),
            "pdf": (-1, self.num_pdfs),
            "tid": (-1, self.num_tids),
            "word": (0, labels),
        }
        ok = len(sizes) == 1 and self.num_arcs > 0 and self.splits[0] == 0 and self.splits[-1] == self.num_arcs
        ok = ok and bool((np.diff(self.splits) >= 0).all())
        ok = ok and all(lo <= getattr(self, n).min() and getattr(self, n).max() < hi for n, (lo, hi) in limits.items())
        if not (ok and np.isfinite(self.lm).all() and np.isfinite(self.lex).all()):
            raise DataError(f"{Path(where) / ARCS}: damaged graph")


def build_decoding_graph(lang: Lang, arpa: Arpa, hmm: HmmDir) -> DecodingGraph:
    """HLG of a lang, a language model and a model's tree, topology and transitions.

    Args:
        hmm: phones and topology must be the lang's (``HmmDir.check_lang``).
    """
    grammar = grammar_from_arpa(arpa, lang.words)
    if grammar.dropped:
        logger.info(
            "%d of %d words of the language model are not in the lang and were left out, for example %s",
            len(grammar.dropped),
            len(arpa.words()),
            ", ".join(grammar.dropped[:5]),
        )
    phones = build_phone_graph(lang, grammar)
    logger.info("LG: %s states, %s arcs", f"{phones.num_states:,}", f"{len(phones.src):,}")
    return expand_phone_graph(phones, lang, hmm)


def expand_phone_graph(phones: PhoneGraph, lang: Lang, hmm: HmmDir) -> DecodingGraph:
    """A graph over pdf-ids from one over phones: context expansion, then HMM states."""
    context = expand_context(phones, len(lang.phones), hmm.tree.left, hmm.tree.right)
    logger.info(
        "CLG: %s states, %s arcs, %s windows",
        f"{context.num_states:,}",
        f"{len(context.src):,}",
        f"{len(context.windows):,}",
    )
    arcs = _trim(expand_hmm(context, hmm.tree, hmm.topo, hmm.transitions, len(lang.words)))
    graph = _sorted(arcs, lang, hmm)
    logger.info("HLG: %s states, %s arcs", f"{graph.num_states:,}", f"{graph.num_arcs:,}")
    return graph


def _sorted(arcs: EmittingArcs, lang: Lang, hmm: HmmDir) -> DecodingGraph:
    order = np.lexsort((arcs.dst, arcs.pdf, arcs.src))
    columns = {name: getattr(arcs, name)[order].astype(_dtype(name)) for name in _COLUMNS[1:]}
    return DecodingGraph(
        splits=np.searchsorted(arcs.src[order], np.arange(arcs.num_states + 1)).astype(np.int32),
        **columns,
        words=lang.words,
        word_sequences=arcs.word_sequences,
        lang_id=lang.id,
        tree_id=hmm.tree.id,
        topo_id=hmm.topo.id,
        num_pdfs=hmm.transitions.num_pdfs,
        num_tids=hmm.transitions.num_tids,
    )


def _trim(arcs: EmittingArcs) -> EmittingArcs:
    """Removes states that no path from start to end visits and renumbers: start 0, superfinal last."""
    n = arcs.num_states
    useful = _reachable(arcs.src, arcs.dst, arcs.start, n) & _reachable(arcs.dst, arcs.src, arcs.final, n)
    if not useful[arcs.start]:
        raise DataError("no path leads through the graph")
    useful[[arcs.start, arcs.final]] = False
    number = np.cumsum(useful)
    number[arcs.start], number[arcs.final] = 0, number[-1] + 1
    useful[[arcs.start, arcs.final]] = True
    keep = useful[arcs.src] & useful[arcs.dst]
    columns = {name: getattr(arcs, name)[keep] for name in COLUMNS}
    columns |= {name: number[columns[name]] for name in ("src", "dst")}
    last = int(number[arcs.final])
    return EmittingArcs(**columns, start=0, final=last, num_states=last + 1, word_sequences=arcs.word_sequences)


def _reachable(src: np.ndarray, dst: np.ndarray, start: int, num_states: int) -> np.ndarray:
    """(S,) bool: states that a path from `start` reaches."""
    order = np.argsort(src, kind="stable")
    splits = np.searchsorted(src[order], np.arange(num_states + 1))
    target = dst[order]
    seen = np.zeros(num_states, dtype=bool)
    seen[start] = True
    frontier = np.array([start])
    while len(frontier):
        count = splits[frontier + 1] - splits[frontier]
        arc = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(splits[frontier], count)
        reached = target[arc]
        reached = reached[~seen[reached]]
        seen[reached] = True
        frontier = np.unique(reached)
    return seen
