#!/usr/bin/env python3
"""What weak supervision costs: whole training steps of end-to-end models with and without a frame cross-entropy at a
layer, with one label for each frame or the occupancies of several, as they are read from an alignment.

All run in one process, turn by turn, on the same batch. The clock is the processor time of one thread, so that other
programs do not count. The target is at most 10 % more time; nothing is added to decoding, since the exported model has
no such output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NETWORKS = {
    "CTC, tdnn 128 x 6": dict(model="ctc", encoder="tdnn", dim=128, layers=6),
    "CTC, tdnn 256 x 6": dict(model="ctc", encoder="tdnn", dim=256, layers=6),
    "CTC, tdnn 512 x 6": dict(model="ctc", encoder="tdnn", dim=512, layers=6),
    "CTC, conformer 144 x 6": dict(model="ctc", encoder="conformer", dim=144, layers=6),
    "attention and CTC, tdnn 128 x 6": dict(model="attention", encoder="tdnn", dim=128, layers=6),
    "attention and CTC, blstm 128 x 3": dict(model="attention", encoder="blstm", dim=128, layers=3),
    "RNN-T and CTC, tdnn 128 x 6": dict(model="transducer", encoder="tdnn", dim=128, layers=6),
}
FEATURES = 80


def steps_of(
    shape: dict, num: int, seconds: float, labels: int, vocab: int, subsampling: int
) -> dict[str, Callable[[], None]]:
    """Training steps without the optimizer, by "without" and "with" a cross-entropy of `labels` classes at the middle
    layer, and with that of "soft" labels, of five states each.
    """
    import numpy as np
    import torch

    from pipeline.artifacts.posteriors import Posteriors
    from pipeline.e2e.auxiliary import Auxiliary, ModelWithAuxHeads
    from pipeline.e2e.criterion import EndToEndLoss
    from pipeline.e2e.labels import AuxTargets
    from pipeline.e2e.model import EndToEnd
    from pipeline.e2e.options import TrainEndToEndOptions
    from pipeline.feats.dataset import Batch
    from pipeline.nn.labels import Lazy

    rng = np.random.default_rng(0)
    frames = int(100 * seconds)
    targets = [rng.integers(3, vocab, int(4 * seconds)) for _ in range(num)]
    batch = Batch(np.arange(num), torch.randn(num, frames, FEATURES), torch.full((num,), frames))

    def occupancies(_: int) -> np.ndarray:
        frame, pdf = np.repeat(np.arange(frames), 5), rng.integers(0, labels, 5 * frames)
        found = Posteriors(frame, pdf, np.full(len(pdf), 0.2, np.float32))
        return found.by_label(-(-frames // subsampling), subsampling, labels)

    middle = (shape["layers"] // 2,)
    runs = {}
    for name, layers in (("without", ()), ("with", middle), ("soft", middle)):
        torch.manual_seed(0)
        options = TrainEndToEndOptions(subsampling=subsampling, aux_layers=layers, **shape)
        model = EndToEnd(FEATURES, vocab, options)
        hard = [rng.integers(0, labels, frames // subsampling) for _ in range(num)]
        frame = {layer: Lazy(num, occupancies) if name == "soft" else hard for layer in layers}
        with_heads = ModelWithAuxHeads(model, Auxiliary(model, labels, 0, options)).train()
        criterion = EndToEndLoss(targets, options, AuxTargets(labels, 0, frame, [], []) if layers else None)

        def run(with_heads: ModelWithAuxHeads = with_heads, criterion: EndToEndLoss = criterion) -> None:
            with_heads.zero_grad(set_to_none=True)
            criterion(with_heads, batch, 0.5).total.backward()

        runs[name] = run
    return runs


@click.command()
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True, help="Timed steps of each.")
@click.option("--num", type=click.IntRange(1), default=8, show_default=True, help="Utterances in the batch.")
@click.option("--seconds", type=click.FloatRange(1.0), default=5.0, show_default=True, help="Length of each.")
@click.option("--labels", type=click.IntRange(2), default=500, show_default=True, help="Tied states.")
@click.option("--vocab", type=click.IntRange(8), default=500, show_default=True, help="Tokens.")
@click.option(
    "--subsampling", type=click.IntRange(1), default=4, show_default=True, help="Feature frames per encoder frame."
)
def main(repeats: int, num: int, seconds: float, labels: int, vocab: int, subsampling: int) -> None:
    """Prints processor time per training step without and with a frame cross-entropy at the middle layer, and with one
    of occupancies.
    """
    import torch
    from train_step import seconds_of  # beside this file

    import pipeline.base.cli  # noqa: F401  chooses the code path of MKL, as in all steps

    torch.set_num_threads(1)
    print(
        f"{num} utterances of {seconds:g} s, {FEATURES} features, {subsampling} of 10 ms frames joined, {labels} "
        f"tied states, "
        f"{vocab} tokens, one thread"
    )
    print("| model | without s | with s | more time % | soft s | more than with % |\n" + "| --- " * 6 + "|")
    for name, shape in NETWORKS.items():
        taken = seconds_of(steps_of(shape, num, seconds, labels, vocab, subsampling), repeats, time.process_time)
        print(
            f"| {name} | {taken['without']:.3f} | {taken['with']:.3f} | "
            f"{100 * (taken['with'] / taken['without'] - 1):.1f} | {taken['soft']:.3f} | "
            f"{100 * (taken['soft'] / taken['with'] - 1):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
