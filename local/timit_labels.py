"""TIMIT's 61 phone labels: reading them, and the set that alignments are scored with.

Mapping: a closure is merged with its release, and is the stop itself where the release is missing; h#, pau, epi and q
    are no phones;
ax-h = ax, axr = er, ux = uw, hv = hh, nx = n, eng = ng. dx stays, a scorer may let it match t or d.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.base.errors import DataError
from pipeline.base.files import read_lines

NO_PHONE = {"h#", "pau", "epi", "q"}
RELEASES = {"bcl": "b", "dcl": "d jh", "gcl": "g", "pcl": "p", "tcl": "t ch", "kcl": "k"}
SAME = {"ax-h": "ax", "axr": "er", "ux": "uw", "hv": "hh", "nx": "n", "eng": "ng"}

# Words of the prompts that some copies of timitdic.txt lack.
SUPPLEMENT = {
    "ANTI": ["ae n t ay", "ae n t iy"],
    "LIVE": ["l ih v", "l ay v"],
    "MRS": ["m ih s ix z"],
    "SEMI": ["s eh m iy", "s eh m ay"],
    "USE": ["y uw z", "y uw s"],
    "WOUND": ["w aw n d", "w uw n d"],
}


SILENCE = "h#"
# Labels -> the 48 phones that are learnt; q is left out, all others stay as they are.
LEARNT = {**SAME, "em": "m", "pau": SILENCE}
LEARNT |= dict.fromkeys(("bcl", "dcl", "gcl"), "vcl") | dict.fromkeys(("pcl", "tcl", "kcl"), "cl")
# The 48 phones -> the 39 that are scored; the others stay as they are.
SCORED = {"ao": "aa", "ax": "ah", "ix": "ih", "el": "l", "en": "n", "zh": "sh", "cl": SILENCE, "vcl": SILENCE}
SCORED["epi"] = SILENCE
# Those that stand for themselves in alignments; h# is among them, q is not.
_PLAIN = "aa ae ah ao aw ax ay b ch d dh dx eh el en epi er ey f g h# hh ih ix iy jh k l m n ng ow oy p r s sh t th"
ALL_LABELS = frozenset(["q", *LEARNT, *f"{_PLAIN} uh uw v w y z zh".split()])


def recognised_phones(labels: list[str], where: str) -> list[str]:
    """The 48 phones of TIMIT's labels.

    Args:
        where: utterance, for the message.
    Raises:
        DataError: names a label that TIMIT does not have.
    """
    odd = next((label for label in labels if label not in ALL_LABELS), None)
    if odd is not None:
        raise DataError(f"{where}: {odd!r} is none of TIMIT's 61 labels")
    return [LEARNT.get(label, label) for label in labels if label != "q"]


def merge_phones(labels: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Map the 61 labels to the phones that alignments are scored with; (label, start, end) triples to the same."""
    phones: list[tuple[str, float, float]] = []
    i = 0
    while i < len(labels):
        label, start, end = labels[i]
        i += 1
        if label in NO_PHONE:
            continue
        if label in RELEASES:
            releases = RELEASES[label].split()
            label = releases[0]
            if i < len(labels) and labels[i][0] in releases:
                label, _, end = labels[i]
                i += 1
        phones.append((SAME.get(label, label), start, end))
    return phones


def read_dictionary(path: Path) -> dict[str, list[str]]:
    """Read timitdic.txt: upper-case words with their pronunciations, stress removed, SUPPLEMENT added for missing
    words.
    """
    words: dict[str, list[str]] = {}
    for line_no, line in read_lines(path):
        if not line or line.startswith(";"):
            continue
        word, _, phones = line.partition("/")
        word = word.split("~")[0].strip().strip(".-").upper()  # live~v is a verb, -knacks a part of a word
        phones = " ".join(
            SAME.get(p, p) for p in phones.strip().strip("/").translate(str.maketrans("", "", "012")).split()
        )
        if not word or not phones:
            raise DataError(f"{path}:{line_no}: needs 'word  /phones/'")
        if phones not in words.setdefault(word, []):
            words[word].append(phones)
    return {**SUPPLEMENT, **words}
