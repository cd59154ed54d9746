#!/usr/bin/env python3
"""Writes the page of what papers claim and what was found."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.base.files import atomic_write, read_json
from pipeline.experiments.claims import write_claims
from pipeline.experiments.paper_claims import load_papers, page
from pipeline.experiments.table_report import verdicts

ROOT = Path(__file__).resolve().parent.parent


@cli.command()
@click.argument("out", type=click.Path(path_type=Path), default=ROOT / "docs" / "claims.md")
@click.option(
    "--papers", type=click.Path(path_type=Path), default=ROOT / "docs" / "papers.yaml", help="What they claim."
)
@click.option("--recipes", type=click.Path(path_type=Path), default=ROOT / "egs", help="Folder of the recipes.")
@click.option(
    "--judge",
    "again",
    multiple=True,
    metavar="RECIPE",
    help="First judge this recipe's claims by its results.json,"
    " that is by seeds alone, where the experiments themselves are gone; may be repeated.",
)
@cli.log_options
def main(out: Path, papers: Path, recipes: Path, again: tuple[str, ...]) -> None:
    """Writes OUT (docs/claims.md): every row of the papers' tables with the verdicts of the recipes' claims.json, which
    utils/results.py and utils/tables.py write beside RESULTS.md.
    """
    with cli.main_guard():
        for recipe in again:
            write_claims(recipes / recipe, verdicts(recipes / recipe, read_json(recipes / recipe / "results.json")))
        text = page(load_papers(papers), recipes)
        with atomic_write(out) as f:
            f.write(text)
        logging.getLogger("pipeline").info("%s: written", out)


if __name__ == "__main__":
    main()
