#!/usr/bin/env python3
"""Unpacks a data directory from lhotse Shar."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("shar", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.step_options
def main(shar: Path, out: Path, overwrite: bool) -> None:
    """Unpacks SHAR, which steps/export_shar.py has written, into OUT, a data directory with the same features.

    Shards are read one after the other, in little memory; OUT had better be on a disk of this machine.
    """

    def action(tmp: Path) -> dict:
        from pipeline.feats.shar import import_shar

        return import_shar(shar, tmp, out)

    cli.run_step(out, {"shar": shar}, {}, action, overwrite, command="import_shar", resume=False)


if __name__ == "__main__":
    main()
