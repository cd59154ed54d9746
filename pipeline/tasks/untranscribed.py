"""Speech without transcripts: they are taken away from some speakers, or what was recognised takes their place."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipeline.artifacts.corpus import iter_cuts, save_data_dir, without_features
from pipeline.artifacts.cut_checks import UNTRANSCRIBED
from pipeline.artifacts.hyp import Hypothesis, load_hypotheses
from pipeline.artifacts.index import load_index
from pipeline.artifacts.shar import check_unpacked
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.tasks.selection import write_part
from pipeline.tasks.train_options import LabelledOptions, PseudoOptions

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
    plain = without_features(cut)
    if not labelled:
        (supervision,) = cut["supervisions"]
        kept = {name: value for name, value in supervision.items() if name not in ("text", "alignment")}
        custom = {**(supervision.get("custom") or {}), UNTRANSCRIBED: True}
        plain["supervisions"] = [{**kept, "text": "", "custom": custom}]
    return plain


def transcribe(data: Path, decoded: Path, out: Path, options: PseudoOptions) -> dict[str, Any]:
    """Writes the data directory `out`: the utterances of `data`, with the recognised words as transcripts.

    Features stay those of `data`. Utterances in which nothing was recognised are left out, and those whose words have a
    mean confidence below the least.

    Returns:
        facts for the stamp.
    Raises:
        DataError: no utterance is left, or `data` is in shards. ConfigError: a least confidence, but none in `decoded`.
    """
    check_unpacked(data)
    heard = {hyp.cut_id: hyp for hyp in load_hypotheses(decoded)}
    check_heard(load_index(data), heard, decoded)
    counts = {"utterances": 0, "empty": 0, "doubtful": 0}

    def told() -> Iterator[dict[str, Any]]:
        for _, cut in iter_cuts(data):
            hyp = heard.get(cut["id"])
            if hyp is None or not hyp.hyp:
                counts["empty"] += 1
            elif mean_confidence(hyp, options.min_confidence, decoded) < options.min_confidence:
                counts["doubtful"] += 1
            else:
                counts["utterances"] += 1
                yield _with_text(cut, " ".join(hyp.hyp))

    if not write_part(data, out, told()):
        left = f"{counts['empty']} are empty, {counts['doubtful']} doubtful"
        raise DataError(f"{decoded}: no pseudo-label is left, {left}")
    logger.info("%s: %d pseudo-labels, %d empty, %d doubtful", data, *counts.values())
    return counts


def mean_confidence(hyp: Hypothesis, least: float, decoded: Path) -> float:
    """Mean confidence of recognised words; 1 where there are none, which is a ConfigError if a least one is wanted."""
    if hyp.confidence is None:
        if least:
            raise ConfigError(f"{decoded}: has no confidences (--confidences of steps/decode.py) for --min-confidence")
        return 1.0
    return sum(hyp.confidence) / len(hyp.confidence)


def _with_text(cut: dict[str, Any], text: str) -> dict[str, Any]:
    (supervision,) = cut["supervisions"]
    custom = {name: value for name, value in (supervision.get("custom") or {}).items() if name != UNTRANSCRIBED}
    kept = {name: value for name, value in supervision.items() if name not in ("alignment", "custom")}
    return {**cut, "supervisions": [{**kept, "text": text, **({"custom": custom} if custom else {})}]}


class _Ids(Protocol):
    def __len__(self) -> int: ...

    def id(self, i: int) -> str: ...


def check_heard(data: _Ids, heard: Mapping[str, Hypothesis], decoded: Path) -> None:
    """MismatchError unless one of the utterances was recognised."""
    if not any(data.id(i) in heard for i in range(len(data))):
        raise MismatchError(f"{decoded}: recognises none of these {len(data)} utterances, the first: {data.id(0)!r}")
