#!/usr/bin/env python3
"""Speaker transforms (fMLLR) for the second pass of decoding."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.gmm.options import EstimateFmllrOptions
from pipeline.parallel.options import ParallelOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("hyp", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--transforms",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --source lattices: the transforms that HYP was decoded with, if any.",
)
@cli.options(EstimateFmllrOptions)
@cli.options(ParallelOptions, "parallel")
@cli.step_options
def main(
    data: Path,
    lang: Path,
    model: Path,
    hyp: Path,
    out: Path,
    transforms: Path | None,
    config: EstimateFmllrOptions,
    parallel: ParallelOptions,
    overwrite: bool,
) -> None:
    """Estimates a transform for each speaker of DATA from HYP, a first-pass decoding directory, and writes OUT.

    decode.py and align.py take them as --transforms OUT where MODEL was trained with such transforms;
    transform_feats.py takes those of any MODEL. Estimating and decoding may be repeated with the better
    result. cf. Kaldi steps/decode_fmllr.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.gmm.new_speakers import Sources, estimate_in_parts

        return estimate_in_parts(Sources(data, lang, model, hyp, transforms), config, tmp, parallel)

    inputs = {"data": data, "lang": lang, "model": model, "hyp": hyp}
    if transforms is not None:
        inputs["transforms"] = transforms
    cli.run_step(out, inputs, config, action, overwrite, command="estimate_fmllr")


if __name__ == "__main__":
    main()
