"""Words of a text that a lexicon lacks: how many, which of them only look different there, and what to do."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from pipeline.artifacts.text_norm import APOSTROPHES, strip_punctuation
from pipeline.base.files import atomic_write

logger = logging.getLogger(__name__)

SHARE_TO_WARN = 0.02  # of the running words
MAX_SHOWN = 5
WAYS_OUT = (
    "three ways out: pronounce them by a model (steps/train_g2p.py on the lexicon, then steps/make_lexicon.py on the "
    "text), let one word stand for all of them (steps/make_lang.py --oov-word '<UNK>'), or spell all words with their "
    "letters (steps/make_lang.py --unit grapheme)"
)


class Near(NamedTuple):
    """A word of the lexicon that looks like an unknown one, and in what they differ."""

    word: str
    difference: str


def _folded(word: str) -> str:
    """What is left of a word without what spellings differ in."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))
    return "".join(c for c in plain if c.isalnum()) or word


def _ascii_apostrophes(word: str) -> str:
    return "".join("'" if c in APOSTROPHES else c for c in word)


# Differences that options of the import mend, and how to tell them; the first that makes two words equal is told.
_DIFFERENCES = (
    ("the Unicode form (NFC)", lambda word: unicodedata.normalize("NFC", word)),
    ("capitals and small letters (--case)", str.casefold),
    ("the apostrophe (--apostrophes)", _ascii_apostrophes),
    ("apostrophe and case (--apostrophes, --case)", lambda word: _ascii_apostrophes(word).casefold()),
    ("punctuation (--punctuation strip)", strip_punctuation),
    ("punctuation and case (--punctuation strip, --case)", lambda word: strip_punctuation(word).casefold()),
)


class NearWords:
    """Words of a lexicon by what they look like."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words: dict[str, list[str]] = {}
        for word in words:
            self._words.setdefault(_folded(word), []).append(word)

    def find(self, word: str) -> Near | None:
        """The word that differs least, None without any."""
        there = self._words.get(_folded(word), [])
        for told, change in _DIFFERENCES:
            same = next((other for other in there if change(other) == change(word)), None)
            if same is not None:
                if told.startswith("capitals") and same in (word.upper(), word.lower()):
                    told = f"capitals and small letters (--case {'upper' if same == word.upper() else 'lower'})"
                return Near(same, told)
        return Near(there[0], "accents, hyphens or several of these") if there else None


class UnknownWords:
    """Counts the words of a text, and those that are not in a vocabulary."""

    def __init__(self, known: Collection[str], name: str) -> None:
        """Args:
        known: vocabulary. name: what it is called in messages.
        """
        self._known, self._name = known, name
        self.counts: Counter[str] = Counter()
        self.num_words = 0
        self._known_seen: set[str] = set()

    def add(self, words: Iterable[str]) -> None:
        """Count words."""
        for word in words:
            self.num_words += 1
            if word not in self._known:
                self.counts[word] += 1
            elif word not in self._known_seen:
                self._known_seen.add(word)

    @property
    def share(self) -> float:
        """Share of unknown ones among the running words."""
        return self.counts.total() / max(self.num_words, 1)

    def report(self, table: Path | None = None) -> str:
        """What there is to say, in sentences; "" where no word is unknown.

        Args:
            table: file that gets all unknown words, the most frequent first: word, count, near word, difference.
        """
        if not self.counts:
            return ""
        near = NearWords(self._known)
        found = {word: near.find(word) for word in self.counts}
        if table is not None:
            with atomic_write(table) as out:
                for word, count in self.counts.most_common():
                    out.write("\t".join((word, str(count), *(found[word] or ("", "")))) + "\n")
        running, kinds = self.counts.total(), len(self.counts)
        told = [
            f"{running:,} of {self.num_words:,} words ({self.share:.1%}), {kinds:,} of "
            f"{kinds + len(self._known_seen):,} different ones, are not in {self._name}"
        ]
        differences: dict[str, list[str]] = {}
        for word, _ in self.counts.most_common():
            match = found[word]
            if match is not None:
                differences.setdefault(match.difference, []).append(word)
        for difference, words in sorted(differences.items(), key=lambda item: -sum(self.counts[w] for w in item[1])):
            count = sum(self.counts[word] for word in words)
            shown = ", ".join(f"{word} ({match.word})" for word in words[:MAX_SHOWN] if (match := found[word]))
            told.append(f"{count:,} of them are there and differ in {difference}: {shown}")
        rest = [word for word, _ in self.counts.most_common() if found[word] is None]
        if rest:
            shown = ", ".join(f"{word} {self.counts[word]:,}" for word in rest[:MAX_SHOWN])
            told.append(f"the most frequent of the others: {shown}{' ...' if len(rest) > MAX_SHOWN else ''}")
        return "; ".join(told)

    def log(self, table: Path | None = None, place: Path | None = None) -> None:
        """Tells the report: as a warning above a few per cent, with the ways out.

        Args:
            table: see ``report``. place: where that file will stand, for the message.
        """
        told = self.report(table)
        if not told:
            logger.info("all %d words are in %s", self.num_words, self._name)
            return
        listed = f"; all are listed in {place or table}" if table is not None else ""
        if self.share > SHARE_TO_WARN:
            logger.warning("%s%s; %s", told, listed, WAYS_OUT)
        else:
            logger.info("%s%s; %s", told, listed, WAYS_OUT)
