#!/usr/bin/env python3
"""Splits a data directory into train, dev and test, by speakers where there are enough of them."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.tasks.train_options import SplitOptions


@cli.command()
@click.argument("data", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(SplitOptions)
@cli.step_options
def main(data: tuple[Path, ...], out: Path, config: SplitOptions, overwrite: bool) -> None:
    """Splits DATA, all its directories together, into OUT/train, OUT/dev and OUT/test.

    Where whole speakers cannot make parts of about the shares wanted, utterances are dealt out, and the log says so; of
    fewer than 20 utterances none is held out.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.split import split_corpus

        return split_corpus(data, tmp, config)

    inputs = {f"data{i}" if i else "data": each for i, each in enumerate(data)}
    cli.run_step(out, inputs, config, action, overwrite, resume=False, command="split_data")


if __name__ == "__main__":
    main()
