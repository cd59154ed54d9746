#!/usr/bin/env python3
"""Says which share of the gap between two systems a third one closes."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli

DECODED = click.Path(exists=True, file_okay=False, path_type=Path)


@cli.command()
@click.argument("first", type=DECODED)
@click.argument("best", type=DECODED)
@click.argument("decoded", type=DECODED)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--id", "row_id", required=True, help="Id of the row for the tables of results.")
@click.option("--part", default="test", show_default=True, help="Part that the row names.")
@cli.step_options
def main(first: Path, best: Path, decoded: Path, out: Path, row_id: str, part: str, overwrite: bool) -> None:
    """Compares DECODED with FIRST and BEST, decoding directories of the same data, and writes OUT/results.json: which
    share, in percent, of the errors that BEST saves against FIRST is saved by DECODED; no row if BEST saves none.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.hyp import load_hypotheses
        from pipeline.base.files import write_json
        from pipeline.tasks.gap import gap_row

        row = gap_row(row_id, part, *(load_hypotheses(directory) for directory in (first, best, decoded)))
        write_json(tmp / "results.json", [] if row is None else [row])
        return {name: value for name, value in (row or {}).items() if name in ("value", "low", "high")}

    inputs = {name: d / "recogs.jsonl.gz" for name, d in (("first", first), ("best", best), ("decoded", decoded))}
    cli.run_step(out, inputs, {"id": row_id, "part": part}, action, overwrite, command="score_gap")


if __name__ == "__main__":
    main()
