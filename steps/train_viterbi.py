#!/usr/bin/env python3
"""Trains a hybrid network by frame cross-entropy on an alignment."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.options import ViterbiOptions
from pipeline.nn.together import run_step


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("lang", type=click.Path(path_type=Path))
@click.argument("ali", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory by whose loss the best epochs are chosen.")
@click.option("--dev-ali", type=click.Path(path_type=Path), help="Alignment of the dev data, with the same tree.")
@cli.options(ViterbiOptions)
@cli.torchrun_options
@cli.step_options
def main(
    data: Path,
    lang: Path,
    ali: Path,
    out: Path,
    dev: Path | None,
    dev_ali: Path | None,
    config: ViterbiOptions,
    processes: cli.Processes,
    overwrite: bool,
) -> None:
    """Trains a network on DATA (with features) to predict the labels of ALI, an alignment by any model, and writes OUT.

    Tree, topology and transition probabilities are those of ALI.
    """

    def action(tmp: Path) -> dict:
        from pipeline.nn.hybrid import train_viterbi

        return train_viterbi(data, lang, ali, tmp, config, dev, dev_ali)

    run_step(
        processes,
        config.device,
        out,
        {"data": data, "lang": lang, "ali": ali, "dev": dev, "dev_ali": dev_ali},
        config,
        action,
        overwrite,
        command="train_viterbi",
    )


if __name__ == "__main__":
    main()
