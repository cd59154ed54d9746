"""Construction and validation of graphs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.base.errors import ConfigError, DataError
from pipeline.hmm import Graphs, convert, full_sum
from pipeline.hmm.graphs import bounds


def test_linear_chain_by_hand():
    g = convert.linear([[3, 1], [2]], [[0, 0], [0]], [[1, 1], [1]]).numpy()
    assert g["state_pdf"].tolist() == [3, 1, 2] and g["state_splits"].tolist() == [0, 2, 3]
    assert g["arc_splits"].tolist() == [0, 1, 3, 4] and g["arc_src"].tolist() == [0, 1, 0, 0]
    assert g["arc_tid"].tolist() == [0, 0, 1, 0] and g["final_tid"].tolist() == [1, 1, 1]


def test_pick_and_join_are_inverse():
    whole = Graphs.cat([convert.linear([[0, 1, 2], [1]], num_pdfs=4), convert.ctc([[1, 1], []], num_pdfs=4)])
    parts = Graphs.cat([whole[n] for n in range(4)])
    for name, values in whole.numpy().items():
        assert values.tolist() == parts.numpy()[name].tolist(), name
    assert whole[[3, 0]].numpy()["state_pdf"].tolist() == [0, 0, 1, 2] and len(whole[1:3]) == 2
    assert whole[-1].num_states == 1


def test_repeated_start_arcs_stay_two_paths():
    g = convert.from_arcs([0, 1], [2, 2], [0, 0], [-1, -1], [0.5, 0.25], [(0, 0.0), (1, 0.0)], [(2, 0.0)])
    score = full_sum(g, torch.zeros(1, 1, 1), torch.tensor([1]))
    assert score.item() == pytest.approx(torch.logaddexp(torch.tensor(0.5), torch.tensor(0.25)).item(), abs=1e-5)


@pytest.mark.parametrize(
    "field, value",
    [
        ("state_pdf", [0, 9]),
        ("arc_src", [0, 1, 5]),
        ("arc_tid", [0, 0, 7]),
        ("arc_weight", [0.0, 0.0, float("nan")]),
        ("start_weight", [float("-inf")] * 2),
        ("final_weight", [float("-inf")] * 2),
        ("state_splits", [0, 3]),
        ("arc_splits", [0, 2, 1]),
    ],
)
def test_validation_names_what_is_wrong(field, value):
    good = convert.linear([[0, 1]], [[0, 0]], [[0, 0]])
    bad = dataclasses.replace(good, **{field: torch.tensor(value)})
    with pytest.raises(DataError, match="mine: .*" + field.split("_")[0]):
        bad.validate("mine")


@pytest.mark.parametrize(
    "make",
    [
        lambda: convert.linear([[0, 1], []]),
        lambda: convert.linear([[0, 1]], [[0]]),
        lambda: convert.ctc([[1, 0]]),
        lambda: convert.from_arcs([0], [1], [-1], [0], [0.0], [(0, 0.0)], [(1, 0.0)]),
        lambda: convert.from_arcs([0], [1], [0], [0], [0.0], [(1, 0.0)], [(1, 0.0)]),
        lambda: convert.from_arcs([0], [1], [0], [0], [0.0], [(0, 0.0)], [(1, 0.0), (1, 0.5)]),
        lambda: Graphs.cat([convert.linear([[0]]), convert.linear([[1]])]),
    ],
)
def test_bad_input_is_a_data_error(make):
    with pytest.raises(DataError):
        make()


def test_more_arcs_than_int32_counts_are_refused():
    sizes = np.array([2**30, 2**30 - 1])
    assert bounds(sizes).tolist() == [0, 2**30, 2**31 - 1] and bounds(sizes).dtype == np.int32
    with pytest.raises(ConfigError, match="take smaller batches"):
        bounds(sizes + 1)
