"""Forced alignment: any scorer and a data directory in, an AliSet directory out."""
from __future__ import annotations

import logging
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Optional

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.ali import AliHeader, Alignment, AliWriter
from pipeline.errors import DataError
from pipeline.files import atomic_write
from pipeline.lang import Lang
from pipeline.log import progress
from pipeline.model_dir import HmmDir

if TYPE_CHECKING:
    from pipeline.feats.load import PackedFeats
    from pipeline.scorer import Scorer

logger = logging.getLogger(__name__)

FAILED = "failed.txt"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AlignOptions:
    """Options of forced alignment; scales left at none are those that the model was made with."""

    acoustic_scale: Optional[float] = Field(None, gt=0, description="Weight of the acoustic scores.")
    transition_scale: Optional[float] = Field(None, ge=0, description="Weight of the transition log probabilities.")
    prior_scale: Optional[float] = Field(None, ge=0, description="Weight of a network's label prior.")
    confidence: bool = Field(False, description="Also store the posterior of every frame's pdf (a full-sum pass).")
    max_failed: float = Field(0.05, ge=0, le=1, description="Share of utterances that may fail before the step does.")
    batch_frames: int = Field(60_000, gt=0, description="Feature frames per batch; bounds the memory.",
                              json_schema_extra={"stamp": False})
    device: str = Field("cpu", description="cpu or cuda.", json_schema_extra={"stamp": False})


@plain_dataclass(frozen=True)
class Batch:
    """One padded batch of utterances with their training graphs."""

    cut_ids: list[str]
    words: list[list[int]]
    graphs: Any  # hmm.compile.TrainingGraphs
    emissions: Any  # (N, T, P) float32, scaled
    lengths: Any  # (N,) int64
    transitions: Any  # (n_tid,) or (N, T, n_tid), scaled


@plain_dataclass
class AlignReport:
    """Counts and failures of an alignment run; failures are (cut id, reason)."""

    num_aligned: int
    num_frames: int
    total_log_like: float
    failed: list[tuple[str, str]]

    def check(self, where: str | Path, max_failed: float) -> None:
        """Logs the outcome; DataError when too many utterances failed."""
        total = self.num_aligned + len(self.failed)
        text = f"aligned {self.num_aligned:,} of {total:,}"
        if self.failed:
            text += f"; {len(self.failed):,} failed, listed in {Path(where) / FAILED}, the first: {': '.join(self.failed[0])}"
        if len(self.failed) > max_failed * total or not self.num_aligned:
            raise DataError(f"{text}; more than the allowed share of {max_failed:.0%} (--max-failed)")
        logger.info("%s; log-likelihood per frame %.3f", text, self.total_log_like / max(self.num_frames, 1))


def align(scorer: "Scorer", hmm: HmmDir, lang: Lang, data_dir: str | Path, out_dir: str | Path, options: AlignOptions,
          producer: str) -> AlignReport:
    """Viterbi-aligns a data directory and writes an AliSet.

    The search is exact (no beam), so there is nothing to retry: an utterance fails only when it is shorter than its
    HMM or its scores leave no path. Failures are written to failed.txt.

    Args:
        scorer: the model; its frame shift becomes the alignment's.
        hmm: tree, topology and transitions of the model.
        lang: gives the pronunciations; must have the model's phones.
        producer: name of the model directory for the header.
    """
    from pipeline.hmm import viterbi
    header = AliHeader(lang.topo.id, hmm.tree.id, lang.id, scorer.frame_shift, scorer.frame_offset, producer)
    report = AlignReport(0, 0, 0.0, [])
    with AliWriter(out_dir, header, hmm.tree, hmm.topo, hmm.transitions, lang.words) as writer:
        for batch in batches(scorer, hmm, lang, data_dir, options, report.failed):
            best = viterbi(batch.graphs.graphs, batch.emissions, batch.lengths, batch.transitions,
                           confidence=options.confidence)
            for i, cut_id in enumerate(batch.cut_ids):
                if not np.isfinite(float(best.scores[i])):
                    report.failed.append((cut_id, "no path has a finite score"))
                    continue
                alignment = _alignment(batch, best, i)
                writer.write(alignment)
                report.num_aligned += 1
                report.num_frames += len(alignment.transition_ids)
                report.total_log_like += alignment.log_like
    with atomic_write(Path(out_dir) / FAILED) as f:
        f.writelines(f"{cut_id}\t{reason}\n" for cut_id, reason in report.failed)
    return report


