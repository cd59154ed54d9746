#!/usr/bin/env python3
"""Speaker transforms (fMLLR) for the second pass of decoding."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.gmm.options import EstimateFmllrOptions


@click.command()
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
@cli.step_options
def main(
    data: Path,
    lang: Path,
    model: Path,
    hyp: Path,
    out: Path,
    transforms: Path | None,
    config: EstimateFmllrOptions,
    overwrite: bool,
) -> None:
    """Estimates a transform for each speaker of DATA from HYP, a first-pass decoding directory, and writes OUT.

    decode.py and align.py take them as --transforms OUT. Estimating and decoding may be repeated with the better
    result. cf. Kaldi steps/decode_fmllr.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.checkpoint import check_same
        from pipeline.artifacts.hyp import load_hypotheses
        from pipeline.artifacts.lang import Lang
        from pipeline.artifacts.model_dir import load_hmm
        from pipeline.artifacts.posteriors import PosteriorSet
        from pipeline.base.stamp import artifact_id
        from pipeline.gmm.sat import estimate_fmllr, estimate_fmllr_soft

        if config.source == "words":
            texts = {h.cut_id: " ".join(h.hyp) for h in load_hypotheses(hyp)}
            return estimate_fmllr(data, Lang.load(lang), model, texts, config, tmp)
        found = PosteriorSet(hyp)
        check_same("tree", found.tree_id, hyp, load_hmm(model).tree.id, model)
        used = "" if transforms is None else artifact_id(transforms)
        check_same("transforms", found.transforms_id, hyp, used, transforms or "no transforms")
        return estimate_fmllr_soft(data, Lang.load(lang), model, found, config, tmp, transforms)

    inputs = {"data": data, "lang": lang, "model": model, "hyp": hyp}
    if transforms is not None:
        inputs["transforms"] = transforms
    cli.run_step(out, inputs, config, action, overwrite, command="estimate_fmllr")


if __name__ == "__main__":
    main()
