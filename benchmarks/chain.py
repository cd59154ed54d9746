#!/usr/bin/env python3
"""Time and memory of the GMM chain, monophones to speaker-adaptive triphones with all alignments, step by step.

Runs the commands of a recipe's stage 3 in a scratch directory and measures each from outside: wall-clock seconds from
the start of the interpreter to its end, processor seconds over all threads, and the high-water mark of resident memory.
With several runs the fastest of each step counts, since other work on the machine only ever adds. Where a machine is
never idle the processor seconds say more.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import Cost, measure  # noqa: E402

# name, script, arguments behind DATA and LANG ({x}: scratch directory, {c}: configurations of the recipe)
STEPS = (
    ("mono", "train_mono", "{x}/mono --config {c}/mono.yaml"),
    ("mono, alignment", "align", "{x}/mono {x}/mono_ali"),
    ("tri1", "train_deltas", "{x}/mono_ali {x}/tri1 --config {c}/tri1.yaml"),
    ("tri1, alignment", "align", "{x}/tri1 {x}/tri1_ali"),
    ("tri2 (LDA, MLLT)", "train_lda_mllt", "{x}/tri1_ali {x}/tri2 --config {c}/tri2.yaml"),
    ("tri2, alignment", "align", "{x}/tri2 {x}/tri2_ali"),
    ("tri3 (SAT)", "train_sat", "{x}/tri2_ali {x}/tri3 --config {c}/tri3.yaml"),
    ("tri3, alignment", "align", "{x}/tri3 {x}/tri3_ali --transforms {x}/tri3"),
)
# Kaldi's own recipe for the same data (mono, tri1, LDA and MLLT, SAT, each with its alignments), 2 jobs on 2 cores.
KALDI_AN4 = {"mono": 34, "tri1": 17, "tri2 (LDA, MLLT)": 23, "tri3 (SAT)": 37}


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("lang", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("conf", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count(), show_default=True)
@click.option("--runs", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file; standard output when not given."
)
def main(data: Path, lang: Path, conf: Path, threads: int, runs: int, out: Path | None) -> None:
    from pipeline.base import stamp
    from pipeline.base.files import read_json
    from pipeline.experiments.results_page import markdown_table

    frames = read_json(data / "features.json")["num_frames"]
    best: dict[str, Cost] = {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as scratch:
            for name, script, rest in STEPS:
                arguments = [data, lang, *rest.format(x=scratch, c=conf).split()]
                found = measure(ROOT / "steps" / f"{script}.py", arguments, threads)
                best[name] = min(best.get(name, found), found)
    rows = []
    for name, (took, busy, peak) in best.items():
        rows.append(
            [name, f"{took:.1f}", f"{busy:.1f}", f"{frames / took:,.0f}", f"{peak:,.0f}", str(KALDI_AN4.get(name, ""))]
        )
    total, busy, peak = (
        sum(b[0] for b in best.values()),
        sum(b[1] for b in best.values()),
        max(b[2] for b in best.values()),
    )
    kaldi = sum(KALDI_AN4.values())
    rows.append(
        ["all", f"{total:.1f}", f"{busy:.1f}", f"{frames / total:,.0f}", f"{peak:,.0f}", f"120 (steps: {kaldi})"]
    )
    table = markdown_table(
        [
            "stage",
            "seconds",
            "processor seconds",
            "frames per second",
            "peak memory, MiB",
            "Kaldi's recipe on AN4, seconds",
        ],
        rows,
    )
    text = (
        f"# Time of the GMM chain\n\nWritten by `benchmarks/chain.py "
        f"{' '.join(os.path.relpath(p, ROOT) for p in (data, lang, conf))}"
        f" --threads {threads} --runs {runs}`.\n\n{frames:,} frames; {stamp.cpu_name()}. Each stage is a command "
        f"of its own: starting "
        f"Python, loading features and writing are in its time. The fastest of {runs} runs.\nKaldi's recipe: "
        f"shell scripts with 2 "
        f"jobs, each stage with its alignments, on a similar machine of 2 cores; 120 s in all.\n\n{table}"
    )
    if out is None:
        click.echo(text)
    else:
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
