#!/usr/bin/env python3
"""Prepares Samromur (Icelandic): OUT/{train,dev,test} after the column "status" of metadata.tsv, OUT/lm_text.txt,
OUT/lexicon.txt.

The transcript is the normalised sentence. lm_text.txt is the file text_corpus of the corpus folder without the
sentences of dev and test, or, where there is no such file, the training transcripts. There is no pronouncing
dictionary: lexicon.txt spells the words of that text and of the training transcripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from corpus_root import find_corpus

from pipeline.base import cli
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

PARTS = ("train", "dev", "test")
COLUMNS = ("id", "speaker_id", "filename", "sentence_norm", "status")


@cli.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--corpus-root", type=click.Path(path_type=Path), help="Folder with metadata.tsv.")
@cli.step_options
def main(out: Path, corpus_root: Path | None, overwrite: bool) -> None:
    with cli.main_guard():
        root = find_corpus("samromur_demo", corpus_root, lambda path: (path / "metadata.tsv").is_file())
    cli.run_step(
        out,
        inputs={"corpus": root},
        options={},
        action=lambda tmp: prepare(root, tmp),
        overwrite=overwrite,
        resume=False,
        command="prepare_samromur",
    )


def prepare(root: Path, work_dir: Path) -> dict:
    """Write the parts and the text; returns facts for the stamp."""
    from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance

    parts: dict[str, list] = {part: [] for part in PARTS}
    for where, row in read_metadata(root / "metadata.tsv"):
        if row["status"] not in parts:
            raise DataError(f"{where}: status {row['status']!r} is none of {', '.join(PARTS)}")
        below = Path(row["status"], row["speaker_id"], row["filename"])
        path = next((path for path in (root / "audio" / below, root / below) if path.is_file()), None)
        if path is None:
            raise DataError(f"{where}: no audio file {root / 'audio' / below}")
        utt_id = f"{row['speaker_id']}-{row['id']}"
        recording = audio_recording(utt_id, path)
        parts[row["status"]].append(
            utterance(utt_id, recording, row["sentence_norm"], row["speaker_id"], language="Icelandic")
        )
    for part, cuts in parts.items():
        if not cuts:
            raise DataError(f"{root / 'metadata.tsv'}: no utterance has status {part!r}")
        save_data_dir(work_dir / part, cuts)
    given = root / "text_corpus"
    trained = [cut.supervisions[0].text for cut in parts["train"]]
    held_out = (
        {cut.supervisions[0].text for part in ("dev", "test") for cut in parts[part]} if given.is_file() else set()
    )
    lines = [" ".join(line.split()) for _, line in read_lines(given)] if given.is_file() else trained
    lines = [line for line in lines if line and line not in held_out]
    with atomic_write(work_dir / "lm_text.txt") as out:
        out.writelines(f"{line}\n" for line in lines)
    words = sorted({word for line in [*lines, *trained] for word in line.split()})
    with atomic_write(work_dir / "lexicon.txt") as out:
        out.writelines(f"{word} {' '.join(word)}\n" for word in words)
    return {"utterances": {part: len(cuts) for part, cuts in parts.items()}, "words": len(words)}


def read_metadata(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file:line, row) of a table with tabs and a heading line."""
    heading: list[str] = []
    for line_no, line in read_lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if not heading:
            heading = fields
            missing = [name for name in COLUMNS if name not in heading]
            if missing:
                raise DataError(f"{path}:{line_no}: no column {missing[0]!r}")
        elif len(fields) != len(heading):
            raise DataError(f"{path}:{line_no}: {len(fields)} columns, the heading has {len(heading)}")
        else:
            yield f"{path}:{line_no}", dict(zip(heading, fields))


if __name__ == "__main__":
    main()
