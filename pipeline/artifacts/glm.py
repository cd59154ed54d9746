"""NIST's .glm, the global map of an evaluation: rules that make different spellings of the same words equal.

    PATTERN => REPLACEMENT / [LEFT] __ [RIGHT]      ;; comment

PATTERN stands between the contexts LEFT and RIGHT, mostly blanks, and is replaced where both are there; brackets around
pattern and replacement do not count. Rules are not applied to what rules have written, longer patterns go first, and
case makes no difference. cf. csrfilt.sh and rfilter1 of SCTK.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts.stm import spread
from pipeline.base.errors import DataError
from pipeline.base.files import read_lines

_RULE = re.compile(
    r"(?P<pattern>.+?)\s*=>\s*(?P<replacement>.*?)\s*(?:/\s*\[(?P<left>[^\]]*)\]\s*__\s*\[(?P<right>[^\]]*)\]\s*)?"
)
_KEY = 2  # characters of a pattern that rules are looked up by
_PARENTHESIS = re.compile(r"([()])")
_HYPHEN = re.compile(r"(?<=[^( ])-(?=[^) ])")


@dataclass(frozen=True)
class Rule:
    """A pattern with its contexts, and what is put in its place; in lower case."""

    pattern: str
    replacement: str
    left: str
    right: str


@dataclass
class Glm:
    """The rules of a file."""

    rules: dict[str, list[Rule]] = field(default_factory=dict)  # by the first characters

    @classmethod
    def load(cls, path: Path) -> Glm:
        """Read a file; DataError names a line that is no rule."""
        glm = cls()
        for line_no, line in read_lines(path):
            line = line.split(";;")[0].strip()
            if not line or line.startswith("*"):
                continue
            match = _RULE.fullmatch(line)
            if match is None:
                raise DataError(f"{path}:{line_no}: needs 'PATTERN => REPLACEMENT / [LEFT] __ [RIGHT]', found {line!r}")
            pattern, replacement = (_bare(match[name]).lower() for name in ("pattern", "replacement"))
            glm.add(Rule(pattern, replacement, (match["left"] or "").lower(), (match["right"] or "").lower()))
        return glm

    def add(self, rule: Rule) -> None:
        """Add a rule; of patterns of equal length the earlier goes first."""
        rules = self.rules.setdefault(rule.pattern[:_KEY], [])
        rules.append(rule)
        rules.sort(key=lambda r: -len(r.pattern))

    def __call__(self, text: str) -> str:
        """A text in lower case with the rules applied and words with hyphens inside divided; parentheses hold one word
        each.
        """
        spaced = _PARENTHESIS.sub(r" \1 ", text.lower()).split()
        text = f" {' '.join(spaced)} "
        out, i = [], 0
        while i < len(text):
            rule = next((r for r in self._at(text, i)), None)
            if rule is None:
                out.append(text[i])
                i += 1
            else:
                out.append(rule.replacement)
                i += len(rule.pattern)
        return spread(_HYPHEN.sub(" ", "".join(out)))

    def _at(self, text: str, i: int) -> list[Rule]:
        """Rules that fit at a place."""
        short = [] if not self.rules else self.rules.get(text[i : i + 1], [])
        return [
            r
            for r in [*self.rules.get(text[i : i + _KEY], []), *short]
            if text.startswith(r.pattern, i)
            and text.endswith(r.left, 0, i)
            and text.startswith(r.right, i + len(r.pattern))
        ]


def _bare(text: str) -> str:
    """A text without brackets around it."""
    text = text.strip()
    return " ".join((text[1:-1] if text.startswith("[") and text.endswith("]") else text).split())
