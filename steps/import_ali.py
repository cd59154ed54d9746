#!/usr/bin/env python3
"""Makes an alignment set of known phone times."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--frame-shift", type=cli.Number(0.001, 0.1), default=0.01, show_default=True, help="Seconds between frames."
)
@click.option(
    "--labels",
    type=click.Path(exists=True, path_type=Path),
    help="Take the times from here instead: TextGrids, such as those saved from a page of steps/report.py, .ctm, .phn "
    "and .wrd files, or an alignment. Only the utterances that have labels are written.",
)
@cli.step_options
def main(data: Path, lang: Path, out: Path, frame_shift: float, labels: Path | None, overwrite: bool) -> None:
    """Writes the times of phones in DATA (synthetic or labelled by hand), whose names must be phones of LANG, as the
    alignment OUT.

    It can then stand wherever an alignment by a model can: training on true times shows what better alignments could
    give.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.lang import Lang
        from pipeline.tasks.ali_import import import_times

        return {"utterances": import_times(data, Lang.load(lang), tmp, frame_shift, labels)}

    inputs = {"data": data, "lang": lang, "labels": labels}
    cli.run_step(out, inputs, {"frame_shift": frame_shift}, action, overwrite, command="import_ali")


if __name__ == "__main__":
    main()
