#!/usr/bin/env python3
"""What adaptation to some speakers is worth to others of the same corpus, measured by hand-made times.

DATA is a data directory with gold times (egs/timit, data/local/sample). Its speakers are dealt into folds; MODEL is
adapted to the transcripts of all speakers but those of a fold (`fullsum adapt`), and aligns the fold. Rows are the
model as it is, and one for each tau: log-likelihood per frame of the Viterbi alignment, mean absolute errors of phone
starts and word boundaries, refined where the model says how. In parentheses: difference to the model as it is, with its
95 % interval by bootstrap over the speakers.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

FIGURES = ("log-likelihood", "phone starts ms", "word boundaries ms")


def split(data: Path, out: Path, folds: int) -> list[tuple[Path, Path]]:
    """(adapt, held out) data directories of each fold."""
    from pipeline.artifacts.corpus import load_cuts, save_data_dir

    cuts = list(load_cuts(data))
    speakers = sorted({cut.supervisions[0].speaker for cut in cuts})
    made = []
    for fold in range(folds):
        held, parts = set(speakers[fold::folds]), (out / f"{fold}/adapt", out / f"{fold}/held_out")
        for part, inside in zip(parts, (False, True)):
            save_data_dir(part, [cut for cut in cuts if (cut.supervisions[0].speaker in held) == inside])
        made.append(parts)
    return made


def by_speaker(packed: Path, data: Path, config: Path) -> dict:
    """Speaker -> (3, 2) sums and their counts of FIGURES."""
    import numpy as np

    from pipeline.artifacts.ali import AliSet
    from pipeline.base.cli import load_options
    from pipeline.graph.options import AliScoreOptions
    from pipeline.tasks.ali_score import score_alignment
    from pipeline.tasks.aligner import Aligner
    from pipeline.tasks.tiers import AliTiers, tiers_of

    with tempfile.TemporaryDirectory() as scratch:
        aligner = Aligner.load(packed)
        ali, _ = aligner.align_data(data, Path(scratch), aligner.options(confidence=False))
        viterbi = AliSet.load(Path(scratch) / "ali")
        likes = {cut_id: (viterbi[cut_id].log_like, viterbi.num_frames(cut_id)) for cut_id in viterbi}
        gold = tiers_of(data)
        score = score_alignment(AliTiers(ali), gold, load_options(AliScoreOptions, config, {}))
    found: dict = {}
    aligned = [cut_id for cut_id in gold if cut_id in likes]
    every_start, every_word = score.phones.sums()["start"], score.words.sums()["boundary"]
    for cut_id, speaker, starts, words in zip(aligned, score.groups, every_start, every_word):
        own = found.setdefault(speaker, np.zeros((3, 2)))
        own += [likes[cut_id], [1000 * starts[1], starts[0]], [1000 * words[1], words[0]]]
    return found


def row(name: str, ours: dict, base: dict) -> str:
    """A line of the table."""
    import numpy as np

    speakers, rng = sorted(base), np.random.default_rng(1)
    a, b = (np.stack([x[s] for s in speakers]) for x in (ours, base))  # (S, 3, 2)
    drawn = rng.integers(0, len(speakers), (10_000, len(speakers)))
    values = a.sum(0)[:, 0] / a.sum(0)[:, 1]
    sums = [x[drawn].sum(1) for x in (a, b)]
    gains = sums[0][..., 0] / sums[0][..., 1] - sums[1][..., 0] / sums[1][..., 1]  # (10000, 3)
    cells = []
    for value, old, gain in zip(values, b.sum(0)[:, 0] / b.sum(0)[:, 1], gains.T):
        low, high = np.quantile(gain, [0.025, 0.975])
        cells.append(f"{value:.2f}" + ("" if ours is base else f" ({value - old:+.2f} [{low:+.2f}, {high:+.2f}])"))
    return f"| {name} | {' | '.join(cells)} |"


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", default="english", show_default=True, help="Packed model or name of a shipped one.")
@click.option("--config", type=click.Path(exists=True, path_type=Path), required=True, help="Of steps/score_ali.py.")
@click.option("--folds", type=click.IntRange(2), default=4, show_default=True)
@click.option("--tau", "taus", type=float, multiple=True, default=(5.0, 20.0, 100.0), show_default=True)
def main(data: Path, model: str, config: Path, folds: int, taus: tuple[float, ...]) -> None:
    from pipeline.gmm.options import AdaptOptions
    from pipeline.tasks.adapt import adapt_packed
    from pipeline.tasks.aligner import find_model

    packed = find_model(model)
    click.echo(f"| model | {' | '.join(FIGURES)} |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        parts = split(data, Path(scratch), folds)
        base: dict = {}
        for _, held_out in parts:
            base |= by_speaker(packed, held_out, config)
        click.echo(row(packed.stem, base, base))
        for tau in taus:
            ours: dict = {}
            for adapt, held_out in parts:
                adapted = adapt.parent / f"{tau}.fsm"
                adapt_packed(packed, adapt, adapted, AdaptOptions(tau=tau))
                ours |= by_speaker(adapted, held_out, config)
            click.echo(row(f"adapted, tau {tau:g}", ours, base))


if __name__ == "__main__":
    main()
