#!/usr/bin/env python3
"""Speed and memory of the full-sum and Viterbi engine beside k2, torch's ctc_loss and published figures.

All backends of a case run in one process, turn by turn, on the same emissions and graphs; times are medians over the
repeats. Graphs are built once and outside the clock for everybody, since they do not change from epoch to epoch.
Peak memory is measured in a fresh process per backend: the high-water mark of resident memory (VmHWM) during the second
forward and backward pass, over what was resident before it. It includes the gradient of the emissions, (N, T, P), which
every backend has to hand over; "own mib" is without it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


@dataclass(frozen=True)
class Case:
    """One row group: `kind` hmm (left-to-right chains with loops), ctc (a topology with blanks) or viterbi (chains)."""

    kind: str
    num: int  # utterances
    frames: int
    size: int  # states of a chain, labels of a CTC graph
    pdfs: int
    dtype: str = "float32"
    transitions: str = "none"  # or "timed": (N, T, 2) scores with gradients
    backends: tuple[str, ...] = ("numba", "k2", "k2 beam 10")

    @property
    def name(self) -> str:
        """As --shape takes it."""
        extra = "" if self.dtype == "float32" else f" {self.dtype}"
        extra += "" if self.transitions == "none" else f" {self.transitions} transitions"
        return f"{self.kind} {self.num}x{self.frames}x{self.size}x{self.pdfs}{extra}"


HMM = ("numba", "k2", "k2 beam 10")
CTC = ("numba", "torch ctc_loss", "k2")
BEST = ("numba", "k2")
CASES = (
    Case("hmm", 1, 50, 10, 50, backends=HMM),
    Case("hmm", 16, 100, 40, 120, backends=HMM),
    Case("hmm", 16, 300, 100, 120, backends=HMM),
    Case("hmm", 16, 300, 100, 2000, backends=HMM),
    Case("hmm", 8, 1000, 300, 2000, backends=HMM),
    Case("hmm", 1, 3000, 2000, 9000, backends=HMM),
    Case("hmm", 16, 300, 100, 2000, "bfloat16", backends=("numba",)),
    Case("hmm", 16, 300, 100, 2000, transitions="timed", backends=("numba",)),
    Case("ctc", 1, 50, 10, 50, backends=CTC),
    Case("ctc", 16, 300, 30, 120, backends=CTC),
    Case("ctc", 16, 300, 30, 2000, backends=CTC),
    Case("ctc", 8, 1000, 100, 2000, backends=CTC),
    Case("viterbi", 16, 100, 40, 120, backends=BEST),
    Case("viterbi", 16, 300, 100, 120, backends=BEST),
    Case("viterbi", 16, 300, 100, 2000, backends=BEST),
    Case("viterbi", 8, 1000, 300, 2000, backends=BEST),
)
# Seconds of RETURNN's C++ operation on a 2-core CPU without a GPU, forward and backward; measured with returnn from
# the package index, not by this program. It has no gradient for transitions.
RETURNN = {
    "hmm 16x100x40x120": 0.062,
    "hmm 16x300x100x120": 0.35,
    "hmm 16x300x100x2000": 1.34,
    "hmm 8x1000x300x2000": 2.6,
    "viterbi 16x100x40x120": 0.003,
    "viterbi 16x300x100x120": 0.021,
    "viterbi 16x300x100x2000": 0.071,
    "viterbi 8x1000x300x2000": 0.164,
}


class Inputs:
    """Emissions (N, T, P), lengths and graphs of a case, the same for every backend."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        import torch

        from pipeline.hmm import convert

        torch.manual_seed(1)
        self.case = case
        self.emissions = torch.randn(case.num, case.frames, case.pdfs, device=device).log_softmax(-1)
        self.emissions = self.emissions.to(getattr(torch, case.dtype))
        # Utterances of three quarters of the length up to all of it; the longest first, as k2 wants them.
        self.lengths = torch.linspace(case.frames, case.frames * 3 // 4, case.num).long()
        self.labels = torch.randint(1, case.pdfs, (case.num, case.size)).tolist()
        self.transitions: torch.Tensor | None = None
        if case.kind == "ctc":
            self.graphs = convert.ctc(self.labels, num_pdfs=case.pdfs)
        elif case.transitions == "timed":
            shape = [[0] * case.size] * case.num, [[1] * case.size] * case.num
            self.graphs = convert.linear(self.labels, *shape, num_pdfs=case.pdfs)
            self.transitions = torch.randn(case.num, case.frames, 2, device=device).log_softmax(-1)
        else:
            self.graphs = convert.linear(self.labels, num_pdfs=case.pdfs)


def engine(inputs: Inputs, backend: str) -> tuple[Callable[[Any], Any], Any]:
    """Our engine: a function from emissions to the sum of the log-likelihoods, and its emissions."""
    from pipeline.hmm import full_sum, viterbi

    graphs = inputs.graphs.to(inputs.emissions.device)
    if inputs.case.kind == "viterbi":
        return lambda e: viterbi(graphs, e, inputs.lengths, backend=backend).scores.sum(), inputs.emissions
    transitions = inputs.transitions
    if transitions is not None:
        transitions = transitions.requires_grad_()
    return lambda e: full_sum(graphs, e, inputs.lengths, transitions, backend).sum(), inputs.emissions


def k2_engine(inputs: Inputs, beam: float) -> tuple[Callable[[Any], Any], Any]:
    """k2 as its users call it. The dense batch is made anew for new emissions, hence inside the clock."""
    import k2
    import torch

    from pipeline.graph.hmm_k2 import to_k2

    fsa = to_k2(inputs.graphs, offset=0)
    index = torch.arange(inputs.case.num)
    segments = torch.stack([index, torch.zeros_like(index), inputs.lengths], 1).int()

    def run(emissions: Any) -> Any:
        lattice = k2.intersect_dense(fsa, k2.DenseFsaVec(emissions, segments), beam)
        if inputs.case.kind == "viterbi":
            return k2.shortest_path(lattice, use_double_scores=True).scores.sum()
        return lattice.get_tot_scores(log_semiring=True, use_double_scores=True).sum()

    return run, inputs.emissions


def torch_ctc(inputs: Inputs) -> tuple[Callable[[Any], Any], Any]:
    """torch.nn.functional.ctc_loss, which wants (T, N, P); laid out so beforehand."""
    import torch

    labels = torch.tensor(inputs.labels)
    sizes = torch.full((inputs.case.num,), inputs.case.size)

    def run(emissions: Any) -> Any:
        return -torch.nn.functional.ctc_loss(emissions, labels, inputs.lengths, sizes, reduction="sum")

    return run, inputs.emissions.transpose(0, 1).contiguous()


def prepare(inputs: Inputs, backend: str) -> tuple[Callable[[Any], Any], Any]:
    """The function to time and its emissions."""
    if backend.startswith("k2"):
        return k2_engine(inputs, 10.0 if backend == "k2 beam 10" else 1e30)
    return torch_ctc(inputs) if backend == "torch ctc_loss" else engine(inputs, backend)


def once(
    run: Callable[[Any], Any], emissions: Any, backward: bool, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float, float]:
    """Seconds of one forward and one backward pass, and the score."""
    leaf = emissions.detach().requires_grad_(backward)
    begin = clock()
    total = run(leaf)
    middle = clock()
    if backward:
        total.backward()
    return middle - begin, clock() - middle, float(total)


def peak_mib(case: Case, backend: str, threads: int) -> float:
    """Memory that one forward and backward pass adds, in MiB. To be called in a fresh process."""
    import ctypes
    import gc

    import torch

    torch.set_num_threads(threads)
    inputs = Inputs(case)
    run, emissions = prepare(inputs, backend)
    if emissions is not inputs.emissions:
        inputs.emissions = None
    once(run, emissions, case.kind != "viterbi")  # libraries, compiled code and threads are there from now on
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # so that nothing freed before is used again unnoticed
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    once(run, emissions, case.kind != "viterbi")
    return max(resident("VmHWM") - before, 0) / 1024


def resident(field: str) -> int:
    """A line of /proc/self/status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def in_fresh_process(case: Case, backend: str, threads: int) -> float:
    """`peak_mib` where nothing has run before."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_mib, case, backend, threads).result()


def measure(
    case: Case, backends: list[str], repeats: int, memory: bool, threads: int, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """One row per backend."""
    import statistics

    inputs = Inputs(case)
    prepared = {backend: prepare(inputs, backend) for backend in backends}
    backward = case.kind != "viterbi"
    score = {backend: once(*p, backward)[2] for backend, p in prepared.items()}  # also compiles
    times: dict[str, list[tuple[float, float, float]]] = {backend: [] for backend in backends}
    for _ in range(repeats):
        for backend, (run, emissions) in prepared.items():
            times[backend].append(once(run, emissions, backward, clock))
    rows = []
    for backend in backends:
        forward, back = (statistics.median(t[i] for t in times[backend]) for i in (0, 1))
        total = statistics.median(t[0] + t[1] for t in times[backend])
        row: dict[str, Any] = {"shape": case.name, "backend": backend, "forward_s": forward}
        row |= {"backward_s": back if backward else None}
        row |= {"total_s": total, "score": score[backend]}
        row["peak_mib"] = in_fresh_process(case, backend, threads) if memory else None
        gradient = int(inputs.lengths.sum()) * case.pdfs * inputs.emissions.element_size() / 2**20 if backward else 0
        row["own_mib"] = max(row["peak_mib"] - gradient, 0.0) if memory else None
        rows.append(row)
    for peer, key in (("k2", "ratio_to_k2"), ("torch ctc_loss", "ratio_to_torch_ctc")):
        other = next((r for r in rows if r["backend"] == peer), None)
        for row in rows:
            row[key] = other["total_s"] / row["total_s"] if other else None
    if case.name in RETURNN:
        rows.append({"shape": case.name, "backend": "RETURNN (published)", "total_s": RETURNN[case.name]})
    return rows


COLUMNS = (
    "shape",
    "backend",
    "forward_s",
    "backward_s",
    "total_s",
    "peak_mib",
    "own_mib",
    "ratio_to_k2",
    "ratio_to_torch_ctc",
)


def as_text(row: dict[str, Any]) -> list[str]:
    """A row as text."""
    out = [row["shape"], row["backend"]]
    for key in COLUMNS[2:]:
        value = row.get(key)
        digits = 4 if key.endswith("_s") else 1 if key.endswith("_mib") else 2
        out.append("" if value is None else f"{value:,.{digits}f}")
    return out


def show(table: list[list[str]]) -> None:
    """Print a Markdown table."""
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    rule = ["-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    for line in (table[0], rule, *table[1:]):
        padded = (c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths)))
        click.echo("| " + " | ".join(padded) + " |")


@click.command()
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    help="Only shapes that contain this text, for instance 'viterbi' or '16x300x100x120'; several allowed.",
)
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="Run these instead of each shape's own: numba, torch, triton, k2, 'k2 beam 10', 'torch ctc_loss'.",
)
@click.option(
    "--repeats",
    default=7,
    show_default=True,
    help="Runs of each backend, turn by turn; the median is shown. Tiny shapes run 20 times as often, huge ones half.",
)
@click.option("--threads", default=2, show_default=True, help="Threads of torch, and so of the engine.")
@click.option(
    "--clock",
    type=click.Choice(("wall", "cpu")),
    default="wall",
    show_default=True,
    help="cpu: seconds of all threads on a processor, for a machine that is busy with other work.",
)
@click.option(
    "--memory/--no-memory",
    default=True,
    show_default=True,
    help="Also measure peak memory, each in a process of its own.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line instead of a table.")
