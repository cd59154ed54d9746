#!/usr/bin/env python3
"""Recognises speech with a model and a decoding graph."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import DecodeOptions
from pipeline.parallel.options import ParallelOptions


@cli.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("graph", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--weights-from",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Decoding directory (of a dev set) whose best LM weight and word penalty are used; without it all are tried.",
)
@click.option(
    "--transforms",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of speaker transforms (fMLLR) for a model trained with them.",
)
@click.option(
    "--rescore-lm",
    type=click.Path(exists=True, path_type=Path),
    metavar="LM",
    help="Language model (directory or ARPA file) that replaces the graph's in the lattices before weights are chosen.",
)
@click.option("--id", "row_id", help="Id of the row for the tables of results; without it no row is written.")
@click.option("--part", default="test", show_default=True, help="Part that the row names.")
@cli.options(DecodeOptions)
@cli.options(ParallelOptions, "parallel")
@cli.step_options
def main(
    model: Path,
    graph: Path,
    data: Path,
    out: Path,
    weights_from: Path | None,
    transforms: Path | None,
    rescore_lm: Path | None,
    row_id: str | None,
    part: str,
    config: DecodeOptions,
    parallel: ParallelOptions,
    overwrite: bool,
) -> None:
    """Recognises DATA with MODEL and GRAPH and writes OUT: recogs.jsonl.gz, errs.txt, wer.txt, best.json, and more.

    LM weight and word penalty are chosen by the word error rate on DATA, unless --weights-from names a directory that
    has chosen them. With --rescore-lm a small GRAPH makes the lattices and a larger model has the last word. cf. Kaldi
    steps/decode.sh with local/score.sh, steps/lmrescore.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.tasks.decode_parts import Sources, decode_directory

        sources = Sources(model, graph, data, weights_from, transforms, rescore_lm)
        return decode_directory(sources, tmp, config, row_id, part, parallel)

    inputs = {"model": model, "graph": graph, "data": data} | {
        "transforms": transforms,
        "rescore_lm": rescore_lm,
        "weights": None if weights_from is None else weights_from / "best.json",
    }
    cli.run_step(
        out, inputs, {**cli.options_json(config), "id": row_id, "part": part}, action, overwrite, command="decode"
    )


if __name__ == "__main__":
    main()
