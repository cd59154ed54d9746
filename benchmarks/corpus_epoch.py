#!/usr/bin/env python3
"""What the engine costs in training on a corpus: the making of all training graphs as a share of an epoch, and full-sum
steps beside cross-entropy steps. (train_step.py compares the steps of several networks on random data.)

Two equal networks take one step each on the same batch, turn by turn: forward pass, criterion, backward pass, clipping
    and
update, as in pipeline/nn/train.py without augmentation. The targets of the cross-entropy are arbitrary labels, which
costs the same as those of an alignment. An epoch is the sum of the steps over all batches, extrapolated from those
timed by their frames.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


class Training:
    """Data, graphs and labels of a corpus as training sees them; the graphs' making is timed."""

    def __init__(self, data: Path, lang_dir: Path, config: Path | None, repeats: int) -> None:
        import numpy as np

        from pipeline.artifacts.lang import Lang
        from pipeline.base.cli import load_options
        from pipeline.feats.dataset import Dataset, plan
        from pipeline.hmm import compile as hmm_compile
        from pipeline.hmm.graph_source import GraphSource
        from pipeline.nn.labels import word_ids
        from pipeline.nn.nhmm import hmm_for
        from pipeline.nn.options import NhmmOptions

        self.options = load_options(NhmmOptions, config, {})
        self.lang = Lang.load(lang_dir)
        self.hmm = hmm_for(self.lang, lang_dir, None)
        whole = Dataset.open(data, self.options.feat_options())
        words = list(word_ids(whole, self.lang))
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            graphs = hmm_compile.compile_graphs(self.lang, self.hmm.tree, self.hmm.transitions, words)
            times.append(time.perf_counter() - begin)
        self.compile_s = statistics.median(times)
        lens = -(-whole.lens // self.options.subsampling)
        keep = lens >= graphs.min_frames
        source = GraphSource(self.lang, self.hmm.tree, self.hmm.transitions, words.__getitem__, len(words))
        self.set, self.graphs = whole.select(keep), source.select(keep)
        self.batches = plan(self.set.lens, self.options.batch_frames, self.options.max_batch, (self.options.seed, 0))
        rng = np.random.default_rng(0)
        self.labels = [rng.integers(0, self.hmm.tree.num_pdfs, n) for n in lens[keep]]

    def model(self) -> Any:
        """A network with transitions, as train_nhmm makes it."""
        import torch

        from pipeline.nn.model import AcousticModel
        from pipeline.nn.nhmm import encoder_options
        from pipeline.nn.transitions import TransitionNet

        o = self.options
        torch.manual_seed(o.seed)
        model = AcousticModel(self.set.dim, self.hmm.tree.num_pdfs, encoder_options(o))
        model.set_normalisation(*self.set.moments())
        model.transitions = TransitionNet(
            o.transitions,
            self.hmm.transitions,
            model.encoder.out_dim,
            o.transition_init,
            o.subsampling,
            o.transition_dim,
        )
        return model.train()

    def criteria(self) -> dict[str, Any]:
        """The two criteria."""
        from pipeline.nn.losses import CrossEntropy, FullSum, Ramp
        from pipeline.nn.nhmm import silence_pdfs

        o = self.options
        silence = silence_pdfs(self.hmm.transitions, self.lang)
        scales = Ramp(o.label_scale), Ramp(o.transition_scale), Ramp(o.prior_scale)
        full = FullSum(self.graphs, silence, *scales, prior=o.prior)
        return {"full_sum": full, "cross_entropy": CrossEntropy(self.labels)}


def step(model: Any, optimizer: Any, criterion: Any, batch: Any, clip: float) -> float:
    """Seconds of one training step."""
    import torch

    begin = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = criterion(model, batch, 0.5)
    (loss.total / loss.frames).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return time.perf_counter() - begin


def measure(training: Training, steps: int, repeats: int) -> dict[str, float]:
    """Seconds per epoch of both criteria, and their ratio."""
    from pipeline.feats.dataset import Batch
    from pipeline.nn.schedule import make_optimizer

    criteria = training.criteria()
    models = {name: training.model() for name in criteria}
    optimizers = {name: make_optimizer(model.parameters(), training.options) for name, model in models.items()}
    chosen = training.batches[:: max(len(training.batches) // steps, 1)][:steps]
    total = dict.fromkeys(criteria, 0.0)
    frames = 0
    for number, indices in enumerate([chosen[0], *chosen]):
        batch = training.set.batch(indices)
        batch = Batch(batch.indices, models["full_sum"].normalise(batch.feats), batch.lens)
        times: dict[str, list[float]] = {name: [] for name in criteria}
        for _ in range(repeats):
            for name, criterion in criteria.items():
                args = models[name], optimizers[name], criterion, batch, training.options.clip
                times[name].append(step(*args))
        if number > 0:  # the first time compiles the engine
            frames += batch.num_frames
            for name in criteria:
                total[name] += statistics.median(times[name])
    scale = training.set.num_frames / frames
    return {
        "steps": len(chosen),
        "cross_entropy_step_s": total["cross_entropy"] / len(chosen),
        "full_sum_step_s": total["full_sum"] / len(chosen),
        "full_sum_over_cross_entropy": total["full_sum"] / total["cross_entropy"],
        "full_sum_epoch_s": total["full_sum"] * scale,
        "compile_graphs_s": training.compile_s,
        "compile_share_of_epoch": training.compile_s / (total["full_sum"] * scale),
    }


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.argument("lang", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--config", type=click.Path(path_type=Path, exists=True), help="Options of train_nhmm.py, as a YAML file."
)
@click.option("--steps", default=30, show_default=True, help="Batches to time, spread over an epoch.")
@click.option("--repeats", default=3, show_default=True, help="Steps on each batch, of which the median counts.")
@click.option("--threads", default=2, show_default=True, help="Threads of torch, and so of the engine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def main(data: Path, lang: Path, config: Path | None, steps: int, repeats: int, threads: int, as_json: bool) -> None:
    """Times training steps on DATA (with features) and LANG, for instance
    egs/an4/data/fbank/train egs/an4/data/lang_phone --config egs/an4/conf/nhmm.yaml."""
    import torch

    torch.set_num_threads(threads)
    training = Training(data, lang, config, repeats)
    row = {"data": str(data), "utterances": len(training.set), "states": training.graphs.graphs.num_states}
    row |= measure(training, steps, repeats)
    if as_json:
        click.echo(json.dumps(row))
        return
    for name, value in row.items():
        click.echo(f"{name:<28} {value:.5g}" if isinstance(value, float) else f"{name:<28} {value}")


if __name__ == "__main__":
    main()
