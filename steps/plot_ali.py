#!/usr/bin/env python3
"""Draws alignments below a spectrogram."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.artifacts.audio_id import audio_id
from pipeline.base import cli

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@cli.command()
@click.argument("data", type=DIRECTORY)
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("alis", nargs=-1, required=True, type=DIRECTORY, metavar="ALI...")
@click.option("--utt", multiple=True, help="Utterance to draw; may be repeated.  [default: the first --count of DATA]")
@click.option("--count", default=3, show_default=True, help="How many utterances to draw.")
@click.option(
    "--start", type=cli.Number(0), default=0.0, show_default=True, help="Seconds from the start of the utterance."
)
@click.option("--end", type=cli.Number(0), help="Seconds; by default the end of the utterance.")
@cli.step_options
def main(
    data: Path,
    out: Path,
    alis: tuple[Path, ...],
    utt: tuple[str, ...],
    count: int,
    start: float,
    end: float | None,
    overwrite: bool,
) -> None:
    """Writes OUT/UTTERANCE.png: the spectrogram and the phones of every ALI, under the gold times of DATA if it has
    them.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.plot_ali import plot_utterances

        return {"pictures": plot_utterances(data, alis, tmp, utt, count, start, end)}

    inputs = {"data": data, **{f"ali{i}": ali for i, ali in enumerate(alis)}}
    options = {"utt": list(utt), "count": count, "start": start, "end": end}
    sources = {"audio": lambda digests: audio_id(data, digests)}
    cli.run_step(out, inputs, options, action, overwrite, command="plot_ali", sources=sources)


if __name__ == "__main__":
    main()
