"""Which characters of a text file separate words, which are invisible, and which have no place in a text at all.

Python's ``str.split`` and ``str.isspace`` take some thirty characters for blanks. In a lexicon such a character is a
mistake that would go unnoticed: ``10<NO-BREAK SPACE>000 T EH N`` is no word 10 with a phone 000.
"""

from __future__ import annotations

import re
import unicodedata

from pipeline.base.errors import DataError

# Blanks of Unicode other than the two that separate words: category Zs, and line ends that are not \n.
BLANKS = "\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\u0085\u000b\u000c\r"
# Invisible: soft hyphen, marks of direction, joiners, byte order mark, selectors of variants.
FORMAT = (
    "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e01ef"
)
# Control characters, halves of pairs, and what decoders put where they failed.
CONTROL = "\u0000-\u0008\u000e-\u001f\u007f-\u0084\u0086-\u009f\ud800-\udfff\ufffd\ufffe\uffff"

# Python's isdigit takes ² for a number, which int does not; nothing here counts to more than 18 digits.
WHOLE_NUMBER = re.compile("[0-9]{1,18}")

_ODD_BLANK = re.compile(f"[{BLANKS}]")
_FORMAT = re.compile(f"[{FORMAT}]")
_CONTROL = re.compile(f"[{CONTROL}]")
_ODD = re.compile(f"[{BLANKS}{FORMAT}{CONTROL}]")


def named(char: str) -> str:
    """A character for messages: ``U+00A0 (no-break space)``."""
    name = unicodedata.name(char, "control character" if unicodedata.category(char) == "Cc" else "no character")
    return f"U+{ord(char):04X} ({name.lower()})"


def odd_character(text: str) -> str | None:
    """The first character that is neither visible nor blank nor tab; None without one."""
    if text.isascii() and text.isprintable():
        return None
    found = _ODD.search(text)
    return found.group() if found else None


def control_character(text: str) -> str | None:
    """The first character that no text has; None without one."""
    found = _CONTROL.search(text)
    return found.group() if found else None


def split_fields(line: str, where: str) -> list[str]:
    """The fields of a line, which blanks and tabs separate, and nothing else does.

    Raises:
        DataError: names file, line and code point of any other blank, invisible or control character.
    """
    odd = odd_character(line.replace("\t", " "))
    if odd is not None:
        raise DataError(f"{where}: holds {named(odd)}, which is neither visible nor a blank between words")
    return line.split()  # the only white space that is left is blanks, tabs and the end of the line


def without_format(text: str) -> tuple[str, int]:
    """A text without its invisible characters, and how many these were."""
    return ("", 0) if not text else _FORMAT.subn("", text)


def plain_blanks(text: str) -> tuple[str, int]:
    """A text whose exotic blanks are blanks, and how many these were."""
    return _ODD_BLANK.subn(" ", text)


def problem_of(text: str) -> str | None:
    """What speaks against a word or transcript of a data directory, in words; None where nothing does."""
    if text.isascii() and text.isprintable():
        return None
    odd = odd_character(text)
    if odd is not None:
        return f"holds {named(odd)}"
    if not unicodedata.is_normalized("NFC", text):
        return "is not in Unicode's form NFC"
    return None
