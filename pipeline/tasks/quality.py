"""How far each aligned utterance can be trusted: text that is not what was said, audio that is not speech.

Measured per utterance, over its frames of speech:

- ``gop``, goodness of pronunciation: how far the phone that a frame is aligned with falls behind the best phone of the
  frame, as a mean of log likelihood ratios (0: always the best one; cf. Witt and Young 2000).
- ``worst_word``: the same over its worst word.
- ``silence``: the same over its worst silence, in which words that the text lacks end up.
- ``duration``: mean absolute log ratio of the phones' durations to those that the model's transitions imply.
- ``log_like``: log-likelihood per frame; ``confidence`` and ``least_confidence``: posteriors of frames, mean of all and
  of the worst phone; ``speech``: share of frames; ``words_per_second`` of speech; ``snr``: dB of speech over silence.

An utterance is flagged where it stands out from the others of the corpus: the robust z-scores (median and median
absolute deviation) of gop, worst_word, silence and duration are summed where they are on the bad side. The limit is
FLAGGED, or more where the right texts of the corpus scatter more widely, see ``flagged``.

A word is flagged by itself, also in a single recording: where its frames are likelier under the mean of all labels than
under its phones. ``evidence`` is the difference in nats per frame; the limit is 0, or less with a model under which
right words often fall below that.
"""

from __future__ import annotations

import bisect
import csv
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.lang import SILENCE, SPOKEN_NOISE, position_of, without_position
from pipeline.base.errors import MismatchError
from pipeline.base.files import atomic_write
from pipeline.base.spool import JsonSpool
from pipeline.tasks.durations import implied_seconds
from pipeline.tasks.model import Model, check_data

if TYPE_CHECKING:
    from pipeline.feats.dataset import Dataset

BATCH_FRAMES = 20_000
STRETCH = 2_000  # frames whose scores are looked at side by side
FLAGGED = 7.0  # sum of bad z-scores above which an utterance is flagged, where its corpus does not ask for more
FALSE_ALARMS = 0.04  # share of right texts that is to be flagged at most
FEWEST = 20  # utterances below which there is nothing to stand out from
SHORT_SILENCE = 0.05  # seconds below which a silence is not looked at
SMALLEST = {"gop": 0.1, "worst_word": 0.5, "silence": 0.5, "duration": 0.05}  # deviations that count as one at least


class Word(NamedTuple):
    """A word, its place in seconds from the start of its utterance, and its evidence in nats per frame."""

    symbol: str
    start: float
    end: float
    evidence: float


@dataclasses.dataclass(frozen=True)
class Quality:
    """Figures of an utterance, see the module; nan where there is nothing to measure."""

    cut_id: str
    gop: float
    worst_word: float
    silence: float
    duration: float
    log_like: float
    confidence: float
    least_confidence: float
    speech: float
    words_per_second: float
    snr: float


def measure(
    model: Model,
    ali: AliSet,
    data_dir: str | Path,
    device: str = "cpu",
    audio: bool = True,
    words: JsonSpool | None = None,
) -> list[Quality]:
    """Figures of all aligned utterances, in the order of the data.

    Args:
        model: the model of the alignment, or another over the same phones and frames.
        ali: the alignment.
        data_dir: features for the model, with the audio that they are of.
        audio: read the audio for the signal-to-noise ratio.
        words: gets the words of each utterance by cut id, as ``write_words`` takes them.
    Raises:
        MismatchError: the model has other phones or other frames than the alignment, or other features than the data.
    """
    from pipeline.feats.dataset import Dataset, plan

    check_data(model, data_dir)
    _check_frames(model, ali)
    data = Dataset.open(data_dir, model.feat_options, cache_mib=0)
    judge = _Judge(model, ali)
    out: dict[int, Quality] = {}
    rows = np.array([n for n in range(len(data)) if data.id(n) in ali], dtype=np.int64)
    for batch in plan(data.lens[rows], BATCH_FRAMES, 64) if len(rows) else []:
        for n, scores in _scores(model, data, rows[batch], device):
            out[n], spoken = judge.of(data.id(n), scores)
            if words is not None:
                words[data.id(n)] = spoken
    found = [out[n] for n in sorted(out)]
    return _with_snr(found, ali, data_dir, data) if audio else found


