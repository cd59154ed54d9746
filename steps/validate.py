#!/usr/bin/env python3
"""Checks a corpus before it is used: all that is wrong with it, by kind, and the words that have no pronunciation."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.corpora.options import ValidateOptions


@cli.command()
@click.argument("corpus", type=click.Path(exists=True, path_type=Path))
@click.argument("model", required=False)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory that relative paths of audio start from; by default it is looked for around CORPUS.",
)
@click.option(
    "--lexicon",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lexicon or list of words that the words are looked for in; with MODEL, before its own.",
)
@cli.options(ValidateOptions)
@cli.log_options
def main(corpus: Path, model: str | None, root: Path | None, lexicon: Path | None, config: ValidateOptions) -> None:
    """Checks CORPUS, a data directory or whatever `fullsum import` reads, and prints what there is and what is wrong.

    All audio is decoded. Text is read as by `fullsum align`: without punctuation and, with a MODEL whose language is
    known, with numbers written out. With MODEL, a packed model or the name of a shipped one, also whether `fullsum
    align` could use it: sampling rate, and words that it pronounces from their letters or not at all. Exit code 2 if a
    larger share than --max-bad of the utterances cannot go in, or a data directory or the words are not as they must
    be.
    """
    with cli.main_guard():
        from pipeline.tasks.aligner import find_model
        from pipeline.tasks.validate import validate

        report = validate(corpus, config, root, lexicon, None if model is None else find_model(model))
        for line in report.lines:
            click.echo(line)
        for problem in report.problems:
            click.echo(f"ERROR {problem}", err=True)
    if report.problems:
        sys.exit(2)


if __name__ == "__main__":
    main()
