#!/usr/bin/env python3
"""Trains grapheme-to-phoneme conversion on a lexicon."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli
from pipeline.g2p.options import G2pOptions


@cli.command()
@click.argument("lexicon", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@cli.options(G2pOptions)
@cli.step_options
def main(lexicon: Path, out: Path, config: G2pOptions, overwrite: bool) -> None:
    """Trains a joint-sequence model of letters and phones on LEXICON and writes OUT; steps/make_lexicon.py applies it.

    Some words are kept out of the training to measure errors on; a word counts as right when any of its variants is
    met.
    """

    def action(tmp: Path) -> dict:
        import logging

        from pipeline.artifacts.lexicon_formats import read_lexicon
        from pipeline.g2p.joint_units import G2p, held_out, test

        found = read_lexicon(lexicon, config.lexicon_format, config.stress)
        entries = [(e.word, e.phones) for e in found.entries]
        tested = held_out({word for word, _ in entries}, config.held_out, config.seed)
        model = G2p.train([e for e in entries if e[0] not in tested], config.order, config.iterations)
        model.save(tmp)
        errors = test(model, [e for e in entries if e[0] in tested])
        logging.getLogger("train_g2p").info(
            "%s units, %s", len(model.units), ", ".join(f"{k} {v:.2f}" for k, v in errors.items())
        )
        return {"units": len(model.units), "entries": len(model.sequences), **errors}

    cli.run_step(out, {"lexicon": lexicon}, config, action, overwrite, command="train_g2p")


if __name__ == "__main__":
    main()
