#!/usr/bin/env python3
"""Writes OUT, a data directory with each utterance of DATA_IN at several speeds. Gold times are scaled; features are
dropped.
"""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.base import cli


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SpeedOptions:
    """Speeds of the copies."""

    factors: tuple[float, ...] = Field((0.9, 1.0, 1.1), description="Speeds; 1.0 keeps an utterance as it is.")


@cli.command(help=__doc__)
@click.argument("data_in", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(SpeedOptions)
@cli.step_options
def main(data_in: Path, out: Path, config: SpeedOptions, overwrite: bool) -> None:
    def action(tmp: Path) -> dict:
        from pipeline.feats.augment import perturb_speed

        return perturb_speed(data_in, tmp, config.factors)

    inputs = {"data": data_in}
    cli.run_step(out, inputs, config, action, overwrite=overwrite, resume=False, command="perturb_speed")


if __name__ == "__main__":
    main()
