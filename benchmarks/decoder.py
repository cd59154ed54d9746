#!/usr/bin/env python3
"""Our search beside k2's and Kaldi's own decoders (packages kaldi-decoder and kaldifst): best paths, scores and speed.

All search the same graph with the same scores, beam and limit of active states, in one process, turn by turn; scoring
by the model is shared and outside the clock. Times are processor seconds of the one thread that all of them have, so
that other work on the machine matters little; the best of the repeats counts. `ours` and `k2` make lattices and take
the best path of them, `ours, best paths` keeps no lattice; Kaldi's FasterDecoder makes the best path alone, its
LatticeSimpleDecoder lattices (but is written for plainness, not for speed; its fast sibling is not in any package for
this Python).
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    import kaldifst
    import torch

    from pipeline.graph.beam_search import SearchGraph
    from pipeline.graph.decoding import DecodingGraph
    from pipeline.graph.options import DecodeOptions

DECODERS = (
    "ours, best paths",
    "ours",
    "k2",
    "k2 one by one",
    "kaldi FasterDecoder",
    "kaldi LatticeSimpleDecoder",
)
COLUMNS = (
    "graph",
    "beam",
    "max_active",
    "decoder",
    "seconds",
    "rtf",
    "faster_than_kaldi",
    "same_words",
    "same_score",
    "better",
    "worse",
    "failed",
    "wer",
)
# Two totals that differ by less, in units of the search scale, count as equal: float32 sums of different order.
SAME = 1e-2


def kaldi_graph(graph: DecodingGraph, log_probs: Any, transition_scale: float) -> kaldifst.StdVectorFst:
    """The same graph for Kaldi: costs are negative log scores, labels count from 1, final arcs become final costs."""
    import kaldifst
    import numpy as np

    trans = np.append(log_probs, np.float32(0.0))[graph.tid]
    cost = -(graph.lm + graph.lex + np.float32(transition_scale) * trans)
    src = np.repeat(np.arange(graph.num_states), np.diff(graph.splits))
    out = kaldifst.StdVectorFst()
    for _ in range(graph.num_states - 1):
        out.add_state()
    out.start = 0
    final = np.full(graph.num_states, np.inf)
    columns = (src, graph.dst, graph.pdf, cost, graph.word)
    for state, dst, pdf, weight, word in zip(*(c.tolist() for c in columns)):
        if pdf < 0:
            final[state] = min(final[state], weight)
        else:
            out.add_arc(state, kaldifst.StdArc(pdf + 1, word, weight, dst))
    for state in np.flatnonzero(np.isfinite(final)).tolist():
        out.set_final(state, float(final[state]))
    return out


@dataclass
class Found:
    """Best paths: word ids and total score (nan where the search failed), by utterance."""

    words: list[list[int]]
    totals: list[float]


def kaldi_search(
    fst: kaldifst.StdConstFst,
    graph: DecodingGraph,
    scores: Sequence[torch.Tensor],
    options: DecodeOptions,
    lattices: bool = False,
) -> Found:
    """Kaldi's decoders, one utterance after the other.

    Args:
        scores: (T, P) scaled scores of each utterance.
        lattices: use LatticeSimpleDecoder, which knows no limit of active states.
    """
    import kaldi_decoder
    import kaldifst

    found = Found([], [])
    for matrix in scores:
        decodable = kaldi_decoder.DecodableCtc(matrix.numpy())
        if lattices:
            decoder = kaldi_decoder.LatticeSimpleDecoder(
                fst, kaldi_decoder.LatticeSimpleDecoderConfig(beam=options.beam, lattice_beam=options.lattice_beam)
            )
            reached = decoder.decode(decodable) and decoder.final_relative_cost() < float("inf")
        else:
            decoder = kaldi_decoder.FasterDecoder(
                fst,
                kaldi_decoder.FasterDecoderOptions(
                    beam=options.beam, max_active=options.max_active, min_active=options.min_active
                ),
            )
            decoder.decode(decodable)
            reached = decoder.reached_final()
        ok, path = decoder.get_best_path() if reached else (False, None)
        if not ok:
            found.words.append([])
            found.totals.append(float("nan"))
            continue
        _, _, labels, weight = kaldifst.get_linear_symbol_sequence(path)
        found.words.append(graph.spell(labels))
        found.totals.append(-(weight.value1 + weight.value2))
    return found


def our_search(graph: SearchGraph, scores: Sequence[torch.Tensor], options: DecodeOptions, lattices: bool) -> Found:
    """Our search, one utterance after the other."""
    import numpy as np

    from pipeline.graph.beam_search import Beams, BeamSearch
    from pipeline.graph.lattice_paths import best_labels, best_to_end
    from pipeline.graph.lattices import arc_scores

    lattice_beam = options.lattice_beam if lattices else None
    search = BeamSearch(graph, Beams(1.0, options.beam, lattice_beam, options.min_active, options.max_active))
    found, one, nothing = Found([], []), np.ones(1), np.zeros(1)
    for matrix in scores:
        search.start()
        search.advance(matrix.numpy())
        lattice = search.finish()
        if not lattice.complete:
            found.words.append([])
            found.totals.append(float("nan"))
            continue
        total = arc_scores(lattice, 1.0, 0.0)
        ends, zeros = (lattice.src, lattice.dst), np.zeros(lattice.num_arcs)
        labels = best_labels(*ends, lattice.label, total, zeros, zeros, lattice.num_states, one, nothing)
        found.words.append(lattice.spell(labels[0].tolist()))
        found.totals.append(float(best_to_end(*ends, total, lattice.num_states)[0]))
    return found


def k2_search(
    graph: DecodingGraph, fsa: Any, scores: Sequence[torch.Tensor], options: DecodeOptions, batch_frames: int
) -> Found:
    """k2's pruned search in batches of at most `batch_frames` frames."""
    import k2
    import torch

    words: list[list[int]] = [[] for _ in scores]
    totals = [float("nan")] * len(scores)
    for rows in _batches([len(s) for s in scores], batch_frames):
        padded = torch.nn.utils.rnn.pad_sequence([scores[i] for i in rows], batch_first=True)
        columns = torch.nn.functional.pad(padded, (1, 0), value=-float("inf"))
        segments = torch.tensor([[i, 0, len(scores[row])] for i, row in enumerate(rows)], dtype=torch.int32)
        lattice = k2.intersect_dense_pruned(
            fsa,
            k2.DenseFsaVec(columns, segments),
            options.beam,
            options.lattice_beam,
            options.min_active,
            options.max_active,
        )
        if not lattice.num_arcs:
            continue
        best = k2.shortest_path(lattice, use_double_scores=True)
        shape = best.arcs.shape()
        splits = shape.row_splits(2)[shape.row_splits(1).long()].tolist()
        labels, arc_scores = best.aux_labels.tolist(), best.scores.double()
        for row, b, e in zip(rows, splits[:-1], splits[1:]):
            if e > b:
                words[row], totals[row] = graph.spell(labels[b:e]), float(arc_scores[b:e].sum())
    return Found(words, totals)


