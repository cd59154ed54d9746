#!/usr/bin/env python3
"""Scores an alignment against gold times or another alignment."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import AliScoreOptions


@cli.command()
@click.argument("ali", type=click.Path(exists=True, path_type=Path))
@click.argument("reference", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--id", "row_id", help="Id of the rows for the tables of results; without it no rows are written.")
@click.option("--part", default="test", show_default=True, help="Part that the rows name.")
@cli.options(AliScoreOptions)
@cli.step_options
def main(
    ali: Path, reference: Path, out: Path, row_id: str | None, part: str, config: AliScoreOptions, overwrite: bool
) -> None:
    """Compares the times of ALI with those of REFERENCE and writes OUT: score.json, phones.tsv.

    Both are an alignment, a data directory with gold times, or hand-made or other programs' labels: a file or folder of
    TextGrids with tiers of words and phones, .ctm, or TIMIT's .phn and .wrd. Utterances are matched by name; a file's
    is its path below the folder. Times count from the beginning of what the name stands for. Case of words does not
    matter; phones must be named alike, see --config.

    Figures: time stamp error (TSE, Mann et al. 2023), mean absolute error of boundaries, share of boundaries within 10,
    20 and 50 ms, silence share; for words too.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.ali_score import score_directory

        return score_directory(ali, reference, tmp, config, row_id, part)

    cli.run_step(
        out,
        {"ali": ali, "reference": reference},
        {**cli.options_json(config), "id": row_id, "part": part},
        action,
        overwrite,
        command="score_ali",
    )


if __name__ == "__main__":
    main()
