#!/usr/bin/env python3
"""Takes the transcripts of most speakers away, for semi-supervised training."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.tasks.train_options import LabelledOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(LabelledOptions)
@cli.step_options
def main(data: Path, out: Path, config: LabelledOptions, overwrite: bool) -> None:
    """Writes the utterances of some speakers of DATA into OUT/labelled, and those of the others, without transcripts,
    into OUT/unlabelled; neither with features.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.untranscribed import split_labelled

        return split_labelled(data, tmp, config)

    cli.run_step(out, {"data": data}, config, action, overwrite, resume=False, command="split_labelled")


if __name__ == "__main__":
    main()
