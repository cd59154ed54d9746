"""Boundaries where people would put them: the bias of an alignment, estimated from reference times and taken off.

Between some phones a model's states change systematically earlier or later than labellers put the boundary: at the
closure of a stop, or in the middle of a glide. The median difference over some labelled speech says by how much, and
taking it off moves other speech to the labellers' convention. cf. Stolcke et al. 2014, "Highly accurate phonetic
segmentation using boundary correction models and system fusion" (ICASSP), who learn the correction by regression.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.ali import AliSet, AliWriter, Segment
from pipeline.artifacts.bias import BiasTable, BoundaryBias
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import SILENCE
from pipeline.artifacts.model_dir import load_hmm
from pipeline.base.errors import DataError, MismatchError
from pipeline.graph.options import AliScoreOptions
from pipeline.tasks.ali_score import paired
from pipeline.tasks.respacing import respaced, starts_of
from pipeline.tasks.tiers import Tiers, tiers_of

logger = logging.getLogger(__name__)

TOUCHING = 1e-3  # seconds between phones that follow each other without silence


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BiasOptions:
    """How a bias is estimated."""

    folds: int = Field(
        4, ge=2, description="Groups of speakers; those of each get a table that was estimated without them."
    )
    weight: float = Field(
        10.0, ge=0, description="Differences that the assumption of no bias counts as, for each phone and each pair."
    )


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CorrectOptions:
    """How an alignment is corrected."""

    frame_shift: float = Field(default=0.0025, gt=0, le=0.1, description="Resolution of the new alignment in seconds.")


class Difference(NamedTuple):
    """How much later a boundary lies than in the reference, in seconds; SIL stands for silence on a side."""

    left: str
    right: str
    seconds: float


def differences(ours: Tiers, reference: Tiers, options: AliScoreOptions) -> Iterator[Difference]:
    """Starts and ends of the phones that an utterance has on both sides, matched as scoring matches them."""
    gold = _named(reference.phones, options)
    mine = _named(ours.phones, options)

    def spoken(segments: Sequence[Segment]) -> list[int]:
        return [i for i, s in enumerate(segments) if s.symbol != SILENCE and s.symbol not in options.drop]

    def matches(ref: str, hyp: str) -> bool:
        return hyp in options.match.get(ref, ())

    rows, columns = spoken(gold), spoken(mine)
    for i, j in paired([gold[i] for i in rows], [mine[j] for j in columns], matches):
        at, ref, hyp = columns[j], gold[rows[i]], ours.phones[columns[j]]
        yield Difference(_beside(ours.phones, at, -1), hyp.symbol, hyp.start - ref.start)
        yield Difference(hyp.symbol, _beside(ours.phones, at, 1), hyp.end - ref.end)


def _named(phones: Sequence[Segment], options: AliScoreOptions) -> list[Segment]:
    return [replace(p, symbol=options.same.get(p.symbol, p.symbol)) for p in phones]


def _beside(phones: Sequence[Segment], at: int, step: int) -> str:
    """The phone before or after another one, SIL where a gap or the utterance's end is."""
    own, n = phones[at], at + step
    while 0 <= n < len(phones):
        first, second = (own, phones[n]) if step > 0 else (phones[n], own)
        gap = second.start - first.end
        if gap >= TOUCHING:
            break
        if gap > -2 * TOUCHING:
            return phones[n].symbol
        n += step  # spoken by somebody else at the same time
    return SILENCE


def table_of(found: Sequence[Difference], weight: float) -> BiasTable:
    """Medians of the differences by the phone on the left, of what remains by the one on the right, and of what
    remains then by both; each times n / (n + weight), with n differences.
    """
    rest = np.array([d.seconds for d in found])

    def part(keys: Sequence[Hashable]) -> dict:
        by_key: dict[Hashable, list[int]] = defaultdict(list)
        for n, key in enumerate(keys):
            by_key[key].append(n)
        out = {}
        for key, rows in sorted(by_key.items(), key=str):
            out[key] = round(float(np.median(rest[rows])) * len(rows) / (len(rows) + weight), 6)
            rest[rows] -= out[key]
        return out

    return BiasTable(
        part([d.left for d in found]), part([d.right for d in found]), part([f"{d.left} {d.right}" for d in found])
    )


