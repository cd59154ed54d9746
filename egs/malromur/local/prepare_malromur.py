#!/usr/bin/env python3
"""Prepares Malromur (Icelandic, 152 h): OUT/{train,dev,test}, OUT/lm_text.txt, OUT/lexicon.txt.

The corpus folder holds info.txt, a line per recording: name, two fields about the recording, gender, age, prompt,
length and class, separated by commas; and the audio as CLASS/NAME.wav or .flac. Only the class "correct" is used, whose
folder has to be complete: no recording without a line, no line without a recording. The corpus names no parts: speakers
are dealt out by a hash of their names, a twentieth each to dev and test. The language model's text is that of the
training speakers without the sentences of dev and test (every speaker reads of the same pool); lexicon.txt spells its
words.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "local"))
from corpus_root import find_corpus

from pipeline.base import cli
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

SHARES = {"dev": 0.05, "test": 0.05}  # of the speakers
FIELDS = 8
GOOD = "correct"
SUFFIXES = (".wav", ".flac")
LAYOUT = "info.txt and correct/*.wav"


@cli.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--corpus-root", type=click.Path(path_type=Path), help="Folder with info.txt and correct/.")
@cli.step_options
def main(out: Path, corpus_root: Path | None, overwrite: bool) -> None:
    with cli.main_guard():
        root = find_corpus("malromur", corpus_root, lambda path: (path / "info.txt").is_file(), layout=LAYOUT)
    cli.run_step(
        out,
        inputs={"corpus": root / "info.txt"},
        options={},
        action=lambda tmp: prepare(root, tmp),
        overwrite=overwrite,
        resume=False,
        command="prepare_malromur",
    )


def part_of(speaker: str) -> str:
    """The part that a speaker belongs to, always the same."""
    place = int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) / 2**32
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    return "train"


def read_info(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield (file:line, name, prompt, class); a prompt may hold commas."""
    for line_no, line in read_lines(path):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) < FIELDS:
            raise DataError(f"{path}:{line_no}: {len(fields)} fields, expected {FIELDS} separated by commas")
        yield f"{path}:{line_no}", fields[0].removesuffix(".wav"), ",".join(fields[5:-2]), fields[-1]


def normalised(prompt: str) -> str:
    """Lower case, punctuation gone."""
    return " ".join(re.sub(r"[^\w\s]|[\d_]", " ", prompt.lower()).split())


def prepare(root: Path, work_dir: Path) -> dict:
    """Write the parts and the text; returns facts for the stamp."""
    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance

    if not (root / GOOD).is_dir():
        raise DataError(f"{root}: has info.txt, but no folder {GOOD}/ with the recordings")
    parts: dict[str, list] = {part: [] for part in ("train", *SHARES)}
    seen: dict[str, str] = {}
    for where, name, prompt, kind in read_info(root / "info.txt"):
        if kind != GOOD:
            continue
        if name in seen:
            raise DataError(f"{where}: recording {name!r} stands in {seen[name]} already")
        seen[name] = where
        text = normalised(prompt)
        if not text:
            continue
        path = next((p for p in (root / GOOD / f"{name}{suffix}" for suffix in SUFFIXES) if p.is_file()), None)
        if path is None:
            raise DataError(f"{where}: no audio file {root / GOOD / name}.wav or .flac")
        speaker = "-".join(name.split("-")[:2])
        parts[part_of(speaker)].append(
            utterance(name, audio_recording(name, path), text, speaker, language="Icelandic")
        )
    for part, cuts in parts.items():
        if not cuts:
            raise DataError(f"{root / 'info.txt'}: no recording of class {GOOD!r} falls to {part}")
    for path in sorted((root / GOOD).iterdir()):
        if path.suffix in SUFFIXES and path.stem not in seen:
            raise DataError(f"{path}: has no line of class {GOOD!r} in info.txt")
    for part, cuts in parts.items():
        save_data_dir(work_dir / part, cuts)
    held_out = {cut.supervisions[0].text for part in SHARES for cut in parts[part]}
    trained = [cut.supervisions[0].text for cut in parts["train"]]
    lines = [text for text in trained if text not in held_out]
    if not lines:
        raise DataError(f"{root / 'info.txt'}: dev and test have every sentence of the training speakers")
    with atomic_write(work_dir / "lm_text.txt") as f:
        f.writelines(f"{line}\n" for line in lines)
    words = sorted({word for text in trained for word in text.split()})
    with atomic_write(work_dir / "lexicon.txt") as f:
        f.writelines(f"{word} {' '.join(word)}\n" for word in words)
    return {"utterances": {part: len(cuts) for part, cuts in parts.items()}, "words": len(words)}


if __name__ == "__main__":
    main()
