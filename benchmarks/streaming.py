#!/usr/bin/env python3
"""Latency of the beam search when speech comes block by block: when the words of a stream are settled.

After each block the best paths to all active tokens are traced back to where they meet: nothing that comes later can
change the words up to there. A word's delay is the time from the frame at which the final path puts it out, which the
graph does as soon as it is sure of the word, to the end of the block after which it is settled. With blocks of one
frame it is the search's own; scores are there at once (a model's look-ahead, and computing, come on top).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click

if TYPE_CHECKING:
    import numpy as np

    from pipeline.artifacts.lattice import Lattice
    from pipeline.graph.beam_search import BeamSearch

COLUMNS = ("block_s", "words", "delay_mean_s", "delay_median_s", "delay_95_s", "delay_max_s", "rtf", "history_kib")


def stream(search: BeamSearch, scores: np.ndarray, block: int) -> tuple[Lattice, list[int], int]:
    """Searches an utterance block by block.

    Args:
        scores: (T, P).
        block: frames.
    Returns:
        The lattice, the frame after which each word was settled, and the largest history in bytes.
    """
    settled: list[int] = []
    largest = 0
    search.start()
    for begin in range(0, len(scores), block):
        search.advance(scores[begin : begin + block])
        words, _ = search.settled()
        settled += [search.num_frames] * (len(words) - len(settled))
        largest = max(largest, search.history_bytes)
    return search.finish(), settled, largest


def delays(path: Lattice, settled: list[int], num_frames: int) -> Iterator[int]:
    """Frames from each word's on the best path to when it was settled, at the latest at the end.

    Args:
        path: a lattice of one path.
    """
    count = path.words_of_arcs()
    said = [int(path.frame[path.src[a]]) + 1 for a in range(path.num_arcs) for _ in range(count[a])]
    for i, frame in enumerate(said):
        yield (settled[i] if i < len(settled) else num_frames) - min(frame, num_frames)


def measure(model_dir: Path, graph_dir: Path, data_dir: Path, blocks: list[int], options: Any) -> list[dict[str, Any]]:
    """A row for each size of blocks; the words must be those of whole utterances."""
    import numpy as np
    import torch

    from pipeline.feats.dataset import Dataset
    from pipeline.graph.beam_search import Beams, BeamSearch, SearchGraph
    from pipeline.graph.decoding import DecodingGraph
    from pipeline.tasks.decode import check_graph
    from pipeline.tasks.model import load_model

    model, graph = load_model(model_dir), DecodingGraph.load(graph_dir)
    check_graph(graph, graph_dir, model.hmm)
    transitions = model.hmm.transitions
    scale = model.transition_scale if options.transition_scale is None else options.transition_scale
    ours = SearchGraph(graph, transitions.log_probs(), transitions.tid_pdf(), scale)
    beams = Beams(options.acoustic_scale, options.beam, None, options.min_active, options.max_active)
    search, data = BeamSearch(ours, beams), Dataset.open(data_dir, model.feat_options)
    scores = []
    for n in range(len(data)):
        batch = data.batch(np.array([n]))
        with torch.no_grad():
            scores.append(model.log_likes(batch.feats, batch.lens, [data.speaker(n)])[0][0].numpy())
    whole = [stream(search, x, len(x))[0].label.tolist() for x in scores]
    rows = []
    for block in blocks:
        start, found, most = time.process_time(), [], 0
        for x, expected in zip(scores, whole):
            path, settled, largest = stream(search, x, block)
            assert path.label.tolist() == expected, "blocks change the words"
            found += list(delays(path, settled, len(x)))
            most = max(most, largest)
        seconds, shift = time.process_time() - start, model.frame_shift
        late = np.array(found) * shift
        rows.append(
            {
                "block_s": block * shift,
                "words": len(late),
                "delay_mean_s": float(late.mean()),
                "delay_median_s": float(np.median(late)),
                "delay_95_s": float(np.percentile(late, 95)),
                "delay_max_s": float(late.max()),
                "rtf": seconds / (sum(map(len, scores)) * shift),
                "history_kib": most / 1024,
            }
        )
    return rows


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("graph", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--blocks", default="1,10,30,100", show_default=True, help="Frames per block.")
@click.option("--beam", default=15.0, show_default=True)
@click.option("--max-active", default=7000, show_default=True)
@click.option("--acoustic-scale", default=0.1, show_default=True)
@click.option("--transition-scale", type=float, help="Default: the model's.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines in place of a table.")
def main(
    model: Path,
    graph: Path,
    data: Path,
    blocks: str,
    beam: float,
    max_active: int,
    acoustic_scale: float,
    transition_scale: float | None,
    as_json: bool,
) -> None:
    import torch

    from pipeline.graph.options import DecodeOptions

    torch.set_num_threads(1)
    options = DecodeOptions(
        acoustic_scale=acoustic_scale, transition_scale=transition_scale, beam=beam, max_active=max_active
    )
    rows = measure(model, graph, data, [int(x) for x in blocks.split(",")], options)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    click.echo("| " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " |\n|" + " ---: |" * len(COLUMNS))
    for row in rows:
        digits = (4 if c == "rtf" else 2 if c.endswith("_s") else 0 for c in COLUMNS)
        click.echo("| " + " | ".join(f"{row[c]:.{n}f}" for c, n in zip(COLUMNS, digits)) + " |")


if __name__ == "__main__":
    main()
