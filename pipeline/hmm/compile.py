"""Training graphs: transcripts -> phones -> phones in context -> HMM-states, for a whole corpus at once.

cf. Kaldi compile-train-graphs. Words become phones by the lexicon with all its variants and an optional silence at
every word boundary; phones become copies that each see one context window; copies become HMM-states. Only the first
step runs in Python per phone, the others are numpy operations over the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import BOUNDARY, Tree
from pipeline.base.errors import DataError
from pipeline.hmm.convert import build
from pipeline.hmm.graphs import NEG_INF, Graphs

SILENT, FOUND = -1, -2  # words of states: silence, and speech that the transcript lacks
FOUND_PROB = 1e-6  # of such speech at a word boundary


@dataclass(frozen=True)
class TrainingGraphs:
    """Graphs of N transcripts and what their states mean; not to be changed, since others may have the same ones.

    Attributes:
        graphs: the HMM graphs; arcs carry the transition-id of the state they leave.
        state_word: (S,) int32, position of the state's word in its transcript, SILENT or FOUND.
        min_frames: (N,) int32, frames that the shortest path of each graph needs.
    """

    graphs: Graphs
    state_word: NDArray[Any]
    min_frames: NDArray[Any]

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays."""
        return sum(a.nbytes for a in (*self.graphs.numpy().values(), self.state_word, self.min_frames))

    def select(self, indices: Sequence[int] | NDArray[Any]) -> TrainingGraphs:
        """The graphs of some transcripts, in the order given."""
        splits = self.graphs.state_splits.numpy()
        picked = np.asarray(indices, dtype=np.int64)
        words = [self.state_word[splits[i] : splits[i + 1]] for i in picked]
        return TrainingGraphs(self.graphs[picked], np.concatenate(words), self.min_frames[picked])


@dataclass(frozen=True)
class _PhoneGraphs:
    """Phone nodes of all utterances; starts and finals are edges with one open end."""

    phone: NDArray[Any]  # (M,) int64
    word: NDArray[Any]  # (M,) int64
    splits: NDArray[Any]  # (N + 1,) int64
    edges: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # (E,) source, destination, log weight
    starts: tuple[NDArray[Any], NDArray[Any]]  # node, log weight
    finals: tuple[NDArray[Any], NDArray[Any]]
    left: NDArray[Any]  # (M, k) context phones, nearest first
    right: NDArray[Any]


def compile_graphs(
    lang: Lang,
    tree: Tree,
    transitions: TransitionModel,
    transcripts: Sequence[Sequence[int]],
    skip_speech: bool = False,
) -> TrainingGraphs:
    """Builds the training graphs of a list of transcripts.

    Args:
        lang: lexicon, silence probability, topology.
        tree: of the same phones; its left and right widths decide the context expansion.
        transitions: of the same tree and topology.
        transcripts: word ids of each utterance (``Lang.word_ids``).
        skip_speech: the lang's out-of-vocabulary word may stand at every word boundary, for speech that a transcript
            lacks.
    Raises:
        DataError: an empty transcript.
    """
    assert not skip_speech or lang.oov_word is not None, "nothing stands for speech that a transcript lacks"
    assert transitions.tree_id == tree.id and transitions.topo_id == lang.topo.id, (
        "tree, topology and transitions differ"
    )
    nodes = _phone_graphs(lang, transcripts, skip_speech)
    for _ in range(tree.left):
        nodes = _split_by_neighbour(nodes, len(lang.phones))
    for _ in range(tree.right):
        nodes = _reverse(_split_by_neighbour(_reverse(nodes), len(lang.phones)))
    return _expand_states(nodes, lang, tree, transitions)


class _Pronunciations:
    """Phone ids and log probabilities of each word's variants, looked up once per word."""

    def __init__(self, lang: Lang) -> None:
        self._lang = lang
        self._known: dict[int, list[tuple[list[int], float]]] = {}

    def __getitem__(self, word: int) -> list[tuple[list[int], float]]:
        if word not in self._known:
            entries = self._lang.lexicon.by_word[self._lang.words.name(word)]
            self._known[word] = [([self._lang.phones.id(p) for p in e.phones], math.log(e.prob)) for e in entries]
        return self._known[word]


