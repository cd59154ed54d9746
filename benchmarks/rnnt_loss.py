#!/usr/bin/env python3
"""The RNN-T loss on the CPU, joint network included, forward and backward: ours over the whole lattice, k2's over the
whole lattice, and the pruned loss as training uses it (--rnnt pruned).

Times are processor seconds of one thread, the backends turn by turn, the best of the repeats. Memory is what one call
adds to the peak of a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    import torch

BACKENDS = ("numba", "k2", "pruned")
SHAPES = ("16x100x30x100", "16x300x60x500", "8x400x100x1000")
JOINT = 256  # width of the joint network
RANGE = 5  # token positions per frame of the pruned loss


def problem(shape: str) -> dict[str, torch.Tensor]:
    """Random tensors of a shape NxTxUxV: what encoder and predictor hand to the joint network, and tokens."""
    import torch

    n, num_frames, num_tokens, size = (int(part) for part in shape.split("x"))
    torch.manual_seed(0)
    return {
        "encoded": torch.randn(n, num_frames, JOINT, requires_grad=True),
        "predicted": torch.randn(n, num_tokens + 1, JOINT, requires_grad=True),
        "output": (0.1 * torch.randn(size, JOINT)).requires_grad_(),
        "cheap": (0.1 * torch.randn(2, size, JOINT)).requires_grad_(),
        "tokens": torch.randint(1, size, (n, num_tokens)),
        "lens": torch.full((n,), num_frames),
        "token_lens": torch.full((n,), num_tokens),
    }


def loss_of(backend: str, p: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean loss of the utterances, joint network included."""
    import torch

    lens, tokens, token_lens = p["lens"], p["tokens"], p["token_lens"]

    def joint(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a + b).tanh() @ p["output"].T

    if backend == "pruned":
        from pipeline.e2e.pruned_rnnt import pruned_rnnt_loss

        simple, full = pruned_rnnt_loss(
            p["encoded"] @ p["cheap"][0].T,
            p["predicted"] @ p["cheap"][1].T,
            p["encoded"],
            p["predicted"],
            lens,
            tokens,
            token_lens,
            joint,
            RANGE,
        )
        return (0.5 * simple + full).mean()
    logits = joint(p["encoded"][:, :, None], p["predicted"][:, None])
    if backend == "numba":
        from pipeline.e2e.rnnt import rnnt_loss

        return rnnt_loss(logits, lens, tokens, token_lens).mean()
    import k2

    zero = torch.zeros_like(lens)
    return k2.rnnt_loss(logits, tokens, 0, torch.stack([zero, zero, token_lens, lens], 1), reduction="mean")


def step(backend: str, shape: str) -> Callable[[], float]:
    """A function that computes loss and gradients and returns the loss."""
    p = problem(shape)

    def run() -> float:
        for tensor in p.values():
            tensor.grad = None
        loss = loss_of(backend, p)
        loss.backward()
        return float(loss)

    return run


def peak_mib(backend: str, shape: str) -> float:
    """MiB that a call adds to the peak of this process, which has done nothing but a small call before."""
    step(backend, "1x5x3x10")()
    run = step(backend, shape)
    before = _high_water()
    run()
    return _high_water() - before


def _high_water() -> float:
    """MiB that this process has held at most; getrusage would count the parent's share as well."""
    line = next(x for x in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(shape: str, repeats: int, memory: bool) -> list[dict]:
    """One row per backend."""
    backends = [b for b in BACKENDS if b != "k2" or importlib.util.find_spec("k2") is not None]
    runs = {backend: step(backend, shape) for backend in backends}
    seconds, losses = {}, {}
    for _ in range(repeats + 1):  # the first round compiles
        for backend, run in runs.items():
            begin = time.process_time()
            losses[backend] = run()
            took = time.process_time() - begin
            seconds[backend] = min(seconds.get(backend, float("inf")), took)
    rows = []
    for backend in backends:
        peak = None
        if memory:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak = round(pool.apply(peak_mib, (backend, shape)), 1)
        rows.append(
            {
                "shape": shape,
                "backend": backend,
                "seconds": round(seconds[backend], 4),
                "peak_mib": peak,
                "ratio_to_k2": round(seconds["k2"] / seconds[backend], 2) if "k2" in seconds else None,
                "loss": losses[backend],
            }
        )
    return rows


@click.command(help=__doc__)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    default=SHAPES,
    show_default=True,
    help="NxTxUxV: batch, frames, tokens, vocabulary.",
)
@click.option("--repeats", default=3, show_default=True)
@click.option("--memory/--no-memory", default=True, help="Also measure peak memory, in processes of their own.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines in place of a table.")
def main(shapes: tuple[str, ...], repeats: int, memory: bool, as_json: bool) -> None:
    import torch

    torch.set_num_threads(1)
    if not as_json:
        click.echo(f"{'N x T x U x V':>18} {'backend':>10} {'seconds':>9} {'times k2':>9} {'MiB':>8}")
    for shape in shapes:
        for row in measure(shape, repeats, memory):
            if as_json:
                click.echo(json.dumps(row))
            else:
                peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:8.1f}"
                ratio = "" if row["ratio_to_k2"] is None else f"{row['ratio_to_k2']:.2f}"
                click.echo(f"{row['shape']:>18} {row['backend']:>10} {row['seconds']:9.3f} {ratio:>9} {peak}")


if __name__ == "__main__":
    main()
