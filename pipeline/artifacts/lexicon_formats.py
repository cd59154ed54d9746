"""Lexicons as others write them, recognised by what is in them or named: nothing is taken for what it is not.

Formats:
    kaldi: ``WORD PHONE PHONE``, also Sphinx's and any other with blanks or tabs.
    kaldi_probs: ``WORD PROBABILITY PHONE PHONE`` (lexiconp.txt).
    cmudict: kaldi's with variants ``WORD(2)``, comments behind ``;;;`` or ``#``, and stress as digits of vowels.
    mfa: tabs between the word, none, one or four numbers (probability, three of silence) and the phones; with blanks in
        place of tabs Kaldi's lexiconp_silprob.txt.
    table: tabs and a heading that names the columns of words and phones.
    words: a word in each line, no phones.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.characters import split_fields, without_format
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.base.errors import DataError
from pipeline.base.files import read_lines

logger = logging.getLogger(__name__)

FormatName = Literal["auto", "kaldi", "kaldi_probs", "cmudict", "mfa", "table", "words"]
# Phones that a lang adds itself, and symbols that graphs use.
RESERVED = ("SIL", "SPN", "<eps>")
SENTENCE_MARKS = ("<s>", "</s>", "<eps>")
WORD_COLUMNS = ("word", "words", "orthography", "spelling")
PHONE_COLUMNS = ("phones", "phonemes", "pronunciation", "pron", "transcription", "ipa", "sampa")
_NUMBER = re.compile(r"\d+(\.\d*)?(e-?\d+)?|\.\d+", re.IGNORECASE)
_VARIANT = re.compile(r"(.+)\((\d+)\)")
_STRESS = re.compile(r"([A-Z]+)[0-2]")
_MARKER = re.compile(r"!?SIL|!\w+|[<\[{(].*[>\]})]", re.IGNORECASE)
_FEW = 20  # entries below which it is too early to say that phones are not separated


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LexiconOptions:
    """How a lexicon is read."""

    lexicon_format: FormatName = Field(
        "auto",
        description="Format of LEXICON; auto: the one that its lines show. kaldi: WORD PHONES; kaldi_probs: "
        "WORD PROBABILITY PHONES; cmudict: WORD(2), ;;; and stress digits; mfa: up to four numbers before the phones; "
        "table: tabs and a heading; words: no phones.",
        json_schema_extra={"stamp": "if_set"},
    )
    stress: bool = Field(
        True, description="Keep the stress digits of CMU's vowels (AH0).", json_schema_extra={"stamp": "if_set"}
    )


@plain_dataclass(frozen=True)
class _Row:
    """A line with its place, its word, and what follows."""

    where: str
    word: str
    rest: list[str]
    tabs: int  # columns that tabs make; 1 without any

    def numbers(self) -> int:
        """How many fields behind the word are numbers."""
        return next((i for i, field in enumerate(self.rest) if not _NUMBER.fullmatch(field)), len(self.rest))


def read_lexicon(path: str | Path, name: FormatName = "auto", stress: bool = True) -> Lexicon:
    """Pronunciations of a lexicon in any of the formats; what was understood is told.

    Args:
        name: format. stress: see LexiconOptions.
    Raises:
        DataError: with file and line, and with the option that reads a line in another way.
    """
    rows = list(_rows(Path(path)))
    found = name if name != "auto" else _recognise(rows, path)
    if found == "words":
        raise DataError(f"{path}: a list of words without phones; --unit grapheme spells them with their letters")
    entries = list(_entries(rows, found, path))
    if not stress:
        entries = [(where, _without_stress(entry)) for where, entry in entries]
    if name == "auto":
        _check_separated([entry for _, entry in entries], path)
    lexicon = Lexicon(_once(entries, found in ("cmudict", "mfa") or not stress, found == "mfa"))
    if found != "kaldi":
        logger.info("%s: read as %s (--lexicon-format), %d pronunciations", path, found, len(lexicon.entries))
    if not lexicon.entries:
        raise DataError(f"{path}: the lexicon is empty")
    return lexicon


def read_words(path: str | Path, name: FormatName = "auto") -> list[str]:
    """Words of a lexicon in any of the formats, or of a list of words, each once in order of appearance."""
    rows = list(_rows(Path(path)))
    found = name if name != "auto" else _recognise(rows, path)
    if found == "words":
        crowded = next((row for row in rows if row.rest), None)
        if crowded is not None:
            raise DataError(f"{crowded.where}: more than one word in a line of a list of words")
        words = [row.word for row in rows if row.word not in SENTENCE_MARKS]
    else:
        words = [entry.word for _, entry in _entries(rows, found, path)]
    if not words:
        raise DataError(f"{path}: holds no word")
    return list(dict.fromkeys(words))


def _entries(rows: list[_Row], name: FormatName, path: str | Path) -> Iterator[tuple[str, Pronunciation]]:
    """(file:line, pronunciation) of a lexicon's own words."""
    found = list(_table(rows, path)) if name == "table" else [_entry(row, name) for row in rows]
    yield from _without_reserved(_with_variants(found, name), path)


