"""Passes that processes share: sums of blocks, and whole trainings, have the same bits for any number of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.errors import ConfigError
from pipeline.feats.dataset import Dataset
from pipeline.gmm import blocks as blocks_module
from pipeline.gmm.blocks import Arrays, Blocks, Pairs, added, added_by_key, moments, open_shared
from pipeline.nn.distributed import World
from tests.nn.conftest import tones  # noqa: F401
from tests.torchrun import torchrun

JOB = Path(__file__).with_name("shared_job.py")


def shared_total(lens: np.ndarray, processes: int, sums, merge) -> Arrays:
    """What `processes` processes find, without any."""
    pairs = Pairs(merge)
    for rank in range(processes):
        for node in (
            Blocks.of(lens, World(rank, processes)).nodes(lambda rows, rank=rank: sums(rank, rows), merge).nodes
        ):
            pairs.push(*node)
    return pairs.total()


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
def test_totals_have_the_same_bits_for_any_number_of_processes(monkeypatch, count):
    monkeypatch.setattr(blocks_module, "BLOCK_FRAMES", 100)
    rng = np.random.default_rng(count)
    lens, values = np.full(count, 100), rng.standard_normal((count, 7)) * 10.0 ** rng.integers(-9, 9, (count, 1))

    def sums(lens_of, size):
        def own(rank, rows):
            return (values[Blocks.of(lens_of, World(rank, size)).rows][rows].sum(0),)

        return own

    found = [shared_total(lens, n, sums(lens, n), added)[0] for n in range(1, count + 1)]
    assert all(x.tobytes() == found[0].tobytes() for x in found)
    assert np.allclose(found[0], values.sum(0))
    places = [Blocks.of(lens, World(rank, 3)).rows for rank in range(3)]
    assert [n for rows in places for n in range(rows.start, rows.stop)] == list(range(count))


def test_rows_with_equal_keys_meet():
    a = np.array([[0, 1], [2, 0]]), np.array([[1.0], [2.0]])
    b = np.array([[0, 0], [2, 0], [3, 3]]), np.array([[4.0], [8.0], [16.0]])
    keys, sums = added_by_key(a, b)
    assert keys.tolist() == [[0, 0], [0, 1], [2, 0], [3, 3]] and sums[:, 0].tolist() == [4.0, 1.0, 10.0, 16.0]
    keys, sums = added_by_key((np.array([1, 5]), np.array([1.0, 2.0])), (np.array([], dtype=np.int64), np.zeros(0)))
    assert keys.tolist() == [1, 5] and sums.tolist() == [1.0, 2.0]


def test_moments_are_those_of_all_frames(monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_FRAMES", 40)
    feats = [5 + torch.randn(17 + n, 3, generator=torch.Generator().manual_seed(n)) for n in range(9)]
    data = Dataset.of(feats)
    mean, variance = moments(data, Blocks.of(data.lens))
    whole = torch.cat(feats).double()
    assert torch.allclose(mean, whole.mean(0)) and torch.allclose(variance, whole.var(0, unbiased=False))


def test_too_many_processes_are_refused(tones):
    from pipeline.artifacts.features import FeatLoadOptions

    for rank in range(2):
        with pytest.raises(ConfigError, match="too few to be shared by 2 processes, which take 30,000"):
            open_shared(tones.data, FeatLoadOptions(), 0, World(rank, 2))[1].check(tones.data)


def models(out: Path) -> dict[str, bytes]:
    """All that the trainings have left, without the times of iterations."""
    files = (p for p in sorted(out.rglob("*")) if p.is_file() and p.name != "died")
    return {p.relative_to(out).as_posix(): re.sub(rb'"seconds": [0-9.]+', b"", p.read_bytes()) for p in files}


@pytest.mark.slow
def test_the_chain_is_the_same_for_any_number_of_processes(tones, tmp_path, run_script):
    """Even though one of three is killed in the middle, and torchrun starts them all again."""
    for processes, more in ((1, []), (3, ["3"])):
        out = tmp_path / str(processes)
        out.mkdir()
        done = run_script(*torchrun(processes, 1), JOB, tones.data, tones.lang, out, *more, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    assert (out / "died").exists() and "resuming after iteration 2" in done.stderr
    one, three = models(tmp_path / "1"), models(tmp_path / "3")
    assert {"mono/model.safetensors", "soft/model.safetensors", "lda/tree.json", "sat/fmllr.safetensors"} <= set(one)
    assert set(one) == set(three) and [name for name in one if one[name] != three[name]] == []
