#!/usr/bin/env python3
"""Estimates by how much an alignment's boundaries lie too late or too early between each two phones."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks.bias import BiasOptions


@cli.command(context_settings={"show_default": True})
@click.argument("ali", type=click.Path(exists=True, path_type=Path))
@click.argument("reference", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(AliScoreOptions)
@cli.options(BiasOptions, "how")
@cli.step_options
def main(ali: Path, reference: Path, out: Path, config: AliScoreOptions, how: BiasOptions, overwrite: bool) -> None:
    """Compares ALI with REFERENCE, times made by hand, and writes OUT for correct_bias and `fullsum align --bias`.

    Both may be what `fullsum score` takes; TextGrids of an alignment, corrected by hand, are a reference too. A few
    minutes of several speakers are enough. Speakers of REFERENCE are themselves corrected by a table that was estimated
    without them, so what scoring says of their corrected times holds for other speakers.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.bias import estimate_directory

        return estimate_directory(ali, reference, tmp, config, how)

    inputs = {"ali": ali, "reference": reference}
    options = {**cli.options_json(config), **cli.options_json(how)}
    cli.run_step(out, inputs, options, action, overwrite, command="estimate_bias")


if __name__ == "__main__":
    main()
