#!/usr/bin/env python3
"""Scores recognised texts and compares two systems."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("decoded", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(exists=True, path_type=Path),
    metavar="DIR",
    help="Another decoding of the same data: OUT/compare.json says whether DECODED is better.",
)
@click.option(
    "--known",
    type=click.Path(exists=True, path_type=Path),
    metavar="LANG|TEXT",
    help="Words that count as known: those of a lang directory, or of a text (a sentence or a word a line) or a data "
    "directory. OUT/score.json then tells how many of the others were recognised.",
)
@click.option("--id", "row_id", help="Id of the row for the tables of results; without it no row is written.")
@click.option("--part", default="test", show_default=True, help="Part that the row names.")
@cli.step_options
def main(
    decoded: Path,
    out: Path,
    against: Path | None,
    known: Path | None,
    row_id: str | None,
    part: str,
    overwrite: bool,
) -> None:
    """Scores DECODED, a decoding directory or a recogs.jsonl.gz, and writes OUT: wer.txt, errs.txt, score.json."""

    def action(tmp: Path) -> dict:
        from pipeline.tasks.score_words import write_scores

        facts, lines = write_scores(decoded, tmp, row_id, part, against, known)
        click.echo("\n".join(lines))
        return facts

    inputs = {"decoded": _file(decoded), "against": _file(against), "known": known}
    cli.run_step(out, inputs, {"id": row_id, "part": part}, action, overwrite, command="score")


def _file(path: Path | None) -> Path | None:
    return path / "recogs.jsonl.gz" if path is not None and path.is_dir() else path


if __name__ == "__main__":
    main()
