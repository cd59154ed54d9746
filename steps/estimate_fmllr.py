#!/usr/bin/env python3
"""Speaker transforms (fMLLR) for the second pass of decoding."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import cli
from pipeline.gmm.options import EstimateFmllrOptions


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("hyp", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(EstimateFmllrOptions)
@cli.step_options
def main(data: Path, lang: Path, model: Path, hyp: Path, out: Path, config: EstimateFmllrOptions, overwrite: bool) -> None:
    """Estimates a transform for each speaker of DATA from the words in HYP, a first-pass decoding directory, and writes OUT.

    decode.py and align.py take them as --transforms OUT. Estimating and decoding may be repeated with the better words.
    cf. Kaldi steps/decode_fmllr.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.gmm.sat import estimate_fmllr
        from pipeline.hyp import load_hypotheses
        from pipeline.lang import Lang

        texts = {h.cut_id: " ".join(h.hyp) for h in load_hypotheses(hyp)}
        return estimate_fmllr(data, Lang.load(lang), model, texts, config, tmp)

    inputs = {"data": data, "lang": lang, "model": model, "hyp": hyp}
    cli.run_step(out, inputs, config, action, overwrite, command="estimate_fmllr")


if __name__ == "__main__":
    main()
