#!/usr/bin/env python3
"""Time and memory of long recordings: best paths, their confidence, and gradients of the full sum.

Each row is a fresh process with a left-to-right chain of S states over T frames of random scores. "whole" keeps all
T x S cells, "pieces" one row in sqrt(T / 2) and computes the others again, with the same bits. Memory is the high-water
mark of resident memory over what was resident before, scores not included; the whole is run only where it fits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PDFS = 200
SIZES = ("36000x10000", "360000x30000", "360000x100000")
JOBS = ("viterbi", "confidence", "gradient")
MOST_CELLS = 1_000_000_000  # of a whole table that is tried: 4 GB of rows


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def run(size: str, job: str, way: str) -> dict:
    """One row, measured in this process."""
    import torch

    from pipeline.hmm import convert, full_sum, numba_calls, viterbi

    def work(frames: int, states: int) -> tuple[float, float, float]:
        torch.manual_seed(0)
        labels = torch.randint(0, PDFS, (states,)).tolist()
        graph = convert.linear([labels], [[0] * states], [[1] * states], num_pdfs=PDFS)
        scores = torch.empty(1, frames, PDFS)
        for part in scores[0].split(10_000):
            part.copy_(torch.randn(part.shape).log_softmax(-1))
        before, begin, lengths = resident("VmRSS"), time.perf_counter(), torch.tensor([frames])
        if job == "gradient":
            total = full_sum(graph, scores.requires_grad_(), lengths)
            total.sum().backward()
        else:
            total = viterbi(graph, scores, lengths, confidence=job == "confidence").scores
        return float(total), time.perf_counter() - begin, resident("VmHWM") - before

    frames, states = map(int, size.split("x"))
    limit = numba_calls.MAX_CELLS
    for numba_calls.MAX_CELLS in (1, limit):  # compiles
        work(100, 30)
    if way == "whole":
        numba_calls.MAX_CELLS = 1 << 60
    score, seconds, mib = work(frames, states)
    return {"size": size, "job": job, "way": way, "score": score, "seconds": seconds, "peak_mib": mib}


@click.command()
@click.option("--size", "sizes", multiple=True, default=SIZES, show_default=True, help="Frames x states.")
@click.option("--job", "jobs", multiple=True, type=click.Choice(JOBS), default=JOBS, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object per line.")
@click.option("--row", nargs=3, hidden=True, help="Measure one row in this process.")
def main(sizes: tuple[str, ...], jobs: tuple[str, ...], threads: int, as_json: bool, row: tuple[str, ...]) -> None:
    """Measures long recordings in one piece and in pieces."""
    if row:
        import torch

        torch.set_num_threads(threads)
        click.echo(json.dumps(run(*row)))
        return
    if not as_json:
        click.echo("| frames x states | what | how | seconds | ratio to whole | MiB |")
        click.echo("| --- | --- | --- | --- | --- | --- |")
    for size in sizes:
        fits = int(size.split("x")[0]) * int(size.split("x")[1]) <= MOST_CELLS
        for job in jobs:
            whole = None
            for way in ("whole", "pieces") if fits else ("pieces",):
                command = [sys.executable, __file__, "--row", size, job, way, "--threads", str(threads)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ)
                if done.returncode:
                    raise click.ClickException(f"{size} {job} {way} failed")
                got = json.loads(done.stdout)
                whole = got["seconds"] if way == "whole" else whole
                got["ratio_to_whole"] = None if whole is None else got["seconds"] / whole
                if as_json:
                    click.echo(json.dumps(got))
                else:
                    ratio = "" if whole is None else f"{got['ratio_to_whole']:.2f}"
                    click.echo(f"| {size} | {job} | {way} | {got['seconds']:.1f} | {ratio} | {got['peak_mib']:,.0f} |")


if __name__ == "__main__":
    main()
