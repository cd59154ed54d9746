"""Lattices on disk, in other toolkits' forms, and broken ones."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pipeline.artifacts.checkpoint import forget_pages, map_arrays
from pipeline.artifacts.lattice import LATTICES, Lattice, load_lattices, save_lattices
from pipeline.artifacts.lattice_text import kaldi_lines, slf_lines, write_kaldi, write_slf
from pipeline.base.errors import DataError

WORDS = ("<eps>", "A", "B")
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


def test_round_trip(tmp_path) -> None:
    empty = Lattice.empty(3, ((1, 2),))
    save_lattices(tmp_path, {"b/1": example(), "a": empty, "c": example(partial=True)}, {"lang_id": "l"})
    found, ids = load_lattices(tmp_path)
    assert ids == {"lang_id": "l"} and list(found) == ["a", "b/1", "c"]
    for cut_id, one in (("b/1", example()), ("a", empty), ("c", example(partial=True))):
        other = found[cut_id]
        assert all(np.array_equal(getattr(one, n), getattr(other, n)) for n in ARRAYS)
        assert (one.num_words, one.sequences, one.partial) == (other.num_words, other.sequences, other.partial)
    save_lattices(tmp_path, {}, {})
    assert load_lattices(tmp_path) == ({}, {})


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
    save_lattices(tmp_path, {"good": example(), "bad": broken}, {})
    with pytest.raises(DataError, match=f"utterance 'bad'.*{message}"):
        load_lattices(tmp_path)


def test_other_files_are_refused(tmp_path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(DataError, match="no such file"):
        load_lattices(tmp_path)
    save_lattices(tmp_path, {"a": example()}, {})
    whole = (tmp_path / LATTICES).read_bytes()
    for broken in (b"", whole[:30], whole[:-20]):
        (tmp_path / LATTICES).write_bytes(broken)
        with pytest.raises(DataError, match="damaged"):
            load_lattices(tmp_path)
    save_file({"a/src": np.zeros(3)}, str(tmp_path / LATTICES))
    with pytest.raises(DataError, match="no lattices"):
        load_lattices(tmp_path)
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
    write_kaldi(tmp_path / "lat.txt", {"b": example(), "a": example(), "none": Lattice.empty(3)})
    text = (tmp_path / "lat.txt").read_text()
    assert text.count("\n\n") == 2 and text.startswith("a\n") and "none" not in text
    with pytest.raises(DataError, match="blanks"):
        list(kaldi_lines("u 1", example()))


def test_htk_s_format(tmp_path) -> None:
    lines = list(slf_lines("u1", example(), WORDS, 0.01, 10.0, 0.5))
    head = dict(x.split("=") for line in lines[:4] for x in line.split("\t"))
    assert head["lmscale"] == "10" and head["wdpenalty"] == "-5" and (head["N"], head["L"]) == ("6", "6")
    fields = [dict(x.split("=") for x in line.split("\t")) for line in lines[4:]]
    assert [float(f["t"]) for f in fields[:6]] == [0.0, 0.0, 0.01, 0.01, 0.02, 0.02]
    arcs = [(int(f["S"]), int(f["E"]), f["W"].replace("!NULL", ""), float(f["a"]), float(f["l"])) for f in fields[6:]]
    assert {(" ".join(w.split()), a, g) for w, a, g in totals(arcs, 5)} == PATHS
    write_slf(tmp_path, {"a/1": example(), "none": Lattice.empty(3)}, WORDS, 0.01, 10.0, 0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["a_1.slf"]


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
