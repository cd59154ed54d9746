#!/usr/bin/env python3
"""Checks lang directories: symbol tables, pronunciations, topology, ids. Exit code 2 if one is broken."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command(help=__doc__)
@click.argument("lang_dirs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option(
    "--text", type=click.Path(path_type=Path), help="Text or data directory: all its words must be in the lang."
)
def main(lang_dirs: tuple[Path, ...], text: Path | None) -> None:
    with cli.main_guard():
        from pipeline.artifacts.arpa import read_sentences
        from pipeline.artifacts.lang import Lang

        for lang_dir in lang_dirs:
            lang = Lang.load(lang_dir)
            if text is not None:
                for number, words in enumerate(read_sentences(text), 1):
                    lang.word_ids(" ".join(words), f"{text}: sentence {number}")
            click.echo(
                f"{lang_dir}: {len(lang.words) - 1} words, {len(lang.lexicon.entries)} pronunciations, "
                f"{len(lang.phones) - 1} {lang.unit}s"
            )


if __name__ == "__main__":
    main()
