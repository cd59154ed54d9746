#!/usr/bin/env python3
"""Prepares TED-LIUM 2: OUT/{train,dev,test}, OUT/lm_text.txt, OUT/lexicon.txt.

The corpus folder holds train/, dev/ and test/ with sph/NAME.sph (16 kHz) and stm/NAME.stm each, TEDLIUM.152k.dic, and
LM/*.en.gz. Stretches that are not to be scored are left out, noises and pauses ({SMACK}, <sil>) as well, marks of
variants as in the(2) are taken off, and words that stand apart from their endings are joined (they 're). <unk>, a word
that was not understood, stays in train. lm_text.txt is the text of train and the first sentences of each file in LM/.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "local"))
from corpus_root import find_corpus, preparation
from long_recordings import Source, Stretch, by_name, compare_names, cuts_of, with_lhotse

from pipeline.artifacts.corpus import save_data_dir
from pipeline.artifacts.stm import IGNORED
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

logger = logging.getLogger(__name__)

URL = "https://www.openslr.org/resources/19/TEDLIUM_release2.tar.gz"
PARTS = ("train", "dev", "test")
LAYOUT = "train/, dev/ and test/ with sph/ and stm/ each"
DICTIONARY = "TEDLIUM.152k.dic"
OTHER_DICTIONARIES = ("TEDLIUM.150K.dic", "TEDLIUM.152k.dic.gz", "cantab-TEDLIUM.dct")
RATE = 16_000
LINE = re.compile(r"\S+ +\d+ +\S+ +[\d.]+ +[\d.]+ +<[^>]*>( .*)?")
NEEDS = "'TALK 1 SPEAKER START END <LABELS> WORDS'"
ENDINGS = ("'s", "'re", "'ve", "'ll", "'d", "'m", "'t")
UNKNOWN = "<unk>"
MAX_LOST = 0.01  # share of the stretches of a part


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TedLiumOptions:
    """How much text goes to the language model."""

    lm_sentences: int = Field(500_000, ge=0, description="Sentences of each file in LM/ at most.")
    num_jobs: int = Field(2, ge=1, description="Threads that copy audio.", json_schema_extra={"stamp": False})


def prepare(root: Path, work_dir: Path, final_dir: Path, options: TedLiumOptions) -> dict:
    """Write the parts, the text and the lexicon; returns facts for the stamp."""
    words = write_lexicon(dictionary_of(root), work_dir / "lexicon.txt")
    facts, train = {}, []
    for part in PARTS:
        stretches, sources = read_part(root, part, words)
        cuts = cuts_of(stretches, sources, RATE, "English", work_dir, final_dir, options.num_jobs)
        facts[part] = save_data_dir(work_dir / part, cuts)
        logger.info("%s: %d utterances", part, facts[part])
        train = train or [stretch.text for stretch in stretches]
    with atomic_write(work_dir / "lm_text.txt") as out:
        count = 0
        for line in (*train, *lm_sentences(root, options.lm_sentences)):
            text = normalised(line, words, unknown=False)
            if text:
                out.write(f"{text}\n")
                count += 1
    return {"utterances": facts, "words": len(words), "sentences": count}


def dictionary_of(root: Path) -> Path:
    """The dictionary of release 2; DataError where there is none, or that of another release."""
    other = next((root / name for name in OTHER_DICTIONARIES if (root / name).is_file()), None)
    if (root / DICTIONARY).is_file():
        return root / DICTIONARY
    if (root / "data").is_dir() and (root / "legacy").is_dir():
        raise DataError(f"{root}: has data/ and legacy/, so it is TED-LIUM 3; this recipe is for release 2")
    told = "" if other is None else f", but {other.name}: is it another release?"
    raise DataError(f"{root}: has no {DICTIONARY}{told}")


def read_part(root: Path, part: str, words: Container[str]) -> tuple[list[Stretch], dict[str, Source]]:
    """The utterances of a part with words, and the audio of its talks."""
    from lhotse.recipes.tedlium2 import prepare_tedlium2

    audio, texts = (by_name((root / part / kind).glob(f"*.{kind}")) for kind in ("sph", "stm"))
    if not audio or not texts:
        raise DataError(f"{root / part}: has no {'sph/*.sph' if not audio else 'stm/*.stm'}; is the corpus unpacked?")
    names = compare_names(audio, texts, max_missing=0.0)
    manifests = with_lhotse(lambda: prepare_tedlium2(root, dataset_parts=part), texts.values(), LINE, NEEDS)[part]
    lines = [text for path in texts.values() for _, text in read_lines(path) if text and IGNORED not in text.lower()]
    lost = len(lines) - len(manifests["supervisions"])
    if lost > MAX_LOST * len(lines):
        from pipeline.corpora.audio import look

        for path in audio.values():
            look(str(path))  # says so of a file that is cut short
        raise DataError(f"{root / part}: {lost} of {len(lines)} stretches lie outside of their recordings")
    stretches = []
    for segment in manifests["supervisions"]:
        name = segment.recording_id
        text = normalised(segment.text, words, unknown=part == "train")
        if text and text != UNKNOWN:
            times = f"{round(100 * segment.start):07d}-{round(100 * segment.end):07d}"
            stretches.append(
                Stretch(f"{name}-{times}", name, name, segment.start, segment.end, text, f"{texts[name]}: {segment.id}")
            )
    return sorted(stretches, key=lambda s: s.utt_id), {name: Source(audio[name]) for name in names}


def normalised(text: str, words: Container[str], unknown: bool) -> str:
    """Words as in the dictionary; <unk> stays if ``unknown`` is true."""
    text = re.sub(r"\(\d+\)", "", text)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|<sil>|</?s>", " ", text)
    found: list[str] = []
    for token in text.lower().split():
        if token == UNKNOWN:
            if unknown:
                found.append(token)
        elif found and found[-1] != UNKNOWN and (token in ENDINGS or (token[0] == "'" and found[-1] + token in words)):
            found[-1] += token
        elif token.strip("'-"):
            found.append(token)
    return " ".join(found)


def lm_sentences(root: Path, most: int) -> Iterator[str]:
    """The first sentences of each file in LM/; a warning where there is none."""
    files = sorted((root / "LM").glob("*.en.gz"))
    if most and not files:
        logger.warning("%s: has no *.en.gz; the language model has the text of train alone", root / "LM")
    for path in files if most else []:
        yield from (line for _, line in islice(read_lines(path), most))


def write_lexicon(source: Path, target: Path) -> set[str]:
    """Write ``WORD phone ...`` lines, variants as lines of their own; returns the words."""
    entries = {}
    for line_no, line in read_lines(source):
        word, *phones = line.split() or [""]
        word = re.sub(r"\(\d+\)$", "", word).lower()
        if not word or word.startswith("<"):
            continue
        if not phones:
            raise DataError(f"{source}:{line_no}: word {word!r} has no phones")
        entries[word, " ".join(phones)] = None
    if not entries:
        raise DataError(f"{source}: holds no word")
    with atomic_write(target) as out:
        out.writelines(f"{word} {phones}\n" for word, phones in sorted(entries))
    return {word for word, _ in entries}


main = preparation(
    "prepare_tedlium2",
    __doc__,
    TedLiumOptions,
    lambda given: find_corpus("tedlium2", given, lambda path: (path / "train" / "stm").is_dir(), URL, layout=LAYOUT),
    prepare,
    "Folder with train/, dev/ and test/.",
)

if __name__ == "__main__":
    main()
