#!/usr/bin/env python3
"""Makes a lang directory from a lexicon."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.graph.options import LangOptions


@cli.command()
@click.argument("lexicon", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--tokens",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Tokens of an end-to-end model: the "
    "words of LEXICON are spelt with them, one state each, and silence is the blank.",
)
@cli.options(LangOptions)
@cli.step_options
def main(lexicon: Path, out: Path, tokens: Path | None, config: LangOptions, overwrite: bool) -> None:
    """Makes OUT, a lang (phones, words, pronunciations, topology), from LEXICON, lines of a word and its phones.

    With --unit grapheme only the words of LEXICON are used, which may be a list of words; they are spelt with their
    letters.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.lang import make_lang
        from pipeline.artifacts.lexicon import grapheme_lexicon
        from pipeline.artifacts.lexicon_formats import read_lexicon, read_words
        from pipeline.artifacts.token_lang import token_lang
        from pipeline.artifacts.tokens import Tokens
        from pipeline.base.errors import naming

        form = "kaldi_probs" if config.probs else config.lexicon_format
        if tokens is not None:
            config.check_tokens()
            lang = token_lang(read_words(lexicon, form), Tokens.load(tokens), config.silence_prob)
        else:
            if config.unit == "grapheme":
                words = read_words(lexicon, form)
                with naming(lexicon):
                    entries = grapheme_lexicon(words, config.drop)
            else:
                entries = read_lexicon(lexicon, form, config.stress)
            with naming(lexicon):
                lang = make_lang(
                    entries,
                    config.unit,
                    config.position,
                    config.oov_word,
                    config.silence_prob,
                    config.speech_states,
                    config.silence_states,
                    config.speech_forward,
                    config.silence_forward,
                    config.blank,
                )
        lang.save(tmp)
        return {
            "phones": len(lang.phones) - 1,
            "words": len(lang.words) - 1,
            "pronunciations": len(lang.lexicon.entries),
        }

    cli.run_step(out, {"lexicon": lexicon, "tokens": tokens}, config, action, overwrite, command="make_lang")


if __name__ == "__main__":
    main()
