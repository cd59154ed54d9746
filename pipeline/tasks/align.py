"""Forced alignment: any scorer and a data directory in, an AliSet directory out."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.ali import AliHeader, AliWriter
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.oov import UnknownWords
from pipeline.artifacts.posteriors import Posteriors, PosteriorWriter
from pipeline.artifacts.tokens import BLANK_ID
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.files import atomic_write
from pipeline.base.log import progress_of
from pipeline.base.option_values import Device
from pipeline.parallel.parts import Part
from pipeline.tasks.model import EmittingModel, Model, OnDemandModel, check_data
from pipeline.tasks.unknown_speech import with_found

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from pipeline.feats.dataset import Dataset
    from pipeline.hmm.graphs import Graphs

logger = logging.getLogger(__name__)

FAILED = "failed.txt"
ON_DEMAND_FRAMES = 60_000  # of utterances that are searched side by side, where scores cost no memory
WINDOW_FRAMES = 200_000  # of utterances among which those of similar length are put together
MAX_BATCH = 64
# Beside speech that the text lacks, words that happen to fit it lead by up to 4 nats per frame until the text goes on:
# so much for 75 s. Beyond that the search may lose its place.
SKIP_BEAM = 30_000.0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AlignOptions:
    """Options of forced alignment; scales left at none are those that the model was made with."""

    acoustic_scale: float | None = Field(None, gt=0, description="Weight of the acoustic scores.")
    transition_scale: float | None = Field(None, ge=0, description="Weight of the transition log probabilities.")
    prior_scale: float | None = Field(None, ge=0, description="Weight of a network's label prior.")
    confidence: bool = Field(False, description="Also store the posterior of every frame's pdf (a full-sum pass).")
    occupancies: bool = Field(
        False,
        description="Also store the posteriors of all pdfs that each frame may belong to (a full-sum pass): the soft "
        "labels of steps/train_e2e.py --aux-soft.",
        json_schema_extra={"stamp": "if_set"},
    )
    max_failed: float = Field(0.05, ge=0, le=1, description="Share of utterances that may fail before the step does.")
    beam: float = Field(
        200.0,
        gt=0,
        description="GMMs on the CPU: natural logs by which a path may fall behind; utterances that "
        "find none are tried again with 4 times the beam, then without one. Other searches are exact.",
    )
    skip_speech: bool = Field(
        False,
        description="Speech that a text lacks may lie between its words, as the lang's out-of-vocabulary word.",
        json_schema_extra={"stamp": "if_set"},
    )
    batch_frames: int = Field(
        20_000, gt=0, description="Feature frames per batch; bounds the memory.", json_schema_extra={"stamp": False}
    )
    device: Device = Field("cpu", description="cpu or cuda.", json_schema_extra={"stamp": False})


@plain_dataclass(frozen=True)
class _Path:
    """Best path of an utterance: its score, -inf without one, and per frame transition-ids and word positions (-1:
    silence).
    """

    cut_id: str
    words: list[int]
    score: float
    tids: np.ndarray
    positions: np.ndarray
    confidence: np.ndarray | None = None
    occupancy: Posteriors | None = None


@plain_dataclass
class AlignReport:
    """Counts and failures of an alignment run; failures are (cut id, reason)."""

    num_aligned: int
    num_frames: int
    total_log_like: float
    failed: list[tuple[str, str]]
    num_retried: int = 0

    def check(self, where: str | Path, max_failed: float) -> None:
        """Logs the outcome; DataError when too many utterances failed."""
        total = self.num_aligned + len(self.failed)
        text = f"aligned {self.num_aligned:,} of {total:,}"
        if self.failed:
            first = ": ".join(self.failed[0])
            text += f"; {len(self.failed):,} failed, listed in {Path(where) / FAILED}, the first: {first}"
        if len(self.failed) > max_failed * total or not self.num_aligned:
            raise DataError(f"{text}; more than the allowed share of {max_failed:.0%} (--max-failed)")
        text += f"; {self.num_retried:,} took a wider beam" if self.num_retried else ""
        logger.info("%s; log-likelihood per frame %.3f", text, self.total_log_like / max(self.num_frames, 1))


def align(
    model: Model,
    lang: Lang,
    data_dir: str | Path,
    out_dir: str | Path,
    options: AlignOptions,
    producer: str,
    part: Part = Part(),
    transforms_id: str = "",
) -> AlignReport:
    """Viterbi-aligns a data directory and writes an AliSet, in the order of the data.

    An utterance fails when it is shorter than its HMM or its scores leave no path. Failures are written to failed.txt.

    Args:
        model: its frame shift becomes the alignment's.
        lang: gives the pronunciations; must have the model's phones.
        producer: name of the model directory for the header.
        part: which of the batches to align; they are the same for any number of parts.
        transforms_id: of the speaker transforms that the model scores with; empty for none.
    """
    hmm = model.hmm
    check_data(model, data_dir)
    if options.skip_speech and (lang.oov_word is None or lang.blank or isinstance(model, EmittingModel)):
        raise ConfigError(
            f"{hmm.directory}: nothing stands for speech that the text lacks; --skip-speech needs a lang with an "
            "out-of-vocabulary word and a model that scores frames"
        )
    if options.occupancies and isinstance(model, EmittingModel):
        raise ConfigError(f"{hmm.directory}: --occupancies needs a model that scores frames")
    header = AliHeader(
        lang.topo.id, hmm.tree.id, lang.id, model.frame_shift, model.frame_offset, producer, lang.position
    )
    report = AlignReport(0, 0, 0.0, [])
    with ExitStack() as stack:
        writer = stack.enter_context(AliWriter(out_dir, header, hmm.tree, hmm.topo, hmm.transitions, lang.words))
        soft = (
            stack.enter_context(PosteriorWriter(out_dir, hmm.tree.id, transforms_id)) if options.occupancies else None
        )
        for path in _paths(model, lang, data_dir, options, report, part):
            if not np.isfinite(path.score):
                report.failed.append((path.cut_id, "no path has a finite score"))
                continue
            writer.write(_alignment(path))
            if soft is not None and path.occupancy is not None:
                soft.write(path.cut_id, path.occupancy)
            report.num_aligned += 1
            report.num_frames += len(path.tids)
            report.total_log_like += path.score
    write_failed(report, data_dir, out_dir)
    return report


def write_failed(report: AlignReport, data_dir: str | Path, out_dir: str | Path) -> None:
    """Lists the failures in the order of the data."""
    if report.failed:
        index = load_index(data_dir)
        report.failed.sort(key=lambda failure: index.find(failure[0]) or 0)
    with atomic_write(Path(out_dir) / FAILED) as f:
        f.writelines(f"{cut_id}\t{reason}\n" for cut_id, reason in report.failed)


def _paths(
    model: Model, lang: Lang, data_dir: str | Path, options: AlignOptions, report: AlignReport, part: Part
) -> Iterator[_Path]:
    """Best paths of the utterances of a part that are long enough, in order: some at a time, those of similar length
    together.
    """
    from pipeline.feats.dataset import Dataset, plan

    # Utterances are read once, so nothing is gained by keeping them.
    data = Dataset.open(data_dir, model.feat_options, cache_mib=0)
    texts = _Texts(data, lang)
    if part.number == 0:
        texts.check()
    on_demand = _on_demand(model, options)
    size, most = (ON_DEMAND_FRAMES, len(data)) if on_demand else (options.batch_frames, MAX_BATCH)
    windows = data.pieces(max(WINDOW_FRAMES, size))
    batches = [(int(w[0]), w[batch]) for w in windows for batch in plan(data.lens[w], size, most)]
    own = batches[part.of_costs([data.lens[rows].sum() for _, rows in batches])]
    with progress_of(sum(len(rows) for _, rows in own), f"align {data_dir}") as done:
        for _, window in itertools.groupby(own, lambda batch: batch[0]):
            found: dict[int, _Path] = {}
            for _, rows in window:
                if isinstance(model, EmittingModel):
                    found.update(_emitted(model, data, texts, rows, options, report))
                else:
                    found.update(_searched(model, data, texts, rows, options, report, on_demand))
                done(len(rows))
            yield from (found[n] for n in sorted(found))


class _Texts:
    """Word ids of the utterances of a data set, and their graphs."""

    def __init__(self, data: Dataset, lang: Lang) -> None:
        self.data, self.lang = data, lang

    def check(self) -> None:
        """Tells which words of the data the unknown word of the lang stands for; without one, a word outside the
        lexicon is a DataError now rather than after hours.
        """
        if self.lang.oov_word is None:
            for n in range(len(self.data)):
                self.words(n)
            return
        unknown = UnknownWords(self.lang.lexicon.by_word, f"the lexicon, {self.lang.oov_word} stands for them")
        for n in range(len(self.data)):
            unknown.add(self.data.text(n).split())
        if unknown.counts:
            unknown.log()

    @property
    def unknown(self) -> int:
        """Id of the word for unknown speech."""
        assert self.lang.oov_word is not None
        return self.lang.words.id(self.lang.oov_word)

    def words(self, n: int) -> list[int]:
        """Of an utterance; DataError names the line of a word outside the lexicon."""
        return self.lang.word_ids(self.data.text(n), self.data.where(n))


def _on_demand(model: Model, options: AlignOptions) -> bool:
    """Whether the model scores only what a search with a beam needs (GMMs on the CPU, without rescaled scores)."""
    unscaled = options.acoustic_scale in (None, 1.0) and model.acoustic_scale == 1.0
    return isinstance(model, OnDemandModel) and options.device == "cpu" and unscaled


def _searched(
    model: Model,
    data: Dataset,
    texts: _Texts,
    rows: np.ndarray,
    options: AlignOptions,
    report: AlignReport,
    on_demand: bool,
) -> Iterator[tuple[int, _Path]]:
    """Best paths of some utterances by the engine."""
    import torch

    from pipeline.hmm import viterbi, widening
    from pipeline.hmm.compile import compile_graphs
    from pipeline.hmm.windows import too_long, window_posteriors

    scale = model.acoustic_scale if options.acoustic_scale is None else options.acoustic_scale
    trans_scale = model.transition_scale if options.transition_scale is None else options.transition_scale
    transitions = torch.from_numpy(model.hmm.transitions.log_probs())
    speakers = [data.speaker(n) for n in rows.tolist()]
    scores: Any  # (N, T', P), or what computes them on demand
    if on_demand:
        assert isinstance(model, OnDemandModel)
        scores, lens = model.on_demand(data.each(rows), speakers), torch.from_numpy(data.lens[rows])
    else:
        batch = data.batch(rows, options.device)
        with torch.no_grad():
            scores, lens = model.log_likes(batch.feats, batch.lens, speakers)
            dynamic = model.transition_scores(batch.feats, batch.lens)
        transitions = transitions.to(scores.device) if dynamic is None else dynamic
    words = [texts.words(n) for n in rows.tolist()]
    graphs = compile_graphs(texts.lang, model.hmm.tree, model.hmm.transitions, words, options.skip_speech)
    keep = _long_enough(data, rows, lens.tolist(), graphs.min_frames, report)
    if not keep:
        return
    if len(keep) < len(rows):  # copies of what may be gigabytes are worth avoiding
        scores, lens, graphs = scores[keep], lens[keep], graphs.select(keep)
        transitions = transitions[keep] if transitions.ndim > 1 else transitions
    scores = scores if scale == 1 else scores * scale
    inputs = (graphs.graphs, scores, lens, transitions * trans_scale)
    in_windows = options.confidence and too_long(graphs.graphs, lens)
    beam = max(options.beam, SKIP_BEAM) if options.skip_speech else options.beam
    beams = widening(beam if on_demand else math.inf)
    best = viterbi(*inputs, confidence=options.confidence and not in_windows, beams=beams)
    if in_windows:
        best = replace(best, confidence=window_posteriors(*inputs, best))
    soft = _occupancies(*inputs) if options.occupancies else None
    report.num_retried += int(((best.tries > 1) & best.scores.isfinite()).sum())
    splits = graphs.graphs.state_splits.tolist()
    states, tids = best.states.cpu().numpy(), best.tids.cpu().numpy().astype(np.int32)
    for i, place in enumerate(keep):
        length, n = int(lens[i]), int(rows[place])
        positions, said = graphs.state_word[splits[i] : splits[i + 1]][states[i, :length]], words[place]
        if options.skip_speech:
            said, positions = with_found(said, positions, texts.unknown)
        confidence = None if best.confidence is None else best.confidence[i, :length].cpu().numpy().astype(np.float16)
        occupancy = None if soft is None else Posteriors.of_frames(soft[i, :length])
        yield n, _Path(data.id(n), said, float(best.scores[i]), tids[i, :length], positions, confidence, occupancy)


def _occupancies(graphs: Graphs, scores: Any, lens: torch.Tensor, transitions: torch.Tensor) -> npt.NDArray[np.float32]:
    """(N, T', P) posteriors of the pdfs: the gradient of the full sum, which needs no table of frames and states."""
    import torch

    from pipeline.hmm import full_sum
    from pipeline.hmm.viterbi import all_scores

    emissions = all_scores(scores).detach().requires_grad_()
    (found,) = torch.autograd.grad(full_sum(graphs, emissions, lens, transitions).sum(), emissions)
    return found.cpu().numpy()


def _long_enough(
    data: Dataset, rows: np.ndarray, lens: list[int], needed: np.ndarray, report: AlignReport
) -> list[int]:
    """Places of the utterances that have a path."""
    for n, length, least in zip(rows.tolist(), lens, needed.tolist()):
        if length < least:
            report.failed.append((data.id(n), f"{length} frames are too short for its text, which needs {least}"))
    return [i for i, (length, least) in enumerate(zip(lens, needed.tolist())) if length >= least]


def _emitted(
    model: EmittingModel, data: Dataset, texts: _Texts, rows: np.ndarray, options: AlignOptions, report: AlignReport
) -> Iterator[tuple[int, _Path]]:
    """Paths of models that say at which frame each token is emitted: that frame is the token's, all others are
    blank.
    """
    hmm, lang = cast("Model", model).hmm, texts.lang
    pdf_of = {int(token): pdf for pdf, token in enumerate(model.token_of_pdf)}
    loop = {int(pdf): 2 * i for i, pdf in enumerate(hmm.transitions.pdf)}
    silence = loop[pdf_of[BLANK_ID]]
    words = [texts.words(n) for n in rows.tolist()]
    spelt = [[lang.lexicon.by_word[lang.words.name(w)][0].phones for w in row] for row in words]
    pdfs = [[hmm.tree.pdfs_of(hmm.phones.id(p), 0)[0] for word in row for p in word] for row in spelt]
    batch = data.batch(rows, options.device)
    tokens = [[int(model.token_of_pdf[p]) for p in row] for row in pdfs]
    found, lens = model.emission_frames(batch.feats, batch.lens, tokens)
    for i, (score, frames) in enumerate(found):
        n = int(rows[i])
        if lens[i] < len(frames):
            report.failed.append((data.id(n), f"{lens[i]} frames are too short for its {len(frames)} tokens"))
            continue
        tids, positions = np.full(lens[i], silence, dtype=np.int32), np.full(lens[i], -1, dtype=np.int64)
        tids[np.maximum(frames - 1, 0)] += 1  # the blank before a token is left
        tids[frames] = [loop[pdf] + 1 for pdf in pdfs[i]]
        positions[frames] = np.repeat(np.arange(len(spelt[i])), [len(word) for word in spelt[i]])
        yield n, _Path(data.id(n), words[i], score, tids, positions)


def _alignment(path: _Path) -> Alignment:
    spoken = path.positions >= 0
    first = np.full(len(path.words), len(path.tids), dtype=np.int32)
    np.minimum.at(first, path.positions[spoken], np.nonzero(spoken)[0].astype(np.int32))
    words = np.stack([np.array(path.words, dtype=np.int32), first], axis=1)
    return Alignment(path.cut_id, path.tids, path.score, words, path.confidence)
