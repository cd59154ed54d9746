#!/usr/bin/env python3
"""Trains a neural HMM from scratch by full-sum."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.options import NhmmOptions
from pipeline.nn.together import run_step


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("lang", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory by whose loss the best epochs are chosen.")
@click.option(
    "--tree",
    type=click.Path(path_type=Path),
    help="Model or tree directory whose tied states are the labels; by default one label per phone state.",
)
@cli.options(NhmmOptions)
@cli.torchrun_options
@cli.step_options
def main(
    data: Path,
    lang: Path,
    out: Path,
    dev: Path | None,
    tree: Path | None,
    config: NhmmOptions,
    processes: cli.Processes,
    overwrite: bool,
) -> None:
    """Trains a network and transition probabilities on DATA (with features) and LANG, without any alignment, and writes
    OUT.

    The criterion sums over all HMM state sequences of a transcript (Mann et al. 2023).
    """

    def action(tmp: Path) -> dict:
        from pipeline.nn.nhmm import train_nhmm

        return train_nhmm(data, lang, tmp, config, dev, tree)

    run_step(
        processes,
        config.device,
        out,
        {"data": data, "lang": lang, "dev": dev, "tree": tree},
        config,
        action,
        overwrite,
        command="train_nhmm",
    )


if __name__ == "__main__":
    main()