def _rows(path: Path) -> Iterator[_Row]:
    """Lines with a word, composed and without invisible characters and comments."""
    hashed: list[_Row] = []
    phones: set[str] = set()
    begun = False
    for line_no, line in read_lines(path):
        where = f"{path}:{line_no}"
        if not line or line.startswith(";;;"):
            continue
        line = unicodedata.normalize("NFC", without_format(line)[0])
        fields = split_fields(line, where)
        if not fields:
            raise DataError(f"{where}: a line of invisible characters")
        row = _Row(where, fields[0], fields[1:], line.count("\t") + 1)
        if fields[0].startswith("#"):
            if begun:
                hashed.append(row)
            continue
        begun = True
        if "#" in row.rest[1:]:
            row = replace(row, rest=row.rest[: row.rest.index("#", 1)])
        phones.update(row.rest)
        yield row
    for row in hashed:
        if row.word == "#" and row.rest and phones.issuperset(row.rest):
            raise DataError(f"{row.where}: may be a comment or the word '#'; write comments above the first word")


def _recognise(rows: list[_Row], path: str | Path) -> FormatName:
    """The format of lines, each of which must fit it."""
    if rows and _columns(rows[0]) is not None:
        return "table"
    lacking = next((row for row in rows if not row.rest), None)
    if lacking is not None and any(row.rest for row in rows):
        raise DataError(f"{lacking.where}: word {lacking.word!r} has no phones")
    if lacking is not None:
        return "words"
    _check_columns(rows)
    if any(row.numbers() >= 4 for row in rows):
        # Numbers are optional where tabs show what they are.
        possible = (0, 1, 4) if any(row.tabs > 2 for row in rows) else (4,)
        odd = next((row for row in rows if row.numbers() not in possible), None)
        if odd is None:
            return "mfa"
        raise DataError(f"{odd.where}: {odd.numbers()} numbers before the phones, where others have four; {_SAY}")
    first = [row.rest[0] if row.numbers() and len(row.rest) > 1 else "" for row in rows]
    if all(first) and rows:
        if any("." in number for number in first):
            return "kaldi_probs"
        raise DataError(f"{rows[0].where}: {first[0]!r} may be a probability (kaldi_probs) or a phone (kaldi); {_SAY}")
    for row in rows:
        number = next((field for field in row.rest if _NUMBER.fullmatch(field) and not _is_digit(field)), None)
        if number is not None:
            raise DataError(f"{row.where}: {number!r} of word {row.word!r} is a number where a phone should be; {_SAY}")
    variants = any(_VARIANT.fullmatch(row.word) for row in rows)
    return "cmudict" if variants else "kaldi"


_SAY = "--lexicon-format says how to read it"


def _is_digit(field: str) -> bool:
    return len(field) == 1


def _check_columns(rows: list[_Row]) -> None:
    """DataError for tables whose columns nothing explains."""
    for row in rows:
        if row.tabs > 2 and row.numbers() != row.tabs - 2:
            raise DataError(
                f"{row.where}: {row.tabs} columns, and no first line that names those of words and phones "
                f"({', '.join(WORD_COLUMNS)}; {', '.join(PHONE_COLUMNS)}); --lexicon-format kaldi takes all behind the "
                "word for phones"
            )


def _entry(row: _Row, name: FormatName) -> tuple[str, Pronunciation]:
    """(file:line, pronunciation) of a line."""
    rest, prob = row.rest, 1.0
    count = row.numbers()
    if name == "kaldi_probs":
        if not rest:
            raise DataError(f"{row.where}: word {row.word!r} has no probability and no phones")
        prob, rest = _probability(rest[0], row.where), rest[1:]
    elif name == "mfa" and count:
        # One number or four; what is a number behind them is a phone.
        count = 4 if count >= 4 else 1
        prob, rest = _probability(rest[0], row.where), rest[count:]
    if not rest:
        raise DataError(f"{row.where}: word {row.word!r} has no phones")
    return row.where, Pronunciation(row.word, tuple(rest), prob)


