"""NIST's .stm, the references of evaluations: a stretch of a recording and its words in each line.

    RECORDING CHANNEL SPEAKER START END [<LABELS>] WORDS

The words follow the conventions of NIST's scoring (``doc/sclite.htm`` of SCTK): ``{ we're / we are }`` are
alternatives, ``@`` among them is no word at all; a word in parentheses may be missing, as hesitations and fragments
may; one that begins or ends with a hyphen is a fragment. A stretch whose text is ``ignore_time_segment_in_scoring``
does not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.cut_checks import MOST_SECONDS
from pipeline.base.errors import DataError
from pipeline.base.files import read_lines

NEEDS = "'recording channel speaker start end [<labels>] words'"
FEWEST = 5  # fields
_OPTIONAL = re.compile(r"\([^()]+\)")
IGNORED = "ignore_time_segment_in_scoring"


@dataclass(frozen=True)
class StmLine:
    """A line.

    Attributes:
        start, end: in seconds of the recording.
        text: words with NIST's marks; "" for none.
        where: file and line.
    """

    recording: str
    channel: str
    speaker: str
    start: float
    end: float
    text: str
    where: str

    @property
    def utt_id(self) -> str:
        """Id of the utterance that data directories have for it; equal times of one speaker are one utterance."""
        name = self.recording if self.channel in ("1", "A") else f"{self.recording}-{self.channel}"
        return f"{self.speaker}-{name}-{round(self.start * 1000):08d}-{round(self.end * 1000):08d}"

    @property
    def ignored(self) -> bool:
        """Whether it does not count."""
        return self.text.lower() == IGNORED


def stm_line(fields: Sequence[str], where: str) -> StmLine:
    """A line from its fields.

    Raises:
        DataError: too few of them, times that are no numbers or do not follow one another.
    """
    if len(fields) < FEWEST:
        raise DataError(f"{where}: needs {NEEDS}, found {' '.join(fields)!r}")
    # A list of labels has commas, which tells it from <unk>; that of TED-LIUM 3, which has none, is <NA>.
    label = fields[5] if len(fields) > FEWEST else ""
    labelled = label == "<NA>" or (label.startswith("<") and "," in label)
    text = " ".join(fields[6 if labelled else 5 :])
    try:
        start, end = float(fields[3]), float(fields[4])
    except ValueError:
        start = end = -1.0
    if not 0 <= start < MOST_SECONDS or not 0 <= end < MOST_SECONDS:
        raise DataError(f"{where}: {fields[3]!r} and {fields[4]!r} are no times in seconds")
    if start >= end:
        raise DataError(f"{where}: {text!r} spans [{start}, {end}] s")
    return StmLine(fields[0], fields[1], fields[2], start, end, text, where)


def read_stm(path: Path) -> Iterator[StmLine]:
    """The lines of a file that are no comments (;;).

    Raises:
        DataError: names the line that cannot be read, or a file without any.
    """
    found = False
    for line_no, line in read_lines(path):
        if line and not line.startswith(";;"):
            found = True
            yield stm_line(line.split(), f"{path}:{line_no}")
    if not found:
        raise DataError(f"{path}: holds no line")


Item = str | list["Text"]  # a word, or alternatives
Text = list[Item]


def spread(text: str) -> str:
    """A text whose parentheses hold one word each: ( i mean ) becomes (i) (mean)."""
    out, inside = [], False
    for token in re.sub(r"([()])", r" \1 ", text).split():
        if token == ("(" if not inside else ")"):
            inside = not inside
        else:
            out.append(f"({token})" if inside and token not in "{}/@" else token)
    return " ".join(out if not inside else [*out, "("])


def parse_text(text: str, where: str) -> Text:
    """Words and alternatives of a text; the latter may hold others.

    Returns:
        items in order: a word (in parentheses where it may be missing), or a list of alternatives, each a list of
        items, [] for no word.

    Raises:
        DataError: braces or parentheses that do not match.
    """
    spaced = spread(re.sub(r"([{}])", r" \1 ", text)).split()
    if any(set("()") & set(token) and _OPTIONAL.fullmatch(token) is None for token in spaced):
        raise DataError(f"{where}: parentheses that do not match in {text!r}")
    stack: list[list[Text]] = [[[]]]  # of open alternations; the outermost has one alternative
    for token in spaced:
        if token == "{":
            stack.append([[]])
        elif token == "}":
            if len(stack) == 1:
                raise DataError(f"{where}: }} without {{ in {text!r}")
            inner = stack.pop()
            stack[-1][-1].append(inner)
        elif token == "/" and len(stack) > 1:
            stack[-1].append([])
        elif token != "@":
            stack[-1][-1].append(token)
    if len(stack) > 1:
        raise DataError(f"{where}: {{ without }} in {text!r}")
    return stack[0][0]


def plain_words(text: Text) -> list[str]:
    """One way to read a text: the first of alternatives, without parentheses, without hesitations (%hesitation)."""
    words: list[str] = []
    for item in text:
        if isinstance(item, list):
            words += plain_words(item[0])
        else:
            word = item.strip("()").lower()
            if word and not word.startswith("%"):
                words.append(word)
    return words
