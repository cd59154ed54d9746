#!/usr/bin/env python3
"""Pronounces all words of a data directory: by a lexicon and what can be learned from it, or by letters."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.artifacts.lexicon_formats import LexiconOptions
from pipeline.base import cli


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--lexicon",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Pronunciations in any known format; without it words are spelt with their letters.",
)
@cli.options(LexiconOptions)
@cli.step_options
def main(data: Path, out: Path, lexicon: Path | None, config: LexiconOptions, overwrite: bool) -> None:
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
