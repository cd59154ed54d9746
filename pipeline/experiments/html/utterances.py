"""What is known of each utterance: its tiers by every system, how far they disagree, what was recognised."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.artifacts.ali import AliSet, Segment
from pipeline.artifacts.corpus import iter_cuts
from pipeline.artifacts.hyp import Hypothesis, load_hypotheses
from pipeline.artifacts.lang import SILENCE
from pipeline.base.spool import JsonSpool
from pipeline.experiments.html.sources import Sources
from pipeline.tasks.ali_score import GAP, matched, paired
from pipeline.tasks.tiers import AliTiers, Tiers, tiers_of

logger = logging.getLogger(__name__)

REFERENCE = "reference times"
TOLERANCE = (
    0.15  # seconds by which an alignment may be longer or shorter than its audio: windows at the end, lower frame rates
)


class System(NamedTuple):
    """An alignment of one utterance by one system; `states` are (label, first, end) in seconds."""

    name: str
    tiers: Tiers
    states: list[tuple[str, float, float]]


class Utterances:
    """The utterances of a report, in the order of their data directories.

    Attributes:
        ids: all of them.
        systems: names of the alignments; the first may be REFERENCE.
        decodings: names of the decodings.
        notes: what a reader has to know, such as alignments that were left out.
    """

    def __init__(self, sources: Sources) -> None:
        self._cuts, self.notes = JsonSpool(), list[str]()
        gold = False
        for directory in sources.data:
            for _, cut in iter_cuts(directory):
                gold = gold or bool(cut["supervisions"][0].get("alignment"))
                if cut["id"] not in self._cuts:
                    kept = {k: v for k, v in cut.items() if k != "features"}
                    self._cuts[cut["id"]] = {"part": directory.name, "cut": kept}
        self.ids = list(self._cuts)
        self._alis = {name: [AliSet.load(d) for d in dirs] for name, dirs in sources.alignments.items()}
        self._labels = {name: tiers_of(place, self._rate()) for name, place in sources.labels.items()}
        self._hyps = {name: _hypotheses(dirs) for name, dirs in sources.decodings.items()}
        self.systems = [REFERENCE] * gold + list(self._labels) + list(self._alis)
        self.decodings = list(self._hyps)
        self._other = self._without_foreign() | self._without_foreign_labels()

    def _rate(self) -> int:
        """Samples per second, by which labels in samples are read."""
        return int(self.cut(self.ids[0])["recording"]["sampling_rate"]) if self.ids else 16000

    def _without_foreign(self) -> dict[str, set[str]]:
        """Directory -> utterances whose alignment is longer or shorter than the audio here; a note tells of them."""
        out: dict[str, set[str]] = {}
        seconds = {name: float(self.cut(name)["duration"]) for name in self.ids}
        for sets in self._alis.values():
            for ali in sets:
                shift, wrong, unknown = ali.header.frame_shift, list[str](), list[str]()
                for name in ali:
                    if name not in seconds:
                        unknown.append(name)
                    elif abs(ali.num_frames(name) * shift - seconds[name]) > TOLERANCE + 2 * shift:
                        wrong.append(name)
                out[str(ali.directory)] = set(wrong)
                some = f"{ali.directory}: {{}} of {len(ali)} utterances"
                if wrong:
                    lasts = ali.num_frames(wrong[0]) * shift
                    self._note(
                        f"{some.format(len(wrong))} are alignments of other audio and left out, such as {wrong[0]!r} "
                        f"({lasts:.2f} s aligned, {seconds[wrong[0]]:.2f} s of audio)"
                    )
                if unknown:
                    self._note(
                        f"{some.format(len(unknown))} are in no data directory of this report and left out, such as "
                        f"{unknown[0]!r}; name theirs with --data"
                    )
        return out

    def _without_foreign_labels(self) -> dict[str, set[str]]:
        """Name of label files -> utterances that end before their labels do; a note tells of them."""
        out = {}
        for system, tiers in self._labels.items():
            known = [name for name in tiers if name in self]
            ends = {n: max((s.end for s in (*tiers[n].phones, *tiers[n].words)), default=0.0) for n in known}
            seconds = {name: float(self.cut(name)["duration"]) for name in known}
            out[system] = {name for name in known if ends[name] > seconds[name] + TOLERANCE}
            for name in sorted(out[system])[:1]:
                self._note(
                    f"{system}: the labels of {len(out[system])} of {len(tiers)} utterances are of other audio and "
                    f"left out, such as {name!r} (labels up to {ends[name]:.2f} s, {seconds[name]:.2f} s of audio)"
                )
            if not known:
                self._note(f"{system}: none of its {len(tiers)} utterances is in a data directory of this report")
        return out

    def _note(self, text: str) -> None:
        logger.warning("%s", text)
        self.notes.append(text)

    def __contains__(self, name: str) -> bool:
        return name in self._cuts

    def cut(self, name: str) -> dict[str, Any]:
        """The cut as it stands in the manifest, without its features."""
        found: dict[str, Any] = self._cuts[name]["cut"]
        return found

    def part(self, name: str) -> str:
        """The data directory it comes from."""
        return str(self._cuts[name]["part"])

    def aligned(self, name: str) -> Iterator[System]:
        """The alignments of an utterance, the reference first."""
        cut = self.cut(name)
        items = cut["supervisions"][0].get("alignment") or {}
        if items:
            rows = [[Segment(str(i[0]), float(i[1]), float(i[2])) for i in items.get(k, [])] for k in ("phone", "word")]
            yield System(REFERENCE, Tiers(rows[0], rows[1], float(cut["duration"])), [])
        for system, labels in self._labels.items():
            if name in labels and name not in self._other[system]:
                yield System(system, labels[name], [])
        for system, sets in self._alis.items():
            ali = next((a for a in sets if name in a and name not in self._other[str(a.directory)]), None)
            if ali is not None:
                yield System(system, AliTiers(ali)[name], _states(ali, name))

    def left_out(self, name: str) -> list[str]:
        """Systems that have aligned other audio under this id."""
        places = {system: [str(a.directory) for a in sets] for system, sets in self._alis.items()}
        places |= {system: [system] for system in self._labels}
        return [system for system, found in places.items() if any(name in self._other[place] for place in found)]

    def recognised(self, name: str) -> Iterator[tuple[str, Hypothesis]]:
        """What the decodings make of an utterance."""
        for system, found in self._hyps.items():
            if name in found:
                yield system, Hypothesis.of_row(found[name])


def _hypotheses(directories: Sequence[Path]) -> JsonSpool:
    out = JsonSpool()
    for directory in directories:
        for hyp in load_hypotheses(directory):
            out[hyp.cut_id] = hyp.row()
    return out


def _states(ali: AliSet, name: str) -> list[tuple[str, float, float]]:
    """The HMM states of an alignment: (number within the phone, start, end)."""
    tids = ali[name].transition_ids
    state = ali.transitions.state[tids >> 1]
    cut = np.ones(len(tids) + 1, dtype=bool)
    cut[1:-1] = state[1:] != state[:-1]
    cut[[first for _, first, _ in ali.phone_segments(name)]] = True
    bounds = np.nonzero(cut)[0]
    times = np.maximum(bounds * ali.header.frame_shift + ali.header.frame_offset, 0.0)
    return [(str(int(state[b])), float(s), float(e)) for b, s, e in zip(bounds[:-1], times[:-1], times[1:])]


class Difference(NamedTuple):
    """Ours minus reference in milliseconds at the start and end of each symbol of a tier; None: it has no partner."""

    starts: list[float | None]
    ends: list[float | None]

    def mean(self) -> float | None:
        """Mean size."""
        known = [abs(x) for x in (*self.starts, *self.ends) if x is not None]
        return sum(known) / len(known) if known else None


def differences(ours: Sequence[Segment], reference: Sequence[Segment]) -> Difference:
    """How far the boundaries of equal symbols lie apart; silence is compared with nothing."""
    mine = [i for i, s in enumerate(ours) if s.symbol != SILENCE]
    theirs = [s for s in reference if s.symbol != SILENCE]
    out = Difference([None] * len(ours), [None] * len(ours))
    for i, j in paired(_folded(theirs), _folded([ours[k] for k in mine])):
        a, b = ours[mine[j]], theirs[i]
        out.starts[mine[j]], out.ends[mine[j]] = 1000 * (a.start - b.start), 1000 * (a.end - b.end)
    return out


def _folded(segments: Sequence[Segment]) -> list[Segment]:
    return [replace(s, symbol=s.symbol.casefold()) for s in segments]


class Word(NamedTuple):
    """A place where reference and recognised words meet; "" where one of them has none. Times in seconds, None: no
    alignment has the reference's word.
    """

    ref: str
    hyp: str
    start: float | None
    end: float | None
    confidence: float | None


def compared(hyp: Hypothesis, spoken: Sequence[Segment]) -> list[Word]:
    """Recognised words beside the reference's, at the times that an alignment gives the latter.

    Inserted words have the time between their neighbours, and last no time.
    """
    from kaldialign import align

    times = dict(matched([w.casefold() for w in hyp.ref], [s.symbol.casefold() for s in spoken]))
    out: list[Word] = []
    i = j = 0
    last = 0.0 if spoken else None
    for r, h in align([*hyp.ref], [*hyp.hyp], _gap(hyp)):
        has_ref, has_hyp = r != _gap(hyp), h != _gap(hyp)
        place = spoken[times[i]] if has_ref and i in times else None
        start, end = (place.start, place.end) if place is not None else (last, last) if not has_ref else (None, None)
        confidence = hyp.confidence[j] if has_hyp and hyp.confidence is not None else None
        out.append(Word(r if has_ref else "", h if has_hyp else "", start, end, confidence))
        last = end if place is not None else last
        i, j = i + has_ref, j + has_hyp
    return out


def _gap(hyp: Hypothesis) -> str:
    """A symbol that is no word of either side."""
    gap = GAP
    while gap in hyp.ref or gap in hyp.hyp:
        gap += GAP
    return gap


def word_errors(words: Sequence[Word]) -> int:
    """Substitutions, insertions and deletions."""
    return sum(w.ref != w.hyp for w in words)
