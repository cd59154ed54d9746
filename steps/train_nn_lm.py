#!/usr/bin/env python3
"""Trains an LSTM language model over tokens."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.e2e.search.options import NnLmOptions


@cli.command()
@click.argument("text", type=click.Path(exists=True, path_type=Path))
@click.argument("tokens", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--dev",
    type=click.Path(exists=True, path_type=Path),
    help="Text by whose loss the best epochs are chosen and whose perplexity is reported.",
)
@cli.options(NnLmOptions)
@cli.step_options
def main(text: Path, tokens: Path, out: Path, dev: Path | None, config: NnLmOptions, overwrite: bool) -> None:
    """Trains OUT on TEXT, one sentence a line, or on a data directory's transcripts, for shallow fusion of models over
    TOKENS.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.arpa import read_sentences
        from pipeline.artifacts.tokens import Tokens
        from pipeline.e2e.lm import train_nn_lm

        dev_sentences = None if dev is None else read_sentences(dev)
        return train_nn_lm(read_sentences(text), Tokens.load(tokens), config, tmp, dev_sentences)

    cli.run_step(out, {"text": text, "tokens": tokens, "dev": dev}, config, action, overwrite, command="train_nn_lm")


if __name__ == "__main__":
    main()
