#!/usr/bin/env python3
"""Gives an end-to-end model an HMM over its tokens, so that it aligns and decodes like other models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from pipeline.base import cli


@cli.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("tokens", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--head",
    type=click.Choice(["ctc", "transducer", "attention"]),
    default="ctc",
    show_default=True,
    help="Part of the model that says where tokens are.",
)
@cli.step_options
def main(
    model: Path, tokens: Path, lang: Path, out: Path, head: Literal["ctc", "transducer", "attention"], overwrite: bool
) -> None:
    """Writes OUT, the end-to-end MODEL with an HMM over the tokens in LANG (made by steps/make_lang.py --tokens
    TOKENS).

    steps/align.py then aligns with OUT: by the best CTC path, the best path of the transducer, or the attention
    weights. With
    --head ctc, steps/make_graph.py and steps/decode.py take it as well: CTC with a lexicon and a language model over
    words.
    """

    def action(tmp: Path) -> dict:
        from pipeline.e2e.scorer import export

        export(model, tokens, lang, tmp, head)
        return {"head": head}

    cli.run_step(
        out, {"model": model, "tokens": tokens, "lang": lang}, {"head": head}, action, overwrite, command="export_e2e"
    )


if __name__ == "__main__":
    main()
