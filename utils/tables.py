#!/usr/bin/env python3
"""Runs the sweeps of a recipe and writes them into its RESULTS.md."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.base.errors import PipelineError
from pipeline.experiments.table_report import write_results
from pipeline.experiments.tables import load_tables, run_table


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1)
@click.option("--parallel", type=click.IntRange(1), default=os.cpu_count(), show_default=True, help="Cells at a time.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each cell.")
@click.option("--only", multiple=True, metavar="AXIS=VALUE", help="Cells with this value alone; may be repeated.")
@click.option("--overwrite", is_flag=True, help="Passed on to the steps: remake what has other options or inputs.")
@click.option("--edited", is_flag=True, help="Take rows too that were made by code with uncommitted changes.")
@click.option("--keep", is_flag=True, help="Keep the rows of results.json whose directories are not here.")
@cli.log_options
def main(
    recipe: Path,
    names: tuple[str, ...],
    parallel: int,
    threads: int,
    only: tuple[str, ...],
    overwrite: bool,
    edited: bool,
    keep: bool,
) -> None:
    """Runs the missing cells of RECIPE/conf/tables/NAME.yaml for NAMES, or of all tables, then writes RESULTS.md.

    Cells that were interrupted go on where they were. Exit code 2 when a cell failed; the others are reported.
    """
    with cli.main_guard():
        tables = load_tables(recipe, names)
        if not tables:
            raise PipelineError(f"{recipe / 'conf' / 'tables'}: no tables")
        failed = []
        for name, table in tables.items():
            cells = run_table(recipe, name, table, parallel, threads, overwrite, only)
            failed += [f"{name}/log/{cell}.log" for cell in cells]
        rows = write_results(recipe, edited=edited, keep=keep)
        logging.getLogger("pipeline").info("%s: %d rows", recipe / "RESULTS.md", len(rows))
        if failed:
            raise PipelineError(f"{len(failed)} cells failed, see in {recipe / 'exp' / 'tables'}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
