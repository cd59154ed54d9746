#!/usr/bin/env python3
"""Trains an end-to-end model (CTC, attention or RNN-T), with weak supervision by an alignment if one is given."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.nn.together import run_step


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("tokens", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory by which the best epochs are chosen.")
@click.option(
    "--ali", type=click.Path(path_type=Path), help="Alignment of DATA, by any model, for --aux-layers and its like."
)
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    help="Model directory, hybrid or end-to-end, of any corpus, whose encoder is the first one here.",
)
@click.option(
    "--unlabelled",
    type=click.Path(path_type=Path),
    help="Data directory for --self-supervised, whose transcripts, if it has any, are not read.",
)
@cli.options(TrainEndToEndOptions)
@cli.torchrun_options
@cli.step_options
def main(
    data: Path,
    tokens: Path,
    out: Path,
    dev: Path | None,
    ali: Path | None,
    init_from: Path | None,
    unlabelled: Path | None,
    config: TrainEndToEndOptions,
    processes: cli.Processes,
    overwrite: bool,
) -> None:
    """Trains a network on DATA (with features) that writes TOKENS (steps/train_tokens.py), and puts it into OUT.

    Several GPUs, or processes on CPUs: torchrun --nproc_per_node N steps/train_e2e.py ...
    """

    def action(tmp: Path) -> dict:
        from pipeline.e2e.training import train_end_to_end

        return train_end_to_end(data, tokens, tmp, config, dev, ali, init_from, unlabelled)

    inputs = {"data": data, "tokens": tokens, "dev": dev, "ali": ali, "init_from": init_from, "unlabelled": unlabelled}
    run_step(processes, config.device, out, inputs, config, action, overwrite, command="train_e2e")


if __name__ == "__main__":
    main()
