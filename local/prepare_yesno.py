#!/usr/bin/env python3
"""Prepares yesno: OUT/{train,test}, OUT/lexicon.txt, OUT/lm_text.txt.

60 recordings of one speaker at 8 kHz, eight words each, the file name being the transcript (1 is yes). The split is the
one of Kaldi's
recipe, which halves the sorted listing of the folder with its two README files: the first 31 recordings are train, the
    last 29 test
(232 words). As there, each word is one phone.
"""

from __future__ import annotations

import re
from pathlib import Path

import click
from corpus_root import find_corpus

from pipeline.base import cli
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write

URL = "http://www.openslr.org/resources/1/waves_yesno.tar.gz"
NUM_FILES, NUM_TRAIN = 60, 31
WORDS = {"0": "NO", "1": "YES"}
SPEAKER = "global"
_NAME = re.compile(r"[01](_[01]){7}")


@cli.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--corpus-root", type=click.Path(path_type=Path), help="Folder with the .wav files.")
@cli.step_options
def main(out: Path, corpus_root: Path | None, overwrite: bool) -> None:
    with cli.main_guard():
        root = find_corpus("yesno", corpus_root, lambda path: any(path.glob("*_*_*.wav")), URL)
    cli.run_step(
        out,
        inputs={"corpus": root},
        options={},
        action=lambda tmp: prepare(root, tmp),
        overwrite=overwrite,
        resume=False,
        command="prepare_yesno",
    )


def prepare(root: Path, work_dir: Path) -> dict:
    """Write both parts, the lexicon and the training text; returns facts for the stamp."""
    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance

    paths = sorted(root.glob("*.wav"), key=lambda path: path.name)
    if len(paths) != NUM_FILES:
        raise DataError(f"{root}: {len(paths)} .wav files instead of {NUM_FILES}")
    cuts = []
    for path in paths:
        if not _NAME.fullmatch(path.stem):
            raise DataError(f"{path}: the name is not eight times 0 or 1")
        text = " ".join(WORDS[digit] for digit in path.stem.split("_"))
        cuts.append(utterance(path.stem, audio_recording(path.stem, path), text, SPEAKER, language="Hebrew"))
    save_data_dir(work_dir / "train", cuts[:NUM_TRAIN])
    save_data_dir(work_dir / "test", cuts[NUM_TRAIN:])
    with atomic_write(work_dir / "lexicon.txt") as out:
        out.write("NO N\nYES Y\n")
    with atomic_write(work_dir / "lm_text.txt") as out:
        out.writelines(f"{cut.supervisions[0].text}\n" for cut in cuts[:NUM_TRAIN])
    return {"utterances": {"train": NUM_TRAIN, "test": NUM_FILES - NUM_TRAIN}}


if __name__ == "__main__":
    main()
