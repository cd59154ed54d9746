#!/usr/bin/env python3
"""Tells which utterances of an alignment cannot be trusted: wrong text, cut text, no speech."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli

DIR = click.Path(exists=True, file_okay=False, path_type=Path)


@cli.command()
@click.argument("ali", type=DIR)
@click.argument("data", type=DIR)
@click.argument("model", type=DIR)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--transforms", type=DIR, help="Directory of speaker transforms, for a model trained with them.")
@click.option("--audio/--no-audio", default=True, show_default=True, help="Read the audio for signal-to-noise ratios.")
@cli.step_options
def main(ali: Path, data: Path, model: Path, out: Path, transforms: Path | None, audio: bool, overwrite: bool) -> None:
    """Writes OUT/quality.csv: figures of each utterance of ALI by MODEL over DATA, the most suspicious ones first.

    What the columns mean stands at the head of pipeline/tasks/quality.py.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.ali import AliSet
        from pipeline.tasks.model import load_model
        from pipeline.tasks.quality import measure, write_quality

        found = measure(load_model(model, transforms=transforms), AliSet.load(ali), data, audio=audio)
        return {"utterances": len(found), "flagged": write_quality(tmp / "quality.csv", found)}

    inputs = {"ali": ali, "data": data, "model": model, "transforms": transforms}
    cli.run_step(out, inputs, {"audio": audio}, action, overwrite, command="score_quality")


if __name__ == "__main__":
    main()
