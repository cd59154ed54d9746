#!/usr/bin/env python3
"""Moves the boundaries of an alignment by a bias that was estimated from reference times."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.tasks.bias import CorrectOptions

DIR = click.Path(exists=True, file_okay=False, path_type=Path)


@cli.command(context_settings={"show_default": True})
@click.argument("ali", type=DIR)
@click.argument("bias", type=DIR)
@click.argument("data", type=DIR)
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(CorrectOptions)
@cli.step_options
def main(ali: Path, bias: Path, data: Path, out: Path, config: CorrectOptions, overwrite: bool) -> None:
    """Keeps words and phones of ALI and writes OUT without the bias that estimate_bias found; DATA says who speaks."""

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.ali import AliSet
        from pipeline.artifacts.bias import BoundaryBias
        from pipeline.tasks.bias import correct

        return correct(AliSet.load(ali), BoundaryBias.load(bias), data, tmp, config)

    inputs = {"ali": ali, "bias": bias, "data": data}
    cli.run_step(out, inputs, config, action, overwrite, command="correct_bias")


if __name__ == "__main__":
    main()
