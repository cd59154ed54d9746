#!/usr/bin/env python3
"""What full-sum training costs beside cross-entropy: whole steps (forward, loss, backward) of the same network.

Both criteria run in one process, turn by turn, on the same batches; graphs are built outside the clock, as in training,
where they are built once. The target is a ratio of at most 1.3 on a CPU.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

NETWORKS = {
    "tdnn 128 x 5": dict(encoder="tdnn", dim=128, layers=5),
    "tdnn 192 x 6": dict(encoder="tdnn", dim=192, layers=6),
    "blstm 128 x 2": dict(encoder="blstm", dim=128, layers=2),
    "conformer 96 x 3": dict(encoder="conformer", dim=96, layers=3),
}
NUM_PHONES, WORD_PHONES, NUM_WORDS = 40, 4, 400


class Problem:
    """A batch of random utterances at a usual rate of speech (12 phones per second) with transcripts of random
    words.
    """

    def __init__(self, num: int, seconds: float, shape: dict, kind: str) -> None:
        import numpy as np
        import torch

        from pipeline.artifacts.lang import make_lang
        from pipeline.artifacts.lexicon import Lexicon, Pronunciation
        from pipeline.artifacts.transitions import TransitionModel
        from pipeline.artifacts.tree import monophone_tree
        from pipeline.feats.dataset import Batch
        from pipeline.hmm.graph_source import GraphSource
        from pipeline.nn.losses import CrossEntropy, FullSum, Ramp
        from pipeline.nn.model import AcousticModel
        from pipeline.nn.options import EncoderOptions
        from pipeline.nn.transitions import TransitionNet

        rng = np.random.default_rng(0)
        torch.manual_seed(0)
        lang = make_lang(
            Lexicon(
                [
                    Pronunciation(f"W{i}", tuple(f"p{p}" for p in rng.integers(0, NUM_PHONES, WORD_PHONES)))
                    for i in range(NUM_WORDS)
                ]
            )
        )
        tree = monophone_tree(lang.phones, lang.topo)
        hmm = TransitionModel(tree, lang.topo)
        frames, num_words = int(100 * seconds), max(1, round(12 * seconds / WORD_PHONES))
        transcripts = [[lang.words.id(f"W{w}") for w in rng.integers(0, NUM_WORDS, num_words)] for _ in range(num)]
        graphs = GraphSource(lang, tree, hmm, transcripts.__getitem__, num)
        self.batch = Batch(np.arange(num), torch.randn(num, frames, 40), torch.full((num,), frames))
        self.model = AcousticModel(40, tree.num_pdfs, EncoderOptions(**shape))
        self.model.transitions = TransitionNet(kind, hmm, self.model.encoder.out_dim)
        self.criteria = {
            "cross-entropy": CrossEntropy([rng.integers(0, tree.num_pdfs, frames) for _ in range(num)]),
            "full-sum": FullSum(graphs, [0], Ramp(0.3), Ramp(0.3), Ramp(0.1), prior="on_the_fly"),
        }
        self.states = graphs.of(range(num)).graphs.num_states // num

    def step(self, name: str) -> Callable[[], None]:
        """One training step without the optimizer, which is the same for both."""

        def run() -> None:
            self.model.zero_grad(set_to_none=True)
            self.criteria[name](self.model.train(), self.batch, 0.5).total.backward()

        return run


def seconds_of(
    runs: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each, taken turn by turn after a first turn that counts for nothing."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = clock()
            run()
            if turn:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


@click.command()
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Timed steps of each criterion.")
@click.option("--num", type=click.IntRange(1), default=8, show_default=True, help="Utterances in the batch.")
@click.option("--seconds", type=click.FloatRange(0.5), default=5.0, show_default=True, help="Length of each.")
@click.option("--transitions", default="speech_silence", show_default=True, help="Transition model of the neural HMM.")
def main(repeats: int, num: int, seconds: float, transitions: str) -> None:
    """Prints seconds per training step and the ratio of full-sum to cross-entropy for some networks."""
    import torch

    print(f"{num} utterances of {seconds:g} s, {torch.get_num_threads()} threads, transitions {transitions}")
    print("| network | HMM states | cross-entropy s | full-sum s | ratio |\n| --- | --- | --- | --- | --- |")
    for name, shape in NETWORKS.items():
        problem = Problem(num, seconds, shape, transitions)
        taken = seconds_of({c: problem.step(c) for c in problem.criteria}, repeats)
        print(
            f"| {name} | {problem.states} | {taken['cross-entropy']:.3f} | {taken['full-sum']:.3f} | "
            f"{taken['full-sum'] / taken['cross-entropy']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
