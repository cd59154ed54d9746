#!/usr/bin/env python3
"""Recognises speech with an end-to-end model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.e2e.search.options import SearchOptions
from pipeline.parallel.options import ParallelOptions


@cli.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("tokens", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--lm",
    type=click.Path(exists=True, path_type=Path),
    help="Language model for shallow fusion: directory of "
    "steps/train_nn_lm.py or steps/train_lm.py, or an ARPA file over words or tokens.",
)
@click.option(
    "--weights-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Decoding directory (of a dev set) whose best weights are used; without it all are tried.",
)
@click.option("--id", "row_id", help="Id of the row for the tables of results; without it no row is written.")
@click.option("--part", default="test", show_default=True, help="Part that the row names.")
@cli.options(SearchOptions)
@cli.options(ParallelOptions, "parallel")
@cli.step_options
def main(
    model: Path,
    tokens: Path,
    data: Path,
    out: Path,
    lm: Path | None,
    weights_from: Path | None,
    row_id: str | None,
    part: str,
    config: SearchOptions,
    parallel: ParallelOptions,
    overwrite: bool,
) -> None:
    """Recognises DATA with MODEL, which writes TOKENS, and writes OUT: recogs.jsonl.gz, errs.txt, wer.txt, best.json.

    Weights of CTC, language model and length are chosen by the word error rate on DATA, unless --weights-from names a
    directory that has chosen them.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.decode_e2e_parts import Sources, decode_directory

        sources = Sources(model, tokens, data, lm, weights_from)
        return decode_directory(sources, tmp, config, row_id, part, parallel)

    inputs = {
        "model": model,
        "tokens": tokens,
        "data": data,
        "lm": lm,
        "weights": None if weights_from is None else weights_from / "best.json",
    }
    cli.run_step(
        out, inputs, {**cli.options_json(config), "id": row_id, "part": part}, action, overwrite, command="decode_e2e"
    )


if __name__ == "__main__":
    main()
