#!/usr/bin/env python3
"""Scores recognised texts by the rules of NIST's sclite, against an .stm."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import ScoreStmOptions


@cli.command()
@click.argument("decoded", type=click.Path(exists=True, path_type=Path))
@click.argument("stm", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--glm",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Global map of the evaluation: rules that make spellings equal; without it words are compared as they are.",
)
@click.option("--id", "row_id", help="Id of the rows for the tables of results; without it none are written.")
@click.option("--part", default="test", show_default=True, help="Part that the row names; subsets are PART_NAME.")
@cli.options(ScoreStmOptions)
@cli.step_options
def main(
    decoded: Path, stm: Path, out: Path, glm: Path | None, row_id: str | None, part: str, config: ScoreStmOptions,
    overwrite: bool,
) -> None:  # fmt: skip
    """Scores DECODED, a decoding directory or a recogs.jsonl.gz, against STM and writes OUT: wer.txt, errs.txt.

    The utterances of DECODED are the stretches of STM. Alternatives, words in parentheses, fragments and stretches to
    be ignored count as with hubscr.pl of SCTK (sclite -F -D), which need not be installed.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.glm import Glm
        from pipeline.artifacts.hyp import load_hypotheses
        from pipeline.base.files import atomic_write, write_json
        from pipeline.tasks.score import total_errors
        from pipeline.tasks.score_stm import report, score_stm, stm_row, subsets

        rules = Glm() if glm is None else Glm.load(glm)
        scored = score_stm(load_hypotheses(decoded), stm, rules, {w.lower() for w in config.dropped}, str(decoded))
        some = subsets(scored, dict(entry.split("=") for entry in config.subsets))
        with atomic_write(tmp / "errs.txt") as f:
            f.writelines(f"{line}\n" for line in report(scored))
        rows = [stm_row(row_id or decoded.name, part, scored)]
        rows += [stm_row(row_id or decoded.name, f"{part}_{name}", of) for name, of in some.items()]
        lines = {
            row["part"]: total_errors([s.errors for s in of]).line() for row, of in zip(rows, [scored, *some.values()])
        }
        with atomic_write(tmp / "wer.txt") as f:
            f.writelines(f"{name} {line}\n" for name, line in lines.items())
        if row_id is not None:
            write_json(tmp / "results.json", rows)
        click.echo((tmp / "wer.txt").read_text(encoding="utf-8").strip())
        return {"wer": {row["part"]: row["value"] for row in rows}}

    file = decoded / "recogs.jsonl.gz" if decoded.is_dir() else decoded
    inputs = {"decoded": file, "stm": stm, "glm": glm}
    cli.run_step(
        out, inputs, {**cli.options_json(config), "id": row_id, "part": part}, action, overwrite, command="score_stm"
    )


if __name__ == "__main__":
    main()
