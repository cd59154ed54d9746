"""Alignment of a data directory in parts that run side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from pipeline.artifacts.ali import HEADER, AliSet, AliWriter
from pipeline.artifacts.ali_source import LAYOUT
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.posteriors import LAYOUT as SOFT_LAYOUT
from pipeline.artifacts.posteriors import POSTERIORS, STEM
from pipeline.artifacts.shards import Run, Shards, join
from pipeline.base.files import read_json
from pipeline.base.stamp import artifact_id
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import Done, Part, as_json, in_process
from pipeline.parallel.run import done_in_parts
from pipeline.tasks.align import AlignOptions, AlignReport, align, write_failed
from pipeline.tasks.model import load_model

PRELOAD = ("pipeline.feats.dataset", "pipeline.gmm.model", "pipeline.hmm.compile", "pipeline.hmm.windows")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class AlignSources:
    """What an alignment reads: directories, of which only the speaker transforms may be missing.

    Attributes:
        producer: name of the model for the header.
    """

    data: Path
    lang: Path
    model: Path
    transforms: Path | None = None
    producer: str = ""


def align_in_parts(
    sources: AlignSources, out_dir: Path, options: AlignOptions, parallel: ParallelOptions
) -> AlignReport:
    """Loads everything and aligns, with the same bytes for any number of parts."""
    if in_process(parallel, out_dir):
        return _align(sources, out_dir, options, Part())
    load_index(sources.data)  # made once, and found by the parts
    arguments = {"sources": as_json(sources), "options": as_json(options)}
    with done_in_parts(align_part, arguments, out_dir, parallel) as parts:
        return merge_parts(parts, sources.data, out_dir)


def align_part(part: Part, out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Aligns a part of the batches, see ``pipeline.parallel.parts.Work``."""
    report = _align(AlignSources(**arguments["sources"]), out, AlignOptions(**arguments["options"]), part)
    return {"failed": report.failed, "retried": report.num_retried}


def _align(sources: AlignSources, out_dir: Path, options: AlignOptions, part: Part) -> AlignReport:
    lang = Lang.load(sources.lang)
    model = load_model(sources.model, options.prior_scale, sources.transforms, options.device)
    model.hmm.check_lang(lang, sources.lang)
    adapted = artifact_id(sources.transforms) if options.occupancies and sources.transforms is not None else ""
    return align(model, lang, sources.data, out_dir, options, sources.producer, part, adapted)


def merge_parts(parts: Sequence[Done], data_dir: Path, out_dir: Path) -> AlignReport:
    """Writes from the parts what ``align`` would have written, byte by byte: batches do not follow the order of the
    data, alignments do.
    """
    report = AlignReport(0, 0, 0.0, [], sum(part.facts["retried"] for part in parts))
    report.failed = [(cut_id, reason) for part in parts for cut_id, reason in part.facts["failed"]]
    index = load_index(data_dir)
    for run in merged(parts, out_dir, (index.id(i) for i in range(len(index)))):
        report.num_aligned += len(run.ids)
        report.num_frames += int(run.arrays["num_frames"].sum())
        for log_like in run.arrays["log_like"].tolist():  # one by one, as they were added up in one process
            report.total_log_like += log_like
    if (parts[0].directory / POSTERIORS).is_file():
        in_order = (index.id(i) for i in range(len(index)))
        join([part.directory for part in parts], out_dir, POSTERIORS, STEM, SOFT_LAYOUT, in_order)
    write_failed(report, data_dir, out_dir)
    return report


def merged(parts: Sequence[Done], out_dir: Path, ids: Iterable[str] | None = None) -> Iterator[Run]:
    """Writes the alignments of parts as those of one, and yields them.

    Args:
        ids: their order, in which there may be utterances without alignment; by default that of the parts.
    """
    hmm, first = load_hmm(parts[0].directory), AliSet.load(parts[0].directory)
    shards = [part.directory / name for part in parts for name in read_json(part.directory / HEADER)["shards"]]
    with AliWriter(out_dir, first.header, hmm.tree, hmm.topo, hmm.transitions, first.word_symbols) as writer:
        for run in Shards(shards, LAYOUT).runs(ids):
            writer.write_run(run)
            yield run
