#!/usr/bin/env python3
"""How much faster steps are in parts, and what a part costs.

The data of a recipe (data/local, data/mfcc, a lang, a model with its graph) are repeated under new ids. Each step runs
with every number of parts in turn, several times over; the fastest run of each counts. Every part has one thread.
Outputs are compared byte by byte. Others may use the machine, so beside wall-clock seconds stand those that processors
were busy along the longest way: what the step itself took, and the part that took most. The cost of a part is the
processor time that a run in N parts takes beyond one process, by part.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from scaling import repeat  # noqa: E402

STEPS = {
    "features": "steps/compute_feats.py {d}/local {x}/feats --config {conf}",
    "alignment": "steps/align.py {d}/mfcc {lang} {model} {x}/ali",
    "decoding": "steps/decode.py {model} {graph} {d}/test {x}/decode --id x",
}
VOLATILE = ("stamp.json", "results.json", "index.safetensors", "digests.tsv.gz")


@click.command(help=__doc__)
@click.argument("recipe", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--size", default=10, show_default=True, help="How often the data are repeated.")
@click.option("--jobs", default="1,2", show_default=True, help="Numbers of parts.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--train", default="train", show_default=True, help="Part of the data for features and alignment.")
@click.option("--lang", default="data/lang_phone", show_default=True)
@click.option("--model", default="exp/mono", show_default=True)
@click.option("--graph", default="graph_2gram", show_default=True, help="Directory within the model's.")
@click.option("--conf", default="conf/mfcc.yaml", show_default=True, help="Configuration of the features.")
@click.option("--step", "chosen", multiple=True, type=click.Choice(list(STEPS)), help="Only these; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def main(
    recipe: Path, size: int, jobs: str, rounds: int, train: str, lang: str, model: str, graph: str, conf: str,
    chosen: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    numbers = [int(n) for n in jobs.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        repeat(recipe / "data/local" / train, top / "local", size)
        repeat(recipe / "data/mfcc" / train, top / "mfcc", size)
        repeat(recipe / "data/mfcc/test", top / "test", size)
        places = {"d": top, "x": top, "lang": recipe / lang, "model": recipe / model, "conf": recipe / conf}
        places["graph"] = recipe / model / graph
        for name, command in STEPS.items():
            if chosen and name not in chosen:
                continue
            row = compare(name, command.format(**places).split(), top, numbers, rounds)
            if as_json:
                click.echo(json.dumps(row))
            else:
                shown = ", ".join(
                    f"{n}: {row['seconds'][n]:.1f} s (busy {row['busy'][n]:.1f}, longest way {row['way'][n]:.1f})"
                    for n in numbers
                )
                first, last = numbers[0], numbers[-1]
                gain, ideal = (row[key][first] / row[key][last] for key in ("seconds", "way"))
                click.echo(
                    f"{name}: {shown}; {gain:.2f} times as fast, by processor time {ideal:.2f}; a part costs "
                    f"{row['cost']:.2f} s; load {row['load']}"
                )


def compare(name: str, command: list[str], top: Path, numbers: list[int], rounds: int) -> dict[str, Any]:
    """Wall-clock and processor seconds of a step by number of parts; a difference in the output is an error."""
    seconds, busy, way = ({n: float("inf") for n in numbers} for _ in range(3))
    outputs: dict[str, bytes] = {}
    out = next(Path(part) for part in command if part.startswith(str(top)) and not Path(part).exists())
    for _ in range(rounds):
        for number in numbers:
            wall, used = timed([*command, "--jobs", str(number)])
            logs = "\n".join(path.read_text() for path in (out / "log").glob("*.*-of-*.log"))
            parts = [float(found) for found in re.findall(r"the process has used ([0-9.]+) s", logs)]
            longest = used - sum(parts) + max(parts, default=0.0)
            seconds[number], busy[number] = min(seconds[number], wall), min(busy[number], used)
            way[number] = min(way[number], longest)
            files = (p for p in out.rglob("*") if p.is_file() and "log" not in p.relative_to(out).parts)
            found = {p.relative_to(out).as_posix(): p.read_bytes() for p in files if p.name not in VOLATILE}
            other = [file for file in found if outputs and found[file] != outputs.get(file)]
            assert not other, f"{name}: {number} parts write other bytes into {other}"
            outputs = found
            shutil.rmtree(out)
    last = numbers[-1]
    cost = (busy[last] - busy[numbers[0]]) / last
    load = round(os.getloadavg()[0], 1)
    return {"step": name, "seconds": seconds, "busy": busy, "way": way, "cost": cost, "load": load}


def timed(command: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step with one thread."""
    one = {f"{of}_NUM_THREADS": "1" for of in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    env = {**os.environ, **one, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / command[0]), *command[1:]], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
