#!/usr/bin/env python3
"""Makes a larger test part of the synthetic corpus CORPUS, for tables whose cells the small one cannot tell apart:
3,000 utterances by 24 voices of their own, or by as many drawn ones as are asked for."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.synth.options import LargeTestOptions


@cli.command(help=__doc__)
@click.argument("corpus", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(LargeTestOptions)
@cli.step_options
def main(corpus: Path, out: Path, config: LargeTestOptions, overwrite: bool) -> None:
    def action(tmp: Path) -> dict:
        from pipeline.synth.tiny import make_large_test

        return make_large_test(corpus, tmp, out, config)

    inputs = {"lexicon": corpus / "lexicon.txt"}
    cli.run_step(out, inputs, config, action, overwrite=overwrite, resume=False, command="prepare_large_test")


if __name__ == "__main__":
    main()
