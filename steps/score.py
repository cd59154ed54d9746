#!/usr/bin/env python3
"""Scores recognised texts and compares two systems."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@click.command()
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
        from pipeline.artifacts.hyp import load_hypotheses
        from pipeline.base.files import atomic_write, write_json
        from pipeline.tasks.score import compare, error_report, unknown_word_rows, wer_row

        hyps = load_hypotheses(decoded)
        with atomic_write(tmp / "errs.txt") as f:
            f.writelines(line + "\n" for line in error_report(hyps))
        with atomic_write(tmp / "wer.txt") as f:
            f.write(next(iter(error_report(hyps))) + "\n")
        row, *others = rows = [wer_row(row_id or decoded.name, part, hyps)]
        if known is not None:
            others = unknown_word_rows(row_id or decoded.name, part, hyps, _words(known))
        told = {k: row[k] for k in ("value", "low", "high", "counts")}
        of_others = {r["metric"]: {k: r[k] for k in ("value", "low", "high", "counts")} for r in others}
        write_json(tmp / "score.json", {**told, **of_others})
        if row_id is not None:
            write_json(tmp / "results.json", rows + others)
        facts = {"wer": row["value"], "low": row["low"], "high": row["high"]}
        facts |= {r["metric"]: r["value"] for r in others}
        if against is not None:
            facts["compare"] = compare(load_hypotheses(against), hyps)
            write_json(tmp / "compare.json", facts["compare"])
        click.echo(
            (tmp / "wer.txt").read_text(encoding="utf-8").strip()
            + f"  95 % interval {row['low']:.2f} to {row['high']:.2f}"
        )
        for r in others:
            name = "recognised" if r["metric"] == "oov_found" else "right where one was recognised"
            counts = f"{r['counts']['correct']} / {r['counts']['words']}"
            click.echo(f"words outside of {known}: {r['value']:.2f} % {name} [ {counts} ]")
        return facts

    inputs = {"decoded": _file(decoded), "against": _file(against), "known": known}
    cli.run_step(out, inputs, {"id": row_id, "part": part}, action, overwrite, command="score")


def _words(known: Path) -> set[str]:
    from pipeline.artifacts.arpa import read_sentences
    from pipeline.artifacts.lang import Lang

    if (known / "lang.json").is_file():
        return set(Lang.load(known).words)
    return {word for sentence in read_sentences(known) for word in sentence}


def _file(path: Path | None) -> Path | None:
    return path / "recogs.jsonl.gz" if path is not None and path.is_dir() else path


if __name__ == "__main__":
    main()