class _PhoneGraphBuilder:
    """Grows phone graphs node by node. Open ends are (node, log weight) pairs that the next node follows on; node -1 is
    the beginning of the utterance.
    """

    def __init__(self, lang: Lang) -> None:
        self._lang, self._silence = lang, lang.silence_id
        self._log_sil = math.log(lang.silence_prob) if lang.silence_prob > 0 else None
        self._log_no_sil = math.log1p(-lang.silence_prob)
        self._phone: list[int] = []
        self._word: list[int] = []
        self._splits = [0]
        self._edges: list[tuple[int, int, float]] = []
        self._starts: list[tuple[int, float]] = []
        self._finals: list[tuple[int, float]] = []

    def _node(self, phone: int, word: int, open_ends: list[tuple[int, float]], weight: float) -> int:
        """A new node after open ends; its number."""
        node = len(self._phone)
        self._phone.append(phone)
        self._word.append(word)
        for source, w in open_ends:
            if source < 0:
                self._starts.append((node, w + weight))
            else:
                self._edges.append((source, node, w + weight))
        return node

    def silence(self, open_ends: list[tuple[int, float]]) -> list[tuple[int, float]]:
        """Optional silence, cf. Kaldi make_lexicon_fst.py --sil-prob; the open ends behind it."""
        if self._log_sil is None:
            return open_ends
        node = self._node(self._silence, SILENT, open_ends, self._log_sil)
        return [(source, w + self._log_no_sil) for source, w in open_ends] + [(node, 0.0)]

    def found(
        self, variants: list[tuple[list[int], float]], open_ends: list[tuple[int, float]]
    ) -> list[tuple[int, float]]:
        """Optional speech that the transcript lacks, perhaps with silences in it and behind it; the ends behind."""
        ends, first = [], []
        for phones, log_prob in variants:
            tail = self.one_phone(phones[0], FOUND, open_ends, log_prob + math.log(FOUND_PROB))
            first.append((tail[0][0], log_prob + math.log(FOUND_PROB)))
            for p in phones[1:]:
                tail = self.one_phone(p, FOUND, tail, 0.0)
            ends += tail
        behind = self.silence(ends)
        if behind is not ends:  # speech goes on behind a silence
            self._edges += [(behind[-1][0], node, weight) for node, weight in first]
        return [(source, w + math.log1p(-FOUND_PROB)) for source, w in open_ends] + behind

    def one_phone(
        self, phone: int, word: int, open_ends: list[tuple[int, float]], weight: float
    ) -> list[tuple[int, float]]:
        """A phone of the word at some position; the open end behind it."""
        if self._lang.blank:  # equal phones next to each other would be one (Graves et al. 2006)
            open_ends = [(source, w) for source, w in open_ends if source < 0 or self._phone[source] != phone]
        return [(self._node(phone, word, open_ends, weight), 0.0)]

    def end(self, open_ends: list[tuple[int, float]]) -> None:
        """Ends an utterance."""
        self._finals.extend(open_ends)
        self._splits.append(len(self._phone))

    def graphs(self) -> _PhoneGraphs:
        """All utterances, without context."""
        none = np.zeros((len(self._phone), 0), dtype=np.int64)
        edge = np.array(self._edges, dtype=np.float64).reshape(-1, 3)
        start, final = (np.array(x, dtype=np.float64).reshape(-1, 2) for x in (self._starts, self._finals))
        return _PhoneGraphs(
            np.array(self._phone, dtype=np.int64),
            np.array(self._word, dtype=np.int64),
            np.array(self._splits, dtype=np.int64),
            (edge[:, 0].astype(np.int64), edge[:, 1].astype(np.int64), edge[:, 2]),
            (start[:, 0].astype(np.int64), start[:, 1]),
            (final[:, 0].astype(np.int64), final[:, 1]),
            none,
            none,
        )


def _phone_graphs(lang: Lang, transcripts: Sequence[Sequence[int]], skip_speech: bool) -> _PhoneGraphs:
    """All pronunciations of the words with optional silence around them; with lang.blank also inside words."""
    variants, build = _Pronunciations(lang), _PhoneGraphBuilder(lang)
    unknown = variants[lang.words.id(lang.oov_word)] if skip_speech and lang.oov_word is not None else []
    for n, words in enumerate(transcripts):
        if not len(words):
            raise DataError(f"transcript {n} of the batch is empty")
        open_ends = build.silence([(-1, 0.0)])
        open_ends = build.found(unknown, open_ends) if unknown else open_ends
        for position, word in enumerate(words):
            ends = []
            for phones, log_prob in variants[int(word)]:
                tail = build.one_phone(phones[0], position, open_ends, log_prob)
                for p in phones[1:]:
                    tail = build.one_phone(p, position, build.silence(tail) if lang.blank else tail, 0.0)
                ends += tail
            open_ends = build.silence(ends)
            open_ends = build.found(unknown, open_ends) if unknown else open_ends
        build.end(open_ends)
    return build.graphs()


def _reverse(g: _PhoneGraphs) -> _PhoneGraphs:
    src, dst, weight = g.edges
    return replace(g, edges=(dst, src, weight), starts=g.finals, finals=g.starts, left=g.right, right=g.left)


