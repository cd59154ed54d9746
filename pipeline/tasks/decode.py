"""Decoding of a data directory: search, tuning of weights on lattices, hypotheses and their error rates."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.hyp import NBEST, TRIED, Alternative, Hypothesis, NBest, save_nbest, save_tried
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.model_dir import HmmDir
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write
from pipeline.base.log import progress_of
from pipeline.base.spool import JsonSpool
from pipeline.graph.options import DecodeOptions
from pipeline.parallel.parts import Part
from pipeline.tasks.decoded import Decoded, Hypotheses, Spool, references
from pipeline.tasks.lattice_words import LatticeWords
from pipeline.tasks.model import Model, OnDemandModel, check_data
from pipeline.tasks.weights import Weights, choose_and_write

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.feats.dataset import Dataset
    from pipeline.graph.decoding import DecodingGraph
    from pipeline.graph.lm_lattice import LatticeRescorer
    from pipeline.graph.search import Searcher
    from pipeline.hmm import OnDemand

logger = logging.getLogger(__name__)

Keep = Callable[[str, Lattice], None]  # takes each utterance's lattice, once


@dataclass
class DecodedWords(Decoded[Weights, list[int]]):
    """Recognised word ids.

    Attributes:
        failed: utterances whose search reached no end even with the widest beam.
        retried: number of searches that were repeated with a wider beam.
        alternatives: utterance -> n-best list, where asked for: [words as ids, acoustic, graph, lm].
        seconds: time that scoring, search and one best path took.
    """

    failed: list[str] = field(default_factory=list)
    retried: int = 0
    alternatives: JsonSpool = field(default_factory=JsonSpool)
    seconds: float = 0.0

    @property
    def real_time_factor(self) -> float:
        return self.seconds / max(self.audio_seconds, 1e-9)

    def hypotheses(self, weights: Weights, words: Sequence[str]) -> Hypotheses:
        """Hypotheses in the order of utterance ids."""
        found = self.spool.of(weights)
        return Hypotheses(
            self.refs, lambda cut_id: tuple(words[w] for w in found[cut_id]), lambda cut_id: tuple(found[cut_id])
        )

    def nbest_lists(self, words: Sequence[str]) -> Iterator[NBest]:
        """N-best lists in the order of utterance ids, with words as strings."""
        for c in sorted(self.alternatives):
            found = (Alternative(tuple(words[w] for w in said), *parts) for said, *parts in self.alternatives[c])
            yield NBest(c, *self.refs[c], tuple(found))


def check_graph(graph: DecodingGraph, graph_dir: str | Path, hmm: HmmDir) -> None:
    """MismatchError naming both directories unless the graph was built for the model's tree and topology."""
    check_same("tree", graph.tree_id, graph_dir, hmm.tree.id, hmm.directory)
    check_same("topo", graph.topo_id, graph_dir, hmm.topo.id, hmm.directory)


def decode(
    model: Model,
    graph: DecodingGraph,
    data_dir: str | Path,
    options: DecodeOptions,
    weights: Sequence[Weights],
    rescorer: LatticeRescorer | None = None,
    keep: Sequence[Keep] = (),
    part: Part = Part(),
) -> DecodedWords:
    """Recognises a data directory with every pair of weights at once, on one set of lattices.

    Args:
        graph: built for the model's tree (``check_graph``).
        weights: pairs of LM weight and word penalty.
        rescorer: another language model, which replaces that of the graph in the lattices.
        keep: what else happens to the lattices.
        part: which of the batches; they are the same for any number of parts.
    """
    from pipeline.feats.dataset import Dataset
    from pipeline.graph.search import Searcher

    check_data(model, data_dir)
    hmm = model.hmm
    scale = model.transition_scale if options.transition_scale is None else options.transition_scale
    searchers: dict[bool, Searcher] = {}
    out = DecodedWords(Spool(weights), references(data_dir))
    keep = [*keep, _keep_nbest(out.alternatives, options)] if options.nbest else keep
    data = Dataset.open(data_dir, model.feat_options, cache_mib=0)  # utterances are read once
    batches = list(longest_first(data.lens, options.batch_frames))
    batches = batches[part.of_costs([data.lens[rows].sum() for rows in batches])]
    with progress_of(sum(map(len, batches)), f"decode {data_dir}") as done:
        for rows in batches:
            start = time.monotonic()
            scores, lens, dynamic = _scores(model, data, rows, options)
            out.seconds += time.monotonic() - start
            is_dynamic = dynamic is not None
            if is_dynamic not in searchers:
                searchers[is_dynamic] = Searcher(
                    graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), scale, options, is_dynamic
                )
            cut_ids = [data.id(n) for n in rows]
            _recognise(searchers[is_dynamic], cut_ids, scores, lens, dynamic, options, rescorer, keep, out)
            out.audio_seconds += float(lens.sum()) * model.frame_shift
            done(len(rows))
    return out


