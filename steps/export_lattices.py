#!/usr/bin/env python3
"""Writes lattices in the formats of Kaldi or HTK."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import ExportLatticesOptions


@cli.command()
@click.argument("decoded", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(ExportLatticesOptions)
@cli.step_options
def main(decoded: Path, out: Path, config: ExportLatticesOptions, overwrite: bool) -> None:
    """Writes the lattices of DECODED, a directory of steps/decode.py or steps/rescore_lattices.py with --lattices, in
    another format to OUT. Utterances without lattice are left out. cf. Kaldi lattice-copy, utils/convert_slf.pl.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.lattice_export import export_lattices

        return export_lattices(decoded, tmp, config)

    inputs = {"decoded": decoded}
    cli.run_step(out, inputs, config, action, overwrite, command="export_lattices")


if __name__ == "__main__":
    main()