def _batches(lengths: list[int], batch_frames: int) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * lengths[batch[0]] > batch_frames:
            yield batch
            batch = []
        batch.append(i)
    yield batch


class Case:
    """A model, its graph and the scaled scores of a data directory."""

    def __init__(
        self, model: Path, graph: Path, data: Path, transforms: Path | None, options: DecodeOptions, limit: int
    ) -> None:
        import numpy as np
        import torch

        from pipeline.artifacts.model_dir import load_hmm
        from pipeline.feats.dataset import Dataset
        from pipeline.graph.beam_search import SearchGraph
        from pipeline.graph.decoding import DecodingGraph
        from pipeline.tasks.decode import check_graph
        from pipeline.tasks.model import load_model

        self.name, hmm = f"{model.name}/{graph.name}", load_hmm(model)
        self.graph = DecodingGraph.load(graph)
        check_graph(self.graph, graph, hmm)
        scorer = load_model(model, options.prior_scale, transforms)
        scale = scorer.transition_scale if options.transition_scale is None else options.transition_scale
        self._weights = hmm.transitions.log_probs(), scale
        self.ours = SearchGraph(self.graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), scale)
        utterances = Dataset.open(data, scorer.feat_options)
        number = min(limit or len(utterances), len(utterances))
        self.refs = [tuple(utterances.text(i).split()) for i in range(number)]
        self.scores: list[torch.Tensor] = []
        for i in range(number):
            batch = utterances.batch(np.array([i]))
            feats, lens, speaker = batch.feats, batch.lens, [utterances.speaker(i)]
            assert scorer.transition_scores(feats, lens) is None, (
                "input-dependent transitions have no counterpart in Kaldi"
            )
            with torch.no_grad():
                scores = scorer.log_likes(feats, lens, speaker)[0][0]
            self.scores.append((scores - scores.max(dim=1, keepdim=True).values) * options.acoustic_scale)
        self.seconds = sum(map(len, self.scores)) * scorer.frame_shift

    @functools.cached_property
    def fsa(self) -> Any:
        """The graph for k2."""
        from pipeline.graph.search_k2 import graph_fsa

        return graph_fsa(self.graph, *self._weights)

    @functools.cached_property
    def fst(self) -> kaldifst.StdConstFst:
        """The graph for Kaldi."""
        import kaldifst

        return kaldifst.StdConstFst(kaldi_graph(self.graph, *self._weights))


