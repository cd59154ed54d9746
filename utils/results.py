#!/usr/bin/env python3
"""Collects the results of a recipe."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.experiments.table_report import write_results


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--title", default=None, help="Heading of RESULTS.md; the name of the directory when not given.")
@click.option("--edited", is_flag=True, help="Take rows too that were made by code with uncommitted changes.")
@click.option("--keep", is_flag=True, help="Keep the rows of results.json whose directories are not here.")
@cli.log_options
def main(recipe: Path, title: str | None, edited: bool, keep: bool) -> None:
    """Writes RESULTS.md and results.json in the directory RECIPE, such as egs/an4.

    The rows come from the results.json that the scoring steps leave in RECIPE/exp, the times from
    RECIPE/exp/stage_times.jsonl, figures of others from RECIPE/conf/references.yaml.

    With --keep it also works where RECIPE/exp is on another machine, or holds only a part of the experiments.
    """
    with cli.main_guard():
        rows = write_results(recipe, title, edited, keep)
        logging.getLogger("pipeline").info("%s: %d rows", recipe / "RESULTS.md", len(rows))


if __name__ == "__main__":
    main()