def _scores(
    model: Model, data: Dataset, rows: list[int], options: DecodeOptions
) -> tuple[torch.Tensor | OnDemand, torch.Tensor, torch.Tensor | None]:
    """(N, T, P) scores, (N,) lengths and the transition scores of an input-dependent model.

    Mixtures score what our search asks for: the same words in less than half the time, and no matrix of all scores,
    which for an hour of speech has gigabytes.
    """
    import numpy as np
    import torch

    speakers = [data.speaker(n) for n in rows]
    if isinstance(model, OnDemandModel) and options.device == "cpu" and options.search == "ours":
        return model.on_demand(data.each(np.array(rows)), speakers), torch.from_numpy(data.lens[rows]), None
    batch = data.batch(np.array(rows), options.device)
    with torch.no_grad():
        scores, lens = model.log_likes(batch.feats, batch.lens, speakers)
        return scores, lens, model.transition_scores(batch.feats, batch.lens)


def longest_first(lens: np.ndarray, batch_frames: int) -> Iterator[list[int]]:
    """Utterances in batches, longest ones first so that little is padded."""
    batch: list[int] = []
    for n in (-lens).argsort(kind="stable").tolist():
        if batch and (len(batch) + 1) * int(lens[batch[0]]) > batch_frames:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch


def _recognise(
    searcher: Searcher,
    cut_ids: Sequence[str],
    scores: torch.Tensor | OnDemand,
    lens: torch.Tensor,
    dynamic: torch.Tensor | None,
    options: DecodeOptions,
    rescorer: LatticeRescorer | None,
    keep: Sequence[Keep],
    out: DecodedWords,
) -> None:
    """Searches a batch, again with wider beams where that failed, and stores the words for all weights."""
    rows = list(range(len(cut_ids)))
    for widen in range(options.retries + 1):
        start = time.monotonic()
        if len(rows) == len(cut_ids):
            own = (scores, lens, dynamic)  # copies of what may be gigabytes are worth avoiding
        else:
            own = (scores[rows], lens[rows], None if dynamic is None else dynamic[rows])
        lattices = searcher.search(*own, widen)
        weights = out.spool.weights
        first = weights[0]
        if rescorer is None:
            lattices.best_words(*first)
        else:
            rescorer.best_words(lattices, *first)
        out.seconds += time.monotonic() - start
        failed = [rows[i] for i in lattices.empty()]
        found = (
            lattices.best_words_of(weights)
            if rescorer is None
            else (rescorer.best_words(lattices, *w) for w in weights)
        )
        for row, texts in zip(rows, zip(*found)):
            out.spool.put(cut_ids[row], [[int(w) for w in words] for words in texts])
        for row, lattice in zip(rows, lattices):
            if row not in failed or widen == options.retries:
                for take in keep:
                    take(cut_ids[row], lattice)
        rows = failed
        if not rows:
            return
        out.retried += len(rows) if widen < options.retries else 0
    out.failed += [cut_ids[i] for i in rows]


def _keep_nbest(out: JsonSpool, options: DecodeOptions) -> Keep:
    """Stores n-best lists."""
    from pipeline.graph.lattices import Lattices
    from pipeline.graph.nbest import nbest

    def take(cut_id: str, lattice: Lattice) -> None:
        found = nbest(Lattices([lattice]), options.nbest, 1 / options.acoustic_scale, options.lattice_beam)[0]
        out[cut_id] = [[list(a.words), a.acoustic, a.graph, a.lm] for a in found]

    return take


def report(
    decoded: DecodedWords,
    words: Sequence[str],
    out_dir: str | Path,
    options: DecodeOptions,
    lattice_words: LatticeWords | None = None,
) -> tuple[list[Hypothesis], dict[str, Any]]:
    """Scores a run, writes recogs.jsonl.gz, errs.txt, wer.txt, best.json, failed.txt (nbest.jsonl.gz, tried.jsonl.gz).

    Args:
        words: word of each id.
        lattice_words: what is said of stored lattices with the chosen weights.
    Returns:
        The hypotheses at the chosen weights and facts for the stamp.
    Raises:
        DataError: too many searches failed.
    """
    d = Path(out_dir)
    with atomic_write(d / "failed.txt") as f:
        f.writelines(f"{c}\tthe search reached no end\n" for c in decoded.failed)
    if len(decoded.failed) > options.max_failed * len(decoded.refs):
        raise DataError(
            f"{len(decoded.failed)} of {len(decoded.refs)} utterances have no lattice (first: {decoded.failed[0]}); "
            f"widen --beam, or allow more by --max-failed"
        )
    if len(decoded.alternatives):
        save_nbest(d / NBEST, decoded.nbest_lists(words))
    found = {w: decoded.hypotheses(w, words) for w in decoded.spool.weights}
    if options.tried:
        save_tried(d / TRIED, found)
    hyps, facts = choose_and_write(found, d, lattice_words)
    logger.info(
        "real-time factor %.4f (%.1f s for %.1f s of audio); %d searches repeated, %d utterances failed",
        decoded.real_time_factor,
        decoded.seconds,
        decoded.audio_seconds,
        decoded.retried,
        len(decoded.failed),
    )
    return hyps, {
        **facts,
        "failed": len(decoded.failed),
        "retried": decoded.retried,
        "real_time_factor": decoded.real_time_factor,
        **({} if lattice_words is None else {"oracle_wer": lattice_words.oracle_wer}),
    }
