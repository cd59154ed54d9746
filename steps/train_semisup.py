#!/usr/bin/env python3
"""Trains a model on labelled speech, and on unlabelled speech with the labels of a teacher."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.together import run_step
from pipeline.semisup.options import SemiSupervisedOptions, Sources


@cli.command()
@click.argument("labelled", type=click.Path(path_type=Path))
@click.argument("unlabelled", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--tokens", type=click.Path(path_type=Path), help="Tokens of an end-to-end model.")
@click.option("--lm", type=click.Path(path_type=Path), help="Language model for its search, as in steps/decode_e2e.py.")
@click.option("--lang", type=click.Path(path_type=Path), help="Lang of a hybrid model.")
@click.option("--ali", type=click.Path(path_type=Path), help="Alignment of LABELLED with the tree of a hybrid model.")
@click.option("--dev", type=click.Path(path_type=Path), help="Data directory by which the best epochs are chosen.")
@click.option("--dev-ali", type=click.Path(path_type=Path), help="Alignment of the dev data, of a hybrid model.")
@click.option(
    "--pseudo",
    type=click.Path(path_type=Path),
    help="First labels of UNLABELLED: a decoding directory, or, of a hybrid model, an alignment.",
)
@cli.options(SemiSupervisedOptions)
@cli.torchrun_options
@cli.step_options
def main(
    labelled: Path,
    unlabelled: Path,
    model: Path,
    out: Path,
    config: SemiSupervisedOptions,
    processes: cli.Processes,
    overwrite: bool,
    **sources: Path | None,
) -> None:
    """Trains MODEL, hybrid (steps/train_viterbi.py) or end-to-end (steps/train_e2e.py), on LABELLED and UNLABELLED
    (both with features) and writes OUT. Transcripts of UNLABELLED are not read.
    """

    def action(tmp: Path) -> dict:
        from pipeline.semisup.training import train_semisup

        return train_semisup(labelled, unlabelled, model, tmp, config, Sources(**sources))

    inputs = {"labelled": labelled, "unlabelled": unlabelled, "model": model, **sources}
    run_step(processes, config.device, out, inputs, config, action, overwrite, command="train_semisup")


if __name__ == "__main__":
    main()
