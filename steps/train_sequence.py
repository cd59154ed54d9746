#!/usr/bin/env python3
"""Trains a network further by a sequence criterion."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.sequence_options import SequenceOptions
from pipeline.nn.together import run_step


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("lang", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--graph",
    type=click.Path(path_type=Path),
    help="Decoding graph of MODEL's tree with a weak language model, or "
    "a graph by make_den_graph: the competing sequences.",
)
@click.option(
    "--lm",
    type=click.Path(path_type=Path),
    help="Language model in the graph (directory or ARPA file); with it "
    "references that the search lost are noticed and the criterion is a log posterior.",
)
@click.option(
    "--ali", type=click.Path(path_type=Path), help="Alignment of DATA with MODEL's tree that the numerator keeps to."
)
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory on which the criterion is followed.")
@cli.options(SequenceOptions)
@cli.torchrun_options
@cli.step_options
def main(
    data: Path,
    lang: Path,
    model: Path,
    out: Path,
    graph: Path | None,
    lm: Path | None,
    ali: Path | None,
    dev: Path | None,
    config: SequenceOptions,
    processes: cli.Processes,
    overwrite: bool,
) -> None:
    """Trains MODEL, a hybrid network or a neural HMM, on DATA and its transcripts by a sequence criterion and writes
    OUT.

    Prints what a step costs in comparison with cross-entropy and how many frames were skipped; failed.txt lists the
    utterances that went wrong.
    """

    def action(tmp: Path) -> dict:
        from pipeline.nn.sequence_training import Sources, train_sequence

        return train_sequence(data, Sources(lang, model, graph, lm), tmp, config, ali, dev)

    run_step(
        processes,
        config.device,
        out,
        {"data": data, "lang": lang, "model": model, "graph": graph, "lm": lm, "ali": ali, "dev": dev},
        config,
        action,
        overwrite,
        command="train_sequence",
    )


if __name__ == "__main__":
    main()
