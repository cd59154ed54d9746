"""Which utterances of a corpus without parts are held out."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts.arpa import read_sentences
from pipeline.artifacts.corpus import iter_cuts, save_data_dir, without_features
from pipeline.artifacts.index import load_index
from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write, read_lines
from pipeline.tasks.train_options import HoldOutOptions, SplitOptions

logger = logging.getLogger(__name__)

PARTS = ("train", "dev", "test")
FEWEST = 20  # utterances below which nothing is held out
SLACK = 2.0  # a part may have this much more or less than its share


def split_corpus(data: Sequence[Path], out: Path, options: SplitOptions) -> dict[str, Any]:
    """Writes the data directories out/train, out/dev and out/test, without features; the latter two not for a handful
    of utterances.

    Args:
        data: data directories, which are split as one.

    Returns:
        facts for the stamp: utterances and hours of each part, and by what they were split.
    """
    seconds: dict[str, float] = {}
    speakers: dict[str, str] = {}
    for each in data:
        index = load_index(each)
        for i in range(len(index)):
            if index.id(i) in seconds:
                raise DataError(f"{each}: utterance {index.id(i)} stands in a directory before, too")
            seconds[index.id(i)], speakers[index.id(i)] = float(index.durations[i]), index.speaker_of(i)
    parts, by = split(seconds, speakers, options)
    part_of = {utt: part for part, members in parts.items() for utt in members}
    facts: dict[str, Any] = {"by": by}
    for part in PARTS:
        if parts[part]:
            cuts = (cut for each in data for _, cut in iter_cuts(each) if part_of[cut["id"]] == part)
            save_data_dir(out / part, map(without_features, cuts))
            hours = sum(seconds[utt] for utt in parts[part]) / 3600
            facts[part] = {"utterances": len(parts[part]), "hours": round(hours, 4)}
    told = ", ".join(f"{part} {facts[part]['hours']:.2f} h" for part in PARTS if part in facts)
    logger.info("%s: split by %s: %s", ", ".join(map(str, data)), by, told)
    return facts


def hold_out_words(data: Path, text: Path, lexicon: Path, out: Path, options: HoldOutOptions) -> dict[str, Any]:
    """Writes what is left without some rare words, so that a test set has words that no training has seen.

    Args:
        data: data directory, from which out/data takes the utterances without these words.
        text: sentences, of which out/text.txt has those without them. lexicon: lines that begin with a word; the same.
    Returns:
        facts for the stamp; out/held_out.txt lists the words.
    """
    index = load_index(data)
    counts = Counter(word for i in range(len(index)) for word in set(index.text(i).split()))
    rare = [word for word in _shuffled(counts, options.seed) if counts[word] <= options.most]
    held_out = set(rare[: round(options.share * len(counts))])
    if not held_out:
        raise DataError(f"{data}: no word of at most {options.most} utterances, of which a share could be held out")
    left = (cut for _, cut in iter_cuts(data) if held_out.isdisjoint(cut["supervisions"][0]["text"].split()))
    utterances = save_data_dir(out / "data", map(without_features, left))
    sentences = [" ".join(words) for words in read_sentences(text) if held_out.isdisjoint(words)]
    entries = [line for _, line in read_lines(lexicon) if line.strip() and line.split()[0] not in held_out]
    for name, lines in (("text", sentences), ("lexicon", entries), ("held_out", sorted(held_out))):
        with atomic_write(out / f"{name}.txt") as f:
            f.writelines(f"{line}\n" for line in lines)
    facts = {"words": len(held_out), "utterances": utterances, "sentences": len(sentences)}
    logger.info("%s: %d words held out; %d of %d utterances left", data, len(held_out), utterances, len(index))
    return facts


def split(
    seconds: Mapping[str, float], speakers: Mapping[str, str], options: SplitOptions
) -> tuple[dict[str, list[str]], str]:
    """Deals utterances into train, dev and test, whole speakers where that comes near the shares.

    The order of choice depends on names and seed alone, so that a speaker or utterance more moves few others.

    Args:
        seconds: utterance -> duration. speakers: utterance -> speaker.
    Returns:
        part -> utterances, sorted; and "speakers", "utterances" or "nothing" (all of them are train).
    """
    everything = sorted(seconds)
    if options.folds:
        return _cross_validation(seconds, speakers, options), "speakers"
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


def _cross_validation(
    seconds: Mapping[str, float], speakers: Mapping[str, str], options: SplitOptions
) -> dict[str, list[str]]:
    """Part -> utterances, sorted: fold options.fold is test and the next one dev.

    Speakers with most speech come first, each into the fold that is shortest so far.
    """
    spoken: dict[str, float] = defaultdict(float)
    for utt, speaker in speakers.items():
        spoken[speaker] += seconds[utt]
    if len(spoken) < options.folds:
        raise DataError(f"{len(spoken)} speakers cannot be dealt into {options.folds} folds")
    hours, fold_of = [0.0] * options.folds, {}
    for speaker in sorted(_shuffled(spoken, options.seed), key=lambda name: -spoken[name]):
        fold_of[speaker] = hours.index(min(hours))
        hours[fold_of[speaker]] += spoken[speaker]
    parts = {options.fold: "test", (options.fold + 1) % options.folds: "dev"}
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for utt in sorted(seconds):
        found[parts.get(fold_of[speakers[utt]], "train")].append(utt)
    return found


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
        parts[part], gone = taken, set(taken)
        left = [name for name in left if name not in gone]
    return {"train": left, **parts} if left else None


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
