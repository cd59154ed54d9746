#!/usr/bin/env python3
"""Builds the decoding graph of a model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lm", type=click.Path(exists=True, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.step_options
def main(lang: Path, lm: Path, model: Path, out: Path, overwrite: bool) -> None:
    """Joins LANG, LM (a directory with lm.arpa, or an ARPA file) and tree and topology of MODEL to the graph OUT.

    Works for trees with any context, within words and across them. The scores of language model and transitions are
    kept apart, so decoding can weigh them anew without another graph. cf. Kaldi utils/mkgraph.sh.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.arpa import Arpa
        from pipeline.artifacts.lang import Lang
        from pipeline.artifacts.model_dir import load_hmm
        from pipeline.base.stamp import artifact_id
        from pipeline.graph.decoding import build_decoding_graph

        words, hmm = Lang.load(lang), load_hmm(model)
        hmm.check_lang(words, lang)
        graph = build_decoding_graph(words, Arpa.load(lm / "lm.arpa" if lm.is_dir() else lm), hmm)
        graph.save(tmp, {"lm_id": artifact_id(lm)})
        return {"states": graph.num_states, "arcs": graph.num_arcs}

    # Not the whole model: a graph depends on its tree and topology only, so retraining leaves the graph up to date.
    inputs = {"lang": lang, "lm": lm, "tree": model / "tree.json", "topo": model / "topo.json"}
    cli.run_step(out, inputs, {}, action, overwrite, command="make_graph")


if __name__ == "__main__":
    main()
