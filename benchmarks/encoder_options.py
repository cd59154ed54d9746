#!/usr/bin/env python3
"""What the options of encoders cost: whole training steps, by frame cross-entropy, of a network with an option beside
the same network without it.

All variants of a network run in one process, turn by turn, on the same batch; the clock is the processor time of one
thread, so that other programs count little. The target is at most 15 % more time for each option.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

TRANSFORMER = dict(encoder="transformer", layers=6, dim=256, heads=4)
CONFORMER = dict(encoder="conformer", layers=4, dim=192, heads=4)
TDS = dict(encoder="tds", layers=9, dim=256, heads=8, conv_kernel=9)
VARIANTS: dict[str, tuple[dict, dict[str, dict]]] = {
    "transformer 256 x 6": (
        TRANSFORMER,
        {
            "norms post": dict(norms="post"),
            "sigma-reparam": dict(sigma_reparam=True),
            "sigmoid attention": dict(attention="sigmoid"),
            "CAPE": dict(positions="cape"),
            "dMel, 16 levels": dict(levels=16),
            "4 experts, shared router": dict(experts=4),
            "4 experts, routers of layers": dict(experts=4, expert_router="layer"),
        },
    ),
    "conformer 192 x 4": (
        CONFORMER,
        {
            "sigma-reparam": dict(sigma_reparam=True),
            "sigmoid attention": dict(attention="sigmoid"),
            "CAPE": dict(positions="cape"),
            "dMel, 16 levels": dict(levels=16),
        },
    ),
    "tds 256 x 9": (
        TDS,
        {
            "sigma-reparam": dict(sigma_reparam=True),
            "look-ahead of 1 step a layer": dict(conv_right=1),
            "dMel, 16 levels": dict(levels=16),
        },
    ),
}
FEATURES = 80


def step_of(shape: dict, num: int, seconds: float, labels: int, subsampling: int) -> Callable[[], None]:
    """A training step: forward, loss, backward, update."""
    import numpy as np
    import torch

    from pipeline.feats.dataset import Batch
    from pipeline.nn.losses import CrossEntropy
    from pipeline.nn.model import AcousticModel
    from pipeline.nn.options import EncoderOptions
    from pipeline.nn.step import training_loss

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    frames = int(100 * seconds)
    batch = Batch(np.arange(num), torch.randn(num, frames, FEATURES), torch.full((num,), frames))
    model = AcousticModel(FEATURES, labels, EncoderOptions(subsampling=subsampling, **shape)).train()
    criterion = CrossEntropy([rng.integers(0, labels, -(-frames // subsampling)) for _ in range(num)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = training_loss(criterion, model, batch, 0.5)
        (loss.total / loss.frames).backward()
        optimizer.step()

    return run


@click.command()
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True, help="Timed steps of each variant.")
@click.option("--num", type=click.IntRange(1), default=4, show_default=True, help="Utterances in the batch.")
@click.option("--seconds", type=click.FloatRange(1.0), default=6.0, show_default=True, help="Length of each.")
@click.option("--labels", type=click.IntRange(2), default=500, show_default=True, help="Tied states.")
@click.option(
    "--subsampling", type=click.IntRange(1), default=4, show_default=True, help="Feature frames per encoder frame."
)
def main(repeats: int, num: int, seconds: float, labels: int, subsampling: int) -> None:
    """Prints processor time per training step with each option of each network, and its ratio to the one without."""
    import torch
    from train_step import seconds_of  # beside this file

    torch.set_num_threads(1)
    print(f"{num} utterances of {seconds:g} s, {subsampling} feature frames per frame, one thread\n")
    print("| network | option | processor s | ratio |\n| --- | --- | --: | --: |")
    for network, (base, options) in VARIANTS.items():
        runs = {"none": step_of(base, num, seconds, labels, subsampling)}
        runs |= {name: step_of({**base, **more}, num, seconds, labels, subsampling) for name, more in options.items()}
        taken = seconds_of(runs, repeats, time.process_time)
        for name, value in taken.items():
            print(f"| {network} | {name} | {value:.3f} | {value / taken['none']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
