#!/usr/bin/env python3
"""Pronounces all words of a data directory: by a lexicon and what it teaches, by espeak-ng, or by letters."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.tasks.train_options import PronounceOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--lexicon",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Pronunciations in any known format; without it words are spelt with their letters.",
)
@cli.options(PronounceOptions)
@cli.step_options
def main(data: Path, out: Path, lexicon: Path | None, config: PronounceOptions, overwrite: bool) -> None:
    """Pronounces the words of DATA and writes OUT/lexicon.txt, and OUT/lang.yaml for steps/make_lang.py.

    Words are found in the lexicon whatever their case; those that it lacks are counted in the log, listed in
    OUT/predicted.txt, and pronounced from their letters as the other words of the lexicon are.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.pronounce import write_pronounced

        return write_pronounced(data, tmp, lexicon, config)

    cli.run_step(out, {"data": data, "lexicon": lexicon}, config, action, overwrite, command="pronounce_words")


if __name__ == "__main__":
    main()
