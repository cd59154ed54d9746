#!/usr/bin/env python3
"""Takes rare words out of training data and texts, so that a test set has words that no training has seen."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.tasks.train_options import HoldOutOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("text", type=click.Path(exists=True, path_type=Path))
@click.argument("lexicon", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(HoldOutOptions)
@cli.step_options
def main(data: Path, text: Path, lexicon: Path, out: Path, config: HoldOutOptions, overwrite: bool) -> None:
    """Writes OUT/data, the utterances of DATA without some rare words, OUT/text.txt and OUT/lexicon.txt, the
    sentences of TEXT and the entries of LEXICON without them, and OUT/held_out.txt, the words.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.split import hold_out_words

        return hold_out_words(data, text, lexicon, tmp, config)

    inputs = {"data": data, "text": text, "lexicon": lexicon}
    cli.run_step(out, inputs, config, action, overwrite, resume=False, command="hold_out_words")


if __name__ == "__main__":
    main()
