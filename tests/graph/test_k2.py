"""k2 as an oracle and as a backend: what our search, decoding and graphs find, k2 finds too."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pipeline.artifacts.hyp import load_nbest
from pipeline.artifacts.lattice_set import LatticeSet
from pipeline.artifacts.occupancies import OccupancySet
from pipeline.graph.lm_lattice import LatticeRescorer
from pipeline.tasks.ali_formats import read_ctm
from tests.graph.cases import language_model
from tests.tasks.test_decode import FRAMES, WIDE, TableScorer, data, decode, directory, rows_of, system  # noqa: F401

k2 = pytest.importorskip("k2")


def test_decoding_recognises_the_same(data) -> None:
    """With another language model, static and input-dependent transitions, failures counted."""
    lang, hmm, graph = system(silence_prob=0.0)
    data({**FRAMES, "short": 1})
    rescorer = LatticeRescorer(language_model(3), lang.words)
    for transitions in (None, torch.from_numpy(hmm.transitions.log_probs())):
        scorer = TableScorer(hmm, transitions)
        for second in (None, rescorer):
            ours, theirs = (
                decode.decode(scorer, graph, "data", dataclasses.replace(WIDE, search=s), [(2.0, 0.5)], second)
                for s in ("ours", "k2")
            )
            assert ours.texts == theirs.texts and ours.failed == theirs.failed == ["short"]


def test_all_that_decoding_writes_is_the_same(directory) -> None:
    """Lattices, lists, posteriors, confidences."""
    more = dict(nbest=5, posteriors=True, lattices=True, confidences=True)
    one, other = (directory(search, search=search, **more) for search in ("ours", "k2"))
    assert all(rows_of(one)[m]["value"] == rows_of(other)[m]["value"] for m in ("wer", "oracle_wer"))
    heard, others = read_ctm(one / "words.ctm"), read_ctm(other / "words.ctm")
    assert heard.keys() == others.keys() and len(heard) == 4
    for cut_id, segments in heard.items():
        assert [s.symbol for s in segments] == [s.symbol for s in others[cut_id]]
        for a, b in zip(segments, others[cut_id]):
            assert (a.start, a.end, a.confidence) == pytest.approx((b.start, b.end, b.confidence), abs=2e-3)
    for x, y in zip(load_nbest(one), load_nbest(other)):
        assert [a.words for a in x.alternatives] == [a.words for a in y.alternatives]
        for a, b in zip(x.alternatives, y.alternatives):
            assert (a.acoustic, a.graph, a.lm) == pytest.approx((b.acoustic, b.graph, b.lm), abs=5e-3)
    for cut_id in FRAMES:
        mine, theirs = OccupancySet(one)[cut_id], OccupancySet(other)[cut_id]
        assert mine.frame.tolist() == theirs.frame.tolist() and mine.pdf.tolist() == theirs.pdf.tolist()
        assert mine.share == pytest.approx(theirs.share, abs=1e-3)
        lattices = [LatticeSet(out / "lattices")[cut_id] for out in (one, other)]
        assert lattices[0].num_arcs == lattices[1].num_arcs
