"""Decision trees and transition models: lookups by hand-made trees, round trips, contradictions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.topo import PhoneTopo, Topo
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import BOUNDARY, Leaf, Question, Root, Tree, monophone_tree
from pipeline.base.errors import DataError, MismatchError

PHONES = SymbolTable(["SIL", "A", "B"])
TOPO = Topo({"SIL": PhoneTopo((0,), 0.1), "A": PhoneTopo((0, 1), 0.5), "B": PhoneTopo((0, 0), 0.5)})
SIL, A, B = 1, 2, 3


def triphone_tree() -> Tree:
    """A's first state asks whether B stands left, then whether the utterance ends on the right."""
    ask_right = Question(1, frozenset([BOUNDARY]), Leaf(1), Leaf(2))
    return Tree(
        [
            Root(frozenset([SIL]), frozenset([0]), Leaf(0)),
            Root(frozenset([A]), frozenset([0]), Question(-1, frozenset([B]), ask_right, Leaf(3))),
            Root(frozenset([A]), frozenset([1]), Leaf(4)),
            Root(frozenset([B]), frozenset([0]), Leaf(5)),
        ],
        PHONES,
        left=1,
        right=1,
    )


def test_lookup_follows_the_questions():
    windows = np.array([[B, A, BOUNDARY], [B, A, A], [A, A, BOUNDARY], [BOUNDARY, A, B], [A, SIL, A], [A, B, A]])
    classes = np.array([0, 0, 0, 1, 0, 0])
    assert triphone_tree().lookup(windows, classes).tolist() == [1, 2, 3, 4, 0, 5]


def test_unknown_root_is_an_error():
    with pytest.raises(DataError, match="'SIL', pdf-class 1 has no root"):
        triphone_tree().lookup(np.array([[A, SIL, A]]), np.array([1]))


def test_tree_round_trip(tmp_path):
    tree = triphone_tree()
    tree.save(tmp_path / "tree.json")
    again = Tree.load(tmp_path / "tree.json", PHONES)
    assert again.id == tree.id and again.num_pdfs == 6 and again.pdfs_of(A, 0) == [1, 2, 3]
    with pytest.raises(DataError, match="tree.json"):
        Tree.load(tmp_path / "tree.json", SymbolTable(["SIL", "A"]))


def test_contradictory_trees_are_refused():
    root = Root(frozenset([SIL]), frozenset([0]), Leaf(0))
    with pytest.raises(DataError, match="has two roots"):
        Tree([root, root], PHONES)
    with pytest.raises(DataError, match="do not count up"):
        Tree([Root(frozenset([SIL]), frozenset([0]), Leaf(1))], PHONES)
    with pytest.raises(DataError, match="position -1"):
        Tree([Root(frozenset([SIL]), frozenset([0]), Question(-1, frozenset([A]), Leaf(0), Leaf(1)))], PHONES)


def test_monophone_tree_shares_where_told():
    phones = SymbolTable(["SIL", "A", "A_E"])
    topo = Topo({p: PhoneTopo((0, 1), 0.5) for p in ("SIL", "A", "A_E")})
    assert monophone_tree(phones, topo).num_pdfs == 6
    shared = monophone_tree(phones, topo, {"A_E": "A"})
    assert shared.num_pdfs == 4 and shared.pdfs_of(2, 1) == shared.pdfs_of(3, 1)


def test_transition_ids_name_every_triple():
    model = TransitionModel(triphone_tree(), TOPO)
    # SIL 1; A state 0 with three pdfs, state 1 with one; B two states of one pdf.
    assert list(zip(model.phone, model.state, model.pdf)) == [
        (SIL, 0, 0),
        (A, 0, 1),
        (A, 0, 2),
        (A, 0, 3),
        (A, 1, 4),
        (B, 0, 5),
        (B, 1, 5),
    ]
    assert model.num_tids == 14
    assert model.tid_ends_phone().nonzero()[0].tolist() == [1, 9, 13]
    assert model.transition_states(np.array([B, A]), np.array([1, 0]), np.array([5, 2])).tolist() == [6, 2]
    np.testing.assert_allclose(np.exp(model.log_probs()).reshape(-1, 2).sum(1), 1.0, rtol=1e-6)


def test_update_is_the_relative_frequency_and_gains():
    model = TransitionModel(triphone_tree(), TOPO)
    counts = np.zeros(model.num_tids)
    counts[0:2] = [30, 10]  # SIL: 10 of 40 leave
    counts[2:4] = [1, 1]  # too few to touch
    counts[8:10] = [100, 0]  # never leaves: floored
    gain = model.update(counts, min_prob=0.02)
    assert model.forward_prob[0] == pytest.approx(0.25)
    assert model.forward_prob[1] == 0.5 and model.forward_prob[4] == pytest.approx(0.02)
    assert gain > 0


def test_transitions_round_trip_and_mismatch(tmp_path):
    model = TransitionModel(triphone_tree(), TOPO)
    model.update(np.arange(model.num_tids, dtype=float) + 3)
    model.save(tmp_path / "t.json")
    again = TransitionModel.load(tmp_path / "t.json", triphone_tree(), TOPO)
    assert (again.forward_prob == model.forward_prob).all()
    with pytest.raises(MismatchError, match="tree_id"):
        TransitionModel.load(tmp_path / "t.json", monophone_tree(PHONES, TOPO), TOPO)
    data = json.loads((tmp_path / "t.json").read_text())
    data["transition_states"][0][3] = 1.5
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="outside"):
        TransitionModel.load(tmp_path / "t.json", triphone_tree(), TOPO)
