#!/usr/bin/env python3
"""Monophone training from a flat start."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.gmm.options import MonoOptions
from pipeline.nn.together import run_step


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(MonoOptions)
@cli.torchrun_options
@cli.step_options
def main(data: Path, lang: Path, out: Path, config: MonoOptions, processes: cli.Processes, overwrite: bool) -> None:
    """Trains monophone mixtures on the features and transcripts of DATA with the pronunciations of LANG and writes OUT.

    Starts from equal alignments, then alternates Viterbi alignment (or full sums, --full-sum) with maximum-likelihood
    updates while the number of Gaussians grows. cf. Kaldi steps/train_mono.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.lang import Lang
        from pipeline.gmm.mono import train_mono
        from pipeline.hmm.threads import sharing

        with sharing(config.jobs):
            return train_mono(data, Lang.load(lang), config, tmp)

    run_step(processes, "cpu", out, {"data": data, "lang": lang}, config, action, overwrite, command="train_mono")


if __name__ == "__main__":
    main()
