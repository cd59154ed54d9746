#!/usr/bin/env python3
"""Chooses speech by the encoder of a model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.tasks.train_options import SelectOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--target",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Speech that --by nearest looks for.",
)
@cli.options(SelectOptions)
@cli.step_options
def main(data: Path, model: Path, out: Path, target: Path | None, config: SelectOptions, overwrite: bool) -> None:
    """Writes OUT, a data directory with some utterances of DATA and their features: those whose mean output of MODEL's
    encoder, a hybrid or end-to-end network, is nearest to an utterance of --target, or that differ most among each
    other.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.selection import select_data

        return select_data(data, model, target, tmp, config)

    inputs = {"data": data, "model": model, "target": target}
    cli.run_step(out, inputs, config, action, overwrite, resume=False, command="select_data")


if __name__ == "__main__":
    main()
