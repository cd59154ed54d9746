#!/usr/bin/env python3
"""Writes OUT/lexicon.txt: LEXICON with a variant for each pronunciation that begins with a vowel, a glottal stop q
before it; and OUT/plain.txt, the same without these variants.

TIMIT labels the glottal stop of "an apple" as q, which is no phone of the scored set (its time belongs to none), and
the dictionaries
lack it: without these variants it would be taken for part of the vowel. Phones are written in small letters, as TIMIT
    has them.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli

VOWELS = frozenset("aa ae ah ao aw ax ay eh el em en er ey ih ix iy ow oy uh uw".split())
GLOTTAL_STOP = "q"


@cli.command(help=__doc__)
@click.argument("lexicon", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.step_options
def main(lexicon: Path, out: Path, overwrite: bool) -> None:
    def action(tmp: Path) -> dict:
        from pipeline.artifacts.lexicon import Lexicon, Pronunciation
        from pipeline.artifacts.lexicon_formats import read_lexicon

        entries: list[Pronunciation] = []
        plain: list[Pronunciation] = []
        for entry in read_lexicon(lexicon).entries:
            phones = tuple(phone.lower() for phone in entry.phones)
            plain.append(Pronunciation(entry.word, phones))
            entries.append(plain[-1])
            if phones[0] in VOWELS:
                entries.append(Pronunciation(entry.word, (GLOTTAL_STOP, *phones)))
        Lexicon(entries).save(tmp / "lexicon.txt", probs=False)
        Lexicon(plain).save(tmp / "plain.txt", probs=False)
        return {"pronunciations": len(entries)}

    cli.run_step(out, {"lexicon": lexicon}, {}, action, overwrite, resume=False, command="add_glottal_stops")


if __name__ == "__main__":
    main()
