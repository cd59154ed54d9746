#!/usr/bin/env python3
"""Writes pages to look at and listen to: alignments, what was recognised, how systems compare."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.artifacts.audio_id import audio_id
from pipeline.base import cli
from pipeline.experiments.html.options import ReportOptions

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@cli.command()
@click.argument("exp", type=DIRECTORY)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--data",
    multiple=True,
    type=DIRECTORY,
    help="A data directory whose utterances are shown too, beside those that the steps below EXP have read; may be "
    "repeated.",
)
@click.option(
    "--labels",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Times from elsewhere that are shown too: a folder of TextGrids, .ctm, .phn and .wrd files, or an alignment; "
    "may be repeated.",
)
@cli.options(ReportOptions)
@cli.step_options
def main(
    exp: Path, out: Path, data: tuple[Path, ...], labels: tuple[Path, ...], config: ReportOptions, overwrite: bool
) -> None:
    """Writes the folder OUT, whose index.html any browser shows without a network: all alignments, decodings and
    models below the directory EXP, such as egs/an4/exp.

    A page for an utterance plays it below waveform and spectrogram, with words, phones and states of every alignment
    and the recognised words; times can be corrected there and saved as a TextGrid for steps/import_ali.py.

    A report that stands in OUT already is remade when there is something else to show.
    """
    from pipeline.base import stamp
    from pipeline.experiments.html.sources import find_sources

    with cli.main_guard(out):
        sources = find_sources(exp, data, config.skip, out, labels)
        overwrite = overwrite or ((out / stamp.STAMP).is_file() and stamp.read_stamp(out).get("command") == "report")

    def action(tmp: Path) -> dict:
        from pipeline.experiments.html.folder import write_report

        return write_report(sources, tmp, config)

    audio = {f"audio{i}": lambda digests, d=d: audio_id(d, digests) for i, d in enumerate(sources.data)}
    cli.run_step(out, sources.inputs(), config, action, overwrite, command="report", resume=False, sources=audio)


if __name__ == "__main__":
    main()
