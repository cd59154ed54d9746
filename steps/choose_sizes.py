#!/usr/bin/env python3
"""Chooses what is trained and how large by the hours of speech; writes files of options for the other steps."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.step_options
def main(data: Path, out: Path, overwrite: bool) -> None:
    """Chooses sizes for the training data DATA and writes OUT: mono.yaml, tri1.yaml .. viterbi.yaml, which steps take
    by --config, and models.txt, the models that the amount of speech is enough for.

    pipeline/tasks/sizes.py has the table and tells where it comes from.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.sizes import write_sizes

        return write_sizes(data, tmp)

    cli.run_step(out, {"data": data}, {}, action, overwrite, command="choose_sizes")


if __name__ == "__main__":
    main()
