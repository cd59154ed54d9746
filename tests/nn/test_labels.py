"""Labels for the copies of an utterance at other speeds and in noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import MismatchError
from pipeline.nn.labels import fitted, with_speeds
from tests.artifacts.test_ali import example, make_set


def test_copies_take_the_labels_of_the_original():
    ali = make_set(example())
    names = ["u", "u_sp0.9", "u_sp1.1", "u_noise1", "u_sp0.9_noise2", "v", "v_noise1", "u_spx"]
    found = with_speeds(ali, names)
    assert set(found) == set(names[:5]) and found["u"] is ali
    for name, source in (("u_noise1", "u"), ("u_sp0.9_noise2", "u_sp0.9")):
        assert np.array_equal(found[name].pdf_ids(name), found[source].pdf_ids(source))
        assert found[name].words(name) == found[source].words(source)
    assert len(found["u_sp0.9"].pdf_ids("u_sp0.9")) == round(17 / 0.9)


def test_an_alignment_of_that_name_comes_first():
    ali = make_set(example(), example("u_noise1"))
    assert with_speeds(ali, ["u_noise1"])["u_noise1"] is ali


def test_lengths_may_differ_by_rounding_only():
    ali, labels = make_set(example()), np.array([1, 2, 3])
    assert fitted(labels, 4, 1, "u", ali, Path("data")).tolist() == [1, 2, 3, 3]
    assert fitted(labels, 2, 1, "u", ali, Path("data")).tolist() == [1, 2]
    with pytest.raises(MismatchError, match="'u' has 3 labels and 5 label frames"):
        fitted(labels, 5, 1, "u", ali, Path("data"))
