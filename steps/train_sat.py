#!/usr/bin/env python3
"""Speaker-adaptive training with fMLLR."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.gmm.options import SatOptions
from pipeline.nn.together import run_step


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("ali", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Model that gives features and first transforms; without it the one that made ALI.",
)
@click.option(
    "--questions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of questions for the tree, a set of phones per line; without it they come from clustering.",
)
@cli.options(SatOptions)
@cli.torchrun_options
@cli.step_options
def main(
    data: Path,
    lang: Path,
    ali: Path,
    out: Path,
    model: Path | None,
    questions: Path | None,
    config: SatOptions,
    processes: cli.Processes,
    overwrite: bool,
) -> None:
    """Trains tied triphones on DATA with one fMLLR transform per speaker, starting from ALI, and writes OUT.

    OUT also holds speaker-independent mixtures for a first pass and the transforms of the training speakers, which
    align.py takes as --transforms OUT. cf. Kaldi steps/train_sat.sh.
    """
    with cli.main_guard():
        start = model or _producer(ali)

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.lang import Lang
        from pipeline.gmm.sat import train_sat
        from pipeline.hmm.threads import sharing

        with sharing(config.jobs):
            return train_sat(data, Lang.load(lang), ali, start, config, tmp, questions)

    inputs = {"data": data, "lang": lang, "ali": ali, "model": start, "questions": questions}
    run_step(processes, "cpu", out, inputs, config, action, overwrite, command="train_sat")


def _producer(ali: Path) -> Path:
    """The model directory that an alignment names."""
    from pipeline.base.errors import DataError
    from pipeline.base.files import read_json

    header = read_json(ali / "ali.json").get("header", {})
    producer = Path(str(header.get("producer")))
    if not producer.is_dir():
        raise DataError(f"{ali} was made by {producer}, which is not here; name the model with --model")
    return producer


if __name__ == "__main__":
    main()
