#!/usr/bin/env python3
"""Prepares a full language pack of IARPA's Babel: OUT/{train,dev,test}, OUT/lm_text.txt, OUT/lexicon.txt.

The corpus folder holds conversational/, below which are

    training/audio/BABEL_BP_106_10188_20111123_213313_inLine.sph   a side of a conversation: 8 kHz, or .wav of 48 kHz
    training/transcription/BABEL_BP_106_10188_20111123_213313_inLine.txt
    dev/..                                                          likewise
    reference_materials/lexicon.txt                                 word, (--romanized) romanisation, pronunciations

The official dev is test; dev is the first conversations of training, up to so many utterances. Everything is brought to
8 kHz. In transcripts noises are left out; hesitations, foreign words and what was not understood are <unk>; *word* is
pronounced badly and word- cut off. test has references for steps/score_stm.py, ref.stm: hesitations and words that are
cut off may be missing, and stretches with foreign, overlapping, prompted or not understood speech do not count.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "local"))
from corpus_root import find_corpus, preparation
from long_recordings import Source, Stretch, by_name, compare_names, cuts_of

from pipeline.artifacts.corpus import save_data_dir
from pipeline.artifacts.stm import IGNORED, StmLine
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

logger = logging.getLogger(__name__)

LAYOUT = "conversational/ of the language pack"
RATE = 8000
TAGALOG = "106"
NAME = re.compile(r"BABEL_[A-Z0-9]+_(?P<language>\d{3})_(?P<speaker>\d+)_\d{8}_\d{6}_(?P<line>inLine|outLine)")
TIME = re.compile(r"\[(\d+(?:\.\d+)?)\]")
UNKNOWN = "<unk>"
HESITATION = "<hes>"
NOT_SCORED = {"(())", "<foreign>", "<overlap>", "<prompt>"}
MARK = re.compile(r"<[a-z-]+>|\(\(\)\)|~")
SYLLABLES = {".", "#", '"', "%"}  # of the lexicon: bounds of syllables and of words, stress


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BabelOptions:
    """How the language pack is read and divided."""

    dev_utterances: int = Field(
        1500, ge=1, description="dev is the first conversations of training that have together at least so many."
    )
    romanized: bool = Field(False, description="The second column of the lexicon is a romanisation (not in Tagalog's).")
    language: str = Field("Tagalog", description="Name of the language, for the manifests.")
    num_jobs: int = Field(2, ge=1, description="Threads that copy audio.", json_schema_extra={"stamp": False})


def is_corpus(path: Path) -> bool:
    """Whether a folder is that of a language pack."""
    return (path / "conversational").is_dir()


def prepare(root: Path, work_dir: Path, final_dir: Path, options: BabelOptions) -> dict:
    """Write the parts, the text and the lexicon; returns facts for the stamp."""
    lexicon = root / "reference_materials" / "lexicon.txt"
    if not lexicon.is_file():
        raise DataError(f"{lexicon}: no such file; is the language pack unpacked as a whole?")
    training, sources = read_part(root / "training", options)
    test, test_sources = read_part(root / "dev", options)
    parts = divide(training, options.dev_utterances) | {"test": test}
    facts = {}
    for part, lines in parts.items():
        texts = [(line, train_text(line.text)) for line in lines if part != "test" or not scored(line).ignored]
        stretches = [
            Stretch(line.utt_id, line.recording, line.speaker, line.start, line.end, text or UNKNOWN, line.where)
            for line, text in texts
            if part == "test" or set(text.split()) - {UNKNOWN}
        ]
        cuts = cuts_of(
            stretches, {**sources, **test_sources}, RATE, options.language, work_dir, final_dir, options.num_jobs
        )
        facts[part] = save_data_dir(work_dir / part, cuts)
        logger.info("%s: %d utterances", part, facts[part])
    with atomic_write(work_dir / "test" / "ref.stm") as out:
        for line in map(scored, test):
            out.write(f"{line.recording} 1 {line.speaker} {line.start:.3f} {line.end:.3f} {line.text}\n")
    with atomic_write(work_dir / "lm_text.txt") as out:
        out.writelines(f"{text}\n" for line in parts["train"] if (text := train_text(line.text)))
    return {"utterances": facts, "words": write_lexicon(lexicon, work_dir / "lexicon.txt", options.romanized)}


def read_part(folder: Path, options: BabelOptions) -> tuple[list[StmLine], dict[str, Source]]:
    """The stretches of a part as they are transcribed, and its audio."""
    audio = by_name(path for suffix in ("sph", "wav") for path in (folder / "audio").glob(f"*.{suffix}"))
    texts = by_name((folder / "transcription").glob("*.txt"))
    if not audio or not texts:
        raise DataError(f"{folder}: has no {'audio/*.sph' if not audio else 'transcription/*.txt'}; is it unpacked?")
    lines: list[StmLine] = []
    for name in compare_names(audio, texts):
        match = NAME.fullmatch(name)
        if match is None:
            raise DataError(f"{texts[name]}: a name such as BABEL_BP_106_10188_20111123_213313_inLine.txt is needed")
        if options.language == "Tagalog" and match["language"] != TAGALOG:
            raise DataError(f"{texts[name]}: is of language {match['language']}; Tagalog is {TAGALOG}")
        lines += read_transcript(texts[name], f"{match['language']}_{match['speaker']}_{match['line']}")
    return lines, {name: Source(audio[name]) for name in audio}


def read_transcript(path: Path, speaker: str) -> Iterator[StmLine]:
    """Yield the stretches of a side: lines of a time in brackets, what is said from it on, the next time."""
    start, text, where = None, "", ""
    for line_no, line in read_lines(path):
        match = TIME.fullmatch(line)
        if match is None:
            if line.startswith("[") or start is None:
                raise DataError(f"{path}:{line_no}: needs a time such as [12.345], found {line[:80]!r}")
            text, where = f"{text} {line}".strip(), where or f"{path}:{line_no}"
            continue
        end = float(match[1])
        if start is not None and end <= start:
            raise DataError(f"{path}:{line_no}: time {end} does not come behind {start}")
        if text:
            yield StmLine(path.stem, "1", speaker, start or 0.0, end, text, where)
        start, text, where = end, "", ""
    if text:
        raise DataError(f"{path}: ends without a time; cut short?")


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, token): "word", "cut" for one that is cut off, "mark" for what is in <..>, (()) and ~."""
    for token in text.lower().split():
        if MARK.fullmatch(token):
            if token != "~":
                yield "mark", token
            continue
        word = token.strip("*~_")
        if word.strip("-"):
            yield "cut" if word.endswith("-") or word.startswith("-") else "word", word


