#!/usr/bin/env python3
"""Trains a hybrid network by frame cross-entropy with several processes and a parameter server."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.asynchronous.nodes import place_of
from pipeline.nn.asynchronous.options import AsyncViterbiOptions


@cli.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("lang", type=click.Path(path_type=Path))
@click.argument("ali", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory by whose loss the best epochs are chosen.")
@click.option("--dev-ali", type=click.Path(path_type=Path), help="Alignment of the dev data, with the same tree.")
@cli.options(AsyncViterbiOptions)
@cli.step_options
def main(
    data: Path,
    lang: Path,
    ali: Path,
    out: Path,
    dev: Path | None,
    dev_ali: Path | None,
    config: AsyncViterbiOptions,
    overwrite: bool,
) -> None:
    """Trains a network on DATA (with features) to predict the labels of ALI, as train_viterbi.py does, and writes OUT.

    Replicas send gradients to a server that holds the parameters and fetch them again; nobody waits for anybody
    (--mode synchronous: everybody for all). A replica that is killed is reported and its utterances go to the others; a
    killed server is started again from its checkpoint, as is the whole training by the same command.

    On several machines, with DATA, LANG and ALI under the same names on all of them and OUT on the first:

      torchrun --nnodes 4 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint HOST:29400 --max_restarts 3
      steps/train_async.py DATA LANG ALI OUT --replicas 16

    Replicas are dealt to the machines and connect to the servers on the first one (--port). Each side proves that it
    knows the secret in the variable FULLSUM_SECRET: 32 characters or more, the same on all machines, known to nobody
    else. Messages are not encrypted: use a private network.
    """
    with cli.main_guard():
        place = place_of(os.environ)
        if place.index:
            from pipeline.nn.asynchronous.systems import ViterbiJob, help_train

            help_train(
                ViterbiJob(data, lang, ali, config, dev, dev_ali), Path(f"{out}.node{place.index}"), place.node()
            )
            return

    def action(tmp: Path) -> dict:
        from pipeline.nn.asynchronous.systems import ViterbiJob, train_viterbi_async

        return train_viterbi_async(ViterbiJob(data, lang, ali, config, dev, dev_ali), tmp, place.node())

    if not cli.run_step(
        out,
        inputs={"data": data, "lang": lang, "ali": ali, "dev": dev, "dev_ali": dev_ali},
        options=config,
        action=action,
        overwrite=overwrite,
        command="train_async",
    ):
        place.dismiss()


if __name__ == "__main__":
    main()
