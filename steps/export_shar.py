#!/usr/bin/env python3
"""Writes a data directory as lhotse Shar."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.feats.options import SharOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(SharOptions)
@cli.step_options
def main(data: Path, out: Path, config: SharOptions, overwrite: bool) -> None:
    """Writes cuts and features of DATA into OUT/shar, shards that are read from the front to the back.

    For object stores and slow shared disks. Whatever takes a data directory with features takes OUT as well, but for
    steps that write some of its utterances with their features (select_data.py, pseudo_label.py);
    steps/import_shar.py unpacks it onto the disk of a machine that trains; lhotse reads it by CutSet.from_shar.
    """

    def action(tmp: Path) -> dict:
        from pipeline.feats.shar import export_shar

        return export_shar(data, tmp, config)

    cli.run_step(out, {"data": data}, config, action, overwrite, command="export_shar", resume=False)


if __name__ == "__main__":
    main()