def train_text(text: str) -> str:
    """Words to train on; hesitations and what is no word of the language are <unk>, noises nothing."""
    out = []
    for kind, token in tokens(text):
        if kind != "mark":
            out.append(token)
        elif token in NOT_SCORED or token == HESITATION:
            out.append(UNKNOWN)
    return " ".join(out)


def scored(line: StmLine) -> StmLine:
    """The stretch with its text in NIST's notation."""
    found = list(tokens(line.text))
    marks = {token for kind, token in found if kind == "mark"}
    words = []
    for kind, token in found:
        if kind == "word":
            words.append(token)
        elif kind == "cut" or token == HESITATION:
            words.append("(%hesitation)" if kind == "mark" else f"({token})")
    text = IGNORED if marks & NOT_SCORED or not words else " ".join(words)
    return StmLine(line.recording, line.channel, line.speaker, line.start, line.end, text, line.where)


def divide(lines: list[StmLine], dev_utterances: int) -> dict[str, list[StmLine]]:
    """dev and train: whole conversations, which both sides have in their names, the first ones in dev."""
    conversations: dict[str, list[StmLine]] = {}
    for line in sorted(lines, key=lambda line: line.recording):
        conversations.setdefault(line.recording.rpartition("_")[0], []).append(line)
    dev: list[StmLine] = []
    names = list(conversations)
    while names and len(dev) < dev_utterances:
        dev += conversations[names.pop(0)]
    if not names:
        raise DataError(f"dev takes all {len(conversations)} conversations: lower --dev-utterances")
    return {"train": [line for name in names for line in conversations[name]], "dev": dev}


def write_lexicon(source: Path, target: Path, romanized: bool) -> int:
    """Write ``WORD phone ...``, a line for each pronunciation, without bounds of syllables and stress."""
    entries: dict[tuple[str, str], None] = {}
    whole = 0  # pronunciations that look like words
    for line_no, line in read_lines(source):
        if not line:
            continue
        word, *columns = (column.strip() for column in line.split("\t"))
        if romanized:
            columns = columns[1:]
        if not columns or not all(columns):
            raise DataError(f"{source}:{line_no}: word {word!r} has no pronunciation behind a tab")
        whole += len(columns) > 1 and " " not in columns[0] and len(columns[0]) > 3
        if MARK.fullmatch(word):
            continue
        for column in columns:
            phones = [phone for phone in column.split() if phone not in SYLLABLES]
            if not phones:
                raise DataError(f"{source}:{line_no}: pronunciation {column!r} of {word!r} has no phones")
            entries[word.lower().strip("*_"), " ".join(phones)] = None
    if whole > len(entries) / 2:
        raise DataError(f"{source}: the second column looks like a romanisation, such as of {word!r}: --romanized")
    with atomic_write(target) as out:
        out.writelines(f"{word} {phones}\n" for word, phones in sorted(entries))
    return len({word for word, _ in entries})


main = preparation(
    "prepare_babel",
    __doc__,
    BabelOptions,
    lambda given: find_corpus("babel_tagalog", given, is_corpus, layout=LAYOUT) / "conversational",
    prepare,
    "Folder with conversational/.",
)

if __name__ == "__main__":
    main()
