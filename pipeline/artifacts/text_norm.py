"""Transcripts as other corpora have them made into words: blanks, Unicode, case, punctuation, numbers, characters.

Always done, since it cannot change what is spoken: blanks of any kind become single ones, invisible characters go,
Unicode is composed (NFC). The rest is asked for. A report counts what was changed and shows examples.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from pipeline.artifacts.characters import control_character, named, plain_blanks, without_format
from pipeline.base.errors import ConfigError, DataError

MAX_EXAMPLES = 3
APOSTROPHES = "'’‘ʼ´`′＇"
_APOSTROPHE = re.compile(f"[{APOSTROPHES}]")
_HYPHENS = "-\u2010\u2011"
_EVENT = re.compile(r"[<\[{][^<>\[\]{}\s]+[>\]}]")  # <unk>, [noise]: a sound or a gap, no word
_SPOKEN = re.compile("[%&@+=$€£¥°§]")
# Scripts without blanks between words: Thai, Lao, Myanmar, Khmer, Japanese, Chinese.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3031-\u3035\u303b\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af]"
)
_GROUPING_BLANK = re.compile(r"(?<=\d)[\u00a0\u202f](?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_ENGLISH_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)\b", re.IGNORECASE)
# Languages in which a comma groups digits and a point stands before the fraction.
_DECIMAL_POINT = {"en", "he", "hi", "ja", "kn", "ko", "te", "th", "zh"}
_LONGEST_NUMBER = 15  # digits; what is longer is read digit by digit


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TextOptions:
    """What becomes of the words of transcripts."""

    case: Literal["keep", "lower", "upper"] = Field("keep", description="Case of all words.")
    punctuation: Literal["keep", "strip"] = Field(
        "keep",
        description="strip: punctuation and symbols become blanks, but for apostrophes and hyphens inside words; "
        "<unk> and [noise] stay.",
    )
    apostrophes: Literal["keep", "ascii", "typographic"] = Field(
        "keep", description="ascii: all kinds of apostrophes become ' (U+0027); typographic: ’ (U+2019)."
    )
    digits: str | None = Field(
        None, description="Language, such as en or de, in which numbers are written out (by num2words)."
    )
    replace: tuple[str, ...] = Field((), description="Words to be replaced, OLD=NEW each, before case and punctuation.")
    tokens: Literal["words", "characters"] = Field(
        "words", description="characters: each character of Chinese, Japanese, Thai, Lao, Khmer and Burmese is a word."
    )
    language: str | None = Field(
        None, description="Language of the speech, kept in the manifest; tr and az have a case of their own."
    )

    @field_validator("replace")
    @classmethod
    def _pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not entry.partition("=")[0] or "=" not in entry for entry in value):
            raise ValueError("each entry is OLD=NEW")
        return value


class TextReport:
    """Transcripts that were changed: their number by kind of change, with examples before and after."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[str, str]]] = {}

    def add(self, kind: str, before: str, after: str) -> None:
        """Note a changed transcript."""
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append((before, after))

    def lines(self) -> list[str]:
        """A line for each kind, the most frequent first."""
        found = []
        for kind, count in self.counts.most_common():
            before, after = (_shortened(text) for text in self.examples[kind][0])
            found.append(
                f"{kind}: {count:,} transcripts, as {before!r}" + (f" -> {after!r}" if after != before else "")
            )
        return found


class TextNormaliser:
    """Makes words of transcripts as the options say; ``report`` tells what that changed."""

    def __init__(self, options: TextOptions) -> None:
        self.options, self.report = options, TextReport()
        self._replace = dict(entry.split("=", 1) for entry in options.replace)
        if options.digits is not None:
            _spelled("1", options.digits)  # an unknown language is refused before there is work

    def __call__(self, text: str, where: str) -> str:
        """The words of a transcript, separated by single blanks; empty where nothing is left.

        Args:
            where: file and line, for the message.
        Raises:
            DataError: names the code point of a control character.
        """
        control = control_character(text)
        if control is not None:
            raise DataError(f"{where}: holds {named(control)}")
        for kind, change in self._changes():
            changed = change(text)
            if changed != text:
                if kind:
                    self.report.add(kind, text, changed)
                text = changed
        for kind, found in self._remarks(text):
            if found:
                self.report.add(kind, text, text)
        return text

    def _changes(self) -> Iterator[tuple[str, Callable[[str], str]]]:
        """Names and functions in the order of application; what has no name is not worth telling."""
        options = self.options
        if options.digits is not None:
            yield "blanks within numbers", lambda text: _GROUPING_BLANK.sub("", text)
        yield "invisible characters left out", lambda text: without_format(text)[0]
        yield "exotic blanks", lambda text: plain_blanks(text)[0]
        yield "", lambda text: " ".join(text.split())
        yield "Unicode composed (NFC)", lambda text: unicodedata.normalize("NFC", text)
        if options.apostrophes != "keep":
            mark = "'" if options.apostrophes == "ascii" else "’"
            yield "apostrophes", lambda text: _APOSTROPHE.sub(mark, text)
        if self._replace:
            yield "words replaced", self._replaced
        if options.digits is not None:
            language = options.digits
            yield "numbers written out", lambda text: spell_numbers(text, language)
        if options.punctuation == "strip":
            yield "symbols that may be spoken left out", lambda text: " ".join(_SPOKEN.sub(" ", text).split())
            yield "punctuation", strip_punctuation
        if options.case != "keep":
            yield f"{options.case} case", lambda text: set_case(text, options.case, options.language)
        if options.tokens == "characters":
            yield "characters as words", separate_characters

    def _replaced(self, text: str) -> str:
        return " ".join(" ".join(self._replace.get(word, word) for word in text.split()).split())

    def _remarks(self, text: str) -> Iterator[tuple[str, bool]]:
        if text.isalpha():
            return
        yield "left as they are: words with digits (--digits LANGUAGE writes them out)", any(map(str.isdecimal, text))
        yield "left as they are: words with punctuation (--punctuation strip)", strip_punctuation(text) != text


