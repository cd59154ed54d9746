#!/usr/bin/env python3
"""Phone error rate of DECODED, a decoding over 48 phones, with both sides folded to 39: OUT/results.json, OUT/per.txt.

As Kaldi's recipe scores (local/score_sclite.sh of egs/timit/s5): silence of the reference may be missing in what was
recognised, inserted silence is an error; reference phones are counted with their silences (7,215 in the core test set).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "local"))
from timit_labels import SCORED, SILENCE

from pipeline.base import cli


@cli.command(help=__doc__)
@click.argument("decoded", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--id", "row_id", required=True, help="Id of the row for the tables of results.")
@click.option("--part", required=True, help="Part that the row names.")
@cli.step_options
def main(decoded: Path, out: Path, row_id: str, part: str, overwrite: bool) -> None:
    options = {"id": row_id, "part": part}
    inputs = {"decoded": decoded / "recogs.jsonl.gz"}
    action = lambda tmp: score(decoded, tmp, row_id, part)  # noqa: E731
    cli.run_step(out, inputs, options, action, overwrite, resume=False, command="score_phones")


def score(decoded: Path, work_dir: Path, row_id: str, part: str) -> dict:
    """Write the row; returns facts for the stamp."""
    from pipeline.artifacts.hyp import load_hypotheses
    from pipeline.base.files import atomic_write, write_json
    from pipeline.tasks.score import result_row, shown_interval, total_errors, wer_interval

    hyps = load_hypotheses(decoded)
    errors = [count(fold(h.ref), fold(h.hyp)) for h in hyps]
    total = total_errors(errors)
    low, high = wer_interval(hyps, errors)
    counts = {"phones": total.words, "ins": total.ins, "del": total.dels, "sub": total.subs}
    write_json(work_dir / "results.json", [result_row(row_id, part, "per", total.wer, low, high, counts)])
    line = total.line().replace("%WER", "%PER")
    with atomic_write(work_dir / "per.txt") as f:
        f.write(f"{line}\n")
    click.echo(f"{line}  {shown_interval(low, high)}")
    return {"per": total.wer, "low": low, "high": high}


def fold(phones: Sequence[str]) -> tuple[str, ...]:
    """48 phones to 39."""
    return tuple(SCORED.get(phone, phone) for phone in phones)


def count(ref: Sequence[str], hyp: Sequence[str]):
    """Errors of the alignment with the fewest, in which silence of `ref` is deleted for nothing."""
    from pipeline.tasks.score import Errors

    # Each entry: (errors, insertions, deletions, substitutions) of a beginning of ref with one of hyp.
    row = [(j, j, 0, 0) for j in range(len(hyp) + 1)]
    for phone in ref:
        free = phone == SILENCE
        above, row = row, []
        for j in range(len(hyp) + 1):
            total, ins, dels, subs = above[j]
            best = (total, ins, dels, subs) if free else (total + 1, ins, dels + 1, subs)
            if j:
                total, ins, dels, subs = above[j - 1]
                wrong = phone != hyp[j - 1]
                best = min(best, (total + wrong, ins, dels, subs + wrong))
                total, ins, dels, subs = row[j - 1]
                best = min(best, (total + 1, ins + 1, dels, subs))
            row.append(best)
    return Errors(len(ref), *row[-1][1:])


if __name__ == "__main__":
    main()
