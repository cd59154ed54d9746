#!/usr/bin/env python3
"""Draws word and frame errors over the time of a training."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument(
    "decoded",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DECODED...",
)
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Where else to put the picture, for a report."
)
@cli.step_options
def main(model: Path, out: Path, decoded: tuple[Path, ...], picture: Path | None, overwrite: bool) -> None:
    """Writes OUT/curve.svg and OUT/curve.json for the epochs of MODEL.

    DECODED are decodings of the models after each epoch (train_async.py --keep-epochs leaves MODEL/epoch-1,
    MODEL/epoch-2 ..), in order. Frame errors are those on the dev data of the training.
    """

    def action(tmp: Path) -> dict:
        from pipeline.base.files import write_json
        from pipeline.experiments.training_curve import curve_of, draw_curve

        points = curve_of(model, decoded)
        draw_curve(tmp / "curve.svg", {model.name: points})
        write_json(tmp / "curve.json", [p._asdict() for p in points])
        return {"points": len(points)}

    cli.run_step(
        out,
        {"model": model, **{f"decoded{i}": d for i, d in enumerate(decoded)}},
        {},
        action,
        overwrite,
        command="plot_training",
    )
    if picture is not None:
        with cli.main_guard():
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / "curve.svg", picture)


if __name__ == "__main__":
    main()
