#!/usr/bin/env python3
"""Disturbs the steps of a small recipe in many ways and counts what came out of it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click

from pipeline.base import cli
from pipeline.base.stamp import code_version
from utils.fault_injection import shim, warm
from utils.fault_injection.again import run_again
from utils.fault_injection.kinds import KINDS, Campaign
from utils.fault_injection.recipe import PARTS, Sandbox, Step, commands, load_steps, save_steps, stamps
from utils.fault_injection.report import summary, write_page

ROOT = Path(__file__).resolve().parent.parent
AGAIN = "again.jsonl"
PAGE = ROOT / "docs" / "reliability.md"


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(KINDS)), help="Of faults; may be repeated.")
@click.option("--count", default=20, show_default=True, help="Trials of each kind.")
@click.option("--seed", default=1, show_default=True, help="Seed of what is disturbed and when.")
@click.option(
    "--again", metavar="NAME", help="In place of trials: run the recipe once more, as it is now, and compare."
)
@click.option("--page", is_flag=True, help="Write all counts so far into docs/reliability.md, and run nothing.")
@cli.log_options
def main(directory: Path, kinds: tuple[str, ...], count: int, seed: int, again: str | None, page: bool) -> None:
    """Runs egs/tiny in small below DIRECTORY, then disturbs single steps of it.

    DIRECTORY/trials.jsonl gets a line for each trial, and those that stand there are not repeated;
    DIRECTORY/counts.json has their counts by kind. Ends with 1 if something was not as it should be. With --again
    DIRECTORY/again.jsonl gets a line of what differed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory = directory.resolve()
    log = directory / "trials.jsonl"
    if not page:
        if not shim.loaded(directory):
            shim.load(directory)
        warm.preload()
        warm.adopt_orphans()
        campaign = prepare(directory)
        if again:
            row = run_again(campaign, again)
            _add(directory / AGAIN, row)
            click.echo(json.dumps(row, indent=2))
            return
        run(campaign, log, kinds or tuple(KINDS), count, seed)
    counts = summary(_rows(log))
    (directory / "counts.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    if page:
        write_page(PAGE, counts)
    for name, entry in counts.items():
        click.echo(f"{name}: " + ", ".join(f"{key} {value}" for key, value in entry.items()))
    raise SystemExit(int(any(entry["wrong"] for entry in counts.values())))


def run(campaign: Campaign, log: Path, kinds: tuple[str, ...], count: int, seed: int) -> None:
    """Runs the trials that `log` does not have."""
    done = {(row["kind"], row["seed"], row["number"]) for row in _rows(log)}
    for number in range(count):
        for kind in kinds:
            if (kind, seed, number) in done:
                continue
            trial = KINDS[kind](campaign, random.Random(f"{kind} {seed} {number}"))
            row = {"kind": kind, "seed": seed, "number": number, **asdict(trial), **code_version()}
            _add(log, row)
            told = "; ".join(trial.wrong) or ("equal" if trial.faults else "not disturbed")
            click.echo(f"{kind} {number}: {trial.step}: {trial.fault}: {told}")


def prepare(directory: Path) -> Campaign:
    """The undisturbed run, unless `directory` has it."""
    box, injected, known = Sandbox(directory), shim.Shim(), directory / "steps.json"
    if known.is_file():
        return Campaign(box, injected, load_steps(known))
    shutil.rmtree(box.undisturbed, ignore_errors=True)
    box.empty()
    listed, steps, taken = commands(ROOT / "egs" / "tiny", box.tree), list[Step](), set[str]()
    for step in listed:
        steps.append(_undisturbed(box, injected, step))
    box.keep()
    # Once more, in parts, one step of each script that can.
    for step in [replace(step, jobs=2) for step in reversed(steps) if step.script in PARTS]:
        if step.script not in taken:
            taken.add(step.script)
            box.reset(step)
            steps.append(_undisturbed(box, injected, step))
            if different := box.differences([step]):
                raise click.ClickException(f"{step.name} in parts differs: {' '.join(different)}")
    save_steps(known, steps)
    return Campaign(box, injected, steps)


def _undisturbed(box: Sandbox, injected: shim.Shim, step: Step) -> Step:
    """Runs a step and measures it."""
    before = stamps(box.tree)
    with injected.armed(box.tree):
        ended = box.run(step)
        count = injected.count
    if ended.code != 0 or warm.reap_orphans():
        raise click.ClickException(f"{step.name} does not run undisturbed:\n{ended.output[-3000:]}")
    outputs = tuple(sorted(stamps(box.tree) - before))
    click.echo(f"{step.name}, {step.jobs} jobs: {ended.processor:.2f} s, {count} calls, makes {' '.join(outputs)}")
    return replace(step, outputs=outputs, processor=round(ended.processor, 3), calls=count)


def _add(log: Path, row: dict) -> None:
    with log.open("a", encoding="utf-8") as f:
        f.write(json.dumps(row) + "\n")


def _rows(log: Path) -> Iterator[dict]:
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        yield json.loads(line)


if __name__ == "__main__":
    main()
