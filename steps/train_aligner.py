#!/usr/bin/env python3
"""Trains an aligner on a corpus and aligns the corpus: TextGrids and a packed model from audio and text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.base import cli
from pipeline.tasks.train_options import TrainAlignerOptions

if TYPE_CHECKING:
    from pipeline.base.digests import Digests


@cli.command(context_settings={"show_default": True})
@click.argument("corpus", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--lexicon",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Pronunciations in any known format; words that it lacks are pronounced from their letters, as it does. "
    "Without it the units are letters.",
)
@cli.options(TrainAlignerOptions)
@cli.step_options
def main(corpus: Path, out: Path, lexicon: Path | None, config: TrainAlignerOptions, overwrite: bool) -> None:
    """Trains an aligner on CORPUS alone and writes OUT.

    CORPUS is a folder of audio and text, a Kaldi or lhotse directory, a table, long recordings with TextGrids, or
    whatever else steps/import_data.py reads. Punctuation is left out, and digits are written out if the language
    is known; to have it otherwise, import it first with options of its own.

    OUT/aligner.fsm aligns other recordings: `fullsum align OUT/aligner.fsm ..`. OUT/textgrids and the other files are
    those that it writes for CORPUS: OUT/quality.csv has the most suspicious utterances first, OUT/words.txt the
    pronunciations, OUT/failed.txt what could not be aligned. The models are sized by the hours of audio.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.train_aligner import train_aligner

        return train_aligner(corpus, tmp, config, lexicon, out.resolve().name)

    def audio(digests: Digests) -> str:
        from pipeline.tasks.align_corpus import audio_of

        return audio_of(corpus, digests)

    inputs = {"corpus": corpus, "lexicon": lexicon}
    cli.run_step(out, inputs, config, action, overwrite, command="train_aligner", sources={"audio": audio})


if __name__ == "__main__":
    main()
