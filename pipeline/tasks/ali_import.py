"""Known times of phones, such as those of synthetic or hand-labelled speech, as an alignment set like that of any
model.
"""

from __future__ import annotations

import bisect
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.artifacts.ali import AliHeader, AliWriter, Segment, spread
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.corpus import iter_cuts
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import SILENCE, SPOKEN_NOISE, Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError, MismatchError
from pipeline.tasks.ali_formats import OVERLAP
from pipeline.tasks.tiers import ChangedTiers, GoldTiers, Tiers, tiers_of

logger = logging.getLogger(__name__)

LONGER = 0.05  # seconds that labels may last longer than the audio, from rounding and windows at the end


def import_times(
    data_dir: str | Path, lang: Lang, out_dir: str | Path, frame_shift: float, labels: str | Path | None = None
) -> int:
    """Writes known phone times of the utterances of a data directory as an AliSet over one pdf per phone state.

    A frame belongs to the phone that its middle lies in, and each phone has one frame at least. The states of a phone
    share its frames evenly; what no phone covers is silence. Phones are named without the
    position markers of the lang, which follow from the times of the words.

    Args:
        labels: label files or an alignment with the times, see ``tiers_of``; only its utterances are written. None:
            the gold times of the data directory.
    Returns:
        number of utterances.
    Raises:
        DataError: no times, an utterance that the data lack, a phone that the lang lacks, one outside all words where
            its place in a word counts, or more phones than frames.
        MismatchError: times beyond the end of an utterance.
    """
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    first_state = {int(phone): i for i, phone in enumerate(transitions.phone) if transitions.state[i] == 0}
    header = AliHeader(lang.topo.id, tree.id, lang.id, frame_shift, 0.0, str(data_dir), lang.position)
    index, tiers = load_index(data_dir), GoldTiers(data_dir) if labels is None else _labelled(data_dir, labels)
    unknown = 0
    with AliWriter(out_dir, header, tree, lang.topo, transitions, lang.words) as writer:
        for cut_id, tier in tiers.items():
            where = f"{data_dir if labels is None else labels}: {cut_id}"
            tier = _marked(tier, lang, where)
            missing = [p.symbol for p in tier.phones if p.symbol not in lang.phones]
            if missing or not tier.phones:
                raise DataError(
                    f"{where}: " + (f"phone {missing[0]!r} is not in the lang" if missing else "no phone has a time")
                )
            num_frames = _num_frames(tier.duration, index.sampling_rate, frame_shift)
            spans = _spans(tier.phones, num_frames, frame_shift, where)
            ids = lang.word_ids(index.text(int(index.positions([cut_id])[0])), where)
            starts = _word_starts(tier, ids, lang, where)
            unknown += len(starts) < len(ids)
            tids = _transition_ids(spans, tier.phones, lang, first_state, transitions)
            writer.write(Alignment(cut_id, tids, 0.0, _words(starts, ids, spans, frame_shift)))
    if unknown:
        logger.warning(
            "%d of %d utterances have no times of words, and other phones than their words in the lang; the alignment "
            "has their phones alone",
            unknown,
            len(tiers),
        )
    return len(tiers)


def _labelled(data_dir: str | Path, labels: str | Path) -> Mapping[str, Tiers]:
    """The tiers of label files, each as long as its utterance."""
    index = load_index(data_dir)
    rate = next(int(cut["recording"]["sampling_rate"]) for _, cut in iter_cuts(data_dir))
    found = tiers_of(labels, rate)
    for cut_id in found:
        if index.find(cut_id) is None:
            raise DataError(f"{labels}: {cut_id}: no such utterance in {data_dir}")

    def of_its_length(cut_id: str, tier: Tiers) -> Tiers:
        seconds = float(index.durations[index.positions([cut_id])[0]])
        last = max((s.end for s in (*tier.phones, *tier.words)), default=0.0)
        if last > seconds + LONGER:
            raise MismatchError(
                f"{labels}: {cut_id}: the labels end at {last:.2f} s, and the utterance of {data_dir} at "
                f"{seconds:.2f} s; they are of other audio"
            )
        for first, second in (*itertools.pairwise(tier.phones), *itertools.pairwise(tier.words)):
            if second.start < first.end - OVERLAP:
                raise DataError(
                    f"{labels}: {cut_id}: {first.symbol!r} and {second.symbol!r} overlap at {second.start:.2f} s; an "
                    "alignment has one after the other"
                )
        return replace(tier, duration=seconds)

    return ChangedTiers(found, of_its_length)


def _marked(tier: Tiers, lang: Lang, where: str) -> Tiers:
    """The same with the position markers of the lang on the phones."""
    if lang.position == "none":
        return tier
    phones = [replace(p, symbol=lang.base_phone(p.symbol)) for p in tier.phones]
    spoken = [i for i, p in enumerate(phones) if p.symbol not in (SILENCE, SPOKEN_NOISE)]
    starts = [w.start for w in tier.words]
    owner = [_word_at(tier.words, starts, phones[i].start + phones[i].duration / 2) for i in spoken]
    if None in owner:
        p = phones[spoken[owner.index(None)]]
        raise DataError(f"{where}: phone {p.symbol!r} at {p.start:.2f} s is in no word, which the lang's phones need")
    for _, group in itertools.groupby(zip(owner, spoken), key=lambda pair: pair[0]):
        mine = [i for _, i in group]
        for i, symbol in zip(mine, lang.marked([phones[i].symbol for i in mine])):
            phones[i] = replace(phones[i], symbol=symbol)
    return replace(tier, phones=phones)


