"""Forced alignment: any scorer and a data directory in, an AliSet directory out."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.ali import Alignment, AliHeader, AliWriter
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.tokens import BLANK_ID
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write
from pipeline.base.log import progress

if TYPE_CHECKING:
    from pipeline.feats.load import PackedFeats
    from pipeline.tasks.scorer import Scorer

logger = logging.getLogger(__name__)

FAILED = "failed.txt"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AlignOptions:
    """Options of forced alignment; scales left at none are those that the model was made with."""

    acoustic_scale: float | None = Field(None, gt=0, description="Weight of the acoustic scores.")
    transition_scale: float | None = Field(None, ge=0, description="Weight of the transition log probabilities.")
    prior_scale: float | None = Field(None, ge=0, description="Weight of a network's label prior.")
    confidence: bool = Field(False, description="Also store the posterior of every frame's pdf (a full-sum pass).")
    max_failed: float = Field(0.05, ge=0, le=1, description="Share of utterances that may fail before the step does.")
    beam: float = Field(
        200.0,
        gt=0,
        description="GMMs on the CPU: natural logs by which a path may fall behind; utterances that "
        "find none are tried again with 4 times the beam, then without one. Other searches are exact.",
    )
    batch_frames: int = Field(
        60_000, gt=0, description="Feature frames per batch; bounds the memory.", json_schema_extra={"stamp": False}
    )
    device: str = Field("cpu", description="cpu or cuda.", json_schema_extra={"stamp": False})


@plain_dataclass(frozen=True)
class Batch:
    """One padded batch of utterances with their training graphs."""

    cut_ids: list[str]
    words: list[list[int]]
    graphs: Any  # hmm.compile.TrainingGraphs
    emissions: Any  # (N, T, P) float32, scaled; or hmm.OnDemand
    lengths: Any  # (N,) int64
    transitions: Any  # (n_tid,) or (N, T, n_tid), scaled


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
    scorer: Scorer,
    hmm: HmmDir,
    lang: Lang,
    data_dir: str | Path,
    out_dir: str | Path,
    options: AlignOptions,
    producer: str,
) -> AlignReport:
    """Viterbi-aligns a data directory and writes an AliSet.

    An utterance fails when it is shorter than its HMM or its scores leave no path. Failures are written to failed.txt.

    Args:
        scorer: the model; its frame shift becomes the alignment's.
        hmm: tree, topology and transitions of the model.
        lang: gives the pronunciations; must have the model's phones.
        producer: name of the model directory for the header.
    """
    header = AliHeader(lang.topo.id, hmm.tree.id, lang.id, scorer.frame_shift, scorer.frame_offset, producer)
    report = AlignReport(0, 0, 0.0, [])
    paths = _emission_paths if getattr(scorer, "emits", False) else _engine_paths
    with AliWriter(out_dir, header, hmm.tree, hmm.topo, hmm.transitions, lang.words) as writer:
        for path in paths(scorer, hmm, lang, data_dir, options, report):
            if not np.isfinite(path.score):
                report.failed.append((path.cut_id, "no path has a finite score"))
                continue
            writer.write(_alignment(path))
            report.num_aligned += 1
            report.num_frames += len(path.tids)
            report.total_log_like += path.score
    with atomic_write(Path(out_dir) / FAILED) as f:
        f.writelines(f"{cut_id}\t{reason}\n" for cut_id, reason in report.failed)
    return report


def _on_demand(scorer: Scorer, options: AlignOptions) -> bool:
    """Whether the model scores only what a search with a beam needs (GMMs on the CPU, without rescaled scores)."""
    unscaled = options.acoustic_scale in (None, 1.0) and scorer.acoustic_scale == 1.0
    return hasattr(scorer, "on_demand") and options.device == "cpu" and unscaled and not options.confidence


def _engine_paths(
    scorer: Scorer, hmm: HmmDir, lang: Lang, data_dir: str | Path, options: AlignOptions, report: AlignReport
) -> Iterator[_Path]:
    """Best paths of all utterances that are long enough."""
    from pipeline.hmm import viterbi, widening

    on_demand = _on_demand(scorer, options)
    beams = widening(options.beam if on_demand else math.inf)
    for batch in batches(scorer, hmm, lang, data_dir, options, report.failed, on_demand):
        best = viterbi(
            batch.graphs.graphs,
            batch.emissions,
            batch.lengths,
            batch.transitions,
            confidence=options.confidence,
            beams=beams,
        )
        report.num_retried += int(((best.tries > 1) & best.scores.isfinite()).sum())
        splits = batch.graphs.graphs.state_splits.tolist()
        states, tids = best.states.cpu().numpy(), best.tids.cpu().numpy().astype(np.int32)
        for i, cut_id in enumerate(batch.cut_ids):
            length = int(batch.lengths[i])
            positions = batch.graphs.state_word[splits[i] : splits[i + 1]][states[i, :length]]
            confidence = (
                None if best.confidence is None else best.confidence[i, :length].cpu().numpy().astype(np.float16)
            )
            yield _Path(cut_id, batch.words[i], float(best.scores[i]), tids[i, :length], positions, confidence)


def _emission_paths(
    scorer: Scorer, hmm: HmmDir, lang: Lang, data_dir: str | Path, options: AlignOptions, report: AlignReport
) -> Iterator[_Path]:
    """Paths of models that say at which frame each token is emitted: that frame is the token's, all others are
    blank.
    """
    from pipeline.artifacts.corpus import iter_cuts
    from pipeline.feats.load import iter_packed

    texts = {cut["id"]: cut["supervisions"][0].get("text") or "" for _, cut in iter_cuts(Path(data_dir))}
    pdf_of = {int(token): pdf for pdf, token in enumerate(scorer.token_of_pdf)}
    loop = {int(pdf): 2 * i for i, pdf in enumerate(hmm.transitions.pdf)}
    silence = loop[pdf_of[BLANK_ID]]
    for packed in iter_packed(data_dir, scorer.feat_options, options.batch_frames):
        words = [lang.word_ids(texts[c], f"{data_dir}/cuts.jsonl.gz: {c}") for c in packed.cut_ids]
        spelt = [[lang.lexicon.by_word[lang.words.name(w)][0].phones for w in row] for row in words]
        pdfs = [[hmm.tree.pdfs_of(hmm.phones.id(p), 0)[0] for word in row for p in word] for row in spelt]
        found, lens = scorer.emission_frames(
            *pad(packed, options.device), [[int(scorer.token_of_pdf[p]) for p in row] for row in pdfs]
        )
        for i, (score, frames) in enumerate(found):
            if lens[i] < len(frames):
                report.failed.append(
                    (packed.cut_ids[i], f"{lens[i]} frames are too short for its {len(frames)} tokens")
                )
                continue
            tids, positions = np.full(lens[i], silence, dtype=np.int32), np.full(lens[i], -1, dtype=np.int64)
            tids[np.maximum(frames - 1, 0)] += 1  # the blank before a token is left
            tids[frames] = [loop[pdf] + 1 for pdf in pdfs[i]]
            positions[frames] = np.repeat(np.arange(len(spelt[i])), [len(word) for word in spelt[i]])
            yield _Path(packed.cut_ids[i], words[i], score, tids, positions)


def batches(
    scorer: Scorer,
    hmm: HmmDir,
    lang: Lang,
    data_dir: str | Path,
    options: AlignOptions,
    failed: list[tuple[str, str]],
    on_demand: bool = False,
) -> Iterator[Batch]:
    """Batches of a data directory for alignment and accumulation, with their scores.

    Args:
        failed: utterances too short for their HMM are appended here.
        on_demand: leave the scoring to the search, which makes larger batches possible.
    """
    import torch

    from pipeline.artifacts.corpus import iter_cuts
    from pipeline.feats.load import iter_packed

    texts = {cut["id"]: cut["supervisions"][0].get("text") or "" for _, cut in iter_cuts(Path(data_dir))}
    scale = scorer.acoustic_scale if options.acoustic_scale is None else options.acoustic_scale
    trans_scale = scorer.transition_scale if options.transition_scale is None else options.transition_scale
    static = torch.from_numpy(hmm.transitions.log_probs())
    done = progress(range(len(texts)), total=len(texts), desc=f"align {data_dir}")
    for packed in iter_packed(data_dir, scorer.feat_options, options.batch_frames * (10 if on_demand else 1)):
        if on_demand:
            scores, out_lens, dynamic = scorer.on_demand(packed), packed.lengths(), None
        else:
            feats, lens = pad(packed, options.device)
            with torch.no_grad():
                scores, out_lens = scorer.log_likes(feats, lens, list(packed.speakers))
                dynamic = scorer.transition_scores(feats, lens)
        words = [lang.word_ids(texts[c], f"{data_dir}/cuts.jsonl.gz: {c}") for c in packed.cut_ids]
        keep, graphs = _long_enough(packed.cut_ids, words, hmm, lang, out_lens.tolist(), failed)
        if keep:
            transitions = (static.to(scores.device) if dynamic is None else dynamic[keep]) * trans_scale
            scores = (
                scores if len(keep) == len(words) else scores[keep]
            )  # copies of what may be gigabytes are worth avoiding
            yield Batch(
                [packed.cut_ids[i] for i in keep],
                [words[i] for i in keep],
                graphs,
                scores if scale == 1 else scores * scale,
                out_lens[keep],
                transitions,
            )
        for _ in packed.cut_ids:
            next(done, None)
    next(done, None)


def pad(packed: PackedFeats, device: str = "cpu") -> tuple[Any, Any]:
    """(N, T, F) zero-padded features and (N,) int64 lengths of packed utterances."""
    import torch

    offsets = packed.offsets.tolist()
    parts = [packed.feats[b:e] for b, e in zip(offsets[:-1], offsets[1:])]
    lens = torch.tensor([len(p) for p in parts], dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).to(device), lens.to(device)


def _long_enough(
    cut_ids: list[str], words: list[list[int]], hmm: HmmDir, lang: Lang, lens: list[int], failed: list[tuple[str, str]]
) -> tuple[list[int], Any]:
    """Indices of the utterances that have a path, and their graphs."""
    from pipeline.hmm.compile import compile_graphs

    graphs = compile_graphs(lang, hmm.tree, hmm.transitions, words)
    keep = []
    for i, (cut_id, length, needed) in enumerate(zip(cut_ids, lens, graphs.min_frames.tolist())):
        if length < needed:
            failed.append((cut_id, f"{length} frames are too short for its text, which needs {needed}"))
        else:
            keep.append(i)
    return keep, graphs.select(keep) if keep else None


def _alignment(path: _Path) -> Alignment:
    spoken = path.positions >= 0
    first = np.full(len(path.words), len(path.tids), dtype=np.int32)
    np.minimum.at(first, path.positions[spoken], np.nonzero(spoken)[0].astype(np.int32))
    words = np.stack([np.array(path.words, dtype=np.int32), first], axis=1)
    return Alignment(path.cut_id, path.tids, path.score, words, path.confidence)
