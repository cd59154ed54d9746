#!/usr/bin/env python3
"""Draws the entropy of attention, layer by layer, over the epochs of trainings."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument(
    "models",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="MODEL...",
)
@click.option("--name", "names", multiple=True, help="Heading of a model's panel, once for each; else its directory.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Where else to put the picture, for a report."
)
@cli.step_options
def main(out: Path, models: tuple[Path, ...], names: tuple[str, ...], picture: Path | None, overwrite: bool) -> None:
    """Writes OUT/entropy.svg with a panel for each MODEL, a network whose encoder has self-attention.

    Entropies that fall to 0 are those of a training that has come to a stop (entropy collapse).
    """
    if names and len(names) != len(models):
        raise click.UsageError(f"{len(names)} times --name for {len(models)} models")

    def action(tmp: Path) -> dict:
        from pipeline.experiments.attention_curve import draw_entropies, entropies_of

        found = [entropies_of(model) for model in models]
        draw_entropies(tmp / "entropy.svg", dict(zip(names or map(str, models), found)))
        return {"lowest": {str(model): min(epochs[-1]) for model, epochs in zip(models, found)}}

    inputs = {f"model{i}": model for i, model in enumerate(models)}
    cli.run_step(out, inputs, {"names": list(names)}, action, overwrite, command="plot_attention")
    if picture is not None:
        with cli.main_guard():
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / "entropy.svg", picture)


if __name__ == "__main__":
    main()
