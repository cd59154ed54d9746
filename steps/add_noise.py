#!/usr/bin/env python3
"""Writes OUT, a data directory with the utterances of DATA_IN and noisy copies of them. Features are dropped."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.artifacts.audio_id import audio_id
from pipeline.base import cli
from pipeline.feats.options import NoiseOptions


@cli.command(help=__doc__)
@click.argument("data_in", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(NoiseOptions)
@cli.step_options
def main(data_in: Path, out: Path, config: NoiseOptions, overwrite: bool) -> None:
    def action(tmp: Path) -> dict:
        from pipeline.feats.noise import add_noise

        return add_noise(data_in, tmp, out, config)

    cli.run_step(
        out,
        {"data": data_in},
        config,
        action,
        overwrite=overwrite,
        resume=False,
        command="add_noise",
        sources={"audio": lambda digests: audio_id(data_in, digests)},
    )


if __name__ == "__main__":
    main()