def _scores(model: Model, data: Dataset, rows: np.ndarray, device: str) -> Iterator[tuple[int, Iterable[np.ndarray]]]:
    """The utterances of a batch with their (T, P) natural-log scores, in stretches of some frames: those of hours under
    thousands of labels would take gigabytes.
    """
    import torch

    if data.lens[rows[0]] > BATCH_FRAMES:  # which makes it a batch of its own
        (n,) = rows.tolist()
        own = model.frame_scores(data.flat(rows).to(device), data.speaker(n))
        bounds = [*range(0, own.num_frames, STRETCH), own.num_frames]
        yield n, (own.scores(begin, end).cpu().numpy() for begin, end in itertools.pairwise(bounds))
        return
    padded = data.batch(rows, device)
    with torch.no_grad():
        scores, lens = model.log_likes(padded.feats, padded.lens, [data.speaker(n) for n in rows.tolist()])
    for i, n in enumerate(rows.tolist()):
        yield n, [part.cpu().numpy() for part in scores[i, : int(lens[i])].split(STRETCH)]


class _Levels(NamedTuple):
    """What counts of the scores of T frames, natural logs each.

    Attributes:
        own: (T,) of the phone that the frame is aligned with, the best of its labels; 0 where there is none.
        best, mean: (T,) of the best label, and the mean of all but that of unknown speech.
    """

    own: np.ndarray
    best: np.ndarray
    mean: np.ndarray


def _check_frames(model: Model, ali: AliSet) -> None:
    header, where = ali.header, f"{ali.directory} and {model.hmm.directory} do not belong together"
    if abs(header.frame_shift - model.frame_shift) > 1e-6:
        raise MismatchError(
            f"{where}: an alignment with a frame every {header.frame_shift * 1000:g} ms, a model with one every "
            f"{model.frame_shift * 1000:g} ms"
        )
    if abs(header.frame_offset - model.frame_offset) > model.frame_shift / 2:
        raise MismatchError(
            f"{where}: the alignment's first frame begins at {header.frame_offset * 1000:g} ms, the model's at "
            f"{model.frame_offset * 1000:g} ms"
        )
    if list(ali.transitions.phones) != list(model.hmm.phones):
        raise MismatchError(f"{where}: their phones.txt differ")


