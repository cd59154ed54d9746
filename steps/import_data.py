#!/usr/bin/env python3
"""Converts a corpus in any usual format into a data directory."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.corpora.options import ImportOptions


@cli.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory that relative paths of audio start from; by default it is looked for around SOURCE.",
)
@click.option(
    "--lexicon",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Report the words that this lexicon or list of words lacks: counts, near matches, OUT/oov.tsv.",
)
@cli.options(ImportOptions)
@cli.step_options
def main(
    source: Path, out: Path, root: Path | None, lexicon: Path | None, config: ImportOptions, overwrite: bool
) -> None:
    """Converts the corpus SOURCE, a folder or file, into OUT, a data directory as utils/validate_data.py wants it.

    Audio stays where it is if it is WAV or FLAC of one channel at the right rate, and becomes FLAC in OUT/audio
    otherwise. Utterances that cannot go in are listed in OUT/left_out.txt, and above --max-bad the step fails.
    """

    def action(tmp: Path) -> dict:
        from pipeline.corpora.importer import import_corpus

        return import_corpus(source, root, tmp, out, config, lexicon)

    def audio(digests) -> str:
        from pipeline.corpora.importer import audio_identity

        return audio_identity(source, root, config, digests)

    cli.run_step(
        out,
        {"source": source, "lexicon": lexicon},
        config,
        action,
        overwrite,
        command="import_data",
        sources={"audio": audio},
    )


if __name__ == "__main__":
    main()
