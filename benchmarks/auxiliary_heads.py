#!/usr/bin/env python3
"""What further losses of end-to-end models cost: whole training steps with and without a frame cross-entropy at a layer
(weak supervision), with one label for each frame or the occupancies of several, and steps of other losses in place of
the supervised one: self-supervised, and of bags of tokens.

All run in one process, turn by turn, on the same batch. The clock is the processor time of one thread, so that other
programs do not count. The target is at most 10 % more time for weak supervision, 15 % for the others; nothing is added
to decoding, since the exported model has no such outputs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.feats.dataset import Batch

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
    """Training steps without the optimizer: "without" further losses, with "frames" (a cross-entropy of `labels`
    classes at the middle layer) or "soft" ones (of five states each), of "contrast" (masked contrastive prediction),
    and of CTC networks of "bag" (tokens without their order).
    """
    import numpy as np
    import torch

    from pipeline.artifacts.posteriors import Posteriors
    from pipeline.e2e.auxiliary import Auxiliary, ModelWithAuxHeads
    from pipeline.e2e.criterion import EndToEndLoss
    from pipeline.e2e.in_turns import InTurns
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

    middle = shape["layers"] // 2
    variants: dict[str, dict] = {
        "without": {},
        "frames": dict(aux_layers=(middle,)),
        "soft": dict(aux_layers=(middle,), aux_soft=True),
        "contrast": dict(self_supervised="contrast", self_share=1.0),
    }
    if shape["model"] == "ctc":
        variants["bag"] = dict(bag_share=1.0)
    runs = {}
    for name, more in variants.items():
        torch.manual_seed(0)
        options = TrainEndToEndOptions(subsampling=subsampling, **shape, **more)
        model = EndToEnd(FEATURES, vocab, options)
        aux = None
        if options.aux_layers:
            hard = [rng.integers(0, labels, frames // subsampling) for _ in range(num)]
            frame = {middle: Lazy(num, occupancies) if name == "soft" else hard}
            aux = AuxTargets(labels, 0, frame, [], [])
        with_heads = ModelWithAuxHeads(model, Auxiliary(model, labels, 0, options)).train()
        criterion: EndToEndLoss | InTurns = EndToEndLoss(targets, options, aux)
        if name == "contrast":
            criterion = InTurns(criterion, InMemory(batch), num, options, 0.01)

        def run(with_heads: ModelWithAuxHeads = with_heads, criterion: EndToEndLoss | InTurns = criterion) -> None:
            with_heads.zero_grad(set_to_none=True)
            criterion(with_heads, batch, 0.5).total.backward()

        runs[name] = run
    return runs


class InMemory:
    """A data set of which only one batch is asked for."""

    def __init__(self, whole: Batch) -> None:
        self.whole = whole

    def batch(self, indices: np.ndarray, device: torch.device) -> Batch:
        return self.whole


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
    """Prints processor time per training step without and with each further loss."""
    import torch
    from train_step import seconds_of  # beside this file

    import pipeline.base.cli  # noqa: F401  chooses the code path of MKL, as in all steps

    torch.set_num_threads(1)
    print(
        f"{num} utterances of {seconds:g} s, {FEATURES} features, {subsampling} of 10 ms frames joined, {labels} "
        f"tied states, "
        f"{vocab} tokens, one thread"
    )
    names = {
        "frames": "frame cross-entropy",
        "soft": "the same of occupancies",
        "contrast": "masked contrast",
        "bag": "bag of tokens",
    }
    print("| model | without s |", " | ".join(f"{name} s | more time %" for name in names.values()), "|")
    print("| --- |", " | ".join(["---"] * (1 + 2 * len(names))), "|")
    for network, shape in NETWORKS.items():
        taken = seconds_of(steps_of(shape, num, seconds, labels, vocab, subsampling), repeats, time.process_time)
        plain = taken["without"]
        cells = [f"{taken[n]:.3f} | {100 * (taken[n] / plain - 1):.1f}" if n in taken else "- | -" for n in names]
        print(f"| {network} | {plain:.3f} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
