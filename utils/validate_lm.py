#!/usr/bin/env python3
"""Checks ARPA language models. Exit code 2 if one is broken or lacks words that it needs."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command(help=__doc__)
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE_OR_DIR...")
@click.option("--lang", type=click.Path(path_type=Path), help="Lang directory: at least one word must be in common.")
@click.option("--text", type=click.Path(path_type=Path), help="Text or data directory whose perplexity is shown.")
def main(models: tuple[Path, ...], lang: Path | None, text: Path | None) -> None:
    with cli.main_guard():
        from pipeline.artifacts.arpa import Arpa, read_sentences
        from pipeline.artifacts.lang import Lang
        from pipeline.base.errors import DataError

        words = None if lang is None else Lang.load(lang).words
        for path in models:
            arpa = Arpa.load(path / "lm.arpa" if path.is_dir() else path)
            told = f"{path}: order {arpa.order}, n-grams {' '.join(map(str, arpa.by_order))}"
            if words is not None:
                known = sum(w in words for w in arpa.words())
                if not known:
                    raise DataError(f"{path} and {lang} have no word in common")
                told += f", {known} of {len(words) - 1} words of the lang"
            if text is not None:
                facts = arpa.perplexity(read_sentences(text))
                told += ", " + ", ".join(
                    f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()
                )
            click.echo(told)


if __name__ == "__main__":
    main()
