"""Which utterances of a corpus without parts are held out."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.corpus import as_cut, iter_cuts, save_data_dir
from pipeline.artifacts.index import load_index
from pipeline.tasks.train_options import SplitOptions

logger = logging.getLogger(__name__)

PARTS = ("train", "dev", "test")
FEWEST = 20  # utterances below which nothing is held out
SLACK = 2.0  # a part may have this much more or less than its share


def split_corpus(data: Path, out: Path, options: SplitOptions) -> dict[str, Any]:
    """Writes the data directories out/train, out/dev and out/test; the latter two not for a handful of utterances.

    Returns:
        facts for the stamp: utterances and hours of each part, and by what they were split.
    """
    index = load_index(data)
    seconds = {index.id(i): float(index.durations[i]) for i in range(len(index))}
    speakers = {index.id(i): index.speaker_of(i) for i in range(len(index))}
    parts, by = split(seconds, speakers, options)
    part_of = {utt: part for part, members in parts.items() for utt in members}
    facts: dict[str, Any] = {"by": by}
    for part in PARTS:
        if parts[part]:
            save_data_dir(out / part, (as_cut(cut) for _, cut in iter_cuts(data) if part_of[cut["id"]] == part))
            hours = sum(seconds[utt] for utt in parts[part]) / 3600
            facts[part] = {"utterances": len(parts[part]), "hours": round(hours, 4)}
    told = ", ".join(f"{part} {facts[part]['hours']:.2f} h" for part in PARTS if part in facts)
    logger.info("%s: split by %s: %s", data, by, told)
    return facts


def split(
    seconds: Mapping[str, float], speakers: Mapping[str, str], options: SplitOptions
) -> tuple[dict[str, list[str]], str]:
    """Deals utterances into train, dev and test, whole speakers where that comes near the shares.

    The choice depends on names and seed alone, so that an utterance more moves no other.

    Args:
        seconds: utterance -> duration. speakers: utterance -> speaker.
    Returns:
        part -> utterances, sorted; and "speakers", "utterances" or "nothing" (all of them are train).
    """
    everything = sorted(seconds)
    if len(everything) < FEWEST:
        logger.warning("%d utterances are too few to hold some out: all are for training", len(everything))
        return {"train": everything, "dev": [], "test": []}, "nothing"
    members = defaultdict(list)
    for utt in everything:
        members[speakers[utt]].append(utt)
    dealt = _deal({s: sum(seconds[u] for u in us) for s, us in members.items()}, options)
    if dealt is not None:
        return {part: sorted(u for s in names for u in members[s]) for part, names in dealt.items()}, "speakers"
    logger.warning(
        "%d speakers cannot be dealt into parts of the wanted sizes, so single utterances are: dev and test have "
        "speakers of train, and error rates will be lower than on new ones",
        len(members),
    )
    dealt = _deal(seconds, options)
    if dealt is None:
        logger.warning("the utterances differ too much in length to hold some out: all are for training")
        return {"train": everything, "dev": [], "test": []}, "nothing"
    return {part: sorted(names) for part, names in dealt.items()}, "utterances"


def _deal(seconds: Mapping[str, float], options: SplitOptions) -> dict[str, list[str]] | None:
    """Part -> names; None if a part would be SLACK times too large or too small."""
    left, total = _shuffled(seconds, options.seed), sum(seconds.values())
    parts: dict[str, list[str]] = {}
    for part, share in (("test", options.test), ("dev", options.dev)):
        taken: list[str] = []
        have, wanted = 0.0, share * total
        for name in left:
            if have < wanted and have + seconds[name] <= SLACK * wanted:
                taken.append(name)
                have += seconds[name]
        if have < wanted / SLACK:
            return None
        parts[part] = taken
        left = [name for name in left if name not in set(taken)]
    return {"train": left, **parts} if left else None


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