def main(
    shapes: tuple[str, ...],
    backends: tuple[str, ...],
    repeats: int,
    threads: int,
    clock: str,
    memory: bool,
    as_json: bool,
) -> None:
    """Times the engine against k2 and torch's ctc_loss.

    A shape reads utterances x frames x states (labels, for ctc) x pdfs. ratio_to_k2 is k2's time over the row's,
    forward
    and backward together: above 1 the row is faster. `k2` computes all paths as the engine does; `k2 beam 10` leaves
        out
    what is 10 nats behind the best, as recipes do.
    """
    import torch

    from pipeline.hmm import available

    torch.set_num_threads(threads)
    table = [[c.replace("_", " ") for c in COLUMNS]]
    for case in CASES:
        if shapes and not any(s in case.name for s in shapes):
            continue
        chosen = [b for b in backends or case.backends if b == "torch ctc_loss" or available(b.split()[0])]
        if case.kind != "ctc":
            chosen = [b for b in chosen if b != "torch ctc_loss"]
        cells = case.num * case.frames * case.size
        turns = max(1, repeats // 2) if cells > 5_000_000 else repeats * 20 if cells < 10_000 else repeats
        rows = measure(case, chosen, turns, memory, threads, time.process_time if clock == "cpu" else time.perf_counter)
        table += [as_text(row) for row in rows]
        if as_json:
            for row in rows:
                click.echo(json.dumps({**dict.fromkeys(COLUMNS), **row}))
    if not as_json:
        show(table)


if __name__ == "__main__":
    main()
