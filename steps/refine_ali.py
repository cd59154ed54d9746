#!/usr/bin/env python3
"""Refines the boundaries of an alignment with one model or several."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.parallel.options import ParallelOptions
from pipeline.tasks.boundaries import BoundaryOptions

DIR = click.Path(exists=True, file_okay=False, path_type=Path)


@cli.command(context_settings={"show_default": True})
@click.argument("ali", type=DIR)
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--by",
    "pairs",
    type=(DIR, DIR),
    multiple=True,
    required=True,
    metavar="MODEL DATA",
    help="A model and the data directory with features for it; may be given several times.",
)
@click.option(
    "--transforms",
    "adapted",
    type=(DIR, DIR),
    multiple=True,
    metavar="MODEL DIR",
    help="Speaker transforms of one of the models.",
)
@cli.options(BoundaryOptions)
@cli.options(ParallelOptions, "parallel")
@cli.step_options
def main(
    ali: Path,
    out: Path,
    pairs: tuple[tuple[Path, Path], ...],
    adapted: tuple[tuple[Path, Path], ...],
    config: BoundaryOptions,
    parallel: ParallelOptions,
    overwrite: bool,
) -> None:
    """Keeps words and phones of ALI and writes OUT, an alignment of finer resolution with boundaries at the medians of
    their posterior distributions, averaged over the models.
    """
    with cli.main_guard():
        sources = _sources(pairs, dict(adapted))

    def action(tmp: Path) -> dict:
        from pipeline.tasks.boundaries_parts import refine_in_parts

        return refine_in_parts(ali, sources, tmp, config, " ".join(str(s.model) for s in sources), parallel)

    inputs = {"ali": ali}
    for i, source in enumerate(sources, 1):
        inputs |= {f"model{i}": source.model, f"data{i}": source.data, f"transforms{i}": source.transforms}
    cli.run_step(out, inputs, config, action, overwrite, command="refine_ali")


def _sources(pairs: tuple[tuple[Path, Path], ...], adapted: dict[Path, Path]) -> list:
    from pipeline.base.errors import ConfigError
    from pipeline.tasks.boundaries import Source

    unknown = set(adapted) - {model for model, _ in pairs}
    if unknown:
        raise ConfigError(f"--transforms names {sorted(unknown)[0]}, which is not among the models of --by")
    return [Source(model, data, adapted.get(model)) for model, data in pairs]


if __name__ == "__main__":
    main()
