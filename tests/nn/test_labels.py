"""Labels for the copies of an utterance at other speeds and in noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.errors import DataError, MismatchError
from pipeline.feats.dataset import Dataset
from pipeline.nn.labels import AlignedCuts, LabelFile, aligned_labels, check_missing
from tests.artifacts.test_ali import example, make_set


def test_copies_take_the_labels_of_the_original():
    ali = make_set(example())
    cuts = AlignedCuts(ali)
    found = {name: cuts.of(name) for name in ("u", "u_sp0.9", "u_sp1.1", "u_noise1", "u_sp0.9_noise2")}
    assert found["u"] is ali and None not in found.values()
    assert [cuts.of(name) for name in ("v", "v_noise1", "u_spx", "v_sp0.9")] == [None] * 4
    for name, source in (("u_noise1", "u"), ("u_sp0.9_noise2", "u_sp0.9")):
        assert np.array_equal(found[name].pdf_ids(name), found[source].pdf_ids(source))
        assert found[name].words(name) == found[source].words(source)
    assert len(found["u_sp0.9"].pdf_ids("u_sp0.9")) == round(17 / 0.9)


def test_an_alignment_of_that_name_comes_first():
    ali = make_set(example(), example("u_noise1"))
    assert AlignedCuts(ali).of("u_noise1") is ali


def data_of(*lens: int, names: Sequence[str]) -> Dataset:
    return Dataset.of([torch.zeros(n, 1) for n in lens], names)


def test_lengths_may_differ_by_rounding_only():
    ali = make_set(example())
    cuts, there = AlignedCuts(ali), Path("data")
    with pytest.raises(MismatchError, match="'u' has 17 labels and 18 label frames"):
        aligned_labels(data_of(18, names=["u"]), cuts, np.array([18]), 1, False, there)
    for length in (16, 19):
        labels = aligned_labels(
            data_of(17, length, names=["u", "u_noise1"]), cuts, np.array([17, length]), 1, False, there
        )
        own = ali.pdf_ids("u").tolist()
        assert labels[0].tolist() == own and labels[1].tolist() == [*own, own[-1], own[-1]][:length]
    with pytest.raises(MismatchError, match="'u_noise1' has 17 labels and 20 label frames"):
        aligned_labels(data_of(20, names=["u_noise1"]), cuts, np.array([20]), 1, False, there)


def test_lower_rates_are_those_of_the_alignment():
    ali = make_set(example())
    for majority in (False, True):
        labels = aligned_labels(data_of(17, names=["u"]), AlignedCuts(ali), np.array([6]), 3, majority, Path("data"))
        assert list(labels)[0].tolist() == ali.pdf_ids("u", 3, majority).tolist()


def test_missing_utterances_are_counted_and_named():
    ali, data = make_set(example()), data_of(17, 5, 5, names=["u", "v", "w"])
    present = AlignedCuts(ali).present(data)
    assert present.tolist() == [True, False, False]
    check_missing(data, present, ali, Path("data"), 0.7)
    with pytest.raises(DataError, match="no alignment for 2 of the 3 utterances of data, the first: 'v'"):
        check_missing(data, present, ali, Path("data"), 0.5)


def test_a_label_file_gives_back_what_was_written(tmp_path):
    rows = [np.array([3, 1, 2]), np.zeros(0, dtype=np.int64), np.arange(5)]
    file = LabelFile.of(tmp_path, rows)
    assert file.lens.tolist() == [3, 0, 5] and [row.tolist() for row in file] == [row.tolist() for row in rows]
    later = LabelFile(tmp_path / "new", np.array([3, 2, 5]))
    for i in (2, 0):
        later[i] = rows[i]
    assert [row.tolist() for row in later] == [row.tolist() for row in rows]
    later[2] = np.array([9])
    assert later[2].tolist() == [9] and later[0].tolist() == [3, 1, 2]
    with pytest.raises(AssertionError):
        later[1] = np.arange(3)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
