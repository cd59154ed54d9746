"""Phone n-grams and the denominator graphs that they make for lattice-free MMI (Povey et al. 2016, section 2.3)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.artifacts.lang import Lang
from pipeline.base.errors import DataError
from pipeline.graph.phone_graph import NO_PHONE, PhoneGraph

START, END = -1, -2  # in histories; no phone ids
History = tuple[int, ...]


class PhoneCounts:
    """Expected n-gram counts of phone sequences that transcripts allow by the lexicon.

    A word stands for all its pronunciations with their probabilities, every word boundary for silence with the lang's
    probability; so counts are fractions.

    Attributes:
        order: n.
        counts: history (n - 1 phones, fewer behind the START) -> phone or END -> count.
    """

    def __init__(self, order: int) -> None:
        assert order >= 1, order
        self.order = order
        self.counts: dict[History, dict[int, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, lang: Lang, words: Sequence[int]) -> None:
        """Counts one transcript, given as word ids."""
        here: dict[History, float] = {(START,)[: self.order - 1]: 1.0}
        here = self._silence(here, lang)
        for word in words:
            entries = lang.lexicon.by_word[lang.words.name(word)]
            total = sum(e.prob for e in entries)
            after: dict[History, float] = defaultdict(float)
            for entry in entries:
                branch = {h: p * entry.prob / total for h, p in here.items()}
                for phone in entry.phones:
                    branch = self._step(branch, lang.phones.id(phone))
                for history, p in branch.items():
                    after[history] += p
            here = self._silence(after, lang)
        for history, p in here.items():
            self.counts[history][END] += p

    def _step(self, here: dict[History, float], phone: int) -> dict[History, float]:
        out: dict[History, float] = defaultdict(float)
        for history, p in here.items():
            self.counts[history][phone] += p
            out[self._after(history, phone)] += p
        return out

    def _silence(self, here: dict[History, float], lang: Lang) -> dict[History, float]:
        if not lang.silence_prob:
            return here
        out: dict[History, float] = defaultdict(float)
        for history, p in here.items():
            out[history] += p * (1.0 - lang.silence_prob)
        for history, p in self._step({h: p * lang.silence_prob for h, p in here.items()}, lang.silence_id).items():
            out[history] += p
        return out

    def _after(self, history: History, phone: int) -> History:
        return (*history, phone)[-(self.order - 1) :] if self.order > 1 else ()


def phone_ngram(lang: Lang, transcripts: Iterable[Sequence[int]], order: int = 3, min_count: float = 0.0) -> PhoneGraph:
    """A phone n-gram as a graph, the weights in `lm`.

    Relative frequencies without smoothing: what the training transcripts never have is no competitor. A history that
        was
    seen less than min_count times is shortened by its oldest phone, its counts going to what is left. Every path starts
    at the beginning of an utterance and stops at its end.

    Args:
        transcripts: word ids.
        order: n, at least 2.
    """
    if order < 2:
        raise DataError(f"a phone n-gram of order {order} has no history; use 2 or more")
    counted = PhoneCounts(order)
    for words in transcripts:
        counted.add(lang, words)
    if not counted.counts:
        raise DataError("no transcript to count phones in")
    counts = _merge_rare(counted.counts, min_count)
    state_of = {history: i for i, history in enumerate(sorted(counts, key=lambda h: (h != (START,), len(h), h)))}
    final = len(state_of)
    src, dst, phone, weight = [], [], [], []
    for history, followers in counts.items():
        total = sum(followers.values())
        for follower, count in followers.items():
            src.append(state_of[history])
            phone.append(NO_PHONE if follower == END else follower)
            dst.append(final if follower == END else state_of[_state((*history, follower)[-(order - 1) :], state_of)])
            weight.append(math.log(count / total))
    order_of = np.lexsort((phone, src))
    ends = {name: np.array(c, dtype=np.int64)[order_of] for name, c in (("src", src), ("dst", dst), ("phone", phone))}
    none = np.zeros(len(src), dtype=np.int64)
    return PhoneGraph(
        **ends,
        word=none,
        lm=np.array(weight)[order_of],
        lex=np.zeros(len(src)),
        start=state_of[(START,)],
        final=final,
        num_states=final + 1,
    )


def _merge_rare(counts: dict[History, dict[int, float]], min_count: float) -> dict[History, dict[int, float]]:
    """Shortens rare histories, longest first; a history of one phone (or the start) always stays."""
    out = {h: dict(f) for h, f in counts.items()}
    for length in range(max(map(len, out)), 1, -1):
        for history in [h for h in out if len(h) == length]:
            if sum(out[history].values()) < min_count:
                for follower, count in out.pop(history).items():
                    shorter = out.setdefault(history[1:], {})
                    shorter[follower] = shorter.get(follower, 0.0) + count
    return out


def _state(history: History, state_of: dict[History, int]) -> History:
    """The longest suffix of a history that is a state."""
    while history not in state_of:
        history = history[1:]
        assert history, "a phone without a history of its own"
    return history
