#!/usr/bin/env python3
"""Trains an end-to-end model (CTC, attention or RNN-T), with weak supervision by an alignment if one is given."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.e2e.options import TrainEndToEndOptions


@click.command()
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
@click.option("--rank", envvar="RANK", default=0, hidden=True, help="Number of this process, set by torchrun.")
@click.option("--world-size", envvar="WORLD_SIZE", default=1, hidden=True, help="Number of processes, set by torchrun.")
@cli.options(TrainEndToEndOptions)
@cli.step_options
def main(
    data: Path,
    tokens: Path,
    out: Path,
    dev: Path | None,
    ali: Path | None,
    init_from: Path | None,
    rank: int,
    world_size: int,
    config: TrainEndToEndOptions,
    overwrite: bool,
) -> None:
    """Trains a network on DATA (with features) that writes TOKENS (steps/train_tokens.py), and puts it into OUT.

    Several GPUs, or processes on CPUs: torchrun --nproc_per_node N steps/train_e2e.py ...
    """

    def work(tmp: Path) -> dict:
        from pipeline.e2e.training import train_end_to_end

        return train_end_to_end(data, tokens, tmp, config, dev, ali, init_from)

    def action(tmp: Path) -> dict:
        if world_size > 1:
            from pipeline.nn.distributed import lead

            lead(tmp, config.device)
        return work(tmp)

    if rank:
        from pipeline.nn.distributed import follow

        with cli.main_guard():
            follow(work, config.device)
        return
    inputs = {"data": data, "tokens": tokens, "dev": dev, "ali": ali, "init_from": init_from}
    if not cli.run_step(out, inputs, config, action, overwrite=overwrite, command="train_e2e") and world_size > 1:
        from pipeline.nn.distributed import lead

        lead(None, config.device)


if __name__ == "__main__":
    main()
