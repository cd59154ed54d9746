#!/usr/bin/env python3
"""Prepares Switchboard-1 and the Hub5 evaluations: OUT/{train,dev,hub5_00,hub5_01}, OUT/lm_text.txt, OUT/lexicon.txt.

Below the corpus folder are, at any depth, the packages as they are delivered:

    sw02001.sph ..                       Switchboard-1 Release 2 (LDC97S62): two channels, 8 kHz, mu-law
    swb_ms98_transcriptions/             Mississippi State's transcripts, with sw-ms98-dict.text
    hub5e_00/english/en_4156.sph ..      Hub5'00 (LDC2002S09)
    hub5e00.english.000405.stm, en20000405_hub5.glm       its references (LDC2002T43)
    english/*.sph, hub5e01.english.010402.stm, en20010117_hub5.glm   Hub5'01 (LDC2002S13), which may be missing

dev is the first conversations of Switchboard, up to so many utterances. Noises are left out of the transcripts, words
spoken laughing are words, fragments are words that end or begin with a hyphen. An evaluation keeps its references
beside its utterances: ref.stm and ref.glm, which steps/score_stm.py reads.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "local"))
from corpus_root import find_corpus, preparation
from long_recordings import Source, Stretch, by_name, compare_names, cuts_of, with_lhotse

from pipeline.artifacts.corpus import known_recording, save_data_dir
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

logger = logging.getLogger(__name__)

RATE = 8000
DICTIONARY = "sw-ms98-dict.text"
EVALUATIONS = {"hub5_00": ("hub5e00*.stm", "en2000*.glm"), "hub5_01": ("hub5e01*.stm", "en2001*.glm")}
LINE = re.compile(r"sw\d{4}[AB]-ms98-a-\d{4} \d+\.\d+ \d+\.\d+ \S.*")
NEEDS = "'sw2001A-ms98-a-0001 START END WORDS'"
NOISES = {"[silence]", "[noise]", "[laughter]", "[vocalized-noise]", "<b_aside>", "<e_aside>"}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SwitchboardOptions:
    """How the training data are divided."""

    dev_utterances: int = Field(
        4000, ge=1, description="dev is the first conversations that have together at least so many utterances."
    )
    num_jobs: int = Field(2, ge=1, description="Threads that copy audio.", json_schema_extra={"stamp": False})


def has_switchboard(path: Path) -> bool:
    """Whether conversations of Switchboard are below a folder."""
    return next(path.rglob("sw0*.sph"), None) is not None


def prepare(root: Path, work_dir: Path, final_dir: Path, options: SwitchboardOptions) -> dict:
    """Write the parts, the text and the lexicon; returns facts for the stamp."""
    dictionary = only(root, DICTIONARY)
    if dictionary is None:
        raise DataError(f"{root}: has no swb_ms98_transcriptions with {DICTIONARY} below it")
    stretches, sources = read_switchboard(root, dictionary.parent)
    parts = dict(zip(("dev", "train"), divide(stretches, options.dev_utterances)))
    tests: dict[str, list[Stretch]] = {}
    for part, (stm, glm) in EVALUATIONS.items():
        files = only(root, stm), only(root, glm)
        if files[0] is None or files[1] is None:
            told = f"{root}: has no {' and no '.join(p for p, f in zip((stm, glm), files) if f is None)} below it"
            if part == "hub5_00" or any(files):
                raise DataError(f"{told}, the references of {part}")
            logger.warning("%s: there will be no %s", told, part)
            continue
        (work_dir / part).mkdir(parents=True)
        with atomic_write(work_dir / part / "ref.stm") as out:
            out.writelines(f"{mended(line)}\n" for _, line in read_lines(files[0]))
        shutil.copyfile(files[1], work_dir / part / "ref.glm")
        tests[part] = read_evaluation(root, files[0], sources)
    facts = {}
    for part, some in {**parts, **tests}.items():
        cuts = cuts_of(some, sources, RATE, "English", work_dir, final_dir, options.num_jobs)
        facts[part] = save_data_dir(work_dir / part, cuts)
        logger.info("%s: %d utterances", part, facts[part])
    with atomic_write(work_dir / "lm_text.txt") as out:
        out.writelines(f"{stretch.text}\n" for stretch in parts["train"])
    return {"utterances": facts, "words": write_lexicon(dictionary, work_dir / "lexicon.txt")}


def only(root: Path, pattern: str) -> Path | None:
    """The file of a name below a folder, None without one; DataError for several."""
    found = sorted(path for path in root.rglob(pattern) if path.is_file())
    if len(found) > 1:
        raise DataError(f"{root}: has {len(found)} files {pattern}: {found[0]}, {found[1]} ..; one is needed")
    return found[0] if found else None


def read_switchboard(root: Path, transcripts: Path) -> tuple[list[Stretch], dict[str, Source]]:
    """The utterances of Switchboard in order, and the audio of each side of its conversations."""
    audio = by_name(root.rglob("sw0*.sph"))
    sides = {f"{name.replace('sw0', 'sw')}{side}": audio[name] for name in audio for side in "AB"}
    texts = {path.stem.split("-")[0]: path for path in sorted(transcripts.rglob("*-trans.text"))}
    stretches: list[Stretch] = []
    sources, repaired = {}, Counter[str]()
    for name in compare_names(sides, texts):  # sw2001A
        side = f"{sides[name].stem}-{name[-1]}"
        sources[side] = Source(sides[name], "AB".index(name[-1]))
        stretches += read_side(texts[name], side, repaired)
    if repaired:
        shown = " ".join(f"{token} ({count})" for token, count in repaired.most_common(5))
        logger.warning("%d words in brackets that do not match were read without them: %s", repaired.total(), shown)
    return sorted(stretches, key=lambda s: s.utt_id), sources


def read_side(path: Path, side: str, repaired: Counter[str]) -> Iterator[Stretch]:
    """Yield the utterances of a side (sw02001-A) of a conversation that have words; the side is the speaker."""
    from lhotse.recipes.switchboard import make_segments

    recording = known_recording(side, path, RATE, RATE)  # only its name goes into segments
    for segment in with_lhotse(lambda: make_segments(path, recording, 0), [path], LINE, NEEDS):
        text = " ".join(filter(None, (word_of(token, repaired) for token in segment.text.split())))
        if text:
            times = f"{round(100 * segment.start):06d}-{round(100 * segment.end):06d}"
            yield Stretch(f"{side}_{times}", side, side, segment.start, segment.end, text, f"{path}: {segment.id}")


def word_of(token: str, repaired: Counter[str]) -> str | None:
    """The word of a token of the transcripts as it was spoken; None for a noise.

    [laughter-yes] is yes; [it'n/isn't] was spoken it'n; ab[solute]- is the fragment ab-, -[an]y is -y; {made-up} is a
    word that is none; them_1 is another pronunciation of them.
    """
    word = token.lower()
    if word in NOISES:
        return None
    if word.count("[") != word.count("]"):  # ex[specially]-/especially]
        repaired[token] += 1
        word = re.sub(r"(?<=.)[\[\]].*", "-", word).strip("[]")
    word = re.sub(r"\[laughter-(.+)\]", r"\1", word)
    word = re.sub(r"\[(.+)/[^/]+\]", r"\1", word)
    word = re.sub(r"^-?\[[^\]]*\](?=.)", "-", word)  # the beginning was not spoken
    word = re.sub(r"(?<=.)\[[^\]]*\]-?", "-", word)  # the end was not spoken
    word = re.sub(r"(.)_\d+$", r"\1", word.replace("{", "").replace("}", ""))
    word = re.sub(r"[\[\]<>()/]+", "", word)
    return word if word.strip("-") else None


def divide(stretches: list[Stretch], dev_utterances: int) -> tuple[list[Stretch], list[Stretch]]:
    """dev and train: whole conversations, the first ones in dev."""
    counts = Counter(stretch.recording[:-2] for stretch in stretches)
    dev: set[str] = set()
    count = 0
    while count < dev_utterances and len(dev) < len(counts):
        name = min(counts.keys() - dev)
        dev.add(name)
        count += counts[name]
    if len(dev) == len(counts):
        raise DataError(f"dev takes all {len(dev)} conversations ({count} utterances): lower --dev-utterances")
    chosen = [stretch.recording[:-2] in dev for stretch in stretches]
    return [s for s, d in zip(stretches, chosen) if d], [s for s, d in zip(stretches, chosen) if not d]


def mended(line: str) -> str:
    """A line of an .stm without the marks of asides and with single parentheses, as sclite expects it."""
    return re.sub(r"<[be]_aside>", "", line, flags=re.IGNORECASE).replace("((", "(").replace("))", ")")


def read_evaluation(root: Path, stm: Path, sources: dict[str, Source]) -> list[Stretch]:
    """The stretches of an .stm that are scored; their audio is added to ``sources``."""
    from pipeline.artifacts.stm import parse_text, plain_words, read_stm
    from pipeline.corpora.kaldi import channel_number

    audio = by_name(path for path in root.rglob("*.sph") if not re.fullmatch(r"sw0\d+", path.stem))
    stretches, used = [], set()
    for line in read_stm(stm):
        if line.recording not in audio:
            raise DataError(f"{line.where}: no audio file {line.recording}.sph below {root}")
        used.add(audio[line.recording])
        if line.ignored:
            continue
        side = f"{line.recording}-{line.channel}"
        sources[side] = Source(audio[line.recording], channel_number(line.channel, line.where))
        words = plain_words(parse_text(mended(line.text), line.where))
        text = " ".join(words) or "%hesitation"  # scored against the .stm, where it may be missing
        stretches.append(Stretch(line.utt_id, side, line.speaker, line.start, line.end, text, line.where))
    idle = sorted(
        path for folder in {path.parent for path in used} for path in folder.glob("*.sph") if path not in used
    )
    if idle:
        raise DataError(f"{idle[0]}: no line of {stm} is about it; is that the .stm of this evaluation?")
    return stretches


def write_lexicon(source: Path, target: Path) -> int:
    """Write ``WORD phone ...`` of Mississippi State's dictionary; returns the number of words."""
    entries = dict.fromkeys(pronunciations(source))
    with atomic_write(target) as out:
        out.writelines(f"{word} {phones}\n" for word, phones in sorted(entries))
    return len({word for word, _ in entries})


def pronunciations(source: Path) -> Iterable[tuple[str, str]]:
    """Yield (word, phones), words as in the transcripts."""
    for line_no, line in read_lines(source):
        word, *phones = line.split() or ["#"]
        if word.startswith("#"):
            continue
        if not phones:
            raise DataError(f"{source}:{line_no}: word {word!r} has no phones")
        spoken = word_of(word, Counter())
        if spoken is not None:
            yield spoken, " ".join(phones)


main = preparation(
    "prepare_swbd",
    __doc__,
    SwitchboardOptions,
    lambda given: find_corpus("swbd", given, has_switchboard, layout="sw02001.sph and the others of LDC97S62"),
    prepare,
    "Folder with the packages at any depth.",
)

if __name__ == "__main__":
    main()