def estimate(found: dict[str, list[Difference]], options: BiasOptions) -> BoundaryBias:
    """Tables from the differences by speaker; a speaker without a name counts for the table of all only."""
    speakers = sorted(s for s, own in found.items() if s and own)
    folds = min(options.folds, len(speakers))
    fold = {speaker: n % folds for n, speaker in enumerate(speakers)} if folds > 1 else {}
    every = _joined(found.values())
    without = [
        _joined(own for s, own in found.items() if s in fold and fold[s] != n) for n in range(folds if fold else 0)
    ]
    tables = tuple(table_of(some, options.weight) for some in without)
    return BoundaryBias(table_of(every, options.weight), tables, fold, len(every))


def _joined(lists: Iterable[list[Difference]]) -> list[Difference]:
    return [d for own in lists for d in own]


def estimate_directory(
    ali: Path, reference: Path, out_dir: Path, scoring: AliScoreOptions, options: BiasOptions
) -> dict[str, float]:
    """Writes the bias of an alignment against reference times.

    Args:
        ali, reference: see ``tiers_of``. scoring: how phones of both sides are matched.
    Returns:
        differences, and their mean size in milliseconds before and after correction: each speaker's by the table that
        was estimated without them, that of speakers without a name by the table of all.
    Raises:
        MismatchError: no utterance in common. DataError: no phone in common.
    """
    ours, gold = tiers_of(ali, scoring.label_rate), tiers_of(reference, scoring.label_rate)
    found: dict[str, list[Difference]] = defaultdict(list)
    for name in gold:
        if name in ours:
            a, b = ours[name], gold[name]
            found[b.speaker or a.speaker] += differences(a, b, scoring)
    if not found:
        raise MismatchError(f"{ali} and {reference} have no utterance in common")
    if not any(found.values()):
        raise DataError(f"{ali} and {reference}: no phone is on both sides; --config may say which are the same")
    bias = estimate(found, options)
    bias.save(out_dir)
    before, after = [], []
    for speaker, own in found.items():
        before += [abs(d.seconds) for d in own]
        after += [abs(d.seconds - bias.table(speaker).of(d.left, d.right)) for d in own]
    facts = {"before_ms": 1000 * float(np.mean(before)), "after_ms": 1000 * float(np.mean(after))}
    how = f"speakers corrected by those of other folds, {len(bias.without)} folds" if bias.fold else "the same speech"
    logger.info("%d differences; %.2f ms on average, %.2f corrected (%s)", len(before), *facts.values(), how)
    return {"differences": len(before), **facts}


def correct(
    ali: AliSet, bias: BoundaryBias, data_dir: Path, out_dir: Path, options: CorrectOptions = CorrectOptions()
) -> dict[str, float]:
    """Writes an alignment again without its bias; phones and words stay.

    Args:
        data_dir: says who speaks.
    Returns:
        utterances, how many of them are left out since they are too short for the new resolution, and by how many
        milliseconds boundaries were moved on average.
    Raises:
        MismatchError: the bias is one of other phones.
    """
    index, hmm, frame_shift = load_index(data_dir), load_hmm(ali.directory), options.frame_shift
    if not set(map(ali.base_phone, hmm.phones)) & {*bias.whole.left, *bias.whole.right} - {SILENCE}:
        raise MismatchError(f"{ali.directory} has none of the phones that the bias is known of")
    header = replace(ali.header, frame_shift=frame_shift, frame_offset=0.0)
    cut_ids, moved, count, too_short = list(ali), 0.0, 0, 0
    with AliWriter(out_dir, header, hmm.tree, hmm.topo, hmm.transitions, ali.word_symbols) as writer:
        for cut_id, n in zip(cut_ids, index.positions(cut_ids).tolist()):
            phones = [ali.base_phone(hmm.phones.name(p)) for p, _, _ in ali.phone_segments(cut_id)]
            table = bias.table(index.speaker_of(n))
            shifts = np.array([0.0, *(table.of(a, b) for a, b in zip(phones, phones[1:]))]) / frame_shift
            starts = starts_of(ali, cut_id, frame_shift)
            made = respaced(ali, hmm, cut_id, np.round(starts - shifts).astype(np.int64), frame_shift)
            if made is None:
                too_short += 1
                continue
            writer.write(made)
            moved, count = moved + float(np.abs(shifts).sum()), count + len(phones) - 1
    moved_ms = 1000 * frame_shift * moved / max(count, 1)
    return {"utterances": len(cut_ids), "too_short": too_short, "moved_ms": moved_ms}