def _split_by_neighbour(g: _PhoneGraphs, num_phones: int) -> _PhoneGraphs:
    """Copies every node once per distinct (phone, left context) of its predecessors: one more phone of left context."""
    src, dst, weight = g.edges
    seen = np.concatenate([g.phone[:, None], g.left], axis=1)  # what a successor sees: (M, k + 1)
    edge_sees = seen[src]
    start_sees = np.full((len(g.starts[0]), seen.shape[1]), BOUNDARY, dtype=np.int64)
    context = np.concatenate([edge_sees, start_sees])
    entered = np.concatenate([dst, g.starts[0]])
    key = entered.copy()
    assert math.log2(len(g.phone) + 1) + context.shape[1] * math.log2(num_phones) < 62, (
        "context too wide for a 64-bit key"
    )
    for column in context.T:
        key = key * num_phones + column
    _, first, copy = np.unique(key, return_index=True, return_inverse=True)
    old = entered[first]  # (M',) ascending, so the copies of a node are neighbours
    low, high = (
        np.searchsorted(old, np.arange(len(g.phone) + 1)[:-1]),
        np.searchsorted(old, np.arange(1, len(g.phone) + 1)),
    )
    num_copies = high - low

    def copies_of(nodes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """(index into nodes, copy) for all copies of each node."""
        count = num_copies[nodes]
        index = np.repeat(np.arange(len(nodes)), count)
        within = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
        return index, np.repeat(low[nodes], count) + within

    edge, new_src = copies_of(src)
    final, new_final = copies_of(g.finals[0])
    return _PhoneGraphs(
        g.phone[old],
        g.word[old],
        np.searchsorted(old, g.splits),
        (new_src, copy[: len(dst)][edge], weight[edge]),
        (copy[len(dst) :], g.starts[1]),
        (new_final, g.finals[1][final]),
        context[first],
        g.right[old],
    )


def _expand_states(g: _PhoneGraphs, lang: Lang, tree: Tree, transitions: TransitionModel) -> TrainingGraphs:
    """Every phone node becomes the HMM-states of its phone, joined by loops and forward transitions."""
    size = transitions.num_states_of[g.phone].astype(np.int64)
    offset = np.concatenate([[0], np.cumsum(size)])
    node = np.repeat(np.arange(len(size)), size)
    state = np.arange(offset[-1]) - offset[node]
    classes = np.full((len(lang.phones), int(size.max())), -1, dtype=np.int64)
    for name, topo in lang.topo.phones.items():
        classes[lang.phones.id(name), : topo.num_states] = topo.pdf_classes[: classes.shape[1]]
    windows = np.concatenate([g.left[:, ::-1], g.phone[:, None], g.right], axis=1)  # (M, left + 1 + right)
    pdf = tree.lookup(windows[node], classes[g.phone[node], state])
    ts = transitions.transition_states(g.phone[node], state, pdf).astype(np.int64)
    loop, forward = 2 * ts, 2 * ts + 1
    all_states = np.arange(len(node))
    inner = all_states[state > 0]
    src, dst, weight = g.edges
    leaves = offset[src + 1] - 1
    start = _scatter(len(node), offset[g.starts[0]], g.starts[1])
    final = _scatter(len(node), offset[g.finals[0] + 1] - 1, g.finals[1])
    state_splits = offset[g.splits]
    graphs = build(
        pdf=pdf,
        src=np.concatenate([all_states, inner - 1, leaves]),
        dst=np.concatenate([all_states, inner, offset[dst]]),
        tid=np.concatenate([loop, forward[inner - 1], forward[leaves]]),
        weight=np.concatenate([np.zeros(len(all_states) + len(inner)), weight]),
        start_weight=start,
        final_weight=final,
        final_tid=forward,
        state_splits=state_splits,
        num_pdfs=tree.num_pdfs,
        num_tids=transitions.num_tids,
    )
    return TrainingGraphs(graphs, g.word[node].astype(np.int32), _min_frames(g, size))


def _scatter(size: int, index: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    out = np.full(size, NEG_INF)
    np.logaddexp.at(out, index, values)
    return out


def _min_frames(g: _PhoneGraphs, size: NDArray[Any]) -> NDArray[Any]:
    """(N,) shortest number of frames: nodes are numbered in time order, so one sweep over the edges settles it."""
    far = np.iinfo(np.int64).max // 2
    best = np.full(len(size), far)
    best[g.starts[0]] = size[g.starts[0]]
    src, dst, _ = g.edges
    order = np.argsort(dst, kind="stable")
    for u, v in zip(src[order].tolist(), dst[order].tolist()):
        if best[u] + size[v] < best[v]:
            best[v] = best[u] + size[v]
    out = np.full(len(g.splits) - 1, far)
    np.minimum.at(out, np.searchsorted(g.splits, g.finals[0], side="right") - 1, best[g.finals[0]])
    return out.astype(np.int32)
