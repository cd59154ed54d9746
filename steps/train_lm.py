#!/usr/bin/env python3
"""Estimates an n-gram language model over the vocabulary of a lang."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import LmOptions


@cli.command()
@click.argument("text", type=click.Path(exists=True, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--dev", type=click.Path(exists=True, path_type=Path), help="Text whose perplexity is reported.")
@click.option("--leave-out", type=click.Path(exists=True, path_type=Path), help="Text whose sentences do not count.")
@cli.options(LmOptions)
@cli.step_options
def main(
    text: Path, lang: Path, out: Path, dev: Path | None, leave_out: Path | None, config: LmOptions, overwrite: bool
) -> None:
    """Estimates OUT/lm.arpa on TEXT (one sentence a line, or a data directory) for the words of LANG.

    Words that LANG lacks count as its unknown word, or, where it has none, as <unk>, which cannot be recognised. LANG
    may also be the tokens of an end-to-end model (steps/train_tokens.py); the model is then one over tokens.
    """

    def action(tmp: Path) -> dict:
        import logging

        from pipeline.artifacts.arpa import UNK, read_sentences, train_kneser_ney, train_unigram
        from pipeline.artifacts.lang import Lang
        from pipeline.artifacts.oov import UnknownWords
        from pipeline.artifacts.tokens import FACTS, Tokens
        from pipeline.base.errors import DataError
        from pipeline.base.log import setup_default

        setup_default()
        if (lang / FACTS).is_file():
            tokens = Tokens.load(lang)
            words, unknown, spell = tokens.pieces[3:], UNK, tokens.spell
        else:
            vocabulary = Lang.load(lang)
            words, unknown, spell = list(vocabulary.words)[1:], vocabulary.oov_word or UNK, lambda words: list(words)
        known = {*words, unknown}
        lacking = UnknownWords(known, str(lang))
        gone = set() if leave_out is None else set(map(tuple, read_sentences(leave_out)))
        sentences = []
        for sentence in (spell(s) for s in read_sentences(text) if tuple(s) not in gone):
            lacking.add(sentence)
            sentences.append([w if w in known else unknown for w in sentence])
        if lacking.counts:
            lacking.log()
        if not sentences:
            raise DataError(f"{text}: has no sentence that {leave_out} has not")
        if config.order == 1:
            arpa = train_unigram(sentences, words, config.add)
        else:
            arpa = train_kneser_ney(sentences, config.order, config.min_counts, config.prune)
        arpa.save(tmp / "lm.arpa")
        facts = {
            "ngrams": arpa.by_order,
            "sentences": len(sentences),
            "words": sum(map(len, sentences)),
            "unknown_words": sum(s.count(unknown) for s in sentences),
        }
        if dev is not None:
            facts["dev"] = arpa.perplexity(map(spell, read_sentences(dev)))
        logging.getLogger("train_lm").info("%s", ", ".join(f"{k} {v}" for k, v in facts.items()))
        return facts

    inputs = {"text": text, "lang": lang, "dev": dev, "leave_out": leave_out}
    cli.run_step(out, inputs, config, action, overwrite, command="train_lm")


if __name__ == "__main__":
    main()
