#!/usr/bin/env python3
"""Takes the utterances out of DECODED, a decoding directory, whose sentences stand in the data directories TEXT, and
writes the others to OUT.
"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command(help=__doc__)
@click.argument("decoded", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("texts", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.step_options
def main(decoded: Path, texts: tuple[Path, ...], out: Path, overwrite: bool) -> None:
    def action(tmp: Path) -> dict:
        from pipeline.artifacts.arpa import read_sentences
        from pipeline.artifacts.hyp import RECOGS, load_hypotheses, save_hypotheses
        from pipeline.base.errors import DataError

        known = {tuple(words) for text in texts for words in read_sentences(text)}
        hyps = load_hypotheses(decoded)
        new = [h for h in hyps if h.ref not in known]
        if not new:
            raise DataError(f"{decoded}: all its sentences stand in {', '.join(map(str, texts))}")
        save_hypotheses(tmp / RECOGS, new)
        return {"utterances": len(new), "known": len(hyps) - len(new)}

    inputs = {"decoded": decoded / "recogs.jsonl.gz", **{f"text{i}": text for i, text in enumerate(texts)}}
    cli.run_step(out, inputs, {}, action, overwrite, resume=False, command="new_sentences")


if __name__ == "__main__":
    main()
