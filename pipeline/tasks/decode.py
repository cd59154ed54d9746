"""Decoding of a data directory: search, tuning of weights on lattices, hypotheses and their error rates."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.hyp import (
    NBEST,
    RECOGS,
    TRIED,
    Alternative,
    Hypothesis,
    NBest,
    load_tried,
    save_hypotheses,
    save_nbest,
    save_tried,
)
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.occupancies import Occupancies
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import atomic_write, read_json, write_json
from pipeline.base.log import progress
from pipeline.graph.options import DecodeOptions
from pipeline.tasks.score import Errors, count_errors, error_report, total_errors

if TYPE_CHECKING:
    import torch

    from pipeline.graph.decoding import DecodingGraph
    from pipeline.graph.lm_lattice import LatticeRescorer
    from pipeline.graph.search import Searcher
    from pipeline.tasks.scorer import Scorer

logger = logging.getLogger(__name__)

BEST = "best.json"
Weights = tuple[float, float]  # LM weight, word penalty


@dataclass
class Decoded:
    """What a decoding run found.

    Attributes:
        texts: for each pair of weights the recognised word ids by utterance.
        refs: utterance -> (speaker, words).
        failed: utterances whose search reached no end even with the widest beam.
        retried: number of searches that were repeated with a wider beam.
        alternatives: utterance -> n-best list of word ids, where asked for.
        occupancies: utterance -> posteriors of the pdfs at the scale of the search, where asked for.
        audio_seconds, seconds: duration of the audio; time that scoring, search and one best path took.
    """

    texts: dict[Weights, dict[str, list[int]]]
    refs: dict[str, tuple[str, tuple[str, ...]]]
    failed: list[str] = field(default_factory=list)
    retried: int = 0
    alternatives: dict[str, list[Alternative]] = field(default_factory=dict)
    occupancies: dict[str, Occupancies] = field(default_factory=dict)
    audio_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def real_time_factor(self) -> float:
        return self.seconds / max(self.audio_seconds, 1e-9)

    def hypotheses(self, weights: Weights, words: Sequence[str]) -> list[Hypothesis]:
        """Hypotheses in the order of utterance ids."""
        found = self.texts[weights]
        return [
            Hypothesis(c, self.refs[c][0], self.refs[c][1], tuple(words[w] for w in found[c]))
            for c in sorted(self.refs)
        ]

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
    scorer: Scorer,
    hmm: HmmDir,
    graph: DecodingGraph,
    data_dir: str | Path,
    options: DecodeOptions,
    weights: Sequence[Weights],
    rescorer: LatticeRescorer | None = None,
) -> Decoded:
    """Recognises a data directory with every pair of weights at once, on one set of lattices.

    Args:
        scorer, hmm: the model.
        graph: built for its tree (``check_graph``).
        weights: pairs of LM weight and word penalty.
        rescorer: another language model, which replaces that of the graph in the lattices.
    """
    from pipeline.graph.search import Searcher

    scale = scorer.transition_scale if options.transition_scale is None else options.transition_scale
    searchers: dict[bool, Searcher] = {}
    out = Decoded({w: {} for w in weights}, _references(data_dir))
    done = progress(range(len(out.refs)), total=len(out.refs), desc=f"decode {data_dir}")
    for batch in _batches(scorer, data_dir, options):
        start = time.monotonic()
        scores, lens, dynamic = batch.score(scorer)
        out.seconds += time.monotonic() - start
        is_dynamic = dynamic is not None
        if is_dynamic and options.posteriors:
            raise ConfigError("posteriors of a model with input-dependent transitions: its lattices do not tell pdfs")
        if is_dynamic not in searchers:
            searchers[is_dynamic] = Searcher(
                graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), scale, options, is_dynamic
            )
        _recognise(searchers[is_dynamic], batch.cut_ids, scores, lens, dynamic, options, rescorer, out)
        out.audio_seconds += float(lens.sum()) * scorer.frame_shift
        for _ in batch.cut_ids:
            next(done, None)
    next(done, None)
    return out


@dataclass(frozen=True)
class _Batch:
    cut_ids: list[str]
    speakers: list[str]
    feats: torch.Tensor
    lens: torch.Tensor

    def score(self, scorer: Scorer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(N, T, P) scores, (N,) lengths and the transition scores of an input-dependent model."""
        import torch

        with torch.no_grad():
            scores, lens = scorer.log_likes(self.feats, self.lens, self.speakers)
            return scores, lens, scorer.transition_scores(self.feats, self.lens)