def _word_at(words: Sequence[Segment], starts: Sequence[float], time: float) -> int | None:
    number = bisect.bisect_right(starts, time) - 1
    return number if number >= 0 and time < words[number].end else None


class _Spans(NamedTuple):
    """What follows each other in an utterance.

    Attributes:
        phone: (K,) position among the phones that have times, -1 for silence.
        seconds: (K,) where each begins by its time.
        timed: (K,) the frame in which that is: the first one whose middle does not lie before it.
        frames: (K + 1,) first frame of each and the number of frames; each has one at least.
    """

    phone: np.ndarray
    seconds: np.ndarray
    timed: np.ndarray
    frames: np.ndarray


def _num_frames(seconds: float, rate: int, shift: float) -> int:
    """Frames of features: one for each shift, and one more for half a shift that is left (as lhotse's extractors)."""
    return max(1, int(round(seconds * rate) / round(shift * rate, 6) + 0.5))


def _spans(phones: Sequence[Segment], num_frames: int, shift: float, where: str) -> _Spans:
    """Raises:
    DataError: fewer frames than phones and silences between them.
    """
    middles = (np.arange(num_frames) + 0.5) * shift
    rows: list[tuple[int, float, int]] = []
    seconds, at = 0.0, 0
    for number, segment in enumerate(phones):
        if segment.symbol == SILENCE:
            continue
        begin, end = (int(np.searchsorted(middles, time)) for time in (segment.start, segment.end))
        if begin > at:
            rows.append((-1, seconds, at))
        rows.append((number, segment.start, max(begin, at)))
        seconds, at = segment.end, max(end, at)
    if at < num_frames:
        rows.append((-1, seconds, at))
    if len(rows) > num_frames:
        raise DataError(f"{where}: {num_frames} frames of {shift * 1000:g} ms are too few for {len(rows)} phones")
    phone, times, timed = (np.array(column) for column in zip(*rows))
    return _Spans(phone, times, timed, spread(np.append(timed, num_frames), num_frames))


def _transition_ids(
    spans: _Spans,
    phones: Sequence[Segment],
    lang: Lang,
    first_state: dict[int, int],
    transitions: TransitionModel,
) -> np.ndarray:
    """(T,) int32; the states of a phone share its frames evenly."""
    tids = np.empty(spans.frames[-1], dtype=np.int32)
    for number, begin, end in zip(spans.phone.tolist(), spans.frames[:-1].tolist(), spans.frames[1:].tolist()):
        phone = lang.silence_id if number < 0 else lang.phones.id(phones[number].symbol)
        states = int(transitions.num_states_of[phone])
        state = (np.arange(end - begin) * states) // (end - begin)
        leaves = np.append(state[1:] != state[:-1], True)
        state[-1] = states - 1  # a phone shorter than its HMM ends all the same
        tids[begin:end] = 2 * (first_state[phone] + state) + leaves
    return tids


def _word_starts(tier: Tiers, ids: list[int], lang: Lang, where: str) -> list[float]:
    """Seconds at which the words of a transcript start: by their own times, else by phones that spell them as the lang
    does; none where neither tells.
    """
    if len(tier.words) == len(ids):
        return [w.start for w in tier.words]
    if tier.words:
        raise DataError(f"{where}: {len(tier.words)} words have times, and the transcript has {len(ids)} words")
    spoken = [p for p in tier.phones if p.symbol != SILENCE]
    symbols = tuple(p.symbol for p in spoken)
    reached: dict[int, tuple[int, ...]] = {0: ()}  # phones so far -> first phones of the words so far
    for word in (lang.words.name(i) for i in ids):
        variants = [entry.phones for entry in lang.lexicon.by_word[word]]
        reached = {
            begin + len(phones): (*firsts, begin)
            for begin, firsts in reached.items()
            for phones in variants
            if symbols[begin : begin + len(phones)] == phones
        }
    return [spoken[first].start for first in reached.get(len(symbols), ())]


def _words(starts: list[float], ids: list[int], spans: _Spans, shift: float) -> np.ndarray:
    """(W, 2) word ids and first frames; W is 0 where no start is known. A word moves with the phone it starts in."""
    middles = (np.arange(spans.frames[-1]) + 0.5) * shift
    owner = np.searchsorted(spans.seconds, np.array(starts) + 1e-6, side="right").clip(min=1) - 1
    within = np.searchsorted(middles, starts) - spans.timed[owner]
    first = spans.frames[owner] + within.clip(0, np.diff(spans.frames)[owner] - 1)
    return np.array(list(zip(ids, first)), dtype=np.int32).reshape(-1, 2)
