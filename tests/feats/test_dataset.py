"""Batches: complete, bounded, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.feats.dataset import Dataset, plan


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 900), st.integers(1, 9), st.booleans())
def test_every_utterance_once_and_batches_bounded(lens, max_frames, max_batch, shuffled):
    lens = np.array(lens, dtype=np.int64)
    batches = plan(lens, max_frames, max_batch, (1, 2) if shuffled else None)
    assert sorted(i for b in batches for i in b.tolist()) == list(range(len(lens)))
    for batch in batches:
        assert len(batch) <= max_batch and (len(batch) == 1 or lens[batch].max() * len(batch) <= max_frames)


def test_plan_depends_on_the_seed_alone():
    lens = np.random.default_rng(0).integers(50, 400, 60)
    same = [plan(lens, 2000, 16, (1, 3)) for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*same))
    other = plan(lens, 2000, 16, (1, 4))
    assert not all(np.array_equal(a, b) for a, b in zip(same[0], other))


def test_lengths_within_a_batch_are_similar():
    lens = np.random.default_rng(0).integers(50, 400, 500)
    padded = sum(lens[b].max() * len(b) for b in plan(lens, 4000, 64, (1, 0)))
    assert padded < 1.12 * lens.sum()


def test_batch_holds_the_features_of_its_utterances():
    data = Dataset.of(list(torch.arange(12.0).view(6, 2).split([1, 2, 3])), "xyz").select([2, 0])
    assert data.ids == ["z", "x"] and data.num_frames == 4
    batch = data.batch(np.array([1, 0]))
    assert batch.lens.tolist() == [1, 3] and batch.num_frames == 4
    assert batch.feats.tolist() == [[[0, 1], [0, 0], [0, 0]], [[6, 7], [8, 9], [10, 11]]]


def test_chunks_are_all_frames_in_order():
    chunked = Dataset.of(list(torch.arange(10.0)[:, None].split([5, 1, 4])), "xyz", "sst").select([2, 0]).chunks(3)
    assert chunked.lens.tolist() == [3, 1, 3, 2] and chunked.ids == ["z-0", "z-3", "x-0", "x-3"]
    assert chunked.flat(np.arange(4))[:, 0].tolist() == [6, 7, 8, 9, 0, 1, 2, 3, 4]
    assert [chunked.speaker(i) for i in range(4)] == ["t", "t", "s", "s"]
