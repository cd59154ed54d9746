#!/usr/bin/env python3
"""Checks data directories: manifests, transcripts, speakers, audio files and features. Exit code 2 if one is broken."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command(help=__doc__)
@click.argument("data_dirs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR...")
@click.option(
    "--decode", is_flag=True, help="Decode all audio to its end instead of reading headers and the last samples."
)
def main(data_dirs: tuple[Path, ...], decode: bool) -> None:
    with cli.main_guard():
        from pipeline.artifacts.corpus import validate_data_dir
        from pipeline.artifacts.features import FEATURES_JSON

        for data_dir in data_dirs:
            facts = validate_data_dir(data_dir, decode=decode)
            told = f"{facts.num_utterances} utterances, {facts.num_speakers} speakers, {facts.seconds / 60:.1f} min"
            told += f", {facts.sampling_rate} Hz"
            if (data_dir / FEATURES_JSON).is_file():
                from pipeline.feats.dataset import validate_feats  # brings in torch

                feats = validate_feats(data_dir)
                told += f", {feats.num_frames} frames of {feats.dim} {feats.type}"
            click.echo(f"{data_dir}: {told}")


if __name__ == "__main__":
    main()
