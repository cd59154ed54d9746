#!/usr/bin/env python3
"""Estimates the transition probabilities of a network in closed form."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.options import TransitionEmOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(TransitionEmOptions)
@cli.step_options
def main(data: Path, lang: Path, model: Path, out: Path, config: TransitionEmOptions, overwrite: bool) -> None:
    """Keeps the network of MODEL, sets its transition probabilities by EM on DATA, and writes OUT, a model like MODEL.

    The alternative to training them by gradients (Mann et al. 2023); works for hybrid networks too.
    """

    def action(tmp: Path) -> dict:
        from pipeline.nn.transition_em import estimate_transitions

        return estimate_transitions(data, lang, model, tmp, config)

    cli.run_step(
        out,
        inputs={"data": data, "lang": lang, "model": model},
        options=config,
        action=action,
        overwrite=overwrite,
        command="estimate_transitions",
    )


if __name__ == "__main__":
    main()
