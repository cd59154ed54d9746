#!/usr/bin/env python3
"""What the bias of other speakers' boundaries is worth, with sentences that all speakers read and without them.

ALI is an alignment or its CTM of phones, DATA a data directory with gold times. Speakers are dealt into folds, and each
is corrected by the differences of the other folds. Rows: mean absolute error of phone boundaries (starts and ends) as
they are and corrected, and the difference with its 95 % interval by bootstrap over the speakers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@click.command(help=__doc__)
@click.argument("ali", type=click.Path(exists=True, path_type=Path))
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--config", type=click.Path(exists=True, path_type=Path), required=True, help="Of steps/score_ali.py.")
@click.option("--shared", default="-sa", show_default=True, help="What ids of sentences have that all speakers read.")
@click.option("--folds", type=click.IntRange(2), default=4, show_default=True)
def main(ali: Path, data: Path, config: Path, shared: str, folds: int) -> None:
    import numpy as np

    from pipeline.base.cli import load_options
    from pipeline.graph.options import AliScoreOptions
    from pipeline.tasks.bias import BiasOptions, Difference, differences, estimate
    from pipeline.tasks.tiers import tiers_of

    scoring = load_options(AliScoreOptions, config, {})
    ours, gold = tiers_of(ali), tiers_of(data)
    click.echo("| sentences | as they are ms | corrected ms | difference ms |\n| --- | --- | --- | --- |")
    for name, left_out in (("all", None), (f"without *{shared}*", shared)):
        found: dict[str, list[Difference]] = {}
        for cut_id in gold:
            if cut_id in ours and (left_out is None or left_out not in cut_id):
                found.setdefault(gold[cut_id].speaker, []).extend(differences(ours[cut_id], gold[cut_id], scoring))
        bias = estimate(found, BiasOptions(folds=folds))
        sums = np.array(
            [
                (
                    sum(abs(d.seconds) for d in own),
                    sum(abs(d.seconds - bias.table(speaker).of(d.left, d.right)) for d in own),
                    len(own),
                )
                for speaker, own in sorted(found.items())
            ]
        )
        drawn = sums[np.random.default_rng(1).integers(0, len(sums), (10_000, len(sums)))].sum(1)
        low, high = np.quantile(1000 * (drawn[:, 1] - drawn[:, 0]) / drawn[:, 2], [0.025, 0.975])
        before, after = 1000 * sums[:, :2].sum(0) / sums[:, 2].sum()
        click.echo(f"| {name} | {before:.2f} | {after:.2f} | {after - before:+.2f} [{low:+.2f}, {high:+.2f}] |")


if __name__ == "__main__":
    main()
