#!/usr/bin/env python3
"""Trains a hybrid network by rounds of clients, its speakers, that keep their speech: a simulation in one process."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.federated_options import FederatedOptions


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("lang", type=click.Path(path_type=Path))
@click.argument("ali", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory whose figures are told after each round.")
@click.option("--dev-ali", type=click.Path(path_type=Path), help="Alignment of the dev data, with the same tree.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="Hybrid model of other speakers to begin with, of the same tree, features and options of the encoder.",
)
@cli.options(FederatedOptions)
@cli.step_options
def main(
    data: Path,
    lang: Path,
    ali: Path,
    out: Path,
    dev: Path | None,
    dev_ali: Path | None,
    init: Path | None,
    config: FederatedOptions,
    overwrite: bool,
) -> None:
    """Trains a network on the speakers of DATA (with features) to predict the labels of ALI, and writes OUT.

    In each round some speakers train the server's model on their own utterances, and the server takes the mean of
    their changes, clipped and with noise if wanted. OUT/stamp.json then tells the epsilon of all rounds.
    """

    def action(tmp: Path) -> dict:
        from pipeline.nn.federated import train_federated

        return train_federated(data, lang, ali, tmp, config, dev, dev_ali, init)

    inputs = {"data": data, "lang": lang, "ali": ali, "dev": dev, "dev_ali": dev_ali, "init": init}
    cli.run_step(out, inputs, config, action, overwrite, command="train_federated")


if __name__ == "__main__":
    main()
