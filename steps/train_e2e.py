#!/usr/bin/env python3
"""Trains an end-to-end model (CTC, attention or RNN-T), with weak supervision by an alignment if one is given."""
from __future__ import annotations

from pathlib import Path
from typing import Optional

import click

from pipeline import cli
from pipeline.e2e.options import TrainEndToEndOptions


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("tokens", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory by which the best epochs are chosen.")
@click.option("--ali", type=click.Path(path_type=Path), help="Alignment of DATA, by any model, for --aux-layers and its like.")
@click.option("--init-from", type=click.Path(path_type=Path), help="Model directory, hybrid or end-to-end, of any corpus, whose "
              "encoder is the first one here.")
@cli.options(TrainEndToEndOptions)
@cli.step_options
def main(data: Path, tokens: Path, out: Path, dev: Optional[Path], ali: Optional[Path], init_from: Optional[Path],
         config: TrainEndToEndOptions, overwrite: bool) -> None:
    """Trains a network on DATA (with features) that writes TOKENS (steps/train_tokens.py), and puts it into OUT."""
    def action(tmp: Path) -> dict:
        from pipeline.e2e.training import train_end_to_end
        return train_end_to_end(data, tokens, tmp, config, dev, ali, init_from)

    cli.run_step(out, inputs={"data": data, "tokens": tokens, "dev": dev, "ali": ali, "init_from": init_from}, options=config,
                 action=action, overwrite=overwrite, command="train_e2e")


if __name__ == "__main__":
    main()
