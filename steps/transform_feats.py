#!/usr/bin/env python3
"""Writes the features of a GMM, speaker transforms included, as a data directory."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--transforms",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of speaker transforms (fMLLR): an adapted model itself for its training data, else of "
    "estimate_fmllr.",
)
@cli.step_options
def main(data: Path, model: Path, out: Path, transforms: Path | None, overwrite: bool) -> None:
    """Writes OUT, DATA with the features that the mixtures of MODEL see: LDA and MLLT, and fMLLR with --transforms.

    A network trained on OUT is speaker-adaptive; it is trained and decoded with --cmvn none. cf. Kaldi
    steps/nnet/make_fmllr_feats.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.gmm.transform_feats import transform_feats

        facts = transform_feats(data, model, transforms, tmp, out)
        return {"dim": facts.dim, "utterances": facts.num_utterances}

    cli.run_step(
        out,
        {"data": data, "model": model, "transforms": transforms},
        {},
        action,
        overwrite,
        command="transform_feats",
        resume=False,
    )


if __name__ == "__main__":
    main()
