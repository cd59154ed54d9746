#!/usr/bin/env python3
"""Ties the states of an alignment by a decision tree."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.gmm.options import TieOptions
from pipeline.parallel.options import ParallelOptions


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
@cli.options(TieOptions)
@cli.options(ParallelOptions, "parallel")
@cli.step_options
def main(
    data: Path,
    lang: Path,
    ali: Path,
    out: Path,
    questions: Path | None,
    config: TieOptions,
    parallel: ParallelOptions,
    overwrite: bool,
) -> None:
    """Builds a decision tree from the alignment ALI of DATA and writes OUT, the same alignment with its leaves as
    labels.

    For networks over senones or chenones whose alignment comes from a neural HMM: no mixture model is trained.
    cf. Kaldi build-tree and convert-ali.
    """

    def action(tmp: Path) -> dict:
        from pipeline.gmm.tie import tie_states

        return tie_states(data, lang, ali, config, tmp, questions, parallel)

    cli.run_step(
        out,
        {"data": data, "lang": lang, "ali": ali, "questions": questions},
        config,
        action,
        overwrite,
        command="tie_states",
    )


if __name__ == "__main__":
    main()
