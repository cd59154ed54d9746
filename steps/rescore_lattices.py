#!/usr/bin/env python3
"""Gives lattices the scores of another language model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import RescoreLatticesOptions


@cli.command()
@click.argument("decoded", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lm", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--tokens",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Tokens that LM is over, if it is not over words.",
)
@click.option(
    "--weights-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Rescored directory (of a dev set) whose best LM weight and word penalty are used; without it all are tried.",
)
@click.option("--id", "row_id", help="Id of the row for the tables of results; without it no row is written.")
@click.option("--part", default="test", show_default=True, help="Part that the row names.")
@cli.options(RescoreLatticesOptions)
@cli.step_options
def main(
    decoded: Path,
    lm: Path,
    out: Path,
    tokens: Path | None,
    weights_from: Path | None,
    row_id: str | None,
    part: str,
    config: RescoreLatticesOptions,
    overwrite: bool,
) -> None:
    """Replaces the language model scores in the lattices of DECODED (steps/decode.py --lattices) by those of LM, a
    directory of steps/train_lm.py or steps/train_nn_lm.py or an ARPA file, and writes OUT as steps/decode.py does.

    The lattices become word lattices at the scale of the search (each word sequence once, with its best times); these
    are expanded by the histories of LM, within --beam and --histories, and best paths are found in the result with
    every pair of weights. steps/decode.py --rescore-lm instead looks for the best paths of every pair of weights in the
    lattices themselves, for n-grams alone. cf. Kaldi steps/lmrescore.sh, steps/rnnlmrescore.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.rescore_lattices import Sources, rescore_directory

        return rescore_directory(Sources(decoded, lm, tokens, weights_from), tmp, config, row_id, part)

    inputs = {
        "decoded": decoded,
        "lm": lm,
        "tokens": tokens,
        "weights": None if weights_from is None else weights_from / "best.json",
    }
    options = {**cli.options_json(config), "id": row_id, "part": part}
    cli.run_step(out, inputs, options, action, overwrite, command="rescore_lattices")


if __name__ == "__main__":
    main()
