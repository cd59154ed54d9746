#!/usr/bin/env python3
"""Chooses the weights of decoding on several held-out parts at once (cross-validation)."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("decoded", type=click.Path(exists=True, file_okay=False, path_type=Path), nargs=-1, required=True)
@click.option("--id", "row_id", help="Id of the row for the tables of results; without it no row is written.")
@click.option("--part", default="cv", show_default=True, help="Part that the row names.")
@cli.step_options
def main(out: Path, decoded: tuple[Path, ...], row_id: str | None, part: str, overwrite: bool) -> None:
    """Pools what steps/decode.py --tried recognised in the directories DECODED, chooses the LM weight and word penalty
    with the fewest errors over all of them, and writes OUT as steps/decode.py does. OUT serves as --weights-from.

    With models trained on all but one group of speakers, and that group decoded, all training data becomes a
    development
    set: one of a single group of a small corpus is too small to tell the weights apart.
    """

    def action(tmp: Path) -> dict:
        from pipeline.base.files import write_json
        from pipeline.tasks.score import wer_row
        from pipeline.tasks.weights import choose_and_write, pooled

        hyps, facts = choose_and_write(pooled(decoded), tmp)
        if row_id is not None:
            write_json(tmp / "results.json", [wer_row(row_id, part, hyps, config=facts)])
        return facts

    inputs = {f"decoded{i}": directory / "tried.jsonl.gz" for i, directory in enumerate(decoded)}
    cli.run_step(out, inputs, {"id": row_id, "part": part}, action, overwrite, command="pool_weights")


if __name__ == "__main__":
    main()
