#!/usr/bin/env python3
"""Denominators of sequence training: sums over a decoding graph within a beam, beside sums over the lattices of our
search and, where k2 is installed, of k2's.

Both get the same scores of a trained network, utterance by utterance in batches as in training, turn by turn in one
process; times are processor seconds of one thread, the network outside the clock. What is exact is found by a beam so
wide that a wider one changes nothing. The lattices of k2's pruned search lose paths in three ways: by its beam, by its
limit of active states (2,000 as in training), and by the beam of the lattices.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    import torch

    from pipeline.graph.denominator import Competitors

COLUMNS = ("way", "ms_per_second", "faster_than_lattice", "occupancy_error", "mean_gap", "largest_gap", "failed")
REFERENCE = "our lattice 10/8"  # the usual beams


@dataclass
class Batch:
    """Scaled scores (N, T, P) and (N,) frames of some utterances."""

    scores: torch.Tensor
    lens: torch.Tensor


def load_batches(
    model_dir: Path, data: Path, scales: tuple[float, float], batch_frames: int, number: int
) -> tuple[list[Batch], float]:
    """Batches spread over all lengths, and the seconds between two frames."""
    import numpy as np
    import torch

    from pipeline.feats.dataset import Dataset, plan
    from pipeline.nn.model import load_acoustic_model
    from pipeline.nn.step import normalised

    model, _, meta = load_acoustic_model(model_dir)
    model.eval()
    utterances = Dataset.open(data, meta.feat_options)
    batches = plan(utterances.lens, batch_frames, 32)
    chosen = np.unique(np.linspace(0, len(batches) - 1, number + 2).round().astype(int)[1:-1])
    found = []
    for i in chosen:
        batch = normalised(model, utterances.batch(batches[i], "cpu"))
        with torch.no_grad():
            log_post, lens = model(batch.feats, batch.lens, normalised=True)
        found.append(Batch(scales[0] * (log_post - scales[1] * model.log_prior), lens))
    return found, meta.features.frame_shift * model.encoder.subsampling


def compare(
    ways: dict[str, Callable[..., Competitors]],
    exact: Callable[..., Competitors],
    batches: list[Batch],
    frame_shift: float,
    repeats: int,
) -> list[dict[str, Any]]:
    """One row per way: processor time per second of speech, and how far it is from the exact sums."""
    import torch

    truth = [exact(b.scores, b.lens) for b in batches]
    speech = sum(int(b.lens.sum()) for b in batches) * frame_shift
    seconds, found = dict.fromkeys(ways, float("inf")), {}
    for way in ways.values():
        way(batches[0].scores[:1], batches[0].lens[:1])  # what is compiled or arranged once is no part of a step
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            found[name] = [way(b.scores, b.lens) for b in batches]
            seconds[name] = min(seconds[name], time.process_time() - start)
    rows = []
    for name in ways:
        gaps = torch.cat([t.log_z - f.log_z for t, f in zip(truth, found[name])])
        there = torch.isfinite(gaps)
        apart = sum(
            float((t.occupancy - f.occupancy)[torch.isfinite(f.log_z)].abs().sum()) for t, f in zip(truth, found[name])
        )
        frames = sum(int(b.lens[torch.isfinite(f.log_z)].sum()) for b, f in zip(batches, found[name]))
        rows.append(
            {
                "way": name,
                "ms_per_second": 1000 * seconds[name] / speech,
                "occupancy_error": apart / max(frames, 1),
                "faster_than_lattice": seconds[REFERENCE] / seconds[name],
                "failed": int((~there).sum()),
                "mean_gap": float(gaps[there].mean()),
                "largest_gap": float(gaps[there].max()),
            }
        )
    return rows


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("graph", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--acoustic-scale", default=0.2, show_default=True, help="Weight of the acoustic scores.")
@click.option("--transition-scale", default=0.1, show_default=True, help="Weight of transition log probabilities.")
@click.option("--prior-scale", default=0.8, show_default=True, help="Weight of the label prior.")
@click.option("--batch-frames", default=3000, show_default=True, help="Feature frames of a batch.")
@click.option("--batches", "number", default=6, show_default=True, help="Batches, spread over all lengths.")
@click.option("--repeats", default=2, show_default=True, help="Runs of each way, turn by turn; the best time is shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line instead of a table.")
def main(
    model: Path,
    graph: Path,
    data: Path,
    acoustic_scale: float,
    transition_scale: float,
    prior_scale: float,
    batch_frames: int,
    number: int,
    repeats: int,
    as_json: bool,
) -> None:
    """Sums over GRAPH for DATA as MODEL scores it.

    ms per second: processor milliseconds per second of speech. Occupancy error: sum of the absolute differences from
        the exact label
    posteriors, per frame (2 at most). Gaps: natural logs that an utterance's sum falls short of the exact one.
    """
    import torch

    from pipeline.artifacts.model_dir import load_hmm
    from pipeline.graph.decoding import DecodingGraph
    from pipeline.graph.denominator import GraphSum, LatticeSum
    from pipeline.graph.options import DecodeOptions

    torch.set_num_threads(1)
    hmm, arcs = load_hmm(model), DecodingGraph.load(graph)
    log_probs, tid_pdf = hmm.transitions.log_probs(), hmm.transitions.tid_pdf()
    batches, frame_shift = load_batches(model, data, (acoustic_scale, prior_scale), batch_frames, number)

    def lattice(search: str, beam: float, lattice_beam: float) -> LatticeSum:
        return LatticeSum(
            arcs,
            log_probs,
            tid_pdf,
            transition_scale,
            DecodeOptions(acoustic_scale=1.0, beam=beam, lattice_beam=lattice_beam, max_active=2000, search=search),
        )

    ways: dict[str, Callable[..., Competitors]] = {
        f"graph {beam}": GraphSum(arcs, log_probs, transition_scale, float(beam)) for beam in (10, 12, 13, 14, 18)
    }
    for whose, search in (("our", "ours"), ("k2's", "k2")):
        if search == "ours" or importlib.util.find_spec("k2"):
            ways |= {f"{whose} lattice {a}/{b}": lattice(search, a, b) for a, b in ((10, 8), (14, 12))}
    rows = compare(ways, GraphSum(arcs, log_probs, transition_scale, 25.0), batches, frame_shift, repeats)
    if as_json:
        for row in rows:
            click.echo(json.dumps({"graph": str(graph), **row}))
        return
    click.echo(
        f"{graph}: {arcs.num_states:,} states, {arcs.num_arcs:,} arcs; {sum(len(b.lens) for b in batches)} utterances\n"
    )
    click.echo("| " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " |\n|---|" + "--:|" * (len(COLUMNS) - 1))
    for row in rows:
        click.echo(
            "| " + " | ".join(f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS) + " |"
        )


if __name__ == "__main__":
    main()
