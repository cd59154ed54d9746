#!/usr/bin/env python3
"""Makes the synthetic corpus: OUT/{train,dev,test}, OUT/audio, OUT/lexicon.txt, OUT/lm_text.txt."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.synth.options import TinyOptions


@cli.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(TinyOptions)
@cli.step_options
def main(out: Path, config: TinyOptions, overwrite: bool) -> None:
    def action(tmp: Path) -> dict:
        from pipeline.synth.tiny import make_tiny_corpus

        return make_tiny_corpus(tmp, out, config)

    cli.run_step(out, {}, config, action, overwrite=overwrite, resume=False, command="prepare_tiny")


if __name__ == "__main__":
    main()
