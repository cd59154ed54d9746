"""LG: lexicon and grammar as one graph over phones, built directly instead of by composition.

The result is what determinizing L o G gives: for every grammar state a prefix tree over the words that may follow, with
weights moved as far to the front as they are known, words put out where they become unique, and common word tails
shared. Built this way it needs no disambiguation symbols, and neither its time nor its memory can explode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.lang import Lang
from pipeline.artifacts.token_lang import TOKEN_UNIT
from pipeline.base.errors import DataError
from pipeline.graph.grammar import Grammar

NO_PHONE = -1
COLUMNS = ("src", "dst", "phone", "word", "lm", "lex")  # the arrays of a PhoneGraph


@dataclass(frozen=True)
class PhoneGraph:
    """Arcs sorted by source; epsilon arcs (phone NO_PHONE) never carry a word and form no cycle.

    Attributes:
        src, dst: (A,) int64 states.
        phone: (A,) int64 phone id or NO_PHONE.
        word: (A,) int64 word id, 0 for none.
        lm: (A,) float64 language model part of the weight (natural log).
        lex: (A,) float64 pronunciation and silence part.
        start, final: one state each; no arc enters the start or leaves the final state.
        num_states: S.
    """

    src: np.ndarray
    dst: np.ndarray
    phone: np.ndarray
    word: np.ndarray
    lm: np.ndarray
    lex: np.ndarray
    start: int
    final: int
    num_states: int


def build_phone_graph(lang: Lang, grammar: Grammar) -> PhoneGraph:
    """Joins lexicon and grammar.

    Silence is optional with probability lang.silence_prob at the start, after every word and hence at the end, and
    each pronunciation has its own log probability, cf. Kaldi make_lexicon_fst.py.

    Args:
        lang: every word of the grammar must have a pronunciation in it.
    """
    # States: 0..G-1 before a word, G..2G-1 after one (where silence may follow), final, start, tree nodes.
    roots = grammar.num_states
    with_silence = lang.silence_prob > 0
    ends = roots if with_silence else 0
    state = np.arange(roots)
    final, start = 2 * roots, 2 * roots + 1
    parts = _word_trees(lang, grammar, ends, first_node=start + 1)
    has_backoff, has_final = grammar.backoff >= 0, grammar.final > -np.inf
    parts.append(
        _arcs(state[has_backoff], grammar.backoff[has_backoff], NO_PHONE, lm=grammar.backoff_weight[has_backoff])
    )
    parts.append(_arcs(state[has_final], final, NO_PHONE, lm=grammar.final[has_final]))
    if with_silence:
        pause, none = _silence_scores(lang)
        parts.append(_arcs(state + ends, state, lang.silence_id, lex=pause))
        parts.append(_arcs(state + ends, state, NO_PHONE, lex=none))
    parts.append(_arcs(np.array([start]), grammar.start + ends, NO_PHONE))
    columns = [np.concatenate(c) for c in zip(*parts)]
    if lang.blank:
        columns = _with_blanks(columns, first_node=start + 1, lang=lang)
    order = np.lexsort((columns[2], columns[0]))
    num_states = int(max(start, columns[0].max(), columns[1].max())) + 1
    arcs = {name: column[order] for name, column in zip(COLUMNS, columns)}
    return PhoneGraph(**arcs, start=start, final=final, num_states=num_states)


def _with_blanks(columns: list[np.ndarray], first_node: int, lang: Lang) -> list[np.ndarray]:
    """Lets silence stand between the phones of a word: every state inside a word is split in two, before and after it.

    That CTC demands a blank between equal phones is left out: the words told apart by it would be those that differ
    in a doubled phone only.
    """
    dst = columns[1]
    inner = np.unique(dst[dst >= first_node])
    shift = int(max(columns[0].max(), dst.max())) + 1 - first_node
    columns = [columns[0], np.where(dst >= first_node, dst + shift, dst), *columns[2:]]
    pause, no_pause = _silence_scores(lang)
    blank, none = (
        _arcs(inner + shift, inner, lang.silence_id, lex=pause),
        _arcs(inner + shift, inner, NO_PHONE, lex=no_pause),
    )
    return [np.concatenate(c) for c in zip(columns, blank, none)]


def _silence_scores(lang: Lang) -> tuple[float, float]:
    """Log probabilities of silence and of none, where both may be; the blank of tokens has them from the network
    alone.
    """
    if lang.unit == TOKEN_UNIT:
        return 0.0, 0.0
    return math.log(lang.silence_prob), math.log1p(-lang.silence_prob)


def _arcs(
    src: np.ndarray,
    dst: np.ndarray | int,
    phone: np.ndarray | int,
    word: np.ndarray | int = 0,
    lm: np.ndarray | float = 0.0,
    lex: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, ...]:
    shape = (len(src),)
    whole = [np.broadcast_to(np.asarray(x, dtype=np.int64), shape) for x in (src, dst, phone, word)]
    return (*whole, *(np.broadcast_to(np.asarray(x, dtype=np.float64), shape) for x in (lm, lex)))


@dataclass(frozen=True)
class _Variants:
    """All pronunciations of a lexicon in the order of word ids.

    Attributes:
        first: (V + 1,) variants of word w are first[w]:first[w + 1].
        phones: (M, K) padded with NO_PHONE.
        length: (M,).
        tail: (M, K) number of the phone sequence from position k on; equal numbers for equal sequences only.
        log_prob: (M,).
    """

    first: np.ndarray
    phones: np.ndarray
    length: np.ndarray
    tail: np.ndarray
    log_prob: np.ndarray


def _variants(lang: Lang) -> _Variants:
    entries = sorted(lang.lexicon.entries, key=lambda e: lang.words.id(e.word))
    words = np.array([lang.words.id(e.word) for e in entries], dtype=np.int64)
    length = np.array([len(e.phones) for e in entries], dtype=np.int64)
    phones = np.full((len(entries), int(length.max())), NO_PHONE, dtype=np.int64)
    for i, e in enumerate(entries):
        phones[i, : len(e.phones)] = [lang.phones.id(p) for p in e.phones]
    tail = np.zeros_like(phones)
    after, used = np.zeros(len(entries), dtype=np.int64), 1
    for remaining in range(1, phones.shape[1] + 1):
        rows = np.nonzero(length >= remaining)[0]
        k = length[rows] - remaining
        unique, number = np.unique(after[rows] * len(lang.phones) + phones[rows, k], return_inverse=True)
        after[rows] = tail[rows, k] = used + number
        used += len(unique)
    log_prob = np.log(np.array([e.prob for e in entries]))
    return _Variants(np.searchsorted(words, np.arange(len(lang.words) + 1)), phones, length, tail, log_prob)


@dataclass(frozen=True)
class _Rows:
    """One row per grammar arc and pronunciation of its word."""

    src: np.ndarray
    dst: np.ndarray
    word: np.ndarray
    lm: np.ndarray
    lex: np.ndarray
    variant: np.ndarray


def _rows(lang: Lang, grammar: Grammar, v: _Variants, ends: int) -> _Rows:
    count = np.diff(v.first)[grammar.word]
    if (count == 0).any():
        word = lang.words.name(int(grammar.word[count == 0][0]))
        raise DataError(f"word {word!r} of the language model has no pronunciation")
    arc = np.repeat(np.arange(len(count)), count)
    variant = np.repeat(v.first[grammar.word], count) + np.arange(len(arc)) - np.repeat(np.cumsum(count) - count, count)
    return _Rows(
        grammar.src[arc], grammar.dst[arc] + ends, grammar.word[arc], grammar.weight[arc], v.log_prob[variant], variant
    )


def _word_trees(lang: Lang, grammar: Grammar, ends: int, first_node: int) -> list[tuple[np.ndarray, ...]]:
    """Arcs (src, dst, phone, word, lm, lex) of the prefix trees of all grammar states.

    Level by level, rows with the same prefix share a node and the best weight below it is put out as soon as the node
    is reached. A row that is alone in its node has told its word and its weight; the rest is a tail shared by all
    rows with the same remaining phones and destination.
    """
    v = _variants(lang)
    r = _rows(lang, grammar, v, ends)
    node = r.src.copy()  # where each row's prefix has led so far
    sent_lm, sent_lex = np.zeros(len(node)), np.zeros(len(node))  # weight put out on the way
    told = np.zeros(len(node), dtype=bool)  # the word was put out on the way
    alive = np.arange(len(node))
    parts: list[tuple[np.ndarray, ...]] = []
    tail_rows, tail_from, tail_arcs = [], [], []
    for k in range(v.phones.shape[1]):
        last = v.length[r.variant[alive]] == k + 1
        e, alive = alive[last], alive[~last]
        parts.append(
            _arcs(
                node[e],
                r.dst[e],
                v.phones[r.variant[e], k],
                np.where(told[e], 0, r.word[e]),
                r.lm[e] - sent_lm[e],
                r.lex[e] - sent_lex[e],
            )
        )
        if not len(alive):
            break
        phone = v.phones[r.variant[alive], k]
        _, first, group, size = np.unique(
            node[alive] * len(lang.phones) + phone, return_index=True, return_inverse=True, return_counts=True
        )
        best_lm, best_lex = (_group_max(x[alive], group, len(size)) for x in (r.lm, r.lex))
        one_word = _group_max(r.word[alive], group, len(size)) == -_group_max(-r.word[alive], group, len(size))
        row = alive[first]  # one row of each group
        tell = np.where(one_word & ~told[row], r.word[row], 0)
        alone = size == 1
        child = first_node + np.cumsum(~alone) - 1
        first_node += int((~alone).sum())
        arcs = _arcs(node[row], child, phone[first], tell, best_lm - sent_lm[row], best_lex - sent_lex[row])
        parts.append(tuple(c[~alone] for c in arcs))
        tail_arcs.append(tuple(c[alone] for c in arcs))
        tail_rows.append(row[alone])
        tail_from.append(np.full(int(alone.sum()), k + 1))
        stay = ~alone[group]
        node[alive], sent_lm[alive], sent_lex[alive] = child[group], best_lm[group], best_lex[group]
        told[alive] |= one_word[group]
        alive = alive[stay]
    if tail_rows:
        entered = [np.concatenate(c) for c in zip(*tail_arcs)]
        entered[1], tails = _tails(v, r, np.concatenate(tail_rows), np.concatenate(tail_from), first_node)
        parts += [tuple(entered), tails]
    return parts


def _tails(
    v: _Variants, r: _Rows, rows: np.ndarray, start: np.ndarray, first_node: int
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Chains for the phones of `rows` from position `start` on: (node each row starts at, arcs)."""
    variant, dst = r.variant[rows], r.dst[rows]
    count = v.length[variant] - start
    index = np.repeat(np.arange(len(rows)), count)
    k = np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count) + start[index]
    variant, dst = variant[index], dst[index]
    key = dst * (int(v.tail.max()) + 1) + v.tail[variant, k]
    _, first, number = np.unique(key, return_index=True, return_inverse=True)
    node = first_node + number
    ends = k + 1 == v.length[variant]
    follower = np.where(ends, dst, np.append(node[1:], 0))
    return node[np.cumsum(count) - count], _arcs(node[first], follower[first], v.phones[variant, k][first])


def _group_max(values: np.ndarray, group: np.ndarray, size: int) -> np.ndarray:
    out = np.full(size, values.min(), dtype=values.dtype)
    np.maximum.at(out, group, values)
    return out