def measure(case: Case, decoders: Sequence[str], options: DecodeOptions, repeats: int) -> list[dict[str, Any]]:
    """One row per decoder, compared with Kaldi's FasterDecoder."""
    runs: dict[str, Callable[[], Found]] = {
        "ours, best paths": lambda: our_search(case.ours, case.scores, options, lattices=False),
        "ours": lambda: our_search(case.ours, case.scores, options, lattices=True),
        "k2": lambda: k2_search(case.graph, case.fsa, case.scores, options, options.batch_frames),
        "k2 one by one": lambda: k2_search(case.graph, case.fsa, case.scores, options, 1),
        "kaldi FasterDecoder": lambda: kaldi_search(case.fst, case.graph, case.scores, options),
        "kaldi LatticeSimpleDecoder": lambda: kaldi_search(case.fst, case.graph, case.scores, options, lattices=True),
    }
    seconds, found = {d: float("inf") for d in decoders}, {}
    our_search(case.ours, case.scores[:1], options, True)  # compiled before the clock runs
    if any(d.startswith("k2") for d in decoders):
        assert case.fsa is not None
    if any(d.startswith("kaldi") for d in decoders):
        assert case.fst is not None
    for _ in range(repeats):
        for decoder in decoders:
            start = time.process_time()
            found[decoder] = runs[decoder]()
            seconds[decoder] = min(seconds[decoder], time.process_time() - start)
    rows = []
    for decoder in decoders:
        row = {
            "graph": case.name,
            "beam": options.beam,
            "max_active": options.max_active,
            "decoder": decoder,
            "seconds": seconds[decoder],
            "rtf": seconds[decoder] / case.seconds,
            "wer": _wer(case, found[decoder]),
            "failed": sum(t != t for t in found[decoder].totals),
        }
        if "kaldi FasterDecoder" in found:
            row |= _compare(found[decoder], found["kaldi FasterDecoder"])
            row["faster_than_kaldi"] = seconds["kaldi FasterDecoder"] / seconds[decoder]
        rows.append(row)
    return rows


def _compare(ours: Found, theirs: Found) -> dict[str, int]:
    """Utterances with the same words, the same score, a better and a worse one; a failed search is worse than any."""
    lowest = -float("inf")
    pairs = [(a if a == a else lowest, b if b == b else lowest) for a, b in zip(ours.totals, theirs.totals)]
    same = [a == b or abs(a - b) < SAME for a, b in pairs]
    return {
        "same_words": sum(a == b for a, b in zip(ours.words, theirs.words)),
        "same_score": sum(same),
        "better": sum(a > b and not s for (a, b), s in zip(pairs, same)),
        "worse": sum(a < b and not s for (a, b), s in zip(pairs, same)),
    }


def _wer(case: Case, found: Found) -> float:
    from pipeline.artifacts.hyp import Hypothesis
    from pipeline.tasks.score import count_errors, total_errors

    hyps = [
        Hypothesis(str(i), "", ref, tuple(case.graph.words.name(w) for w in words))
        for i, (ref, words) in enumerate(zip(case.refs, found.words))
    ]
    return total_errors(count_errors(hyps)).wer


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("graph", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--transforms",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of speaker transforms.",
)
@click.option("--beams", default="8,15", show_default=True, help="Search beams.")
@click.option("--max-active", default=7000, show_default=True, help="Active states per frame at most.")
@click.option("--acoustic-scale", default=0.1, show_default=True, help="Weight of the acoustic scores.")
@click.option("--transition-scale", type=float, help="Weight of transition log probabilities; default: the model's.")
@click.option("--decoder", "decoders", multiple=True, type=click.Choice(DECODERS), help="Only these; several allowed.")
@click.option("--limit", default=0, help="Only this many utterances; 0: all.")
@click.option(
    "--repeats", default=3, show_default=True, help="Runs of each decoder, turn by turn; the best time is shown."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line instead of a table.")
def main(
    model: Path,
    graph: Path,
    data: Path,
    transforms: Path | None,
    beams: str,
    max_active: int,
    acoustic_scale: float,
    transition_scale: float | None,
    decoders: tuple[str, ...],
    limit: int,
    repeats: int,
    as_json: bool,
) -> None:
    """Searches GRAPH for DATA as MODEL scores it, by our search, by k2 and by Kaldi's decoders.

    faster_than_kaldi is FasterDecoder's time over the row's: above 1 the row is faster. same_words, same_score, better
    and worse count utterances against FasterDecoder.
    """
    import torch

    from pipeline.graph.options import DecodeOptions

    torch.set_num_threads(1)  # Kaldi's decoders have one thread
    base = dict(acoustic_scale=acoustic_scale, transition_scale=transition_scale, max_active=max_active)
    case = Case(model, graph, data, transforms, DecodeOptions(**base), limit)
    if not as_json:
        click.echo(
            f"{case.graph.num_states:,} states, {case.graph.num_arcs:,} arcs; {len(case.scores):,} utterances, "
            f"{case.seconds:,.0f} s\n"
        )
    rows = []
    for beam in beams.split(","):
        rows += measure(case, decoders or DECODERS, DecodeOptions(beam=float(beam), **base), repeats)
    if as_json:
        for row in rows:
            click.echo(json.dumps({**dict.fromkeys(COLUMNS), **row}))
        return
    click.echo("| " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " |\n|" + " --- |" * len(COLUMNS))
    for row in rows:
        click.echo("| " + " | ".join(_cell(row.get(c)) for c in COLUMNS) + " |")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.2f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
