#!/usr/bin/env python3
"""Trains a network further by a sequence criterion with several processes, each with a decoder, and a parameter
server.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.asynchronous.nodes import place_of
from pipeline.nn.asynchronous.options import AsyncSequenceOptions


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("lang", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--graph", type=click.Path(path_type=Path), help="Decoding graph of MODEL's tree: the competing sequences."
)
@click.option("--lm", type=click.Path(path_type=Path), help="Language model in the graph (directory or ARPA file).")
@click.option(
    "--ali", type=click.Path(path_type=Path), help="Alignment of DATA with MODEL's tree that the numerator keeps to."
)
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory on which the criterion is followed.")
@cli.options(AsyncSequenceOptions)
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
    config: AsyncSequenceOptions,
    overwrite: bool,
) -> None:
    """Trains MODEL on DATA by a sequence criterion, as train_sequence.py does, with asynchronous replicas, and writes
    OUT.

    Each replica searches its own utterances for competitors with the parameters it has fetched (Heigold et al. 2014);
    --shuffle on_the_fly makes batches of frames that walk through utterances. For the processes, what happens when they
    are killed, and several machines, see train_async.py --help; failed.txt lists the utterances that went wrong.
    """
    with cli.main_guard():
        place = place_of(os.environ)
        if place.index:
            from pipeline.nn.asynchronous.systems import SequenceJob, Sources, help_train

            job = SequenceJob(data, Sources(lang, model, graph, lm), config, ali, dev)
            help_train(job, Path(f"{out}.node{place.index}"), place.node())
            return

    def action(tmp: Path) -> dict:
        from pipeline.nn.asynchronous.systems import SequenceJob, Sources, train_sequence_async

        return train_sequence_async(
            SequenceJob(data, Sources(lang, model, graph, lm), config, ali, dev), tmp, place.node()
        )

    if not cli.run_step(
        out,
        inputs={"data": data, "lang": lang, "model": model, "graph": graph, "lm": lm, "ali": ali, "dev": dev},
        options=config,
        action=action,
        overwrite=overwrite,
        command="train_sequence_async",
    ):
        place.dismiss()


if __name__ == "__main__":
    main()
