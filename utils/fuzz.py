#!/usr/bin/env python3
"""Damages inputs of all readers and options of all steps at random; counts what is neither read nor refused."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.base.files import atomic_write
from pipeline.base.stamp import code_version
from tests.fuzz.campaign import Counts, keep, replay, run
from tests.fuzz.formats import all_formats

MOST_KEPT = 3  # inputs of each kind of finding
ABOUT = """# Damaged inputs

Every file that the program reads may be broken: cut short, edited by hand, written by another tool, in another
encoding, or made to do harm. `utils/fuzz.py` makes such files of small sound ones and reads them as the steps do. An
input may be read, or refused by an error that names the file or the utterance (exit code 2); everything else is a
finding: another exception, a process that dies (compiled code works with what has been read, too), more than 20 s,
more than 1 GiB, or an error that does not say where.

- Files are damaged in their bytes (flipped, cut, moved, extreme numbers in headers), in their lines and fields
  (swapped, doubled, NaN, `1e400`, `²`, `../x`), in their characters (NUL, no-break spaces, UTF-16, bare carriage
  returns, NFD), and in the values of JSON, YAML, safetensors and zip (null, other types, halves of surrogate pairs,
  nesting, numbers of 5,000 digits, missing keys, other dtypes), such that lengths and check sums around them are right.
- `step options` calls every step with one option that makes no sense; its inputs are empty.
- Input number i of a format is a function of the seed: `--findings DIR` keeps the damaged files, `--replay` reads one
  again.
- What stands in data is never run, fetched or unpacked elsewhere: `tests/test_nothing_runs.py`. A recording of type
  `url`, which lhotse would fetch, is refused by every step, and no option allows it: stamps know audio by the content
  of files, and a server may give other bytes tomorrow; who wants it fetches it first. Commands in Kaldi's `wav.scp` run
  with `fullsum import --allow-commands` alone, without a shell, and become files; those in manifests never do.

The tests read 2,000 inputs (`tests/fuzz`).
"""


@click.command()
@click.option("--inputs", default=2000, show_default=True, help="Damaged inputs, over all formats.")
@click.option("--seed", default=1, show_default=True, help="Other seeds give other inputs.")
@click.option("--format", "wanted", multiple=True, help="Only this format, which may be given several times.")
@click.option("--findings", type=click.Path(path_type=Path), help="Directory that gets the inputs of findings.")
@click.option("--counts", type=click.Path(path_type=Path), help="JSON-lines file to which the counts are added.")
@click.option("--page", type=click.Path(path_type=Path), help="Markdown page that gets the counts.")
@click.option("--replay", "place", type=click.Path(path_type=Path), help="Read one of the findings again, and stop.")
def main(
    inputs: int,
    seed: int,
    wanted: tuple[str, ...],
    findings: Path | None,
    counts: Path | None,
    page: Path | None,
    place: Path | None,
) -> None:
    """Prints a line for each format; exits with 1 where there was a finding."""
    formats = all_formats()
    logging.disable()
    if place is not None:
        click.echo(": ".join(replay(formats, place)))
        return
    unknown = set(wanted) - set(formats)
    if unknown:
        raise click.BadParameter(f"{sorted(unknown)[0]!r}; there are {', '.join(formats)}", param_hint="--format")
    chosen = [formats[name] for name in wanted or formats]
    results: list[tuple[str, Counts]] = []
    start = time.monotonic()
    for i, kind in enumerate(chosen):
        result = run(kind, range(inputs // len(chosen) + (i < inputs % len(chosen))), seed)
        results.append((kind.name, result))
        click.echo(line(*results[-1]))
        for number in result.examples(MOST_KEPT) if findings is not None else ():
            keep(kind, result.findings[number], seed, findings or Path())
        if counts is not None:
            row = {"format": kind.name, "seed": seed, "inputs": result.inputs, "read": result.read}
            row |= {"refused": result.refused, "findings": result.kinds()}
            with open(counts, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    found = sum(len(result.findings) for _, result in results)
    click.echo(f"{inputs:,} inputs, {found:,} findings")
    if page is not None:
        minutes = (time.monotonic() - start) / 60
        with atomic_write(page) as out:
            out.write(f"{ABOUT}\n{table(results, inputs, seed, minutes)}")
    sys.exit(1 if found else 0)


def line(name: str, result: Counts) -> str:
    """What became of the inputs of a format, and its kinds of findings."""
    told = f"{name:16} {result.inputs:7,} inputs: {result.read:7,} read, {result.refused:7,} refused"
    return told + "".join(f"\n    {count:5} x {kind}" for kind, count in result.kinds().items())


def table(results: Sequence[tuple[str, Counts]], inputs: int, seed: int, minutes: float) -> str:
    """The counts in Markdown."""
    command = f"utils/fuzz.py --inputs {inputs} --seed {seed}"
    rows = [
        f"`{command}` at commit {code_version()['revision']}, {minutes:.0f} minutes on a machine with other work:",
        "",
    ]
    rows += ["| format | inputs | read | refused | findings |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, result in results:
        rows.append(f"| {name} | {result.inputs:,} | {result.read:,} | {result.refused:,} | {len(result.findings)} |")
    every = [sum(x) for x in zip(*((r.inputs, r.read, r.refused, len(r.findings)) for _, r in results))]
    rows.append(f"| all | {' | '.join(f'{n:,}' for n in every)} |")
    kinds = {f"{name}: {kind}": count for name, result in results for kind, count in result.kinds().items()}
    if kinds:
        rows += ["", "Findings:", "", *(f"- {kind} ({count})" for kind, count in kinds.items())]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