def set_case(text: str, case: str, language: str | None = None) -> str:
    """A text in capitals or small letters; composed, and without the dot that Python leaves over the i of ``İ``."""
    turkish = language is not None and language.split("-")[0].lower() in ("tr", "az", "tur", "aze")
    if case == "lower":
        text = (text.replace("I", "ı") if turkish else text).replace("İ", "i").lower()
    else:
        text = (text.replace("i", "İ") if turkish else text).upper()
    return unicodedata.normalize("NFC", text)


def graphemes(word: str) -> str:
    """The letters of a word: small, composed, and with one apostrophe, whichever of its code points a text has."""
    return set_case(word, "lower").translate(_APOSTROPHES)


# Typographic, and the letter of Ukrainian and others: both are written for the plain one, often within one text.
_APOSTROPHES = str.maketrans("\u2019\u02bc", "''")


def strip_punctuation(text: str) -> str:
    """Words without punctuation and symbols, which become blanks, but for apostrophes and hyphens between letters."""
    return " ".join(part for word in text.split() for part in _stripped(word))


def _stripped(word: str) -> list[str]:
    if word.isalnum() or _EVENT.fullmatch(word):
        return [word]
    chars = []
    for i, char in enumerate(word):
        inner = 0 < i < len(word) - 1 and _is_letter(word[i - 1]) and _is_letter(word[i + 1])
        keep = (char in APOSTROPHES or char in _HYPHENS) and inner
        chars.append(char if keep or unicodedata.category(char)[0] not in "PS" else " ")
    return "".join(chars).split()


def _is_letter(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN"


def separate_characters(text: str) -> str:
    """Blanks around each character of a script that has none between words; marks stay with their letter."""
    words: list[str] = []
    for word in text.split():
        if _EVENT.fullmatch(word):
            words.append(word)
            continue
        first = len(words)
        for char in word:
            mark = unicodedata.category(char)[0] == "M"
            alone = _UNSPACED.match(char) or len(words) == first or _UNSPACED.match(words[-1][0])
            if alone and not (mark and len(words) > first):
                words.append(char)
            else:
                words[-1] += char
    return " ".join(words)


def spell_numbers(text: str, language: str) -> str:
    """Numbers in digits written out as words; ``1,234.5`` or ``1.234,5`` as the language groups digits."""
    if not any(map(str.isdecimal, text)):
        return text
    if _code(language) == "en":
        text = _ENGLISH_ORDINAL.sub(lambda found: f" {_spelled(found[1], language, 'ordinal')} ", text)
    return " ".join(_NUMBER.sub(lambda found: f" {_in_words(found.group(), language)} ", text).split())


def _code(language: str) -> str:
    """A language without its country: en for en-GB or en_GB."""
    return re.split("[-_]", language)[0]


def _in_words(number: str, language: str) -> str:
    """A number with its groups and fraction."""
    point, group = (".", ",") if _code(language) in _DECIMAL_POINT else (",", ".")
    whole, _, fraction = number.partition(point)
    if re.fullmatch(rf"\d{{1,3}}(?:\{group}\d{{3}})+", whole):
        whole = whole.replace(group, "")
    if not (whole.isdecimal() and (fraction.isdecimal() or not fraction)):  # 10.30.2020, 3,4 in English
        return " ".join(_in_words(part, language) for part in re.split("[.,]", number) if part)
    if len(whole) > _LONGEST_NUMBER or (len(whole) > 1 and int(whole[0]) == 0):
        return _by_digit(whole + fraction, language)
    if not fraction:
        return _spelled(str(int(whole)), language)
    # Some languages of num2words know no fractions and give an empty text.
    words = _spelled(f"{int(whole)}.{''.join(str(int(digit)) for digit in fraction)}", language)
    return words or f"{_spelled(str(int(whole)), language)} {_by_digit(fraction, language)}"


def _by_digit(digits: str, language: str) -> str:
    return " ".join(_spelled(str(int(digit)), language) for digit in digits)


@functools.lru_cache(maxsize=10_000)
def _spelled(number: str, language: str, to: str = "cardinal") -> str:
    from num2words import num2words

    try:
        words = num2words(Decimal(number) if "." in number else int(number), lang=language, to=to)
    except NotImplementedError:
        raise ConfigError(f"--digits {language}: num2words does not know this language") from None
    return " ".join(re.sub(r"[,\u2010\u2011-]", " ", words).split())


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
