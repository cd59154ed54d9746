#!/usr/bin/env python3
"""Packs a model for alignment into one file that travels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.base import cli


@cli.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--g2p",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Grapheme-to-phoneme model (steps/train_g2p.py) for words that the lexicon lacks.",
)
@click.option(
    "--card",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML file with the fields name, description, language, data, licence, scores, align and refine (options of "
    "steps/align.py and steps/refine_ali.py).",
)
@click.option(
    "--refiner",
    "refiners",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A further model by which boundaries are refined, see steps/refine_ali.py; may be repeated.",
)
@click.option("--name", help="Name of the packed model; by default that of the file.")
def main(
    model: Path,
    lang: Path,
    out: Path,
    g2p: Path | None,
    card: Path | None,
    refiners: tuple[Path, ...],
    name: str | None,
) -> None:
    """Packs MODEL, trained with LANG, into the file OUT, which `fullsum align OUT CORPUS ...` takes.

    The file is a zip archive of JSON, text and safetensors: nothing in it is run when it is read.
    """
    with cli.main_guard():
        from pipeline.base.files import read_yaml
        from pipeline.tasks.packed import make_card, pack

        facts: dict[str, Any] = {} if card is None else read_yaml(card)
        told = make_card({**facts, "name": name or facts.get("name") or out.stem}, card or "the options")
        size = pack(model, lang, out, told, g2p, refiners)
        click.echo(f"{out}: {size / 2**20:.1f} MiB", err=True)


if __name__ == "__main__":
    main()