class _Judge:
    """Figures of utterances from their scores."""

    def __init__(self, model: Model, ali: AliSet) -> None:
        transitions = model.hmm.transitions
        self.ali = ali
        names = transitions.phones
        self.silence = names.id(SILENCE)
        self.unspoken = {self.silence, *([names.id(SPOKEN_NOISE)] if SPOKEN_NOISE in names else [])}
        self.pdfs = {int(p): np.unique(transitions.pdf[transitions.phone == p]) for p in np.unique(transitions.phone)}
        unknown = self.pdfs[names.id(SPOKEN_NOISE)] if SPOKEN_NOISE in names else []
        self.labels = np.setdiff1d(np.arange(transitions.num_pdfs), unknown)
        seconds = implied_seconds(model.hmm, ali.header.frame_shift)
        position = position_of(model.hmm.phones)
        self.expected = {p: seconds[without_position(transitions.phones.name(p), position)] for p in self.pdfs}

    def of(self, cut_id: str, scores: Iterable[np.ndarray]) -> tuple[Quality, list[Word]]:
        """Args:
            scores: (T, P) natural logs, in stretches of frames.
        Returns:
            figures, and words with their evidence; unknown speech is none.
        """
        alignment, shift = self.ali[cut_id], self.ali.header.frame_shift
        levels = self._levels(cut_id, scores)
        segments = [s for s in self.ali.phone_segments(cut_id) if s[1] < len(levels.best)]
        spoken = [s for s in segments if s[0] not in self.unspoken]
        behind = np.zeros(len(levels.best))
        for _, begin, num in segments:
            of = slice(begin, begin + num)
            behind[of] = levels.own[of] - levels.best[of]
        words = self._words(cut_id, levels, segments)
        frames, least = sum(num for _, _, num in spoken), max(1, round(SHORT_SILENCE / shift))
        gop = sum(behind[b : b + n].sum() for _, b, n in spoken) / max(frames, 1)
        ratios = [abs(np.log(n * shift / self.expected[p])) for p, _, n in spoken]
        means = []
        if alignment.confidence is not None:
            means = [float(alignment.confidence[b : b + n].astype(np.float64).mean()) for _, b, n in spoken]
        nan = float("nan")
        found = Quality(
            cut_id,
            float(gop) if spoken else nan,
            self._worst_word(cut_id, behind, spoken),
            min(
                (float(behind[b : b + n].mean()) for p, b, n in segments if p == self.silence and n >= least),
                default=0.0,
            ),
            float(np.mean(ratios)) if ratios else nan,
            float(alignment.log_like) / max(len(alignment.transition_ids), 1),
            float(np.mean(means)) if means else nan,
            min(means, default=nan),
            frames / max(len(alignment.transition_ids), 1),
            len(words) / (frames * shift) if frames else nan,
            nan,
        )
        return found, words

    def _levels(self, cut_id: str, scores: Iterable[np.ndarray]) -> _Levels:
        segments, parts, at = self.ali.phone_segments(cut_id), [], 0
        phone = np.repeat([p for p, _, _ in segments], [n for _, _, n in segments])
        for some in scores:
            here, own = phone[at : at + len(some)], np.zeros(len(some), dtype=some.dtype)
            for p in np.unique(here).tolist():
                rows = np.flatnonzero(here == p)
                own[rows] = some[np.ix_(rows, self.pdfs[p])].max(1)
            known = some[:, self.labels]
            top = known.max(1, keepdims=True)
            parts.append((own, some.max(1), top[:, 0] + np.log(np.exp(known - top).mean(1))))
            at += len(some)
        return _Levels(*(np.concatenate(column) for column in zip(*parts)))

    def _words(self, cut_id: str, levels: _Levels, segments: Sequence[tuple[int, int, int]]) -> list[Word]:
        out, header = [], self.ali.header
        table = self.ali[cut_id].words
        begins = [begin for _, begin, _ in segments]
        firsts = [*(bisect.bisect_left(begins, begin) for _, begin in table.tolist()), len(segments)]
        for (symbol, begin), first, last in zip(table.tolist(), firsts, firsts[1:]):
            own = [s for s in segments[first:last] if s[0] not in self.unspoken]
            if not own:
                continue
            sums = [(levels.own[b : b + n] - levels.mean[b : b + n]).sum() for _, b, n in own]
            frames, end = sum(n for _, _, n in own), own[-1][1] + own[-1][2]
            start, end_s = (t * header.frame_shift + header.frame_offset for t in (begin, end))
            out.append(Word(self.ali.word_symbols.name(symbol), start, end_s, float(sum(sums)) / frames))
        return out

    def _worst_word(self, cut_id: str, behind: np.ndarray, spoken: Sequence[tuple[int, int, int]]) -> float:
        starts = self.ali[cut_id].words[:, 1]
        if not len(starts) or not spoken:
            return float("nan")
        word = np.searchsorted(starts, [b for _, b, _ in spoken], side="right") - 1
        sums = np.zeros((2, len(starts)))
        for w, (_, b, n) in zip(word.tolist(), spoken):
            if w >= 0:
                sums[:, w] += behind[b : b + n].sum(), n
        return float((sums[0] / np.maximum(sums[1], 1)).min())


def _with_snr(found: list[Quality], ali: AliSet, data_dir: str | Path, data: Dataset) -> list[Quality]:
    from pipeline.artifacts.corpus import as_cut, iter_cuts

    ratios: dict[str, float] = {}
    wanted = {q.cut_id for q in found}
    for _, entry in iter_cuts(data_dir):
        if entry["id"] in wanted:
            ratios[entry["id"]] = _snr(
                as_cut(entry).load_audio()[0], entry["recording"]["sampling_rate"], ali, entry["id"]
            )
    return [dataclasses.replace(q, snr=ratios[q.cut_id]) for q in found]


