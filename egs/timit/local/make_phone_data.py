#!/usr/bin/env python3
"""Makes data for phone recognition of TIMIT's parts in DATA: OUT/{train,dev,test} with the 48 phones of each utterance
as its words, OUT/lexicon.txt with a word for each phone, and OUT/lm_text.txt, the phones of train.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "local"))
from timit_labels import recognised_phones

from pipeline.base import cli
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write

PARTS = ("train", "dev", "test")


@cli.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.step_options
def main(data: Path, out: Path, overwrite: bool) -> None:
    inputs = {part: data / part for part in PARTS}
    action = lambda tmp: make(data, tmp)  # noqa: E731
    cli.run_step(out, inputs, {}, action, overwrite, resume=False, command="make_phone_data")


def make(data: Path, work_dir: Path) -> dict:
    """Write the parts, the lexicon and the text; returns facts for the stamp."""
    from pipeline.artifacts.corpus import load_cuts, save_data_dir, utterance

    phones: dict[str, list[str]] = {}
    for part in PARTS:
        cuts, phones[part] = [], []
        for cut in load_cuts(data / part):
            labels = (cut.supervisions[0].alignment or {}).get("phone61")
            if not labels:
                raise DataError(f"{data / part}: utterance {cut.id!r} has no phones")
            text = " ".join(recognised_phones([label.symbol for label in labels], f"utterance {cut.id!r}"))
            phones[part].append(text)
            cuts.append(utterance(cut.id, cut.recording, text, cut.supervisions[0].speaker, language="English"))
        save_data_dir(work_dir / part, cuts)
    known = {phone for text in phones["train"] for phone in text.split()}
    with atomic_write(work_dir / "lexicon.txt") as out:
        out.writelines(f"{phone} {phone}\n" for phone in sorted(known))
    with atomic_write(work_dir / "lm_text.txt") as out:
        out.writelines(f"{text}\n" for text in phones["train"])
    return {"utterances": {part: len(texts) for part, texts in phones.items()}, "phones": len(known)}


if __name__ == "__main__":
    main()
