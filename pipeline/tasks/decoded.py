"""What a decoding run finds, whichever search it uses: kept in a temporary file, scored, and written with the weights
that err least.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from pipeline.artifacts.hyp import RECOGS, Hypothesis, save_hypotheses
from pipeline.artifacts.index import UtteranceIndex, load_index
from pipeline.base.files import atomic_write, write_json
from pipeline.base.spool import JsonSpool
from pipeline.tasks.score import Errors, count_errors, error_report, result_row, wer_row

logger = logging.getLogger(__name__)

BEST = "best.json"
W = TypeVar("W")  # a set of weights
R = TypeVar("R")  # result of a search


class References(Mapping[str, tuple[str, tuple[str, ...]]]):
    """Utterance -> (speaker, words) of a data directory; the words are read when they are asked for."""

    def __init__(self, index: UtteranceIndex) -> None:
        self._index = index
        self._last: tuple[str, tuple[str, tuple[str, ...]]] | None = None  # all weights ask for it, one after the other

    def __getitem__(self, cut_id: str) -> tuple[str, tuple[str, ...]]:
        if self._last is None or self._last[0] != cut_id:
            i = self._index.find(cut_id)
            if i is None:
                raise KeyError(cut_id)
            self._last = cut_id, (self._index.speaker_of(i), tuple(self._index.text(i).split()))
        return self._last[1]

    def __iter__(self) -> Iterator[str]:
        return (self._index.id(i) for i in range(len(self._index)))

    def __len__(self) -> int:
        return len(self._index)


def references(data_dir: str | Path) -> References:
    """Those of a data directory."""
    return References(load_index(data_dir))


class Spool(Generic[W, R]):
    """Results of searches by utterance and set of weights, in a temporary file."""

    def __init__(
        self, weights: Iterable[W], encode: Callable[[R], Any] = lambda x: x, decode: Callable[[Any], R] = lambda x: x
    ) -> None:
        """Args:
        encode, decode: result -> JSON value and back.
        """
        self.weights, self._encode, self._decode = list(weights), encode, decode
        self._results = JsonSpool()
        self._last: tuple[str, list[Any]] = ("", [])  # several questions about one utterance follow each other

    def put(self, cut_id: str, results: Sequence[R]) -> None:
        """Stores the results of an utterance, one for each set of weights, in place of what it had."""
        self.put_json(cut_id, [self._encode(r) for r in results])

    def put_json(self, cut_id: str, results: list[Any]) -> None:
        """Stores what ``all_of`` of another spool has given."""
        assert len(results) == len(self.weights), (len(results), len(self.weights))
        self._results[cut_id] = results
        self._last = ("", [])

    def get(self, cut_id: str, number: int) -> R:
        """What was stored for the weights of a number."""
        return self._decode(self.all_of(cut_id)[number])

    def all_of(self, cut_id: str) -> list[Any]:
        """The results of an utterance for all weights, as JSON values."""
        if self._last[0] != cut_id:
            self._last = (cut_id, self._results[cut_id])
        return self._last[1]

    def ids(self) -> Collection[str]:
        """Utterances that have results."""
        return self._results.keys()

    def of(self, weights: W) -> Mapping[str, R]:
        """The results for one set of weights."""
        return _View(self, self.weights.index(weights))


class _View(Mapping[str, R]):
    """Results of a spool for one set of weights."""

    def __init__(self, spool: Spool[Any, R], number: int) -> None:
        self._spool, self._number = spool, number

    def __getitem__(self, cut_id: str) -> R:
        return self._spool.get(cut_id, self._number)

    def __iter__(self) -> Iterator[str]:
        return iter(self._spool.ids())

    def __len__(self) -> int:
        return len(self._spool.ids())


@dataclass
class Decoded(Generic[W, R]):
    """What a decoding run found, whichever search it uses.

    Attributes:
        spool: for each set of weights the result of each utterance.
        refs: utterance -> (speaker, words).
        audio_seconds: duration of the audio.
    """

    spool: Spool[W, R]
    refs: Mapping[str, tuple[str, tuple[str, ...]]]
    audio_seconds: float = 0.0

    @property
    def found(self) -> dict[W, Mapping[str, R]]:
        """For each set of weights the result of each utterance."""
        return {w: self.spool.of(w) for w in self.spool.weights}


def tally(found: Mapping[W, Iterable[Hypothesis]]) -> dict[W, Errors]:
    """Errors with each set of weights. Most of them give an utterance the same few texts, which are compared once.

    Args:
        found: for all weights the same utterances in the same order.
    """
    total = np.zeros((len(found), 4), dtype=np.int64)
    for keys, hypothesis in _side_by_side(list(found.values())):
        known: dict[Hashable, int] = {}
        errors: list[tuple[int, ...]] = []
        for number, key in enumerate(keys):
            if known.setdefault(key, len(errors)) == len(errors):
                errors.append(astuple(count_errors([hypothesis(number)])[0]))
        total += np.array(errors, dtype=np.int64)[[known[key] for key in keys]]
    return {w: Errors(*counts) for w, counts in zip(found, total.tolist())}


def _side_by_side(
    sets: Sequence[Iterable[Hypothesis]],
) -> Iterator[tuple[Sequence[Hashable], Callable[[int], Hypothesis]]]:
    """For each utterance what tells its texts apart, and what gives the hypothesis of a number."""
    own = [hyps for hyps in sets if isinstance(hyps, Hypotheses)]
    if own and len(own) == len(sets) and all(hyps.refs is own[0].refs for hyps in own):
        for cut_id in sorted(own[0].refs):
            yield [hyps.key(cut_id) for hyps in own], partial(_of, own, cut_id)
        return
    for same in zip(*sets):
        assert {hyp.cut_id for hyp in same} == {same[0].cut_id}, same[0].cut_id
        yield [hyp.hyp for hyp in same], same.__getitem__


def _of(sets: Sequence[Hypotheses], cut_id: str, number: int) -> Hypothesis:
    return sets[number].of(cut_id)


def write_best(
    found: Mapping[W, Iterable[Hypothesis]],
    out_dir: str | Path,
    choose: Callable[[Mapping[W, Errors]], W],
    describe: Callable[[W], dict[str, Any]],
    chosen_as: Callable[[W], dict[str, Any]],
    refine: Callable[[W, Sequence[Hypothesis]], list[Hypothesis]] | None = None,
) -> tuple[list[Hypothesis], W, dict[W, Errors]]:
    """Chooses weights by the errors and writes recogs.jsonl.gz, errs.txt, wer.txt and best.json for them.

    Args:
        found: for each set of weights the hypotheses, by whatever can be gone through several times.
        choose: errors of all weights -> the best ones.
        describe: weights as they stand in the list of what was tried. chosen_as: as they stand in best.json.
        refine: from the best weights and the hypotheses with them to those that are written.
    Returns:
        The hypotheses with the best weights, these, and the errors with all: of the best ones, those of what was
        written.
    """
    d = Path(out_dir)
    errors = tally(found)
    best = choose(errors)
    hyps = list(found[best])
    tried = [{**describe(w), "wer": round(e.wer, 4), "errors": e.total} for w, e in errors.items()]
    if refine is not None:
        hyps = refine(best, hyps)
        errors |= tally({best: hyps})
    save_hypotheses(d / RECOGS, hyps)
    with atomic_write(d / "errs.txt") as f:
        f.writelines(line + "\n" for line in error_report(hyps))
    with atomic_write(d / "wer.txt") as f:
        f.write(errors[best].line() + "\n")
    write_json(d / BEST, {**chosen_as(best), "tried": tried})
    return hyps, best, errors


def write_rows(
    out_dir: Path,
    row_id: str,
    part: str,
    hyps: list[Hypothesis],
    options: Any,
    facts: Mapping[str, Any],
    more: Sequence[dict[str, Any]] = (),
) -> None:
    """Writes results.json with the word error rate and the real-time factor.

    Args:
        options: dataclass of the step's options.
        facts: "real_time_factor" among them, where it was measured.
        more: further rows.
    """
    settings = {k: v for k, v in {**asdict(options), **facts}.items() if not isinstance(v, tuple)}
    rows = [wer_row(row_id, part, hyps, config=settings)]
    if "real_time_factor" in facts:
        rows.append(result_row(row_id, part, "rtf", facts["real_time_factor"], config=settings))
    write_json(out_dir / "results.json", [*rows, *more])


def warn_at_the_edge(
    tried: Iterable[tuple[float, int]], best: float, what: str, option: str, lowest: float = -math.inf
) -> None:
    """A warning where the best value of a weight is the first or last one tried, and better than the next one.

    Args:
        tried: value and number of errors with it, for all combinations with other weights.
        best: the value chosen.
        what, option: name of the weight and the option that gives its values.
        lowest: value below which there is nothing to try.
    """
    fewest: dict[float, int] = {}
    for value, errors in tried:
        fewest[value] = min(errors, fewest.get(value, errors))
    values = sorted(fewest)
    if len(values) < 3 or best not in (values[0], values[-1]) or best <= lowest:
        return
    inner = values[1] if best == values[0] else values[-2]
    if fewest[best] < fewest[inner]:
        end = "least" if best == values[0] else "greatest"
        logger.warning("the best %s, %g, is the %s one tried; try more (%s)", what, best, end, option)


class Hypotheses(Iterable[Hypothesis]):
    """Hypotheses for one set of weights in the order of utterance ids, made as they are gone through."""

    def __init__(
        self,
        refs: Mapping[str, tuple[str, tuple[str, ...]]],
        words: Callable[[str], tuple[str, ...]],
        key: Callable[[str], Hashable] | None = None,
    ) -> None:
        """Args:
        words: utterance -> what was recognised.
        key: utterance -> what tells the words from those with other weights; by default the words.
        """
        self.refs, self._words, self.key = refs, words, words if key is None else key

    def of(self, cut_id: str) -> Hypothesis:
        """That of an utterance."""
        return Hypothesis(cut_id, *self.refs[cut_id], self._words(cut_id))

    def __iter__(self) -> Iterator[Hypothesis]:
        return (self.of(cut_id) for cut_id in sorted(self.refs))
