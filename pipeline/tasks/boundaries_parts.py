"""Refinement of boundaries in parts that run side by side."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.index import load_index
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import Part, as_json, in_process
from pipeline.parallel.run import done_in_parts
from pipeline.tasks.align_parts import merged
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
    if in_process(parallel, out_dir):
        facts = refine(AliSet.load(ali), sources, out_dir, options, producer)
    else:
        for source in sources:
            load_index(source.data)  # made once, and found by the parts
        arguments = {
            "ali": str(ali.resolve()),
            "sources": [as_json(source) for source in sources],
            "options": as_json(options),
            "producer": producer,
        }
        with done_in_parts(refine_part, arguments, out_dir, parallel) as parts:
            for _ in merged(parts, out_dir):
                pass
            facts = {name: sum(part.facts[name] for part in parts) for name in ("utterances", "kept", "too_short")}
    refined = facts["utterances"] - facts["kept"] - facts["too_short"]
    logger.info("%d utterances refined, %d kept as they were, %d too short", refined, facts["kept"], facts["too_short"])
    return facts


def refine_part(part: Part, out: Path, arguments: dict[str, Any]) -> dict[str, int]:
    """Refines a part of the batches, see ``pipeline.parallel.parts.Work``."""
    sources = [Source(**source) for source in arguments["sources"]]
    options = BoundaryOptions(**arguments["options"])
    return refine(AliSet.load(arguments["ali"]), sources, out, options, arguments["producer"], part)
