#!/usr/bin/env python3
"""Prepares one language of Common Voice: OUT/{train,dev,test} as published, OUT/lm_text.txt, OUT/lexicon.txt.

The corpus folder is that of the language (cv-corpus-.../ro) with train.tsv, dev.tsv, test.tsv, validated.tsv and
clips/, or one above it. Clips become FLAC at 16 kHz in OUT/PART/audio. Transcripts are made into words by the options
(case, punctuation, digits of steps/import_data.py). Rows without words and rows whose clip is missing are left out and
listed in OUT/PART/left_out.txt; above --max-bad of them the corpus counts as incomplete.

lm_text.txt holds the validated sentences (the training transcripts where there is no validated.tsv) without those of
dev and test, and without letters that no training speaker says. There is no pronouncing dictionary: lexicon.txt spells
the words of that text and of the training transcripts.
"""

from __future__ import annotations

import csv
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "local"))
from corpus_root import find_corpus

from pipeline.artifacts.text_norm import TextNormaliser
from pipeline.base import cli
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import atomic_write
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.source import LeftOut

logger = logging.getLogger(__name__)

PARTS = ("train", "dev", "test")
COLUMNS = ("client_id", "path", "sentence", "locale")
LAYOUT = "train.tsv, dev.tsv, test.tsv and clips/ of one language, as cv-corpus-17.0-2024-03-15/ro"


@cli.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--corpus-root", type=click.Path(path_type=Path), help="Folder of the language, or one above it.")
@cli.options(ImportOptions)
@cli.step_options
def main(out: Path, corpus_root: Path | None, config: ImportOptions, overwrite: bool) -> None:
    with cli.main_guard():
        if config.language is None:
            raise ConfigError("--language is missing: ro, tr, de or another code of Common Voice")
        config = replace(config, format="table")
        root = find_language(config.language, corpus_root)
        tables = {name: path for name in (*PARTS, "validated") if (path := root / f"{name}.tsv").is_file()}

    def identify(digests) -> str:
        from pipeline.corpora.importer import audio_identity

        return " ".join(audio_identity(tables[part], root / "clips", config, digests) for part in PARTS)

    cli.run_step(
        out,
        inputs=tables,
        options=config,
        action=lambda tmp: prepare(root, tmp, out, config),
        overwrite=overwrite,
        resume=False,
        command="prepare_commonvoice",
        sources={"clips": identify},
    )


def find_language(language: str, given: Path | None) -> Path:
    """The folder of a language; ``given`` may be it, or hold it."""

    def complete(path: Path) -> bool:
        return (path / "clips").is_dir() and all((path / f"{part}.tsv").is_file() for part in PARTS)

    if given is not None and (given / language).is_dir():
        given = given / language
    return find_corpus(f"commonvoice/{language}", given, complete, layout=LAYOUT)


def prepare(root: Path, work_dir: Path, final_dir: Path, options: ImportOptions) -> dict:
    """Write the parts, the text and the lexicon; returns facts for the stamp."""
    from pipeline.artifacts.corpus import iter_cuts
    from pipeline.corpora.importer import import_corpus

    check_tables(root, options.language or "")
    facts, texts, speakers = {}, {}, {}
    for part in PARTS:
        (work_dir / part).mkdir(parents=True, exist_ok=True)
        found = import_corpus(root / f"{part}.tsv", root / "clips", work_dir / part, final_dir / part, options)
        facts[part], speakers[part] = found["utterances"], found["speakers"]
        texts[part] = [
            entry["supervisions"][0]["text"] for _, entry in iter_cuts(work_dir / part, final_dir=final_dir / part)
        ]
    letters = {letter for text in texts["train"] for letter in text}
    held_out = {text for part in ("dev", "test") for text in texts[part]}
    lines = [text for text in sentences(root, options) or texts["train"] if text not in held_out and letters >= {*text}]
    if not lines:
        raise DataError(
            f"{root}: dev and test have every sentence of the rest, so no text is left for a language model"
        )
    with atomic_write(work_dir / "lm_text.txt") as out:
        out.writelines(f"{line}\n" for line in lines)
    words = sorted({word for line in (*lines, *texts["train"]) for word in line.split()})
    with atomic_write(work_dir / "lexicon.txt") as out:
        out.writelines(f"{word} {' '.join(word)}\n" for word in words)
    return {"utterances": facts, "speakers": speakers, "sentences": len(lines), "words": len(words)}


def rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file:line, column -> value) of a table; quotes are text, as in all releases. Rows of another length are
    left to the import, which lists them.
    """
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            heading = next(reader, [])
            missing = [name for name in COLUMNS if name not in heading]
            if missing:
                raise DataError(f"{path}:1: no column {missing[0]!r}; this is no table of Common Voice")
            for row in reader:
                if len(row) == len(heading):
                    yield f"{path}:{reader.line_num}", dict(zip(heading, row))
        except csv.Error as err:
            raise DataError(f"{path}:{reader.line_num}: {err}") from None
        except UnicodeError as err:
            raise DataError(f"{path}, behind line {reader.line_num}: not UTF-8 ({err})") from None


def check_tables(root: Path, language: str) -> None:
    """DataError for a table of another language, and for a speaker of two parts, who would be of another release."""
    part_of: dict[str, str] = {}
    for part in PARTS:
        for where, row in rows(root / f"{part}.tsv"):
            if row["locale"].split("-")[0] != language.split("-")[0]:
                raise DataError(f"{where}: locale {row['locale']!r}, expected {language!r}")
            first = part_of.setdefault(row["client_id"], part)
            if first != part:
                told = f"speaker {row['client_id'][:12]}.. stands in {first}.tsv too"
                raise DataError(f"{where}: {told}; the tables are not of one release")


def sentences(root: Path, options: ImportOptions) -> list[str]:
    """Validated sentences as words, each once, in the order of the table; none without validated.tsv."""
    path = root / "validated.tsv"
    normalise, found, out = TextNormaliser(options), dict[str, None](), LeftOut()
    for where, row in rows(path) if path.is_file() else ():
        with out.refusing(row["path"], "control characters"):
            found[normalise(row["sentence"], where)] = None
    if out.total:
        logger.warning("%s: %d sentences are left out:\n%s", path, out.total, out.summary())
    return [text for text in found if text]


if __name__ == "__main__":
    main()
