"""The list of all utterances: what each is sorted and searched by, and which of them get a page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.artifacts.lang import SILENCE
from pipeline.experiments.html.utterances import Utterances, compared, differences, word_errors
from pipeline.tasks.tiers import Tiers


@dataclass(frozen=True)
class Entry:
    """An utterance of the list.

    Attributes:
        part: name of its data directory.
        phones: of the first alignment, separated by blanks, without silence.
        disagreement: system -> mean distance in ms of its boundaries from those of the first alignment.
        confidence: system (alignment or decoding) -> mean confidence.
        errors: decoding -> (word errors, words of the reference).
    """

    name: str
    text: str
    speaker: str
    part: str
    seconds: float
    phones: str = ""
    disagreement: dict[str, float] = field(default_factory=dict)
    confidence: dict[str, float] = field(default_factory=dict)
    errors: dict[str, tuple[int, int]] = field(default_factory=dict)

    def worst(self, key: str) -> float | None:
        """Over all systems, larger being worse: milliseconds, 1 - confidence, or errors per word; None: not known."""
        if key == "disagreement":
            values = list(self.disagreement.values())
        elif key == "confidence":
            values = [1.0 - c for c in self.confidence.values()]
        else:
            values = [e / max(n, 1) for e, n in self.errors.values()]
        return max(values, default=None)


@dataclass
class Found:
    """What comes up while all utterances are looked at.

    Attributes:
        confusions: (reference word, recognised word) -> (decoding, utterance) -> how often; "" for no word.
        durations: phone -> [seconds, number] by the first alignment of each utterance.
    """

    confusions: dict[tuple[str, str], Counter[tuple[str, str]]] = field(default_factory=lambda: defaultdict(Counter))
    durations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))


def entries(utterances: Utterances, found: Found) -> Iterator[Entry]:
    """An entry for every utterance, and what it adds to `found`."""
    for name in utterances.ids:
        cut = utterances.cut(name)
        supervision = cut["supervisions"][0]
        said, speaker = (str(supervision.get(key) or "") for key in ("text", "speaker"))
        entry = Entry(name, said, speaker, utterances.part(name), float(cut["duration"]))
        aligned = [(s.name, s.tiers) for s in utterances.aligned(name)]
        phones = next((t.phones for _, t in aligned if t.phones), [])
        for p in phones:
            found.durations[p.symbol][0] += p.duration
            found.durations[p.symbol][1] += 1
        for system, tiers in aligned:
            sure = [p.confidence for p in tiers.phones if p.confidence is not None and p.symbol != SILENCE]
            if sure:
                entry.confidence[system] = sum(sure) / len(sure)
        for system, tiers in aligned[1:]:
            far = _distance(tiers, aligned[0][1])
            if far is not None:
                entry.disagreement[system] = far
        spoken = next((t.words for _, t in aligned if t.words), [])
        for decoding, hyp in utterances.recognised(name):
            words = compared(hyp, spoken)
            entry.errors[decoding] = (word_errors(words), len(hyp.ref))
            if hyp.confidence:
                entry.confidence[decoding] = sum(hyp.confidence) / len(hyp.confidence)
            for w in words:
                if w.ref != w.hyp:
                    found.confusions[w.ref, w.hyp][decoding, name] += 1
        yield Entry(**{**entry.__dict__, "phones": " ".join(p.symbol for p in phones if p.symbol != SILENCE)})


def _distance(ours: Tiers, reference: Tiers) -> float | None:
    """Mean distance of boundaries in ms: of phones, or of words where one side has no phones."""
    if ours.phones and reference.phones:
        return differences(ours.phones, reference.phones).mean()
    return differences(ours.words, reference.words).mean()


RANKED = ("disagreement", "confidence", "errors")


def worst_first(rows: Sequence[Entry], key: str) -> list[Entry]:
    """The entries of which `key` is known, worst first, equal ones in the order of their ids."""
    known = [(value, e) for e in rows if (value := e.worst(key)) is not None]
    return [e for _, e in sorted(known, key=lambda x: (-x[0], x[1].name))]


def chosen(rows: Sequence[Entry], count: int) -> list[Entry]:
    """The utterances that get a page: in turn the next one of the list and the next worst of every ranking.

    Args:
        count: how many; 0: all.
    Returns:
        as many entries, in the order of the list.
    """
    if not count or count >= len(rows):
        return list(rows)
    queues = [iter(rows), *(iter(worst_first(rows, key)) for key in RANKED)]
    taken: set[str] = set()
    while len(taken) < count:
        for queue in queues:
            new = next((e.name for e in queue if e.name not in taken), None)
            if new is not None and len(taken) < count:
                taken.add(new)
    return [e for e in rows if e.name in taken]


def list_data(rows: Sequence[Entry], pages: dict[str, str], utterances: Utterances) -> dict[str, Any]:
    """The list as JSON, by columns.

    Args:
        pages: utterance -> name of its page.
    """
    systems = [s for s in utterances.systems if any(s in e.disagreement for e in rows)]
    sure = [s for s in (*utterances.systems, *utterances.decodings) if any(s in e.confidence for e in rows)]
    return {
        "systems": systems,
        "confident": sure,
        "decodings": utterances.decodings,
        "id": [e.name for e in rows],
        "page": [pages.get(e.name, "") for e in rows],
        "text": [e.text for e in rows],
        "phones": [e.phones for e in rows],
        "seconds": [round(e.seconds, 2) for e in rows],
        "disagreement": [[_round(e.disagreement.get(s), 1) for e in rows] for s in systems],
        "confidence": [[_round(e.confidence.get(s), 3) for e in rows] for s in sure],
        "errors": [[e.errors[d][0] if d in e.errors else None for e in rows] for d in utterances.decodings],
        "words": [max((n for _, n in e.errors.values()), default=0) for e in rows],
    }


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
