"""Refinement of boundaries in parts that run side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.ali import HEADER, AliSet, AliWriter
from pipeline.artifacts.ali_source import AliShards
from pipeline.artifacts.index import load_index
from pipeline.artifacts.model_dir import load_hmm
from pipeline.base.files import read_json
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import Done, Part, as_json
from pipeline.parallel.run import done_in_parts
from pipeline.tasks.boundaries import BoundaryOptions, Source, refine

logger = logging.getLogger(__name__)

PRELOAD = ("pipeline.feats.dataset", "pipeline.gmm.model", "pipeline.hmm.full_sum")


def refine_in_parts(
    ali: Path,
    sources: Sequence[Source],
    out_dir: Path,
    options: BoundaryOptions,
    producer: str,
    parallel: ParallelOptions = ParallelOptions(),
) -> dict[str, int]:
    """As ``refine``, with the same bytes for any number of parts.

    Args:
        ali: directory of the alignment.
    """
    if parallel.in_process:
        facts = refine(AliSet.load(ali), sources, out_dir, options, producer)
    else:
        for source in sources:
            load_index(source.data)  # made once, and found by the parts
        arguments = {
            "ali": str(ali.resolve()),
            "sources": [[_absolute(s.model), _absolute(s.data), _absolute(s.transforms)] for s in sources],
            "options": as_json(options),
            "producer": producer,
        }
        with done_in_parts(refine_part, arguments, out_dir, parallel) as parts:
            join_alignments(parts, out_dir)
            facts = {name: sum(part.facts[name] for part in parts) for name in ("utterances", "kept")}
    logger.info("%d utterances refined, %d kept as they were", facts["utterances"] - facts["kept"], facts["kept"])
    return facts


def refine_part(part: Part, out: Path, arguments: dict[str, Any]) -> dict[str, int]:
    """Refines a part of the batches, see ``pipeline.parallel.parts.Work``."""
    sources = [Source(Path(m), Path(d), None if t is None else Path(t)) for m, d, t in arguments["sources"]]
    options = BoundaryOptions(**arguments["options"])
    return refine(AliSet.load(arguments["ali"]), sources, out, options, arguments["producer"], part)


def join_alignments(parts: Sequence[Done], out_dir: Path) -> None:
    """Writes the alignments of parts, in their order, as those of one."""
    hmm, first = load_hmm(parts[0].directory), AliSet.load(parts[0].directory)
    shards = [part.directory / name for part in parts for name in read_json(part.directory / HEADER)["shards"]]
    source = AliShards(shards, hmm.transitions.num_tids)
    with AliWriter(out_dir, first.header, hmm.tree, hmm.topo, hmm.transitions, first.word_symbols) as writer:
        for cut_id in source.ids():
            found = source.find(cut_id)
            assert found is not None, cut_id
            writer.write(found)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())
