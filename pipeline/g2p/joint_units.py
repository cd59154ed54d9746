"""Grapheme-to-phoneme conversion: a joint-sequence model trained on a lexicon, for words that the lexicon lacks.

A pronunciation is spelt with joint units of letters and phones, (A : AE), (C H : CH), (X : K S), (E : -). EM finds the
units and aligns the lexicon with them, an interpolated Kneser-Ney n-gram over units gives p(letters, phones), and a
beam search the best phones for given letters. Cf. Bisani and Ney 2008, "Joint-sequence models for grapheme-to-phoneme
conversion".
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass as record

from pipeline.artifacts.features import Positive
from pipeline.artifacts.lexicon import Pronunciation
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.log import progress
from pipeline.base.records import STRICT, read_record

logger = logging.getLogger(__name__)

MODEL = "g2p.json"
# Letters and phones of a unit. No unit without letters, so every search ends; letters may be silent.
SHAPES = ((1, 0), (1, 1), (1, 2), (2, 1))
RARE = 3  # units that occur less often in the alignment are errors of the lexicon more than rules
BEAM = 12
TIE = 1e-9  # natural logs
KEY_BITS = 62

Entry = tuple[str, tuple[str, ...]]
Unit = tuple[str, tuple[str, ...]]
# Letters and phones before a unit and after it, and (N,) its number in each entry.
Step = tuple[int, int, int, int, np.ndarray]


@dataclass
class _Group:
    """Entries with equally many letters and phones, as (N, L) and (N, P) ids from 1, and the units that may stand
    somewhere in them, in the order of positions.
    """

    rows: np.ndarray
    letters: np.ndarray
    phones: np.ndarray
    steps: list[Step] = field(default_factory=list)


class _Aligner:
    """EM over the units of a lexicon, many entries at a time.

    Attributes:
        units: (U,) codes of the units that may stand somewhere, sorted; of scripts with thousands of letters hardly any
            of the possible ones do.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.letters = sorted({c for word, _ in entries for c in word})
        self.phones = sorted({p for _, phones in entries for p in phones})
        letter_id = {c: i for i, c in enumerate(self.letters, 1)}
        phone_id = {p: i for i, p in enumerate(self.phones, 1)}
        members: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, (word, phones) in enumerate(entries):
            if len(phones) <= 2 * len(word):
                members[len(word), len(phones)].append(row)
        self.groups = [
            _Group(
                np.array(rows),
                np.array([[letter_id[c] for c in entries[r][0]] for r in rows]),
                np.array([[phone_id[p] for p in entries[r][1]] for r in rows]),
            )
            for rows in members.values()
        ]
        self.radix = (len(self.letters) + 1, len(self.phones) + 1)
        self.units = np.zeros(0, dtype=np.int64)
        for g in self.groups:
            g.steps = list(self._steps(g))
            self.units = np.unique(np.concatenate([self.units, *(np.unique(codes) for *_, codes in g.steps)]))
        for g in self.groups:  # numbers in place of codes
            g.steps = [(i, j, i2, j2, np.searchsorted(self.units, c).astype(np.int32)) for i, j, i2, j2, c in g.steps]
        self._long = (self.units // self.radix[1] ** 2 % self.radix[0] > 0) | (self.units % self.radix[1] > 0)

    def _codes(self, g: _Group, i: int, j: int, shape: tuple[int, int]) -> np.ndarray:
        """(N,) code of the unit that covers letters from i and phones from j."""
        none = np.zeros(len(g.rows), dtype=np.int64)
        first, second = (g.letters[:, i + k] if k < shape[0] else none for k in range(2))
        one, two = (g.phones[:, j + k] if k < shape[1] else none for k in range(2))
        return ((first * self.radix[0] + second) * self.radix[1] + one) * self.radix[1] + two

    def _steps(self, g: _Group) -> Iterator[Step]:
        """All units in the order of positions, with codes in place of numbers."""
        num_letters, num_phones = g.letters.shape[1], g.phones.shape[1]
        for i in range(num_letters):
            for j in range(num_phones + 1):
                for shape in SHAPES:
                    if i + shape[0] <= num_letters and j + shape[1] <= num_phones:
                        yield i, j, i + shape[0], j + shape[1], self._codes(g, i, j, shape)

    def train(self, iterations: int) -> np.ndarray:
        """(U,) weights of the units: their probability, squared for units of two letters or two phones.

        Without the square fewer and longer units would win, (B A : B) (D : AA D), for a word then has fewer factors.
        """
        probs = np.full(len(self.units), 1e-3)
        for _ in range(iterations):
            probs[self._long] **= 2
            counts = np.zeros(len(self.units))
            for g in self.groups:
                numbers, weights = self._occupancies(g, probs)
                counts += np.bincount(numbers, weights, minlength=len(self.units))
            probs = counts / max(counts.sum(), 1e-300)
        probs[self._long] **= 2
        return probs

    def _occupancies(self, g: _Group, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and posteriors of all units of a group (forward-backward in the lattice of positions)."""
        n, num_letters, num_phones = len(g.rows), g.letters.shape[1], g.phones.shape[1]
        steps = [(*step, probs[step[4]]) for step in g.steps]
        alpha, beta = (np.zeros((num_letters + 1, num_phones + 1, n)) for _ in range(2))
        alpha[0, 0] = beta[num_letters, num_phones] = 1.0
        for i, j, i2, j2, _, p in steps:
            alpha[i2, j2] += alpha[i, j] * p
        for i, j, i2, j2, _, p in reversed(steps):
            beta[i, j] += beta[i2, j2] * p
        total = np.maximum(alpha[num_letters, num_phones], 1e-300)
        weights = [alpha[i, j] * p * beta[i2, j2] / total for i, j, i2, j2, _, p in steps]
        return np.concatenate([s[4] for s in steps]), np.concatenate(weights)

    def best(self, probs: np.ndarray) -> Iterator[tuple[int, list[Unit]]]:
        """(row, units) of each entry's best alignment; entries without one are left out."""
        with np.errstate(divide="ignore"):
            log_probs = np.log(probs)
        for g in self.groups:
            num_letters, num_phones = g.letters.shape[1], g.phones.shape[1]
            score = np.full((num_letters + 1, num_phones + 1, len(g.rows)), -np.inf)
            score[0, 0] = 0.0
            came = np.zeros(score.shape, dtype=np.int64)  # which shape led here
            for i, j, i2, j2, numbers in g.steps:
                new = score[i, j] + log_probs[numbers]
                # Of equal ones, such as (L : L) (L : -) and (L : -) (L : L), the first, whatever rounding says.
                better = new > score[i2, j2] + TIE
                score[i2, j2] = np.where(better, new, score[i2, j2])
                came[i2, j2] = np.where(better, SHAPES.index((i2 - i, j2 - j)), came[i2, j2])
            for n, row in enumerate(g.rows.tolist()):
                if np.isfinite(score[num_letters, num_phones, n]):
                    yield row, self._trace(g, came, n)

    def _trace(self, g: _Group, came: np.ndarray, n: int) -> list[Unit]:
        i, j = g.letters.shape[1], g.phones.shape[1]
        units: list[Unit] = []
        while i > 0:
            di, dj = SHAPES[came[i, j, n]]
            i, j = i - di, j - dj
            spelling = "".join(self.letters[c - 1] for c in g.letters[n, i : i + di])
            units.append((spelling, tuple(self.phones[p - 1] for p in g.phones[n, j : j + dj])))
        return units[::-1]


class _Ngrams:
    """Interpolated Kneser-Ney over unit ids; 0 marks both ends of a word.

    An n-gram is one integer, its ids the digits. Per order: sorted n-grams with their probability, sorted histories
    with the weight of the shorter history.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], num_units: int, order: int) -> None:
        self.radix = num_units + 1
        self.order = min(order, max(int(KEY_BITS / np.log2(self.radix)), 1))
        pad = [0] * (self.order - 1)
        flat = np.array([u for s in sequences for u in (*pad, *s, 0)], dtype=np.int64)
        is_event = np.array([e for s in sequences for e in (*[False] * len(pad), *[True] * (len(s) + 1))])
        position = np.flatnonzero(is_event)
        keys = sum(flat[position - k] * self.radix**k for k in range(self.order))
        grams, counts = np.unique(keys, return_counts=True)
        levels = [(grams, counts)]
        for n in range(self.order - 1, 0, -1):  # lower orders count in how many contexts an n-gram occurs
            levels.append(np.unique(levels[-1][0] % self.radix**n, return_counts=True))
        self.grams: list[np.ndarray] = []
        self.probs: list[np.ndarray] = []
        self.histories: list[np.ndarray] = []
        self.backoffs: list[np.ndarray] = []
        for grams, counts in reversed(levels):
            self._add(grams, counts)

    def _add(self, grams: np.ndarray, counts: np.ndarray) -> None:
        ones, twos = (counts == 1).sum(), (counts == 2).sum()
        n = len(self.grams)
        # Without n-grams that occur once the formula gives 0, and nothing for what was not seen: words without a path.
        discount = 0.5 if n and not ones else ones / max(ones + 2 * twos, 1)
        history = grams // self.radix
        starts, first, number = np.unique(history, return_index=True, return_inverse=True)
        total = np.bincount(number, counts)
        backoff = discount * np.diff(np.append(first, len(grams))) / total
        lower = self.prob(n, grams % self.radix**n) if n else np.full(len(grams), 1.0 / self.radix)
        self.grams.append(grams)
        self.probs.append((counts - discount).clip(min=0) / total[number] + backoff[number] * lower)
        self.histories.append(starts)
        self.backoffs.append(backoff)

    def prob(self, order: int, keys: np.ndarray) -> np.ndarray:
        """Probability of the last id of each n-gram after the others."""
        found = np.zeros(len(keys))
        scale = np.ones(len(keys))
        open_ = np.arange(len(keys))
        for n in range(order, 0, -1):
            k = keys[open_] % self.radix**n
            at = np.searchsorted(self.grams[n - 1], k).clip(max=len(self.grams[n - 1]) - 1)
            hit = self.grams[n - 1][at] == k
            found[open_[hit]] = scale[open_[hit]] * self.probs[n - 1][at[hit]]
            open_, k = open_[~hit], k[~hit] // self.radix
            at = np.searchsorted(self.histories[n - 1], k).clip(max=len(self.histories[n - 1]) - 1)
            scale[open_] *= np.where(self.histories[n - 1][at] == k, self.backoffs[n - 1][at], 1.0)
        found[open_] = scale[open_] / self.radix
        return found


@record(frozen=True, config=STRICT)
class _Facts:
    """What g2p.json holds."""

    order: Positive
    units: tuple[Unit, ...]
    sequences: tuple[Annotated[str, Field(pattern=r"^[0-9]{1,9}( [0-9]{1,9})*$")], ...]


class G2p:
    """A trained model: the units and the lexicon spelt with them, from which the n-grams are counted.

    Args:
        units: (letters, phones) of unit id 1, 2, ...
        sequences: unit ids of the entries of the lexicon.
        order: longest n-grams over units.
    """

    def __init__(self, units: Sequence[Unit], sequences: Sequence[Sequence[int]], order: int) -> None:
        self.units, self.sequences, self.order = list(units), [list(s) for s in sequences], order
        self._ngrams = _Ngrams(self.sequences, len(self.units), order)
        by_letters: dict[str, list[int]] = defaultdict(list)
        for number, (letters, _) in enumerate(self.units, 1):
            by_letters[letters].append(number)
        self._by_letters = {letters: np.array(numbers, dtype=np.int64) for letters, numbers in by_letters.items()}

    @classmethod
    def train(cls, entries: Sequence[Entry], order: int = 6, iterations: int = 6) -> G2p:
        """Trains on (word, phones) pairs.

        Raises:
            DataError: nothing can be aligned.
        """
        aligner = _Aligner(entries)
        aligned = dict(aligner.best(aligner.train(iterations)))
        counts: dict[Unit, int] = defaultdict(int)
        for units in aligned.values():
            for unit in units:
                counts[unit] += 1
        kept = sorted(unit for unit, count in counts.items() if count >= min(RARE, max(counts.values())))
        number = {unit: i for i, unit in enumerate(kept, 1)}
        sequences = [
            [number[u] for u in aligned[row]] for row in sorted(aligned) if all(u in number for u in aligned[row])
        ]
        if not sequences:
            raise DataError(
                f"none of the {len(entries)} entries can be aligned with its letters; a model of pronunciations is "
                "learned from some hundreds or more"
            )
        return cls(kept, sequences, order)

    def pronounce(self, word: str) -> tuple[str, ...]:
        """The most probable phones of a word; empty when it has a letter that the lexicon lacks, or only silent
        ones.
        """
        order, radix = self._ngrams.order, self._ngrams.radix
        size = radix ** (order - 1)
        # Per position: history key -> (log probability, units); the key keeps the last order - 1 units.
        at: list[dict[int, tuple[float, tuple[int, ...]]]] = [{} for _ in range(len(word) + 1)]
        at[0][0] = (0.0, ())
        for i in range(len(word)):
            best = sorted(at[i].items(), key=lambda item: -item[1][0])[:BEAM]
            if not best:
                continue
            history = np.array([key for key, _ in best], dtype=np.int64)
            for width in (1, 2):
                units = self._by_letters.get(word[i : i + width]) if i + width <= len(word) else None
                if units is None:
                    continue
                keys = (history[:, None] % size * radix + units).reshape(-1)
                scores = np.log(self._ngrams.prob(order, keys)).reshape(len(best), -1)
                for h, (_, (score, path)) in enumerate(best):
                    for u, gain in zip(units.tolist(), scores[h].tolist()):
                        key = (int(history[h]) * radix + u) % size
                        if key not in at[i + width] or at[i + width][key][0] < score + gain:
                            at[i + width][key] = (score + gain, (*path, u))
        return self._finish(at[-1], radix, order)

    def _finish(self, ends: dict[int, tuple[float, tuple[int, ...]]], radix: int, order: int) -> tuple[str, ...]:
        best = -np.inf
        phones: tuple[str, ...] = ()
        for key, (score, path) in ends.items():
            spoken = tuple(p for u in path for p in self.units[u - 1][1])
            total = score + float(np.log(self._ngrams.prob(order, np.array([key * radix])))[0])
            if spoken and total > best:
                best, phones = total, spoken
        return phones

    def save(self, directory: str | Path) -> None:
        """Writes g2p.json."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        write_json(
            Path(directory) / MODEL,
            {
                "order": self.order,
                "units": [[w, list(p)] for w, p in self.units],
                "sequences": [" ".join(map(str, s)) for s in self.sequences],
            },
        )

    @classmethod
    def load(cls, directory: str | Path) -> G2p:
        """Reads a directory; DataError when it is broken."""
        path = Path(directory) / MODEL
        facts = read_record(path, _Facts)
        sequences = [[int(u) for u in s.split()] for s in facts.sequences]
        if not facts.units or not all(letters for letters, _ in facts.units):
            raise DataError(f"{path}: a unit has no letters")
        if not sequences or not all(1 <= u <= len(facts.units) for s in sequences for u in s):
            raise DataError(f"{path}: a sequence names a unit that is not there")
        return cls(facts.units, sequences, facts.order)


def held_out(words: Collection[str], number: int, seed: int) -> set[str]:
    """A random choice of words, of a small lexicon at most a tenth."""
    ordered = sorted(words)
    chosen = np.random.default_rng(seed).permutation(len(ordered))[: min(number, len(ordered) // 10)]
    return {ordered[i] for i in chosen}


def test(model: G2p, entries: Sequence[Entry]) -> dict[str, float]:
    """Errors on words that were not trained on, against the nearest variant.

    Returns:
        word_error and phone_error in percent and the number of words; only the number when there are none.
    """
    from kaldialign import edit_distance

    variants: dict[str, list[list[str]]] = defaultdict(list)
    for word, phones in entries:
        variants[word].append(list(phones))
    wrong = errors = total = 0
    for word, known in variants.items():
        found = list(model.pronounce(word))
        distance, length = min((edit_distance(v, found)["total"], len(v)) for v in known)
        wrong, errors, total = wrong + (distance > 0), errors + distance, total + length
    rates = {"word_error": 100 * wrong / len(variants), "phone_error": 100 * errors / total} if variants else {}
    return {"tested": len(variants), **rates}


def pronounce_all(model: G2p, words: Sequence[str]) -> list[Pronunciation]:
    """A pronunciation of every word.

    Raises:
        DataError: names the words that the model cannot pronounce.
    """
    found = [Pronunciation(word, model.pronounce(word)) for word in progress(words, desc="pronounce")]
    silent = [p.word for p in found if not p.phones]
    if silent:
        raise DataError(f"{len(silent)} words hold letters that the lexicon lacks, for example {', '.join(silent[:5])}")
    logger.info("%d words pronounced from their letters", len(found))
    return found
