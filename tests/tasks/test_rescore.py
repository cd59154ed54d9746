"""N-best lists against brute force, their file, and ranking with another language model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.artifacts.arpa import train_unigram
from pipeline.artifacts.hyp import NBEST, Alternative, NBest, load_nbest, save_nbest
from pipeline.base.errors import DataError
from pipeline.base.files import write_jsonl
from pipeline.tasks.rescore import rescore

LISTS = [
    NBest(
        "u",
        "s",
        ("A", "B"),
        (
            Alternative(("A",), -10.0, -3.0, -2.0),
            Alternative(("A", "B"), -9.0, -5.0, -4.0),
            Alternative((), -30.0, -1.0, -0.5),
        ),
    ),
    NBest("v", "s", ("A",), ()),
]


def test_round_trip(tmp_path: Path) -> None:
    save_nbest(tmp_path / NBEST, LISTS)
    assert load_nbest(tmp_path) == LISTS


@pytest.mark.parametrize("nbest", [[["A", 1.0, 2.0]], [["A", "x", 2.0, 3.0]], [["A", 1.0, 2.0, None]], 7])
def test_broken_lists_are_refused(tmp_path: Path, nbest: object) -> None:
    write_jsonl(tmp_path / NBEST, [{"id": "u", "speaker": "s", "ref": "A", "nbest": nbest}])
    with pytest.raises(DataError, match=":1: "):
        load_nbest(tmp_path)


def test_totals_are_those_of_the_formula() -> None:
    arpa = train_unigram([["A", "B"], ["A", "B", "B"], ["A"]])
    weights = [(w, p) for w in (0.5, 1.0, 3.0, 20.0) for p in (-2.0, 0.0, 3.0)]
    for keep in (0.0, 0.5, 1.0):
        found = rescore(LISTS, arpa, weights, keep)
        for (lm_weight, penalty), hyps in found.items():
            totals = {
                a.words: a.acoustic / lm_weight
                + a.graph
                + (1 - keep) * (arpa.sentence_log_prob(a.words) - a.lm)
                - penalty * len(a.words)
                for a in LISTS[0].alternatives
            }
            assert hyps[0].hyp == max(totals, key=totals.get)
            assert hyps[1].cut_id == "v" and hyps[1].hyp == ()
    assert len({h[0].hyp for h in rescore(LISTS, arpa, weights).values()}) == 3


def test_unknown_words_do_not_give_infinities() -> None:
    lists = [NBest("u", "s", ("A",), (Alternative(("Q",), 0.0, 0.0, 0.0), Alternative(("A",), -1.0, -1.0, -1.0)))]
    assert rescore(lists, train_unigram([["A"]]), [(1.0, 0.0)])[1.0, 0.0][0].hyp == ("A",)
    assert math.isfinite(train_unigram([["A"]]).sentence_log_prob(["A"]))


def test_empty_lists_are_refused() -> None:
    with pytest.raises(DataError, match="all empty"):
        rescore(LISTS[1:], train_unigram([["A"]]), [(1.0, 0.0)])