def _snr(samples: np.ndarray, rate: int, ali: AliSet, cut_id: str) -> float:
    """dB of the mean power of speech over that of silence; nan without one of the two."""
    sums = np.zeros((2, 2))
    for segment in ali.phones(cut_id):
        begin, end = (min(int(t * rate), len(samples)) for t in (max(segment.start, 0.0), segment.end))
        part = samples[begin:end].astype(np.float64)  # one phone at a time: an hour in float64 would be half a gigabyte
        sums[int(segment.symbol == "SIL")] += float(part @ part), len(part)
    (speech, spoken), (noise, silent) = sums.tolist()
    if not spoken or not silent or noise <= 0 or speech <= 0:
        return float("nan")
    return float(10 * np.log10((speech / spoken) / (noise / silent)))


def suspicion(found: Sequence[Quality]) -> np.ndarray:
    """(N,) sum of the bad z-scores of each utterance; 0 for corpora with fewer than FEWEST utterances."""
    total = np.zeros(len(found))
    if len(found) < FEWEST:
        return total
    for name, sign in (("gop", -1.0), ("worst_word", -1.0), ("silence", -1.0), ("duration", 1.0)):
        values = np.array([getattr(q, name) for q in found])
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        middle = np.median(known)
        spread = max(1.4826 * float(np.median(np.abs(known - middle))), SMALLEST[name])
        z = sign * (values - middle) / spread
        total += np.where(np.isfinite(z), np.clip(z, 0, None), FLAGGED)  # nothing of speech in it is bad as well
    return total


def flagged(score: np.ndarray, least: float = FLAGGED) -> np.ndarray:
    """(N,) bool, which of some utterances or words stand out.

    The scores of right texts fall off about exponentially, and most texts of a corpus are right. So the median and the
    80 % quantile say where FALSE_ALARMS of them would be passed; wrong texts only raise that limit a little.

    Args:
        score: (N,), larger is worse, for utterances by ``suspicion``.
        least: the limit where N is below FEWEST or that of the corpus is lower.
    """
    if len(score) < FEWEST:
        return np.asarray(score > least)
    middle, high = np.quantile(score, [0.5, 0.8])
    passed = middle + (high - middle) * np.log(0.5 / FALSE_ALARMS) / np.log(0.5 / 0.2)
    return np.asarray(score > max(least, float(passed)))


def write_words(path: Path, found: Sequence[Quality], words: Mapping[str, Sequence[Sequence[Any]]]) -> tuple[int, int]:
    """Writes the words of all utterances in order, with their evidence, as CSV.

    Args:
        words: fields of each ``Word``, by cut id.
    Returns:
        how many are flagged, and how many there are.
    """

    def each() -> Iterator[tuple[str, Word]]:
        for quality in found:
            for fields in words[quality.cut_id]:
                yield quality.cut_id, Word(*fields)

    doubtful = flagged(np.fromiter((-word.evidence for _, word in each()), np.float64), 0.0)
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["utterance", "word", "start", "end", "evidence", "flagged"])
        for (cut_id, w), bad in zip(each(), doubtful.tolist()):
            writer.writerow([cut_id, w.symbol, f"{w.start:.3f}", f"{w.end:.3f}", f"{w.evidence:.3f}", int(bad)])
    return int(doubtful.sum()), len(doubtful)


def write_quality(path: Path, found: Sequence[Quality]) -> int:
    """Writes a table as CSV, the most suspicious utterance first; returns the number of flagged ones."""
    score = suspicion(found)
    suspicious = flagged(score)
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [field.name for field in dataclasses.fields(Quality) if field.name != "cut_id"]
        writer.writerow(["utterance", "flagged", "suspicion", *names])
        for i in np.argsort(-score, kind="stable").tolist():
            writer.writerow([found[i].cut_id, int(suspicious[i]), f"{score[i]:.2f}", *_cells(found[i], names)])
    return int(suspicious.sum())


def _cells(quality: Quality, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        value: Any = getattr(quality, name)
        yield "" if np.isnan(value) else f"{value:.4f}"
