#!/usr/bin/env python3
"""Prepares TIMIT with its hand-made times: OUT/{train,dev,test}, or OUT/sample for the sample; OUT/lexicon.txt,
OUT/lm_text.txt.

Gold times are supervision.alignment "word", "phone" (the mapped set of timit_labels.py) and "phone61" (all labels as
they are). From the full corpus the SA sentences, which every speaker reads, are left out; dev and test are the usual 50
and 24 (core) speakers.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click
from corpus_root import find_corpus
from timit_labels import merge_phones, read_dictionary

from pipeline.base import cli
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = {".flac", ".wav", ".sph"}
LAYOUT = "TRAIN/DR1/SPEAKER/*.WAV with .PHN and .WRD beside them, and TEST/ likewise"
PUBLISHED = {"train": 3696, "dev": 400, "test": 192}  # utterances without SA sentences


@cli.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--corpus-root", type=click.Path(path_type=Path), help="Folder with TRAIN/ and TEST/, or with the sample."
)
@cli.step_options
def main(out: Path, corpus_root: Path | None, overwrite: bool) -> None:
    with cli.main_guard():
        root = find_timit(corpus_root)
    cli.run_step(
        out,
        inputs={"corpus": root},
        options={},
        action=lambda tmp: prepare(root, tmp),
        overwrite=overwrite,
        resume=False,
        command="prepare_timit",
    )


def find_timit(given: Path | None) -> Path:
    """The folder of the corpus, or of the sample where nothing is given and there is no full corpus."""
    if given is None:
        with contextlib.suppress(DataError):
            return find_corpus("timit", None, is_corpus)
    return find_corpus("timit_sample" if given is None else "timit", given, is_corpus, layout=LAYOUT)


def is_corpus(path: Path) -> bool:
    """The sample has dr1-fvmh0/ ..., the corpus TRAIN/ and TEST/."""
    names = {below.name.lower() for below in path.iterdir()}
    return {"train", "test"} <= names or any(name.startswith("dr") and "-" in name for name in names)


def prepare(root: Path, work_dir: Path) -> dict:
    """Write the parts, the lexicon and the text; returns facts for the stamp."""
    from pipeline.artifacts.corpus import save_data_dir

    parts: dict[str, list] = {}
    seen, recorded, labelled = set(), set(), {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() == ".phn" and not path.name.startswith("."):
            labelled[f"{speaker_of(path)}-{path.stem.lower()}"] = path
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith("."):
            continue
        part = part_of(path.relative_to(root))
        utt_id = f"{speaker_of(path)}-{path.name.split('.')[0].lower()}"
        recorded.add(utt_id)
        if part is not None and utt_id not in seen:  # some copies hold each recording twice, SA1.WAV and SA1.WAV.wav
            seen.add(utt_id)
            parts.setdefault(part, []).append(read_utterance(path, utt_id))
    silent = sorted(labelled[utt_id] for utt_id in labelled.keys() - recorded)
    if silent:
        raise DataError(f"{silent[0]}: no recording beside it ({len(silent)} such files)")
    if not parts:
        raise DataError(f"{root}: no utterances with .phn and .wrd files found")
    if "sample" not in parts:
        for part, expected in PUBLISHED.items():
            if part not in parts:
                raise DataError(f"{root}: no utterance of {part}, whose speakers are fixed; the corpus is not complete")
            if len(parts[part]) != expected:
                logger.warning("%s: %d utterances of %d as published", part, len(parts[part]), expected)
    dictionary = read_dictionary(find_dictionary(root))
    for part, cuts in parts.items():
        save_data_dir(work_dir / part, cuts)
        for cut in cuts:
            unknown = [word for word in cut.supervisions[0].text.split() if word not in dictionary]
            if unknown:
                raise DataError(f"{cut.id}: word {unknown[0]!r} is not in the dictionary of the corpus")
    with atomic_write(work_dir / "lexicon.txt") as out:
        out.writelines(f"{word} {phones}\n" for word in sorted(dictionary) for phones in dictionary[word])
    with atomic_write(work_dir / "lm_text.txt") as out:
        out.writelines(f"{cut.supervisions[0].text}\n" for cut in parts.get("train") or parts["sample"])
    return {"utterances": {part: len(cuts) for part, cuts in parts.items()}, "words": len(dictionary)}


def speaker_of(path: Path) -> str:
    """``FCJF0`` -> fcjf0, ``dr1-fvmh0`` -> fvmh0."""
    return path.parent.name.lower().split("-")[-1]


def part_of(relative: Path) -> str | None:
    """train, dev, test, sample, or None for what is in no part; ``relative`` is the path below the corpus folder."""
    from lhotse.recipes.timit import get_speakers

    above = {name.lower() for name in relative.parts[:-1]}
    dev, test = get_speakers()
    if not above & {"train", "test"}:
        return "sample"
    if relative.name.lower().startswith("sa"):
        return None
    if "train" in above:
        return "train"
    return "dev" if speaker_of(relative) in dev else "test" if speaker_of(relative) in test else None


def read_utterance(path: Path, utt_id: str) -> MonoCut:
    """The cut of a recording with its .phn and .wrd files."""
    from lhotse.supervision import AlignmentItem

    from pipeline.artifacts.corpus import Span, audio_recording, utterance
    from pipeline.corpora.label_files import read_labels

    recording = audio_recording(utt_id, path)
    tiers = {
        suffix: read_labels(label_file(path, suffix), recording.sampling_rate, recording.duration)
        for suffix in ("wrd", "phn")
    }

    def spans(labels: list[tuple[str, float, float]]) -> list[Span]:
        return [Span(label, round(start, 6), round(end - start, 6)) for label, start, end in labels]

    words = [Span(span.symbol.upper(), span.start, span.duration) for span in spans(tiers["wrd"])]
    text = " ".join(word.symbol for word in words)
    cut = utterance(
        utt_id, recording, text, speaker_of(path), words, spans(merge_phones(tiers["phn"])), language="English"
    )
    cut.supervisions[0].alignment["phone61"] = [AlignmentItem(*span) for span in spans(tiers["phn"])]
    return cut


def label_file(path: Path, suffix: str) -> Path:
    """The label file beside a recording, in lower or upper case."""
    stem = path.name.split(".")[0]
    for name in (f"{stem}.{suffix}", f"{stem}.{suffix.upper()}"):
        if path.with_name(name).is_file():
            return path.with_name(name)
    raise DataError(f"{path}: no {stem}.{suffix} beside it")


def find_dictionary(root: Path) -> Path:
    """timitdic.txt, in the folder or in DOC/ of it."""
    found = [path for path in sorted(root.rglob("*")) if path.name.lower() == "timitdic.txt"]
    found += [path for path in sorted(root.parent.glob("*/*")) if path.name.lower() == "timitdic.txt"]
    if not found:
        raise DataError(f"{root}: no timitdic.txt below it")
    return found[0]


if __name__ == "__main__":
    main()
