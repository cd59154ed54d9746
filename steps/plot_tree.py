#!/usr/bin/env python3
"""Draws the decision tree of a model, or tells its statistics."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.base import cli


@cli.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--phone", help="Only the roots of this phone.")
@click.option("--state", type=int, help="Only the roots of this HMM-state (pdf-class, from 0).")
@click.option(
    "--text", is_flag=True, help="Print leaves, depth, frames and gain of each root, and the questions that gain most."
)
@click.option("--most", default=20, show_default=True, help="Questions that --text lists.")
@cli.log_options
def main(model: Path, out: Path | None, phone: str | None, state: int | None, text: bool, most: int) -> None:
    """Writes a picture of the tree of MODEL to OUT, an .svg, .png or .pdf file; a file that is there is replaced.

    Each question stands above (yes) or below (no) what follows from it; # is the place beyond an utterance's ends. With
    --text statistics are printed and OUT may be left out. Any directory with a tree.json will do, alignments too.
    cf. Kaldi draw-tree, tree-info.
    """
    if out is None and not text:
        raise click.UsageError("name OUT, or ask for --text")
    with cli.main_guard(out):
        from pipeline.gmm.plot_tree import load_view, plot_tree, statistics

        view = load_view(model, phone, state)
        if text:
            click.echo(statistics(view, most), nl=False)
        if out is not None:
            plot_tree(view, out)


if __name__ == "__main__":
    main()
