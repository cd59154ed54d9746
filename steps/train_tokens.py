#!/usr/bin/env python3
"""Makes the tokens of end-to-end models from a text."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.artifacts.tokens import TokenOptions
from pipeline.base import cli


@cli.command()
@click.argument("text", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(TokenOptions)
@cli.step_options
def main(text: Path, out: Path, config: TokenOptions, overwrite: bool) -> None:
    """Makes OUT (tokens.txt, tokens.json, bpe.model) of TEXT, one sentence a line, or of a data directory's
    transcripts.
    """

    def action(tmp: Path) -> dict:
        import logging

        from pipeline.artifacts.arpa import read_sentences
        from pipeline.artifacts.tokens import train_tokens
        from pipeline.base.errors import naming

        sentences = list(read_sentences(text))
        with naming(text):
            tokens = train_tokens(sentences, config)
        tokens.save(tmp)
        words = sum(map(len, sentences))
        facts = {
            "tokens": len(tokens),
            "words": words,
            "sentences": len(sentences),
            "tokens_per_word": sum(len(tokens.encode(" ".join(s))) for s in sentences) / words,
        }
        logging.getLogger("train_tokens").info("%d tokens, %.2f per word", len(tokens), facts["tokens_per_word"])
        return facts

    cli.run_step(out, {"text": text}, config, action, overwrite, command="train_tokens")


if __name__ == "__main__":
    main()
