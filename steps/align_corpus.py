#!/usr/bin/env python3
"""Aligns a corpus with a packed model: TextGrids, CTM or JSON from audio and text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.base import cli
from pipeline.tasks.corpus_options import AlignCorpusOptions

if TYPE_CHECKING:
    from pipeline.base.digests import Digests


@cli.command(context_settings={"show_default": True})
@click.argument("model")
@click.argument("corpus", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--lexicon",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Pronunciations over the model's phones, lines of a word and its phones; they come before the model's own.",
)
@click.option(
    "--bias",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Bias of this model's boundaries, which steps/estimate_bias.py has found in some speech; it is taken off.",
)
@cli.options(AlignCorpusOptions)
@cli.step_options
def main(
    model: str,
    corpus: Path,
    out: Path,
    lexicon: Path | None,
    bias: Path | None,
    config: AlignCorpusOptions,
    overwrite: bool,
) -> None:
    """Aligns CORPUS with MODEL, a packed model or the name of a shipped one (english, english_nhmm), and writes OUT.

    CORPUS is a folder of audio and text, a Kaldi or lhotse directory, a table, long recordings with TextGrids, or
    whatever else steps/import_data.py reads. Punctuation is left out, and digits are written out if the language
    is known; to have it otherwise, import it first with options of its own.

    Words are looked up in the lexicon, whatever their case, and others are pronounced from their letters where the
    model can. OUT/failed.txt lists utterances without alignment, OUT/quality.csv figures of all others, the
    most suspicious ones first, OUT/quality_words.csv those of words, OUT/words.txt the pronunciations of the words.
    """
    from pipeline.tasks.aligner import find_model

    with cli.main_guard(out):
        path = find_model(model)

    def action(tmp: Path) -> dict:
        from pipeline.tasks.align_corpus import align_corpus

        return align_corpus(path, corpus, tmp, config, lexicon, out, bias)

    def audio(digests: Digests) -> str:
        from pipeline.tasks.align_corpus import audio_of

        return audio_of(corpus, digests)

    inputs = {"model": path, "corpus": corpus, "lexicon": lexicon, "bias": bias}
    cli.run_step(out, inputs, config, action, overwrite, command="align_corpus", resume=False, sources={"audio": audio})


if __name__ == "__main__":
    main()
