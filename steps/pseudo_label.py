#!/usr/bin/env python3
"""Makes transcripts of what was recognised."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.tasks.train_options import PseudoOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("decoded", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(PseudoOptions)
@cli.step_options
def main(data: Path, decoded: Path, out: Path, config: PseudoOptions, overwrite: bool) -> None:
    """Writes OUT: the data directory DATA, with its features if it has any, and with the words of DECODED, a decoding
    directory of it, as transcripts.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.untranscribed import transcribe

        return transcribe(data, decoded, tmp, config)

    inputs = {"data": data, "decoded": decoded / "recogs.jsonl.gz"}
    cli.run_step(out, inputs, config, action, overwrite, resume=False, command="pseudo_label")


if __name__ == "__main__":
    main()
