"""The split of semi-supervised training: some speakers keep their transcripts, those of the others are taken away."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.corpus import iter_cuts, save_data_dir
from pipeline.artifacts.cut_checks import UNTRANSCRIBED
from pipeline.artifacts.index import load_index
from pipeline.base.errors import DataError
from pipeline.tasks.train_options import LabelledOptions

logger = logging.getLogger(__name__)


def split_labelled(data: Path, out: Path, options: LabelledOptions) -> dict[str, Any]:
    """Writes the data directories out/labelled and out/unlabelled, without features.

    Returns:
        facts for the stamp: speakers, utterances and hours of each part.
    Raises:
        DataError: fewer than two speakers.
    """
    index = load_index(data)
    if len(index.speaker_names) < 2:
        raise DataError(f"{data}: has {len(index.speaker_names)} speaker; labelled and unlabelled speech need one each")
    labelled = choose_speakers(index.speaker_names, options)
    facts: dict[str, Any] = {}
    for part, chosen in (("labelled", labelled), ("unlabelled", set(index.speaker_names) - labelled)):
        own = [i for i in range(len(index)) if index.speaker_of(i) in chosen]
        save_data_dir(
            out / part,
            (
                _plain(cut, part == "labelled")
                for _, cut in iter_cuts(data)
                if cut["supervisions"][0]["speaker"] in chosen
            ),
        )
        hours = float(index.durations[own].sum()) / 3600
        facts[part] = {"speakers": len(chosen), "utterances": len(own), "hours": round(hours, 4)}
        logger.info("%s: %d speakers, %d utterances, %.3f h", part, len(chosen), len(own), hours)
    return facts


def choose_speakers(speakers: Sequence[str], options: LabelledOptions) -> set[str]:
    """The speakers whose transcripts stay: the share wanted, at least one, and not all of them.

    Each share's speakers are among those of a larger one with the same seed.
    """
    count = min(max(round(options.share * len(speakers)), 1), len(speakers) - 1)
    return set(sorted(speakers, key=lambda s: hashlib.sha256(f"{options.seed}:{s}".encode()).digest())[:count])


def _plain(cut: dict[str, Any], labelled: bool) -> dict[str, Any]:
    """The cut without features; without what was said either, unless it is labelled."""
    plain = {name: value for name, value in cut.items() if name != "features"}
    if not labelled:
        (supervision,) = cut["supervisions"]
        kept = {name: value for name, value in supervision.items() if name not in ("text", "alignment")}
        custom = {**(supervision.get("custom") or {}), UNTRANSCRIBED: True}
        plain["supervisions"] = [{**kept, "text": "", "custom": custom}]
    return plain
