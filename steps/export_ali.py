#!/usr/bin/env python3
"""Writes an alignment as CTM, Praat TextGrids or lhotse supervisions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import ExportOptions


@cli.command()
@click.argument("ali", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The data directory that was aligned: exact durations, and what supervisions need.",
)
@cli.options(ExportOptions)
@cli.step_options
def main(ali: Path, out: Path, data: Path | None, config: ExportOptions, overwrite: bool) -> None:
    """Writes ALI to OUT: phones.ctm and words.ctm, or UTTERANCE.TextGrid files, or supervisions.jsonl.gz."""

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.ali import AliSet
        from pipeline.base.errors import ConfigError
        from pipeline.tasks import ali_formats

        if config.format == "supervisions" and data is None:
            raise ConfigError("--format supervisions needs --data, the data directory that was aligned")
        aligned = AliSet.load(ali)

        def cuts() -> Iterator[ali_formats.TimedCut]:
            return ali_formats.timed_cuts(aligned, data, config.strip_word_end)

        if config.format == "ctm":
            for tier in ("phones", "words"):
                ali_formats.write_ctm(tmp / f"{tier}.ctm", cuts(), tier)
        elif config.format == "textgrid":
            ali_formats.write_textgrids(tmp, cuts())
        else:
            ali_formats.write_supervisions(tmp / "supervisions.jsonl.gz", cuts())
        return {"utterances": len(aligned)}

    cli.run_step(out, {"ali": ali, "data": data}, config, action, overwrite, command="export_ali")


if __name__ == "__main__":
    main()
