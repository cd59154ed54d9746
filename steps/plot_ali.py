#!/usr/bin/env python3
"""Draws alignments below a spectrogram."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from pipeline.base import cli


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument(
    "alis", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="ALI..."
)
@click.option("--utt", multiple=True, help="Utterance to draw; may be repeated.  [default: the first --count of DATA]")
@click.option("--count", default=3, show_default=True, help="How many utterances to draw.")
@click.option("--start", default=0.0, show_default=True, help="Seconds from the start of the utterance.")
@click.option("--end", type=float, help="Seconds; by default the end of the utterance.")
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
        from pipeline.artifacts.ali import AliSet
        from pipeline.artifacts.corpus import load_cuts
        from pipeline.base.errors import DataError
        from pipeline.tasks.ali_score import tiers_of_ali, tiers_of_data
        from pipeline.tasks.plot_ali import plot_alignments

        tiers = {}
        with contextlib.suppress(DataError):  # real corpora have no gold times
            tiers["gold"] = tiers_of_data(data)
        distinct = len({ali.name for ali in alis}) == len(alis) and "gold" not in {ali.name for ali in alis}
        for ali in alis:
            tiers[ali.name if distinct else str(ali)] = tiers_of_ali(AliSet.load(ali))
        cuts = load_cuts(data)
        known = [c.id for c in cuts if all(c.id in t for t in tiers.values())]
        for name in utt or known[:count]:
            if name not in known:
                raise DataError(f"utterance {name!r} is not in {data} and all of the alignments")
            cut = cuts[name]
            rows = {label: t[name] for label, t in tiers.items()}
            plot_alignments(
                tmp / f"{name.replace('/', '_')}.png",
                cut.load_audio()[0],
                cut.sampling_rate,
                rows,
                f"{name}: {cut.supervisions[0].text}",
                start,
                end,
            )
        return {"pictures": len(utt or known[:count])}

    inputs = {"data": data, **{f"ali{i}": ali for i, ali in enumerate(alis)}}
    cli.run_step(
        out,
        inputs,
        {"utt": list(utt), "count": count, "start": start, "end": end},
        action,
        overwrite,
        command="plot_ali",
    )


if __name__ == "__main__":
    main()
