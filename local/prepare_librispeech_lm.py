#!/usr/bin/env python3
"""Takes over the lexicon or a 3-gram that LibriSpeech is published with (OpenSLR 11).

WHAT is lexicon: OUT/lexicon.txt is librispeech-lexicon.txt of --lm-root; small or medium: OUT/lm.arpa is
3-gram.pruned.3e-7.arpa or 3-gram.pruned.1e-7.arpa, which may be packed (.gz). They are read to their end and checked.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines

FILES = {
    "lexicon": ("lexicon.txt", ("librispeech-lexicon.txt",)),
    "small": ("lm.arpa", ("3-gram.pruned.3e-7.arpa.gz", "3-gram.pruned.3e-7.arpa")),
    "medium": ("lm.arpa", ("3-gram.pruned.1e-7.arpa.gz", "3-gram.pruned.1e-7.arpa")),
}


@cli.command(help=__doc__)
@click.argument("what", type=click.Choice(list(FILES)))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--lm-root", type=click.Path(path_type=Path), required=True, help="Folder with the files of OpenSLR 11.")
@cli.step_options
def main(what: str, out: Path, lm_root: Path, overwrite: bool) -> None:
    with cli.main_guard():
        source = find(what, lm_root)
    cli.run_step(
        out,
        inputs={"source": source},
        options={"what": what},
        action=lambda tmp: prepare(what, source, tmp),
        overwrite=overwrite,
        resume=False,
        command="prepare_librispeech_lm",
    )


def find(what: str, root: Path) -> Path:
    """The file that is wanted; DataError if none of its names is there."""
    names = FILES[what][1]
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        raise DataError(f"{root}: no {' or '.join(names)}; --lm-root is the folder with the files of OpenSLR 11")
    return path


def prepare(what: str, source: Path, work_dir: Path) -> dict:
    """Copy the file line by line; returns facts for the stamp."""
    lines, last = 0, ""
    with atomic_write(work_dir / FILES[what][0]) as out:
        for lines, line in read_lines(source):
            if what == "lexicon" and len(line.split()) < 2:
                raise DataError(f"{source}:{lines}: needs 'WORD PHONE ..'")
            out.write(f"{line}\n")
            last = line.strip() or last
    if what != "lexicon" and last != "\\end\\":
        raise DataError(f"{source}: ends at line {lines} without \\end\\, so it is not complete")
    return {"lines": lines}


if __name__ == "__main__":
    main()
