#!/usr/bin/env python3
"""Recognises speech with a model and a decoding graph."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import DecodeOptions


@click.command()
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
    overwrite: bool,
) -> None:
    """Recognises DATA with MODEL and GRAPH and writes OUT: recogs.jsonl.gz, errs.txt, wer.txt, best.json.

    LM weight and word penalty are chosen by the word error rate on DATA, unless --weights-from names a directory that
    has chosen them. With --rescore-lm a small GRAPH makes the lattices and a larger model has the last word. cf. Kaldi
    steps/decode.sh with local/score.sh, steps/lmrescore.sh.
    """

    def action(tmp: Path) -> dict:
        from dataclasses import asdict

        from pipeline.artifacts.arpa import Arpa
        from pipeline.artifacts.model_dir import load_hmm
        from pipeline.artifacts.occupancies import save_occupancies
        from pipeline.base.files import write_json
        from pipeline.base.stamp import artifact_id
        from pipeline.graph.decoding import DecodingGraph
        from pipeline.graph.lm_lattice import LatticeRescorer
        from pipeline.tasks.decode import check_graph, decode, read_weights, report
        from pipeline.tasks.score import result_row, wer_row
        from pipeline.tasks.scorer import load_scorer

        hmm, hclg = load_hmm(model), DecodingGraph.load(graph)
        check_graph(hclg, graph, hmm)
        scorer = load_scorer(model, config.prior_scale, transforms, config.device, config.blank_penalty)
        weights = [(w, p) for w in config.lm_weights for p in config.word_penalties]
        if weights_from is not None:
            weights = [read_weights(weights_from)]
        rescorer = None
        if rescore_lm is not None:
            rescorer = LatticeRescorer(
                Arpa.load(rescore_lm / "lm.arpa" if rescore_lm.is_dir() else rescore_lm), hclg.words
            )
        decoded = decode(scorer, hmm, hclg, data, config, weights, rescorer)
        if config.posteriors:
            save_occupancies(
                tmp, decoded.occupancies, hmm.tree.id, "" if transforms is None else artifact_id(transforms)
            )
        hyps, facts = report(decoded, list(hclg.words), tmp, config)
        if row_id is not None:
            settings = {k: v for k, v in {**asdict(config), **facts}.items() if not isinstance(v, tuple)}
            write_json(
                tmp / "results.json",
                [
                    wer_row(row_id, part, hyps, config=settings),
                    result_row(row_id, part, "rtf", facts["real_time_factor"], config=settings),
                ],
            )
        return facts

    inputs = {
        "model": model,
        "graph": graph,
        "data": data,
        "transforms": transforms,
        "rescore_lm": rescore_lm,
        "weights": None if weights_from is None else weights_from / "best.json",
    }
    cli.run_step(
        out, inputs, {**cli.options_json(config), "id": row_id, "part": part}, action, overwrite, command="decode"
    )


if __name__ == "__main__":
    main()
