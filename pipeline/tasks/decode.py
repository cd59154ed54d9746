"""Decoding of a data directory: search, tuning of weights on lattices, hypotheses and their error rates."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.hyp import (
    NBEST,
    TRIED,
    Alternative,
    Hypothesis,
    NBest,
    load_tried,
    save_nbest,
    save_tried,
)
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.occupancies import Occupancies
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_json
from pipeline.base.log import progress_of
from pipeline.graph.options import DecodeOptions
from pipeline.tasks.decoded import (
    BEST,
    Hypotheses,
    References,
    Spool,
    references,
    warn_at_the_edge,
    write_best,
    write_rows,
)
from pipeline.tasks.model import Model, check_data
from pipeline.tasks.score import Errors

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.feats.dataset import Dataset
    from pipeline.graph.decoding import DecodingGraph
    from pipeline.graph.lm_lattice import LatticeRescorer
    from pipeline.graph.search import Searcher

logger = logging.getLogger(__name__)

Weights = tuple[float, float]  # LM weight, word penalty


@dataclass
class Decoded:
    """What a decoding run found.

    Attributes:
        spool: for each pair of weights the recognised word ids by utterance.
        refs: utterance -> (speaker, words).
        failed: utterances whose search reached no end even with the widest beam.
        retried: number of searches that were repeated with a wider beam.
        alternatives: utterance -> n-best list of word ids, where asked for.
        occupancies: utterance -> posteriors of the pdfs at the scale of the search, where asked for.
        audio_seconds, seconds: duration of the audio; time that scoring, search and one best path took.
    """

    spool: Spool[Weights, list[int]]
    refs: References
    failed: list[str] = field(default_factory=list)
    retried: int = 0
    alternatives: dict[str, list[Alternative]] = field(default_factory=dict)
    occupancies: dict[str, Occupancies] = field(default_factory=dict)
    audio_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def texts(self) -> dict[Weights, Mapping[str, list[int]]]:
        """For each pair of weights the recognised word ids by utterance."""
        return {w: self.spool.of(w) for w in self.spool.weights}

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
            found = (replace(a, words=tuple(words[w] for w in a.words)) for a in self.alternatives[c])
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
) -> Decoded:
    """Recognises a data directory with every pair of weights at once, on one set of lattices.

    Args:
        graph: built for the model's tree (``check_graph``).
        weights: pairs of LM weight and word penalty.
        rescorer: another language model, which replaces that of the graph in the lattices.
    """
    from pipeline.feats.dataset import Dataset
    from pipeline.graph.search import Searcher

    check_data(model, data_dir)
    hmm = model.hmm
    scale = model.transition_scale if options.transition_scale is None else options.transition_scale
    searchers: dict[bool, Searcher] = {}
    out = Decoded(Spool(weights), references(data_dir))
    data = Dataset.open(data_dir, model.feat_options, cache_mib=0)  # utterances are read once
    with progress_of(len(data), f"decode {data_dir}") as done:
        for rows in longest_first(data.lens, options.batch_frames):
            start = time.monotonic()
            scores, lens, dynamic = _scores(model, data, rows, options.device)
            out.seconds += time.monotonic() - start
            is_dynamic = dynamic is not None
            if is_dynamic not in searchers:
                searchers[is_dynamic] = Searcher(
                    graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), scale, options, is_dynamic
                )
            cut_ids = [data.id(n) for n in rows]
            _recognise(searchers[is_dynamic], cut_ids, scores, lens, dynamic, options, rescorer, out)
            out.audio_seconds += float(lens.sum()) * model.frame_shift
            done(len(rows))
    return out


def _scores(
    model: Model, data: Dataset, rows: list[int], device: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(N, T, P) scores, (N,) lengths and the transition scores of an input-dependent model."""
    import numpy as np
    import torch

    batch = data.batch(np.array(rows), device)
    with torch.no_grad():
        scores, lens = model.log_likes(batch.feats, batch.lens, [data.speaker(n) for n in rows])
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
    scores: torch.Tensor,
    lens: torch.Tensor,
    dynamic: torch.Tensor | None,
    options: DecodeOptions,
    rescorer: LatticeRescorer | None,
    out: Decoded,
) -> None:
    """Searches a batch, again with wider beams where that failed, and stores the words for all weights."""
    from pipeline.graph.nbest import nbest

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
        if options.posteriors:
            soft = lattices.occupancies(1 / options.acoustic_scale, 0.0)
            out.occupancies.update((cut_ids[row], o) for row, o in zip(rows, soft))
        if options.nbest:
            lists = nbest(lattices, options.nbest, 1 / options.acoustic_scale, options.lattice_beam)
            out.alternatives.update((cut_ids[row], found) for row, found in zip(rows, lists))
        rows = failed
        if not rows:
            return
        out.retried += len(rows) if widen < options.retries else 0
    out.failed += [cut_ids[i] for i in rows]


