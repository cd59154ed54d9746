#!/usr/bin/env python3
"""How many wrong texts the quality of an alignment finds: swapped, cut in half, and shifted by half an utterance.

Row "right" has no wrong text: its false alarms are what a clean corpus gets. Of the first --num utterances of a data
directory, --wrong get a wrong text; all are aligned and measured. Printed are the wrong ones that are flagged, the
share of right ones that are flagged, and what single figures would find at 5 % of false alarms. (The figures and the
limit are those of pipeline/tasks/quality.py.)
"""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

KINDS = ("swapped", "cut", "shifted", "right")
FIGURES = ("gop", "worst_word", "silence", "duration", "confidence", "log_like")


def wrong_text(kind: str, at: int, texts: list[str], rng: Any) -> str:
    """A text that is not the one of utterance `at`."""
    words = texts[at].split()
    if kind == "swapped":
        return next(texts[k] for k in rng.permutation(len(texts)) if texts[k] != texts[at])
    if kind == "cut":
        return " ".join(words[: max(1, len(words) // 2)])
    following = texts[(at + 1) % len(texts)].split()
    return " ".join(words[len(words) // 2 :] + following[: len(words) // 2])


def run(kind: str, data: Path, lang: Path, model: Path, work: Path, num: int, wrong: int, seed: int) -> dict:
    """One row."""
    import numpy as np

    from pipeline.artifacts.ali import AliSet
    from pipeline.artifacts.corpus import iter_cuts
    from pipeline.artifacts.lang import Lang
    from pipeline.tasks import quality
    from pipeline.tasks.align import AlignOptions, align
    from pipeline.tasks.model import load_model

    rng = np.random.default_rng((seed, KINDS.index(kind)))
    cuts = [cut for _, cut in itertools.islice(iter_cuts(data), num)]
    texts = [cut["supervisions"][0]["text"] for cut in cuts]
    several = [i for i, text in enumerate(texts) if len(text.split()) > 1]  # half of one word is that word
    chosen = rng.choice(several, wrong, replace=False)
    chosen = chosen[: 0 if kind == "right" else wrong]
    for i in chosen:
        cuts[i]["supervisions"][0]["text"] = wrong_text(kind, i, texts, rng)
    for name in ("features.json", "cmvn.json"):
        shutil.copy(data / name, work / name)
    with gzip.open(work / "cuts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(cut) + "\n" for cut in cuts)
    scorer = load_model(model)
    options = AlignOptions(confidence=True, max_failed=1.0)
    report = align(scorer, Lang.load(lang), work, work / "ali", options, "quality")
    found = quality.measure(scorer, AliSet.load(work / "ali"), work, audio=False)
    bad = {cuts[i]["id"] for i in chosen}
    lost = len({cut_id for cut_id, _ in report.failed} & bad)  # fail aloud, which counts as found
    is_bad = np.array([q.cut_id in bad for q in found])
    flagged = quality.flagged(quality.suspicion(found))
    row = {"kind": kind, "wrong": len(chosen), "found": int(flagged[is_bad].sum()) + lost}
    row["false_alarms"] = float(flagged[~is_bad].mean())
    for name in FIGURES:
        values = np.array([getattr(q, name) for q in found]) * (1 if name == "duration" else -1)
        row[name] = int((values[is_bad] > np.quantile(values[~is_bad], 0.95)).sum()) + lost
    return row


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--num", default=200, show_default=True, help="Utterances.")
@click.option("--wrong", default=20, show_default=True, help="Of these, with a wrong text.")
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object per line.")
def main(data: Path, lang: Path, model: Path, num: int, wrong: int, seed: int, as_json: bool) -> None:
    logging.disable(logging.INFO)
    if not as_json:
        click.echo(f"| text | found of {wrong} | false alarms | {' | '.join(FIGURES)} |")
        click.echo("|" + " --- |" * (3 + len(FIGURES)))
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as work:
            row = run(kind, data, lang, model, Path(work), num, wrong, seed)
        if as_json:
            click.echo(json.dumps(row))
        else:
            alone = " | ".join(str(row[name]) for name in FIGURES)
            click.echo(f"| {kind} | {row['found']} | {row['false_alarms']:.1%} | {alone} |")


if __name__ == "__main__":
    main()
