"""Lattices on disk, in other toolkits' forms, and broken ones."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest

from pipeline.artifacts.checkpoint import forget_pages, map_arrays
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.lattice_set import HEADER, LatticeHeader, LatticeSet, LatticeWriter
from pipeline.artifacts.lattice_text import kaldi_lines, slf_lines, write_kaldi, write_slf
from pipeline.artifacts.symbols import SymbolTable
from pipeline.base.errors import DataError
from pipeline.base.files import read_json, write_json

WORDS = ("<eps>", "A", "B")
FACTS = LatticeHeader("lang", "tree", 0.01, -0.005, 0.1, 8.0, ((1, 2),))
ARRAYS = ("frame", "src", "dst", "pdf", "tid", "label", "acoustic", "graph", "lm")


def example(partial: bool = False) -> Lattice:
    """Two frames; label 3 is A B."""
    ints = dict(
        frame=[0, 1, 1, 2, 2],
        src=[0, 0, 1, 2, 3],
        dst=[1, 2, 3, 3, 4],
        pdf=[0, 1, 0, 2, -1],
        tid=[3, 5, 2, 6, -1],
        label=[1, 3, 0, 0, 2],
    )
    floats = dict(
        acoustic=[-3.5, -4.25, -1.0, -2.0, 0.0], graph=[-0.5, -0.1, 0.2, -1.0, -0.25], lm=[-0.5, 0.0, 0.0, 0.0, 0.0]
    )
    arrays = {k: np.array(v, dtype=np.int32) for k, v in ints.items()}
    arrays |= {k: np.array(v, dtype=np.float32) for k, v in floats.items()}
    return Lattice(**arrays, num_words=3, sequences=((1, 2),), partial=partial)


def totals(arcs: list[tuple[int, int, str, float, float]], last: int) -> set[tuple[str, float, float]]:
    """(words, first sum, second sum) of all paths of (src, dst, word, first score, second score)."""
    grown, done = [("", 0, 0.0, 0.0)], set()
    while grown:
        words, state, one, two = grown.pop()
        if state == last:
            done.add((words.strip(), round(one, 4), round(two, 4)))
        grown += [(f"{words} {w}", d, one + x, two + y) for s, d, w, x, y in arcs if s == state]
    return done


PATHS = {("A B", -4.5, -0.55), ("A B B", -6.25, -1.35)}


def test_it_is_valid_and_spells_itself_out() -> None:
    lattice = example()
    lattice.validate("example")
    plain = lattice.spelled()
    plain.validate("plain")
    assert plain.num_states == 6 and plain.num_arcs == 6 and not plain.sequences
    assert lattice.words_of_arcs().tolist() == [1, 2, 0, 0, 1]
    splits, words = lattice.spelling()
    assert [words[splits[i] : splits[i + 1]].tolist() for i in range(4)] == [[], [1], [2], [1, 2]]
    for x in (lattice, plain):
        columns = zip(x.src.tolist(), x.dst.tolist(), x.label.tolist(), x.acoustic.tolist(), x.graph.tolist())
        arcs = [(s, d, " ".join(WORDS[w] for w in x.spell([label])), a, g) for s, d, label, a, g in columns]
        found = {(" ".join(w.split()), a, g) for w, a, g in totals(arcs, x.num_states - 1)}
        assert found == PATHS
    assert lattice.num_frames == 2 and lattice.complete and not example(partial=True).complete


def saved(directory, lattices: dict[str, Lattice], shard_bytes: int = 1 << 20) -> LatticeSet:
    with LatticeWriter(directory, FACTS, SymbolTable(WORDS[1:]), shard_bytes) as writer:
        for cut_id, lattice in lattices.items():
            writer.write(cut_id, lattice)
    return LatticeSet(directory)


@pytest.mark.parametrize("shard_bytes, shards", [(1 << 20, 1), (1, 3), (182, 2)])
def test_round_trip(tmp_path, shard_bytes: int, shards: int) -> None:
    """In as many shards as it takes; one lattice is read at a time."""
    lattices = {"b/1": example(), "a": Lattice.empty(3, ((1, 2),)), "c": example(partial=True)}
    found = saved(tmp_path, lattices, shard_bytes)
    assert len(list(tmp_path.glob("*.safetensors"))) == shards
    assert found.header == FACTS and list(found.words) == list(WORDS)
    assert list(found) == list(lattices) and len(found) == 3 and "a" in found and "d" not in found
    for cut_id, one in lattices.items():
        other = found[cut_id]
        assert all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ARRAYS)
        assert all(getattr(one, n).dtype == getattr(other, n).dtype for n in ARRAYS)
        assert (one.num_words, one.sequences, one.partial) == (other.num_words, other.sequences, other.partial)
    with pytest.raises(DataError, match="no lattice of utterance 'd'"):
        found["d"]
    assert len(saved(tmp_path / "none", {})) == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="the system does not tell what is open")
def test_many_shards_are_not_all_open(tmp_path) -> None:
    """A process may have 1,024 files open on most systems; what is read is the same."""
    lattices = {str(i): example(partial=i % 2 > 0) for i in range(70)}
    before = len(os.listdir("/proc/self/fd"))
    found = saved(tmp_path, lattices, 1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 70 and len(os.listdir("/proc/self/fd")) == before
    assert all(found[c].partial == x.partial and np.array_equal(found[c].lm, x.lm) for c, x in lattices.items())
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_was_interrupted_is_not_there(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), LatticeWriter(tmp_path, FACTS, SymbolTable(WORDS[1:]), 1) as writer:
        writer.write("a", example())
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="holds no lattices"):
        LatticeSet(tmp_path)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("src", [0, 1, 0, 2, 3], "order of time"),
        ("dst", [1, 2, 3, 3, 3], "order of time"),
        ("dst", [1, 2, 3, 3, 5], "dst out of range"),
        ("dst", [1, 1, 3, 3, 4], "on no path"),
        ("src", [0, 0, 1, 1, 3], "on no path"),
        ("frame", [0, 2, 1, 2, 2], "order of time"),
        ("label", [1, 4, 0, 0, 2], "label out of range"),
        ("pdf", [0, -2, 0, 2, -1], "pdf out of range"),
        ("tid", [3, -2, 2, 6, -1], "tid out of range"),
        ("acoustic", [0.0, np.nan, 0.0, 0.0, 0.0], "no numbers"),
        ("graph", [0.0, np.inf, 0.0, 0.0, 0.0], "no numbers"),
        ("lm", [0.0, 0.0], "different length"),
        ("src", [], "different length"),
    ],
)
def test_damaged_lattices_are_refused(tmp_path, name: str, value: list, message: str) -> None:
    broken = dataclasses.replace(example(), **{name: np.array(value, dtype=getattr(example(), name).dtype)})
    with pytest.raises(DataError, match=f"utterance 'bad'.*{message}|the lengths do not add up"):
        found = saved(tmp_path, {"bad": broken})
        found["bad"]


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="holds no lattices"):
        LatticeSet(tmp_path)
    saved(tmp_path, {"a": example(), "b": example()})
    shard = tmp_path / "lattices.0.safetensors"
    whole = shard.read_bytes()
    for broken in (b"", whole[:30], whole[:-20], whole.replace(b"cut_ids", b"cut_idx")):
        shard.write_bytes(broken)
        with pytest.raises(DataError, match="lattices.0.safetensors: damaged"):
            LatticeSet(tmp_path)
    shard.unlink()
    with pytest.raises(DataError, match="lattices.0.safetensors: no such file"):
        LatticeSet(tmp_path)
    shard.write_bytes(whole)
    good = read_json(tmp_path / HEADER)
    write_json(tmp_path / HEADER, {**good, "shards": good["shards"] * 2})
    with pytest.raises(DataError, match="two lattices of utterance 'a'"):
        LatticeSet(tmp_path)
    for bad in ({}, {"header": {}, "shards": []}, {**good, "header": {**good["header"], "sequences": [["x"]]}}):
        write_json(tmp_path / HEADER, bad)
        with pytest.raises(
            DataError, match="lattices.json: (key 'header' is missing|key 'header.lang_id'|header.sequences.0.0)"
        ):
            LatticeSet(tmp_path)
    states = dataclasses.replace(Lattice.empty(3), frame=np.zeros(2, np.int32))
    with pytest.raises(DataError, match="states without arcs"):
        states.validate("x")


def test_kaldi_s_text(tmp_path) -> None:
    lines = list(kaldi_lines("u1", example()))
    assert lines[0] == "u1" and lines[-1] == "" and lines[-2] == "5\t0,0"
    arcs = []
    for line in lines[1:-2]:
        src, dst, tid, word, costs = line.split("\t")
        graph, acoustic = (-float(x) for x in costs.split(","))
        arcs.append((int(src), int(dst), WORDS[int(word)].replace("<eps>", ""), acoustic, graph))
        assert (acoustic != 0.0) == (int(tid) > 0)
    assert {(" ".join(w.split()), a, g) for w, a, g in totals(arcs, 5)} == PATHS
    write_kaldi(tmp_path / "lat.txt", [("a", example()), ("b", example())])
    text = (tmp_path / "lat.txt").read_text()
    assert text.count("\n\n") == 2 and text.startswith("a\n") and "\nb\n" in text
    with pytest.raises(DataError, match="blanks"):
        list(kaldi_lines("u 1", example()))


def test_htk_s_format(tmp_path) -> None:
    lines = list(slf_lines("u1", example(), WORDS, 0.01, 10.0, 0.5))
    head = dict(x.split("=") for line in lines[:4] for x in line.split("\t"))
    assert head["lmscale"] == "10" and head["wdpenalty"] == "-5" and (head["N"], head["L"]) == ("6", "6")
    fields = [dict(x.split("=") for x in line.split("\t")) for line in lines[4:]]
    assert [float(f["t"]) for f in fields[:6]] == [0.0, 0.0, 0.01, 0.01, 0.02, 0.02]
    fine = [line.partition("t=")[2] for line in slf_lines("u1", example(), WORDS, 0.0025, 10.0, 0.5) if "\tt=" in line]
    assert [float(t) for t in fine] == [0.0, 0.0, 0.0025, 0.0025, 0.005, 0.005]
    arcs = [(int(f["S"]), int(f["E"]), f["W"].replace("!NULL", ""), float(f["a"]), float(f["l"])) for f in fields[6:]]
    assert {(" ".join(w.split()), a, g) for w, a, g in totals(arcs, 5)} == PATHS
    write_slf(tmp_path, [("a/1", example())], WORDS, 0.01, 10.0, 0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["a_1.slf"]
    with pytest.raises(DataError, match=r"two utterances would be written to a_1.slf"):
        write_slf(tmp_path, [("a/1", example()), ("a_1", example())], WORDS, 0.01, 10.0, 0.5)


def test_arrays_are_mapped(tmp_path) -> None:
    from safetensors.numpy import save_file

    path, arrays = tmp_path / "x.safetensors", {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.ones(3)}
    save_file(arrays, str(path))
    found = map_arrays(path)
    assert all(np.array_equal(found[n], arrays[n]) and found[n].dtype == arrays[n].dtype for n in arrays)
    assert not found["a"].flags.writeable
    for sparse in (False, True):
        forget_pages(found["a"], sparse)
        assert np.array_equal(found["a"], arrays["a"])
    forget_pages(np.ones(3))
    whole = path.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    head = json.loads(whole[8:size])
    head["a"]["shape"] = [2, 4]
    other = json.dumps(head).encode()
    for broken in (b"", whole[:5], whole[:40], whole[:-8], len(other).to_bytes(8, "little") + other + whole[size:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="damaged"):
            map_arrays(path)
