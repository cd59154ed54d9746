#!/usr/bin/env python3
"""Prepares LibriSpeech, all of it or a subset: OUT/PART for each part, OUT/lm_text.txt.

A part is put together from folders of the corpus (train-clean-100, dev-other ...) or from lists of utterance ids in the
corpus folder (train.list ...). lm_text.txt is lm_text.txt.gz of the corpus folder or, without one, the transcripts of
the first part. FLAC files stay where they are, Ogg/Opus files are decoded into OUT/audio.

A folder has to be complete: each transcript has its audio and each audio file its transcript, and every speaker that
SPEAKERS.TXT of the corpus folder has in that part has a folder. Lists may name what they like.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click
from corpus_root import find_corpus
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.base import cli
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

logger = logging.getLogger(__name__)

SUFFIXES = (".flac", ".opus")
AT_ONCE = 1000  # utterances whose audio files are looked at before they are written
# Utterances of each part as published (OpenSLR 12).
PUBLISHED = {
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LibriSpeechOptions:
    """What goes into which part."""

    parts: tuple[str, ...] = Field(
        ("train=train.list", "dev=dev.list", "test=test.list"),
        description="PART=SOURCE[+SOURCE..] each, a source being a folder or a .list, e.g. "
        "train=train-clean-100+train-clean-360.",
    )
    num_jobs: int = Field(2, ge=1, description="Threads.", json_schema_extra={"stamp": False})


@cli.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--corpus-root", type=click.Path(path_type=Path), help="Folder with the parts, or with LibriSpeech/ that has them."
)
@cli.options(LibriSpeechOptions)
@cli.step_options
def main(out: Path, corpus_root: Path | None, config: LibriSpeechOptions, overwrite: bool) -> None:
    with cli.main_guard():
        sources = {source for part in config.parts for source in split_part(part)[1]}
        lists = any(source.endswith(".list") for source in sources)
        root = find_corpus("librispeech_subset" if lists else "librispeech", corpus_root, is_corpus, layout=LAYOUT)
        # Without lists nothing but the folders named is read, which may be a fraction of the corpus.
        inputs = {"corpus": root} if lists else {source: part_folder(root, source) for source in sorted(sources)}
    cli.run_step(
        out,
        inputs=inputs,
        options=config,
        action=lambda tmp: prepare(root, tmp, out, config),
        overwrite=overwrite,
        resume=False,
        command="prepare_librispeech",
    )


LAYOUT = "PART/SPEAKER/CHAPTER/*.trans.txt, as train-clean-100/103/1240/103-1240.trans.txt"


def is_corpus(path: Path) -> bool:
    """A folder with part folders, which hold speaker/chapter folders with transcripts."""
    return next(path.glob("*-*/*/*/*.trans.txt"), None) is not None


def prepare(root: Path, work_dir: Path, final_dir: Path, options: LibriSpeechOptions) -> dict:
    """Write the parts and the text; returns facts for the stamp."""
    from pipeline.artifacts.corpus import save_data_dir

    parts = dict(split_part(part) for part in options.parts)
    folders = {source for sources in parts.values() for source in sources if not source.endswith(".list")}
    if any(source.endswith(".list") for sources in parts.values() for source in sources):
        folders |= {path.name for path in root.iterdir() if path.is_dir()}
    index = {}
    for folder in sorted(folders):
        whole = any(folder in sources for sources in parts.values())
        entries = read_folder(part_folder(root, folder), whole)
        if whole:
            check_speakers(root, folder)
        before = len(index)
        index.update({utt_id: (text, audio, folder) for utt_id, text, audio in entries})
        if whole and len(index) - before < PUBLISHED.get(folder, 0):
            logger.warning("%s: %d utterances of %d as published", folder, len(index) - before, PUBLISHED[folder])
    facts: dict[str, int] = {}
    first_texts: list[str] = []
    for part, sources in parts.items():
        ids = list(dict.fromkeys(utt_id for source in sources for utt_id in source_ids(root, source, index)))
        with ThreadPoolExecutor(options.num_jobs) as pool:
            made = in_turn(pool, lambda utt_id: make_cut(utt_id, *index[utt_id][:2], work_dir, final_dir), ids)
            save_data_dir(work_dir / part, made)
        logger.info("%s: %d utterances", part, len(ids))
        facts[part] = len(ids)
        first_texts = first_texts or sorted(" ".join(index[utt_id][0].split()) for utt_id in ids)
    given = root / "lm_text.txt.gz"
    with atomic_write(work_dir / "lm_text.txt") as out:
        out.writelines(
            f"{line}\n" for line in ((line for _, line in read_lines(given)) if given.is_file() else first_texts)
        )
    return {"utterances": facts}


def split_part(part: str) -> tuple[str, list[str]]:
    """Split ``PART=SOURCE+SOURCE``."""
    name, _, sources = part.partition("=")
    if not name or not all(sources.split("+")):
        raise DataError(f"--parts: {part!r} is not PART=SOURCE[+SOURCE..]")
    return name, sources.split("+")


def in_turn(pool: ThreadPoolExecutor, make: Callable[[str], MonoCut], ids: list[str]) -> Iterator[MonoCut]:
    """Yield the cuts of utterances in their order, made by threads some way ahead."""
    for first in range(0, len(ids), AT_ONCE):
        yield from pool.map(make, ids[first : first + AT_ONCE])


def part_folder(root: Path, folder: str) -> Path:
    """The folder of a part; an archive in its place is named."""
    if (root / folder).is_dir():
        return root / folder
    archives = [path for path in (root, root.parent) if (path / f"{folder}.tar.gz").is_file()]
    hint = f"; unpack {archives[0] / folder}.tar.gz" if archives else ""
    raise DataError(f"{root}: has no part {folder!r}{hint}")


def check_speakers(root: Path, folder: str) -> None:
    """DataError if SPEAKERS.TXT, where it is there, has a speaker in this part who has no folder."""
    table = root / "SPEAKERS.TXT"
    if not table.is_file():
        return
    missing = []
    for line_no, line in read_lines(table):
        fields = [field.strip() for field in line.split("|", 4)]
        if not line or line.startswith(";"):
            continue
        if len(fields) != 5:
            raise DataError(f"{table}:{line_no}: needs 'ID | SEX | PART | MINUTES | NAME'")
        if fields[2] == folder and not (root / folder / fields[0]).is_dir():
            missing.append(f"{fields[0]} (line {line_no})")
    if missing:
        raise DataError(
            f"{root / folder}: {len(missing)} speakers of {table.name} have no folder, the first is {missing[0]}; "
            "the part is not unpacked as a whole"
        )


def read_folder(folder: Path, whole: bool) -> Iterator[tuple[str, str, Path]]:
    """Yield (utterance id, text, audio path without suffix) of a part folder; of a whole one each audio file has to
    have a transcript.
    """
    found = False
    for path in sorted(folder.glob("*/*/*.trans.txt")):
        found = True
        ids = set()
        for line_no, line in read_lines(path):
            if not line:
                continue
            utt_id, _, text = line.partition(" ")
            if not text.strip() or utt_id.count("-") != 2:
                raise DataError(f"{path}:{line_no}: needs 'SPEAKER-CHAPTER-NUMBER WORDS'")
            ids.add(utt_id)
            yield utt_id, text, path.with_name(utt_id)
        if whole:
            untold(path.parent, ids)
    if not found:
        raise DataError(f"{folder}: no SPEAKER/CHAPTER/*.trans.txt below it")
    if whole:
        for chapter in sorted(folder.glob("*/*/")):
            if next(chapter.glob("*.trans.txt"), None) is None:
                raise DataError(f"{chapter}: no transcripts, {chapter.parent.name}-{chapter.name}.trans.txt is missing")


def untold(chapter: Path, ids: set[str]) -> None:
    """DataError for an audio file of a chapter that is none of the utterances with a transcript."""
    for path in sorted(chapter.iterdir()):
        if path.suffix in SUFFIXES and path.stem not in ids:
            raise DataError(f"{path}: has no transcript in {chapter.parent.name}-{chapter.name}.trans.txt")


def source_ids(root: Path, source: str, index: dict) -> Iterator[str]:
    """Yield the utterance ids of a list or folder."""
    if not source.endswith(".list"):
        yield from (utt_id for utt_id, entry in index.items() if entry[2] == source)
        return
    for line_no, utt_id in read_lines(root / source):
        if utt_id and utt_id not in index:
            raise DataError(f"{root / source}:{line_no}: utterance {utt_id!r} has no transcript in the corpus")
        if utt_id:
            yield utt_id


def make_cut(utt_id: str, text: str, audio: Path, work_dir: Path, final_dir: Path) -> MonoCut:
    """The cut of an utterance; Opus audio is decoded to FLAC."""
    import soundfile

    from pipeline.artifacts.corpus import audio_recording, store_audio, utterance

    path = next((p for p in (audio.with_name(audio.name + s) for s in SUFFIXES) if p.is_file()), None)
    if path is None:
        raise DataError(f"{audio.parent}: no audio file {audio.name}{{{','.join(SUFFIXES)}}}")
    speaker = utt_id.split("-")[0]
    if path.suffix == ".flac":
        return utterance(utt_id, audio_recording(utt_id, path), text, speaker, language="English")
    relative = Path("audio", speaker, f"{utt_id}.flac")
    try:
        samples, rate = soundfile.read(str(path), dtype="int16")
    except soundfile.LibsndfileError as err:
        raise DataError(f"{path}: truncated or damaged ({err.error_string})") from None
    recording = store_audio(utt_id, samples, rate, work_dir / relative, final_dir / relative)
    return utterance(utt_id, recording, text, speaker, language="English")


if __name__ == "__main__":
    main()