def _references(data_dir: str | Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    from pipeline.artifacts.corpus import iter_cuts

    supervisions = {cut["id"]: cut["supervisions"][0] for _, cut in iter_cuts(data_dir)}
    return {c: (str(s["speaker"]), tuple(s["text"].split())) for c, s in supervisions.items()}


def _batches(scorer: Scorer, data_dir: str | Path, options: DecodeOptions) -> Iterator[_Batch]:
    """Padded batches, longest utterances together so that little is padded."""
    import torch

    from pipeline.feats.load import load_packed

    packed = load_packed(data_dir, scorer.feat_options)
    lens = packed.lengths()
    batch: list[int] = []
    order = torch.argsort(lens, descending=True, stable=True).tolist()
    for i in [*order, -1]:
        if batch and (i < 0 or (len(batch) + 1) * int(lens[batch[0]]) > options.batch_frames):
            feats = torch.nn.utils.rnn.pad_sequence([packed[j] for j in batch], batch_first=True)
            yield _Batch(
                [packed.cut_ids[j] for j in batch],
                [packed.speakers[j] for j in batch],
                feats.to(options.device),
                lens[batch].to(options.device),
            )
            batch = []
        batch.append(i)


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
        first = next(iter(out.texts))
        if rescorer is None:
            lattices.best_words(*first)
        else:
            rescorer.best_words(lattices, *first)
        out.seconds += time.monotonic() - start
        failed = [rows[i] for i in lattices.empty()]
        found = (
            lattices.best_words_of(list(out.texts))
            if rescorer is None
            else (rescorer.best_words(lattices, *w) for w in out.texts)
        )
        for texts, best in zip(out.texts.values(), found):
            texts.update(zip((cut_ids[row] for row in rows), best))
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
    found = {w: decoded.hypotheses(w, words) for w in decoded.texts}
    if options.tried:
        save_tried(d / TRIED, found)
    hyps, facts = write_best(found, d)
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


def write_best(
    found: Mapping[Weights, list[Hypothesis]], out_dir: str | Path
) -> tuple[list[Hypothesis], dict[str, Any]]:
    """Chooses the weights with the fewest errors and writes recogs.jsonl.gz, errs.txt, wer.txt and best.json for them.

    Returns:
        The hypotheses and facts for the stamp.
    """
    d = Path(out_dir)
    errors = {w: total_errors(count_errors(hyps)) for w, hyps in found.items()}
    best = choose_weights(errors)
    save_hypotheses(d / RECOGS, found[best])
    with atomic_write(d / "errs.txt") as f:
        f.writelines(line + "\n" for line in error_report(found[best]))
    with atomic_write(d / "wer.txt") as f:
        f.write(errors[best].line() + "\n")
    write_json(
        d / BEST,
        {
            "lm_weight": best[0],
            "word_penalty": best[1],
            "tried": [
                {"lm_weight": w, "word_penalty": p, "wer": round(e.wer, 4), "errors": e.total}
                for (w, p), e in errors.items()
            ],
        },
    )
    tried = {w for w, _ in found}
    if len(tried) > 2 and best[0] in (min(tried), max(tried)):
        logger.warning("the best LM weight, %g, is the last one tried; try more (--lm-weights)", best[0])
    logger.info("%s (LM weight %g, word penalty %g)", errors[best].line(), *best)
    return found[best], {
        "wer": errors[best].wer,
        "lm_weight": best[0],
        "word_penalty": best[1],
        "utterances": len(found[best]),
    }
