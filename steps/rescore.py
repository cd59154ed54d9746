#!/usr/bin/env python3
"""Ranks n-best lists with another language model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import RescoreOptions


@cli.command()
@click.argument("decoded", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lm", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--weights-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Rescored directory (of a dev set) whose best LM weight and word penalty are used; without it all are tried.",
)
@click.option("--id", "row_id", help="Id of the row for the tables of results; without it no row is written.")
@click.option("--part", default="test", show_default=True, help="Part that the row names.")
@cli.options(RescoreOptions)
@cli.step_options
def main(
    decoded: Path,
    lm: Path,
    out: Path,
    weights_from: Path | None,
    row_id: str | None,
    part: str,
    config: RescoreOptions,
    overwrite: bool,
) -> None:
    """Replaces the language model scores in the n-best lists of DECODED (steps/decode.py --nbest) by those of LM, a
    directory with lm.arpa or an ARPA file, and writes OUT as steps/decode.py does. For trying several models on one
    search; steps/decode.py --rescore-lm ranks all paths of the lattices instead. cf. Kaldi steps/lmrescore.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.arpa import Arpa
        from pipeline.artifacts.hyp import load_nbest
        from pipeline.base.files import write_json
        from pipeline.tasks.rescore import rescore
        from pipeline.tasks.score import wer_row
        from pipeline.tasks.weights import choose_and_write, read_weights

        weights = [(w, p) for w in config.lm_weights for p in config.word_penalties]
        if weights_from is not None:
            weights = [read_weights(weights_from)]
        arpa = Arpa.load(lm / "lm.arpa" if lm.is_dir() else lm)
        hyps, facts = choose_and_write(rescore(load_nbest(decoded), arpa, weights, config.old_lm), tmp)
        if row_id is not None:
            write_json(tmp / "results.json", [wer_row(row_id, part, hyps, config=facts)])
        return facts

    inputs = {
        "nbest": decoded / "nbest.jsonl.gz",
        "lm": lm,
        "weights": None if weights_from is None else weights_from / "best.json",
    }
    cli.run_step(
        out, inputs, {**cli.options_json(config), "id": row_id, "part": part}, action, overwrite, command="rescore"
    )


if __name__ == "__main__":
    main()
