#!/usr/bin/env python3
"""Builds the denominator graph of lattice-free sequence training."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.nn.sequence_options import PhoneLmOptions


@cli.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(PhoneLmOptions)
@cli.step_options
def main(data: Path, lang: Path, model: Path, out: Path, config: PhoneLmOptions, overwrite: bool) -> None:
    """Counts a phone n-gram on the transcripts of DATA by the lexicon of LANG and joins it with the tree of MODEL to
    OUT.

    The result is a graph like those of make_graph, over phones in place of words. cf. Kaldi chain-make-den-fst.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.index import load_index
        from pipeline.artifacts.lang import Lang
        from pipeline.artifacts.model_dir import load_hmm
        from pipeline.graph.decoding import expand_phone_graph
        from pipeline.graph.phone_lm import phone_ngram

        words, hmm = Lang.load(lang), load_hmm(model)
        hmm.check_lang(words, lang)
        index = load_index(data)
        texts = (words.word_ids(index.text(i), index.where(i)) for i in range(len(index)))
        phones = phone_ngram(words, texts, config.order, config.min_count)
        graph = expand_phone_graph(phones, words, hmm)
        graph.save(tmp)
        return {"histories": phones.num_states - 1, "states": graph.num_states, "arcs": graph.num_arcs}

    inputs = {"data": data, "lang": lang, "tree": model / "tree.json", "topo": model / "topo.json"}
    cli.run_step(out, inputs, config, action, overwrite, command="make_den_graph")


if __name__ == "__main__":
    main()
