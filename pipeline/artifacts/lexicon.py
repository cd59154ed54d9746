"""Pronunciation lexicons: words, their variants and the variants' probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.characters import named, odd_character, split_fields
from pipeline.artifacts.text_norm import graphemes
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines


@dataclass(frozen=True)
class Pronunciation:
    """One variant of a word; prob is in (0, 1], the best variant of a word has 1 (as in Kaldi's lexiconp.txt)."""

    word: str
    phones: tuple[str, ...]
    prob: float = 1.0


class Lexicon:
    """Pronunciations in file order, looked up by word."""

    def __init__(self, entries: Iterable[Pronunciation]) -> None:
        self.entries: list[Pronunciation] = list(entries)
        self.by_word: dict[str, list[Pronunciation]] = {}
        for entry in self.entries:
            variants = self.by_word.setdefault(entry.word, [])
            if any(v.phones == entry.phones for v in variants):
                raise DataError(f"word {entry.word!r} has the pronunciation {' '.join(entry.phones)!r} twice")
            variants.append(entry)

    def __contains__(self, word: str) -> bool:
        return word in self.by_word

    def words(self) -> list[str]:
        """Words in order of first appearance."""
        return list(self.by_word)

    def phones(self) -> list[str]:
        """Sorted set of the phones in use."""
        return sorted({p for e in self.entries for p in e.phones})

    def save(self, path: str | Path, probs: bool = True) -> None:
        """Writes lexiconp.txt lines, ``word prob phone phone ...``, or without `probs` those of lexicon.txt."""
        with atomic_write(path) as f:
            for e in self.entries:
                f.write(f"{e.word} {f'{e.prob!r} ' if probs else ''}{' '.join(e.phones)}\n")

    @classmethod
    def load(cls, path: str | Path) -> Lexicon:
        """Reads lexiconp.txt as ``save`` writes it; pipeline.artifacts.lexicon_formats reads those of others.

        Raises:
            DataError: with file and line, for a word without phones, a bad probability or a repeated variant.
        """
        entries: list[Pronunciation] = []
        seen: dict[tuple[str, tuple[str, ...]], int] = {}
        for line_no, line in read_lines(path):
            entry = _parse_entry(line, f"{path}:{line_no}")
            key = (entry.word, entry.phones)
            if key in seen:
                raise DataError(f"{path}:{line_no}: same word and phones as line {seen[key]}")
            seen[key] = line_no
            entries.append(entry)
        if not entries:
            raise DataError(f"{path}: the lexicon is empty")
        return cls(entries)


class LexiconFile(Mapping[str, list[Pronunciation]]):
    """The lines of a lexiconp.txt by word, parsed and checked when a word is asked for: an alignment needs some hundred
    of the 100,000 words of a dictionary, and parsing them all takes seconds.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises:
        DataError: cannot be read as text, or has no line.
        """
        self.path = Path(path)
        self._lines: list[str] = []
        self._first: dict[str, int] = {}  # word -> place of its first line
        self._more: dict[str, list[int]] = {}
        for place, (_, line) in enumerate(read_lines(path)):
            word = line.split(maxsplit=1)[0] if line.strip() else ""
            if self._first.setdefault(word, place) != place:
                self._more.setdefault(word, []).append(place)
            self._lines.append(line)
        if not self._lines:
            raise DataError(f"{path}: the lexicon is empty")

    def __getitem__(self, word: str) -> list[Pronunciation]:
        """Raises:
        DataError: with file and line, as ``Lexicon.load``.
        """
        places = [self._first[word], *self._more.get(word, ())]
        entries = [_parse_entry(self._lines[place], f"{self.path}:{place + 1}") for place in places]
        if len({e.phones for e in entries}) < len(entries):
            raise DataError(f"{self.path}:{places[0] + 1}: word {word!r} has a pronunciation twice")
        return entries

    def __contains__(self, word: object) -> bool:
        return word in self._first

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)


def _parse_entry(line: str, where: str) -> Pronunciation:
    """A line of lexiconp.txt; DataError names the place."""
    fields = split_fields(line, where)
    if not fields:
        raise DataError(f"{where}: empty line")
    word, rest = fields[0], fields[1:]
    if not rest:
        raise DataError(f"{where}: word {word!r} has no probability and no phones")
    prob = _parse_prob(rest[0], where)
    if not rest[1:]:
        raise DataError(f"{where}: word {word!r} has no phones")
    return Pronunciation(word, tuple(rest[1:]), prob)


def _parse_prob(text: str, where: str) -> float:
    try:
        prob = float(text)
    except ValueError:
        raise DataError(f"{where}: {text!r} is not a probability") from None
    if not 0.0 < prob <= 1.0:
        raise DataError(f"{where}: probability {text} is outside (0, 1]")
    return prob


def grapheme_lexicon(words: Iterable[str], drop: str = "") -> Lexicon:
    """One pronunciation per word: its letters, lower-cased so that they cannot clash with special phones.

    Letters are composed, and an apostrophe is one letter, whether a text has ' or \u2019.

    Args:
        words: vocabulary; markers such as ``<UNK>`` must not be among them.
        drop: characters left out of the spelling (for example ``-`` and ``.``).
    Raises:
        DataError: a word without any letter left, or with an invisible character.
    """
    entries, left_out = [], {*drop, *map(graphemes, drop)}
    for word in words:
        odd = odd_character(word)
        if odd is not None:
            raise DataError(f"word {word!r} holds {named(odd)}, which is no grapheme")
        letters = tuple(c for c in graphemes(word) if c not in left_out)
        if not letters:
            raise DataError(f"word {word!r} has no graphemes once {drop!r} is dropped")
        entries.append(Pronunciation(word, letters))
    return Lexicon(entries)
