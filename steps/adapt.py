#!/usr/bin/env python3
"""Adapts a packed model to the speakers and recordings of a corpus."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.gmm.options import AdaptOptions


@cli.command()
@click.argument("model")
@click.argument("corpus", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--lexicon",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Pronunciations over the model's phones, lines of a word and its phones; they come before the model's own.",
)
@click.option("--name", help="Name of the adapted model; by default that of the file.")
@cli.options(AdaptOptions)
@cli.log_options
def main(model: str, corpus: Path, out: Path, lexicon: Path | None, name: str | None, config: AdaptOptions) -> None:
    """Adapts the mixtures of MODEL, a packed model or the name of a shipped one, to CORPUS and packs them into OUT.

    CORPUS is whatever `fullsum align` takes. Its transcripts are aligned, and the means move towards its frames, the
    further the more of them there are (--tau). OUT aligns like any other packed model: `fullsum align OUT CORPUS ..`.
    """
    with cli.main_guard():
        from pipeline.tasks.adapt import adapt_packed
        from pipeline.tasks.aligner import find_model

        told = adapt_packed(find_model(model), corpus, out, config, lexicon, name)
        click.echo(
            f"{out}: {told['utterances']} utterances, {told['gaussians_seen']:.0%} of the Gaussians seen; "
            f"log-likelihood per frame {told['log_like_before']:.3f} before, {told['log_like_after']:.3f} after",
            err=True,
        )


if __name__ == "__main__":
    main()
