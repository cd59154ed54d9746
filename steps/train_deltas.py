#!/usr/bin/env python3
"""Triphone training on features with deltas."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.gmm.options import DeltasOptions
from pipeline.nn.together import run_step


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("ali", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--questions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of questions for the tree, a set of phones per line; without it they come from clustering.",
)
@cli.options(DeltasOptions)
@cli.torchrun_options
@cli.step_options
def main(
    data: Path,
    lang: Path,
    ali: Path,
    out: Path,
    questions: Path | None,
    config: DeltasOptions,
    processes: cli.Processes,
    overwrite: bool,
) -> None:
    """Trains tied triphones on DATA with the pronunciations of LANG, starting from the alignment ALI, and writes OUT.

    Builds a decision tree, starts each leaf as one Gaussian and grows the mixtures. Other context widths (--left,
    --right) and graphemes work alike. cf. Kaldi steps/train_deltas.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.lang import Lang
        from pipeline.gmm.triphone import train_deltas
        from pipeline.hmm.threads import sharing

        with sharing(config.jobs):
            return train_deltas(data, Lang.load(lang), ali, config, tmp, questions)

    run_step(
        processes,
        "cpu",
        out,
        {"data": data, "lang": lang, "ali": ali, "questions": questions},
        config,
        action,
        overwrite,
        command="train_deltas",
    )


if __name__ == "__main__":
    main()