def batches(scorer: "Scorer", hmm: HmmDir, lang: Lang, data_dir: str | Path, options: AlignOptions,
            failed: list[tuple[str, str]]) -> Iterator[Batch]:
    """Scored batches of a data directory for alignment and accumulation.

    Args:
        failed: utterances too short for their HMM are appended here.
    """
    import torch

    from pipeline.corpus import load_cuts
    from pipeline.feats.load import iter_packed
    cuts = load_cuts(data_dir)
    texts = {c.id: c.supervisions[0].text for c in cuts}
    scale = scorer.acoustic_scale if options.acoustic_scale is None else options.acoustic_scale
    trans_scale = scorer.transition_scale if options.transition_scale is None else options.transition_scale
    static = torch.from_numpy(hmm.transitions.log_probs())
    done = progress(range(len(texts)), total=len(texts), desc=f"align {data_dir}")
    for packed in iter_packed(data_dir, scorer.feat_options, options.batch_frames):
        feats, lens = pad(packed, options.device)
        speakers = list(packed.speakers)
        with torch.no_grad():
            scores, out_lens = scorer.log_likes(feats, lens, speakers)
            dynamic = scorer.transition_scores(feats, lens)
        words = [lang.word_ids(texts[c], f"{data_dir}/cuts.jsonl.gz: {c}") for c in packed.cut_ids]
        keep, graphs = _long_enough(packed.cut_ids, words, hmm, lang, out_lens.tolist(), failed)
        if keep:
            transitions = (static.to(scores.device) if dynamic is None else dynamic[keep]) * trans_scale
            yield Batch([packed.cut_ids[i] for i in keep], [words[i] for i in keep], graphs,
                        scores[keep] * scale, out_lens[keep], transitions)
        for _ in packed.cut_ids:
            next(done, None)
    next(done, None)


def pad(packed: "PackedFeats", device: str = "cpu") -> tuple[Any, Any]:
    """(N, T, F) zero-padded features and (N,) int64 lengths of packed utterances."""
    import torch
    offsets = packed.offsets.tolist()
    parts = [packed.feats[b:e] for b, e in zip(offsets[:-1], offsets[1:])]
    lens = torch.tensor([len(p) for p in parts], dtype=torch.int64)
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).to(device), lens.to(device)


def _long_enough(cut_ids: list[str], words: list[list[int]], hmm: HmmDir, lang: Lang, lens: list[int],
                 failed: list[tuple[str, str]]) -> tuple[list[int], Any]:
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


def _alignment(batch: Batch, best: Any, i: int) -> Alignment:
    length = int(batch.lengths[i])
    splits = batch.graphs.graphs.state_splits
    positions = batch.graphs.state_word[int(splits[i]):int(splits[i + 1])][best.states[i, :length].cpu().numpy()]
    spoken = positions >= 0
    first = np.full(len(batch.words[i]), length, dtype=np.int32)
    np.minimum.at(first, positions[spoken], np.nonzero(spoken)[0].astype(np.int32))
    words = np.stack([np.array(batch.words[i], dtype=np.int32), first], axis=1)
    confidence = None if best.confidence is None else best.confidence[i, :length].cpu().numpy().astype(np.float16)
    return Alignment(batch.cut_ids[i], best.tids[i, :length].cpu().numpy().astype(np.int32), float(best.scores[i]),
                     words, confidence)
