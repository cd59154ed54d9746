#!/usr/bin/env python3
"""Computes features of DATA_IN and writes OUT, a data directory with features and normalisation statistics."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.artifacts.audio_id import audio_id
from pipeline.base import cli
from pipeline.feats.options import FeatureOptions
from pipeline.parallel.options import ParallelOptions


@cli.command(help=__doc__)
@click.argument("data_in", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(FeatureOptions)
@cli.options(ParallelOptions, "parallel")
@cli.step_options
def main(data_in: Path, out: Path, config: FeatureOptions, parallel: ParallelOptions, overwrite: bool) -> None:
    def action(tmp: Path) -> dict:
        from pipeline.feats.compute import compute_in_parts

        facts = compute_in_parts(data_in, tmp, out, config, parallel)
        return {"utterances": facts.num_utterances, "frames": facts.num_frames, "dim": facts.dim}

    cli.run_step(
        out,
        {"data": data_in},
        config,
        action,
        overwrite=overwrite,
        command="compute_feats",
        sources={"audio": lambda digests: audio_id(data_in, digests)},
    )


if __name__ == "__main__":
    main()
