"""Records in shards: taken at once they are written as if they had come one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.shards import Layout, Shards, ShardWriter, join
from pipeline.base.files import read_json, write_json

LAYOUT = Layout(
    "test",
    {"num_a": {"a": "i4", "b": ("f8", 3), "c": "f2"}, "num_w": {"w": ("f4", 2)}},
    values={"v": "f8"},
    optional=("c",),
)


def records(lengths: list[tuple[int, int]], optional: bool) -> dict[str, dict[str, np.ndarray]]:
    out, rng = {}, np.random.default_rng(len(lengths))
    for i, (a, w) in enumerate(lengths):
        record = {
            "a": rng.integers(9, size=a, dtype=np.int32),
            "b": rng.random((a, 3)),
            "w": rng.random((w, 2), np.float32),
        }
        record |= {"c": rng.random(a).astype(np.float16)} if optional else {}
        out[f"u{i}"] = {**record, "v": np.array([rng.random()])}
    return out


def written(directory: Path, stem: str, some, **limits) -> list[Path]:
    directory.mkdir(exist_ok=True)
    writer = ShardWriter(directory, stem, LAYOUT, **limits)
    for name, record in some:
        writer.write(name, record)
    return [directory / name for name in writer.close()]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12),
    st.booleans(),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(50, 600),
    st.randoms(use_true_random=False),
)
def test_runs_make_the_shards_of_single_records(tmp_path_factory, lengths, optional, before, most, size, random):
    """Whatever shards they come from, in any order, with names that are not there."""
    out = tmp_path_factory.mktemp("shards")
    known = records(lengths, optional)
    source = written(out / "source", "s", known.items(), most_records=before)
    names = list(known)
    if random.random() < 0.7:
        random.shuffle(names)
    names = names[: random.randint(1, len(names))]
    single = written(out / "single", "x", ((n, known[n]) for n in names), most_records=most, most_bytes=size)
    writer = ShardWriter(out, "x", LAYOUT, most_records=most, most_bytes=size)
    for run in Shards(source, LAYOUT).runs(["nobody", *names]):
        writer.write_run(run)
    at_once = [out / name for name in writer.close()]
    assert [p.name for p in at_once] == [p.name for p in single]
    assert [p.read_bytes() for p in at_once] == [p.read_bytes() for p in single]


def test_neighbours_are_one_run(tmp_path):
    known = records([(2, 1)] * 6, False)
    shards = Shards(written(tmp_path, "s", known.items(), most_records=4), LAYOUT)
    assert [run.ids for run in shards.runs()] == [["u0", "u1", "u2", "u3"], ["u4", "u5"]]
    assert [run.ids for run in shards.runs(["u5", "u0", "u1", "x", "u2", "u4"])] == [["u5"], ["u0", "u1", "u2"], ["u4"]]
    assert [run.arrays["num_a"].tolist() for run in shards.runs(["u1", "u2"])] == [[2, 2]]
    assert list(shards.runs([])) == []


@pytest.mark.parametrize("most", [1, 2, 5])
def test_rewritten_shards_are_those_of_one_writer(tmp_path, monkeypatch, most):
    known = records([(3, 2), (0, 0), (1, 4), (2, 2)], True)
    old = written(tmp_path / "old", "s", known.items(), most_records=most)
    write_json(tmp_path / "old" / "h.json", {"of": "all", "shards": [p.name for p in old]})
    new = tmp_path / "new"
    join([tmp_path / "old"], new, "h.json", "s", LAYOUT)
    whole = written(tmp_path / "whole", "s", known.items())
    header = read_json(new / "h.json")
    assert header["of"] == "all"
    assert [(new / name).read_bytes() for name in header["shards"]] == [p.read_bytes() for p in whole]


def test_directories_are_joined_in_the_order_of_ids(tmp_path):
    """Ids without a record are passed over."""
    known = records([(3, 2), (0, 0), (1, 4), (2, 2)], True)
    for name, ids in (("a", ["u2", "u0"]), ("b", ["u1", "u3"])):
        shards = written(tmp_path / name, "s", [(i, known[i]) for i in ids])
        write_json(tmp_path / name / "h.json", {"shards": [p.name for p in shards]})
    order = ["u3", "u0", "none", "u1", "u2"]
    join([tmp_path / "a", tmp_path / "b"], tmp_path / "new", "h.json", "s", LAYOUT, order)
    whole = written(tmp_path / "whole", "s", [(i, known[i]) for i in order if i in known])
    assert (tmp_path / "new" / "s.0.safetensors").read_bytes() == whole[0].read_bytes()
