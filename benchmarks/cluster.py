#!/usr/bin/env python3
"""What a cluster does with a corpus, from what parts and processes cost on one machine.

Measured figures (cluster.json) of one and of two parts give, for each stage, the work that is divided, what each part
costs beside (its start), and what the step does alone (planning, merging): the longest way of N parts is

    start + part + work / N + alone

where work and alone grow with the hours of speech. That machines do not wait for each other, for the queue or for the
disk, is assumed. GPUs have not been measured: their part is arithmetic from --parameters, --tflops and --bandwidth,
which are assumptions.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MEASURED = Path(__file__).with_name("cluster.json")
DAY = 86_400.0
FRAMES, RATE = 100 * 3600, 25 * 3600  # feature frames and encoder frames of an hour
FEATURE_BYTES = 80 * 4


@dataclass(frozen=True)
class Stage:
    """Costs of a stage in processor seconds.

    Attributes:
        start: of the step. part: of each part. work, alone: per hour of speech. most: parts at most.
    """

    name: str
    start: float
    part: float
    work: float
    alone: float
    most: float = float("inf")

    @classmethod
    def of(cls, row: dict, start: float) -> Stage:
        """From the processor seconds of one part and, along the longest way, of two."""
        work = row["one"] - start
        alone = max(row["two"] - start - row["part"] - work / 2, 0.0)
        return cls(
            row["name"], start, row["part"], work / row["hours"], alone / row["hours"], row.get("most", float("inf"))
        )

    def seconds(self, hours: float, parts: int) -> float:
        """Along the longest way."""
        part = self.part if parts > 1 else 0.0
        return self.start + part + hours * (self.work / min(parts, self.most) + (self.alone if parts > 1 else 0.0))

    def hours_in(self, seconds: float, parts: int) -> float:
        """Hours of speech that are done in so many seconds."""
        fixed = self.seconds(0.0, parts)
        return max(seconds - fixed, 0.0) / (self.seconds(1.0, parts) - fixed)

    @property
    def saturates(self) -> float:
        """Parts from which on the step alone takes longer than a part."""
        return min(self.work / self.alone if self.alone else float("inf"), self.most)


def stages(measured: Path = MEASURED) -> list[Stage]:
    """All stages that have been measured."""
    found = json.loads(measured.read_text(encoding="utf-8"))
    return [Stage.of(row, found["start"]) for row in found["stages"]]


def gpu(parameters: float, tflops: float, bandwidth: float, gpus: int) -> dict[str, float]:
    """Seconds that an hour of speech takes in an epoch: to compute on each GPU, and to read over the disk for all.

    Args:
        parameters: of the model; 6 operations each and encoder frame (forward and backward pass).
        tflops: that a GPU reaches. bandwidth: GB/s of the disk.
    """
    compute = 6 * parameters * RATE / (tflops * 1e12) / gpus
    read = FRAMES * FEATURE_BYTES / (bandwidth * 1e9)
    return {"compute": compute, "read": read, "seconds": max(compute, read)}


def shown(seconds: float) -> str:
    """A duration in three digits or so."""
    for size, unit in ((DAY, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


@click.command(help=__doc__)
@click.option("--parts", default="1,2,8,64,100", show_default=True, help="Numbers of parts.")
@click.option("--hours", default="10,960,100000", show_default=True, help="Sizes of corpora.")
@click.option("--parameters", default=30e6, show_default=True, help="Of an end-to-end model.")
@click.option("--tflops", default=100.0, show_default=True, help="That a GPU is assumed to reach.")
@click.option("--bandwidth", default=2.0, show_default=True, help="GB/s that the shared disk is assumed to deliver.")
@click.option("--gpus", default=8, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def main(parts: str, hours: str, parameters: float, tflops: float, bandwidth: float, gpus: int, as_json: bool) -> None:
    from pipeline.experiments.results_page import markdown_table

    numbers, sizes, found = [int(n) for n in parts.split(",")], [float(h) for h in hours.split(",")], stages()
    cost = gpu(parameters, tflops, bandwidth, gpus)
    if as_json:
        for stage in found:
            for size in sizes:
                seconds = {n: round(stage.seconds(size, n), 2) for n in numbers}
                row = {"stage": stage.name, "hours": size, "seconds": seconds, "saturates": round(stage.saturates, 1)}
                click.echo(json.dumps(row))
        click.echo(json.dumps({"stage": "epoch", "gpus": gpus, **cost}))
        return
    rows = [
        [stage.name, f"{size:,.0f}", *(shown(stage.seconds(size, n)) for n in numbers)]
        for stage in found
        for size in sizes
    ]
    click.echo(markdown_table(["stage", "hours of speech", *(f"{n} parts" for n in numbers)], rows))
    click.echo()
    most = max(numbers)
    rows = [
        [stage.name, f"{stage.hours_in(DAY, 1):,.0f}", f"{stage.hours_in(DAY, most):,.0f}", f"{stage.saturates:.0f}"]
        for stage in found
    ]
    head = [
        "stage",
        "hours of speech in a day, 1 core",
        f"{most} cores",
        "more parts than this wait for the step alone",
    ]
    click.echo(markdown_table(head, rows))
    click.echo()
    first = "the disk saturates" if cost["read"] > cost["compute"] else "the GPUs saturate"
    millis = {name: round(1000 * cost[name]) for name in ("compute", "read")}
    click.echo(
        f"Assumed, not measured: {gpus} GPUs reach {tflops:g} TFLOPS each on a model of {parameters / 1e6:g} million "
        f"parameters, the disk delivers {bandwidth:g} GB/s. An hour of speech takes {millis['compute']} ms to compute "
        f"and {millis['read']} ms to read: an epoch of 960 hours {shown(960 * cost['seconds'])}, of 100,000 hours "
        f"{shown(1e5 * cost['seconds'])}; a day sees {DAY / cost['seconds']:,.0f} hours, and {first} first."
    )


if __name__ == "__main__":
    main()
