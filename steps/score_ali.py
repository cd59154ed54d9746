#!/usr/bin/env python3
"""Scores an alignment against gold times or another alignment."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import AliScoreOptions

SHOWN = {
    "tse_ms",
    "boundary_mae_ms",
    "start_mae_ms",
    "end_mae_ms",
    "within_20ms",
    "word_boundary_mae_ms",
    "silence_share",
}
REPORTED = SHOWN | {"within_10ms", "within_50ms", "start_within_20ms", "end_within_20ms", "word_within_20ms"}


@click.command()
@click.argument("ali", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("reference", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--id", "row_id", help="Id of the rows for the tables of results; without it no rows are written.")
@click.option("--part", default="test", show_default=True, help="Part that the rows name.")
@cli.options(AliScoreOptions)
@cli.step_options
def main(
    ali: Path, reference: Path, out: Path, row_id: str | None, part: str, config: AliScoreOptions, overwrite: bool
) -> None:
    """Compares ALI with REFERENCE, a data directory with gold times or another alignment, and writes OUT: score.json,
    phones.tsv.

    Figures: time stamp error (TSE, Mann et al. 2023), mean absolute error of boundaries, share of boundaries within 10,
    20 and 50 ms, silence share; for words too.
    """

    def action(tmp: Path) -> dict:
        import logging

        from pipeline.artifacts.ali import HEADER, AliSet
        from pipeline.base.files import atomic_write, write_json
        from pipeline.tasks.ali_score import figures, phone_table, score_alignment, tiers_of_ali, tiers_of_data
        from pipeline.tasks.score import result_row

        log = logging.getLogger("score_ali")
        ours = tiers_of_ali(AliSet.load(ali))
        is_ali = (reference / HEADER).is_file()
        score = score_alignment(
            ours, tiers_of_ali(AliSet.load(reference)) if is_ali else tiers_of_data(reference), config
        )
        metrics = figures(score, config)
        for name in sorted(SHOWN & set(metrics)):
            m = metrics[name]
            spread = "" if m["low"] is None else f" [{m['low']:.2f}, {m['high']:.2f}]"
            log.info(
                "%s %.2f%s  %s", name, m["value"], spread, ", ".join(f"{k} {v:.6g}" for k, v in m["counts"].items())
            )
        write_json(tmp / "score.json", metrics)
        with atomic_write(tmp / "phones.tsv") as f:
            f.writelines(line + "\n" for line in phone_table(score))
        if row_id is not None:
            write_json(
                tmp / "results.json",
                [
                    result_row(row_id, part, name, m["value"], m["low"], m["high"], m["counts"])
                    for name, m in metrics.items()
                    if name in REPORTED
                ],
            )
        return {name: m["value"] for name, m in metrics.items()}

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