def choose_weights(errors: Mapping[Weights, Errors]) -> Weights:
    """The weights with the fewest errors; of equal ones those with the least penalty, of these the middle LM weight."""
    fewest = min(e.total for e in errors.values())
    best = [w for w, e in errors.items() if e.total == fewest]
    least = min(abs(penalty) for _, penalty in best)
    equal = sorted(w for w in best if abs(w[1]) == least)
    return equal[(len(equal) - 1) // 2]


def read_weights(directory: str | Path) -> Weights:
    """LM weight and word penalty that another decoding directory chose."""
    path = Path(directory) / BEST
    facts = read_json(path)
    try:
        return float(facts["lm_weight"]), float(facts["word_penalty"])
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(f"{path}: names no weights ({e!r})") from None


def report(
    decoded: Decoded, words: Sequence[str], out_dir: str | Path, options: DecodeOptions
) -> tuple[list[Hypothesis], dict[str, Any]]:
    """Scores a run, writes recogs.jsonl.gz, errs.txt, wer.txt, best.json, failed.txt (nbest.jsonl.gz, tried.jsonl.gz).

    Args:
        words: word of each id.
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
    if decoded.alternatives:
        save_nbest(d / NBEST, decoded.nbest_lists(words))
    found = {w: decoded.hypotheses(w, words) for w in decoded.spool.weights}
    if options.tried:
        save_tried(d / TRIED, found)
    hyps, facts = choose_and_write(found, d)
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
    }


def pooled(directories: Sequence[str | Path]) -> dict[Weights, list[Hypothesis]]:
    """What several decoding directories (``DecodeOptions.tried``) recognised with all weights, as if it were one.

    Held-out folds of the training speakers make one large development set this way.

    Raises:
        DataError: directories that tried different weights or have an utterance in common.
    """
    out: dict[Weights, list[Hypothesis]] = {}
    home: dict[str, str | Path] = {}
    for directory in directories:
        found = load_tried(directory)
        if out and set(found) != set(out):
            raise DataError(f"{directory} and {directories[0]} tried different weights")
        for hyp in next(iter(found.values())):
            if hyp.cut_id in home:
                raise DataError(f"utterance {hyp.cut_id!r} is in {home[hyp.cut_id]} and in {directory}")
            home[hyp.cut_id] = directory
        out = {w: [*out.get(w, ()), *hyps] for w, hyps in found.items()}
    return out


def choose_and_write(
    found: Mapping[Weights, Iterable[Hypothesis]], out_dir: str | Path
) -> tuple[list[Hypothesis], dict[str, Any]]:
    """Chooses the weights with the fewest errors and writes recogs.jsonl.gz, errs.txt, wer.txt and best.json for them.

    Returns:
        The hypotheses and facts for the stamp.
    """

    def describe(weights: Weights) -> dict[str, Any]:
        return {"lm_weight": weights[0], "word_penalty": weights[1]}

    hyps, best, errors = write_best(found, out_dir, choose_weights, describe, describe)
    warn_at_the_edge((w for w, _ in found), best[0])
    logger.info("%s (LM weight %g, word penalty %g)", errors[best].line(), *best)
    return hyps, {"wer": errors[best].wer, **describe(best), "utterances": len(hyps)}


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
    from pipeline.artifacts.occupancies import save_occupancies
    from pipeline.base.stamp import artifact_id
    from pipeline.graph.decoding import DecodingGraph
    from pipeline.graph.lm_lattice import LatticeRescorer
    from pipeline.tasks.model import load_model

    model = load_model(sources.model, options.prior_scale, sources.transforms, options.device, options.blank_penalty)
    graph = DecodingGraph.load(sources.graph)
    check_graph(graph, sources.graph, model.hmm)
    weights = [(w, p) for w in options.lm_weights for p in options.word_penalties]
    if sources.weights_from is not None:
        weights = [read_weights(sources.weights_from)]
    rescorer, lm = None, sources.rescore_lm
    if lm is not None:
        rescorer = LatticeRescorer(Arpa.load(lm / "lm.arpa" if lm.is_dir() else lm), graph.words)
    decoded = decode(model, graph, sources.data, options, weights, rescorer)
    if options.posteriors:
        adapted = "" if sources.transforms is None else artifact_id(sources.transforms)
        save_occupancies(out_dir, decoded.occupancies, model.hmm.tree.id, adapted)
    hyps, facts = report(decoded, list(graph.words), out_dir, options)
    if row_id is not None:
        write_rows(out_dir, row_id, part, hyps, options, facts)
    return facts
