"""Decoding of a data directory: search, tuning of weights on lattices, hypotheses and their error rates."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.hyp import NBEST, TRIED, Alternative, Hypothesis, NBest, save_nbest, save_tried
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.lattice_set import LATTICES, LatticeHeader, LatticeSet, LatticeWriter
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.posteriors import PosteriorWriter
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import atomic_write
from pipeline.base.log import progress_of
from pipeline.base.spool import JsonSpool
from pipeline.graph.options import DecodeOptions
from pipeline.tasks.decoded import Decoded, Hypotheses, Spool, references, write_rows
from pipeline.tasks.lattice_words import Judge, LatticeWords
from pipeline.tasks.model import Model, OnDemandModel, check_data
from pipeline.tasks.weights import Weights, choose_and_write, read_weights

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
        return Hypotheses(self.refs, lambda cut_id: tuple(words[w] for w in found[cut_id]))

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
) -> DecodedWords:
    """Recognises a data directory with every pair of weights at once, on one set of lattices.

    Args:
        graph: built for the model's tree (``check_graph``).
        weights: pairs of LM weight and word penalty.
        rescorer: another language model, which replaces that of the graph in the lattices.
        keep: what else happens to the lattices.
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
    with progress_of(len(data), f"decode {data_dir}") as done:
        for rows in longest_first(data.lens, options.batch_frames):
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
        lattices = searcher.search(scores[rows], lens[rows], None if dynamic is None else dynamic[rows], widen)
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


def _keep_posteriors(writer: PosteriorWriter, options: DecodeOptions) -> Keep:
    """Writes posteriors of the pdfs at the scale of the search."""
    from pipeline.graph.lattices import Lattices

    def take(cut_id: str, lattice: Lattice) -> None:
        writer.write(cut_id, Lattices([lattice]).posteriors(1 / options.acoustic_scale, 0.0)[0])

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


@dataclass(frozen=True)
class Sources:
    """What a decoding reads.

    Attributes:
        model, graph, data: directories.
        weights_from: decoding directory whose weights are used; None: all are tried.
        transforms: speaker transforms.
        rescore_lm: language model that replaces the graph's in the lattices.
    """

    model: Path
    graph: Path
    data: Path
    weights_from: Path | None = None
    transforms: Path | None = None
    rescore_lm: Path | None = None


def decode_directory(
    sources: Sources, out_dir: Path, options: DecodeOptions, row_id: str | None, part: str
) -> dict[str, Any]:
    """Recognises, chooses weights and writes a decoding directory.

    Args:
        row_id: id of the row in results.json; None: none is written. part: part that the row names.
    Returns:
        facts for the stamp.
    """
    from pipeline.artifacts.arpa import Arpa
    from pipeline.base.stamp import artifact_id
    from pipeline.graph.decoding import DecodingGraph
    from pipeline.graph.lm_lattice import LatticeRescorer
    from pipeline.tasks.model import load_model

    check_options(sources, options)
    model = load_model(sources.model, options.prior_scale, sources.transforms, options.device, options.blank_penalty)
    graph = DecodingGraph.load(sources.graph)
    check_graph(graph, sources.graph, model.hmm)
    weights = [(w, p) for w in options.lm_weights for p in options.word_penalties]
    if sources.weights_from is not None:
        weights = [read_weights(sources.weights_from)]
    rescorer, lm = None, sources.rescore_lm
    if lm is not None:
        rescorer = LatticeRescorer(Arpa.load(lm / "lm.arpa" if lm.is_dir() else lm), graph.words)
    judged, stored = options.confidences or options.mbr, out_dir / LATTICES
    with contextlib.ExitStack() as stack:
        keep: list[Keep] = []
        if options.posteriors:
            adapted = "" if sources.transforms is None else artifact_id(sources.transforms)
            posteriors = stack.enter_context(PosteriorWriter(out_dir, model.hmm.tree.id, adapted))
            keep.append(_keep_posteriors(posteriors, options))
        if options.lattices or judged:
            keep.append(stack.enter_context(_lattice_writer(stored, model, graph, options)).write)
        decoded = decode(model, graph, sources.data, options, weights, rescorer, keep)
    words = None
    if options.lattices or judged:
        lattices = LatticeSet(stored)
        judge: Judge = "mbr" if options.mbr else "best" if judged else "none"
        words = LatticeWords(lattices.__getitem__, lattices.header, lattices.words, judge)
    hyps, facts = report(decoded, list(graph.words), out_dir, options, words)
    if words is not None and judged:
        words.write_ctm(out_dir)
    if judged and not options.lattices:
        shutil.rmtree(stored)
    if row_id is not None:
        more = [] if words is None else [words.oracle_row(row_id, part)]
        write_rows(out_dir, row_id, part, hyps, options, facts, more)
    return facts


def check_options(sources: Sources, options: DecodeOptions) -> None:
    """ConfigError, which names both, for options that do not go together."""
    if sources.rescore_lm is not None:
        for name in ("mbr", "confidences"):
            if getattr(options, name):
                raise ConfigError(
                    f"--{name} and --rescore-lm do not go together: the lattices keep the graph's language model; "
                    "write them (--lattices) and use steps/rescore_lattices.py"
                )


def _lattice_writer(directory: Path, model: Model, graph: DecodingGraph, options: DecodeOptions) -> LatticeWriter:
    header = LatticeHeader(
        graph.lang_id,
        graph.tree_id,
        model.frame_shift,
        model.frame_offset,
        options.acoustic_scale,
        options.lattice_beam,
        graph.word_sequences,
    )
    return LatticeWriter(directory, header, graph.words)