def _probability(text: str, where: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise DataError(f"{where}: {text!r} is not a probability")
    if not 0.0 < float(text) <= 1.0:
        raise DataError(f"{where}: probability {text} is outside (0, 1]")
    return float(text)


def _columns(heading: _Row) -> tuple[int, int] | None:
    """Columns of words and phones, if a line names them."""
    names = [heading.word.lower(), *(field.lower() for field in heading.rest)]
    word = next((i for i, name in enumerate(names) if name in WORD_COLUMNS), None)
    phones = next((i for i, name in enumerate(names) if name in PHONE_COLUMNS), None)
    if word is None or phones is None or heading.tabs != len(names):
        return None
    return word, phones


def _table(rows: list[_Row], path: str | Path) -> Iterator[tuple[str, Pronunciation]]:
    """Pronunciations of a table with a heading."""
    columns = _columns(rows[0]) if rows else None
    if columns is None:
        raise DataError(f"{path}:1: no heading with columns of words and phones, between tabs")
    heading, number = rows[0].tabs, int(rows[0].where.rpartition(":")[2])
    for line_no, line in read_lines(path):
        where = f"{path}:{line_no}"
        if line_no <= number or not line:
            continue
        cells = unicodedata.normalize("NFC", without_format(line)[0]).split("\t")
        if len(cells) != heading:
            raise DataError(f"{where}: {len(cells)} columns, the heading has {heading}")
        word, phones = (split_fields(cells[column], where) for column in columns)
        if len(word) != 1:
            raise DataError(f"{where}: {cells[columns[0]]!r} is not one word")
        if not phones:
            raise DataError(f"{where}: word {word[0]!r} has no phones")
        yield where, Pronunciation(word[0], tuple(phones))


def _with_variants(entries: list[tuple[str, Pronunciation]], name: FormatName) -> list[tuple[str, Pronunciation]]:
    """CMU's ``WORD(2)`` as variants of their words."""
    if name != "cmudict":
        return entries
    words = {entry.word for _, entry in entries}
    found = []
    for where, entry in entries:
        variant = _VARIANT.fullmatch(entry.word)
        if variant is not None:
            if variant[1] not in words:
                raise DataError(
                    f"{where}: {entry.word!r} is a variant of {variant[1]!r}, which is not there; "
                    "--lexicon-format kaldi takes it for a word"
                )
            entry = replace(entry, word=variant[1])
        found.append((where, entry))
    return found


def _without_reserved(
    entries: list[tuple[str, Pronunciation]], path: str | Path
) -> Iterator[tuple[str, Pronunciation]]:
    """Entries without those of silence and unknown words, which a lang has itself; no other may use its phones."""
    dropped: list[str] = []
    for where, entry in entries:
        silent = len(entry.phones) == 1 and entry.phones[0].upper() in ("SIL", "SPN", "<EPS>")
        if entry.word in SENTENCE_MARKS or (silent and _MARKER.fullmatch(entry.word)):
            dropped.append(f"{where}: {entry.word} {' '.join(entry.phones)}")
            continue
        bad = next((phone for phone in entry.phones if phone in RESERVED or phone.startswith("#")), None)
        if bad is not None:
            raise DataError(f"{where}: word {entry.word!r} uses {bad!r}, a name that a lang needs for itself")
        if entry.word.startswith("#") and entry.word[1:].isdecimal():
            raise DataError(f"{where}: the word {entry.word!r} is a name that graphs need for themselves")
        yield where, entry
    if dropped:
        logger.info(
            "%s: %d entries of silence and unknown words are left out, as a lang has its own (--oov-word): %s",
            path,
            len(dropped),
            "; ".join(dropped[:5]) + (" ..." if len(dropped) > 5 else ""),
        )


def _without_stress(entry: Pronunciation) -> Pronunciation:
    found = (_STRESS.fullmatch(phone) for phone in entry.phones)
    return replace(entry, phones=tuple(m[1] if m else phone for m, phone in zip(found, entry.phones)))


def _once(entries: list[tuple[str, Pronunciation]], merge: bool, scale: bool) -> list[Pronunciation]:
    """Pronunciations, each once.

    Args:
        merge: equal ones become one; otherwise they are an error.
        scale: divide the probabilities of a word by the largest of them, as a lexicon has them here and in Kaldi.
    """
    seen: dict[tuple[str, tuple[str, ...]], tuple[str, Pronunciation]] = {}
    for where, entry in entries:
        key = entry.word, entry.phones
        if key in seen and not merge:
            raise DataError(f"{where}: same word and phones as line {seen[key][0].rpartition(':')[2]}")
        if key not in seen or seen[key][1].prob < entry.prob:
            seen[key] = where, entry
    found = [entry for _, entry in seen.values()]
    if not scale:
        return found
    best: dict[str, float] = {}
    for entry in found:
        best[entry.word] = max(best.get(entry.word, 0.0), entry.prob)
    return [replace(entry, prob=entry.prob / best[entry.word]) for entry in found]


def _check_separated(entries: list[Pronunciation], path: str | Path) -> None:
    """DataError if the pronunciations look like words of phones without blanks between them."""
    single = [e for e in entries if len(e.phones) == 1 and len(e.phones[0]) > 2]
    if (
        len(entries) >= _FEW
        and len(single) > 0.5 * len(entries)
        and len({e.phones for e in single}) > 0.5 * len(single)
    ):
        raise DataError(
            f"{path}: most pronunciations are one phone, as {single[0].phones[0]!r} of {single[0].word!r}: phones need "
            "blanks between them; --lexicon-format kaldi takes them as they are"
        )
