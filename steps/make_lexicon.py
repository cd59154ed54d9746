#!/usr/bin/env python3
"""Makes the lexicon of a text: known words from a lexicon, the rest by grapheme-to-phoneme conversion."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.artifacts.lexicon_formats import LexiconOptions
from pipeline.base import cli


@cli.command()
@click.argument("lexicon", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("g2p", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("texts", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(LexiconOptions)
@cli.step_options
def main(lexicon: Path, g2p: Path, texts: tuple[Path, ...], out: Path, config: LexiconOptions, overwrite: bool) -> None:
    """Pronounces all words of TEXTS (files with a sentence a line, or data directories) and writes OUT/lexicon.txt.

    Words that LEXICON lacks get one pronunciation from the model G2P and are listed in OUT/predicted.txt.
    """

    def action(tmp: Path) -> dict:
        from pipeline.artifacts.arpa import read_sentences
        from pipeline.artifacts.lexicon import Lexicon
        from pipeline.artifacts.lexicon_formats import read_lexicon
        from pipeline.g2p.joint_units import G2p, pronounce_all

        words = sorted({w for text in texts for sentence in read_sentences(text) for w in sentence})
        known = read_lexicon(lexicon, config.lexicon_format, config.stress)
        predicted = pronounce_all(G2p.load(g2p), [w for w in words if w not in known])
        entries = [e for w in words if w in known for e in known.by_word[w]]
        Lexicon(sorted([*entries, *predicted], key=lambda e: e.word)).save(tmp / "lexicon.txt", probs=False)
        Lexicon(predicted).save(tmp / "predicted.txt", probs=False)
        return {"words": len(words), "predicted": len(predicted)}

    inputs = {"lexicon": lexicon, "g2p": g2p, **{f"text{i}": text for i, text in enumerate(texts, 1)}}
    cli.run_step(out, inputs, config, action, overwrite, command="make_lexicon")


if __name__ == "__main__":
    main()
