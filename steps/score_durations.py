#!/usr/bin/env python3
"""Compares the phone durations that a model's transition probabilities imply with measured ones."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("reference", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--id", "row_id", help="Id of the rows for the tables of results; without it no rows are written.")
@click.option("--part", default="train", show_default=True, help="Part that the rows name.")
@cli.step_options
def main(model: Path, reference: Path, out: Path, row_id: str | None, part: str, overwrite: bool) -> None:
    """Compares MODEL (or an alignment set) with REFERENCE, a data directory with gold times or an alignment set.

    A state that is left with probability f per frame lasts 1/f frames on average. Writes OUT: score.json, phones.tsv.
    """

    def action(tmp: Path) -> dict:
        import logging

        from pipeline.artifacts.ali import HEADER
        from pipeline.artifacts.model_dir import load_hmm
        from pipeline.base.files import atomic_write, write_json
        from pipeline.tasks.durations import (
            compare_durations,
            frame_shift_of,
            gold_silences,
            implied_seconds,
            measured_seconds,
        )
        from pipeline.tasks.score import result_row
        from pipeline.tasks.tiers import tiers_of

        is_ali = (reference / HEADER).is_file()
        tiers = tiers_of(reference) if is_ali else gold_silences(tiers_of(reference))
        implied, measured = implied_seconds(load_hmm(model), frame_shift_of(model)), measured_seconds(tiers)
        figures = compare_durations(implied, measured)
        logging.getLogger("score_durations").info(", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        write_json(tmp / "score.json", figures)
        with atomic_write(tmp / "phones.tsv") as f:
            f.write("phone\tcount\tmeasured_ms\timplied_ms\n")
            f.writelines(
                f"{p}\t{measured[p][1]}\t{1000 * measured[p][0]:.1f}\t{1000 * implied[p]:.1f}\n"
                for p in sorted(measured)
                if p in implied
            )
        if row_id is not None:
            write_json(
                tmp / "results.json",
                [result_row(row_id, part, name, value) for name, value in figures.items() if name != "phones"],
            )
        return figures

    cli.run_step(
        out,
        {"model": model, "reference": reference},
        {"id": row_id, "part": part},
        action,
        overwrite,
        command="score_durations",
    )


if __name__ == "__main__":
    main()
