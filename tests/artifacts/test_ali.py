"""Alignment sets: times, words, frame rates, speeds, shards, and damaged directories."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.artifacts.ali import Alignment, AliHeader, AliSet, AliWriter, spread, subsample
from pipeline.artifacts.checkpoint import load_model, save_model
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.model_meta import LmMeta, NetworkMeta
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError, MismatchError

LANG = make_lang(Lexicon([Pronunciation("AB", ("A", "B")), Pronunciation("B", ("B",))]), speech_states=2)
TREE = monophone_tree(LANG.phones, LANG.topo)
TRANSITIONS = TransitionModel(TREE, LANG.topo)
HEADER = AliHeader(LANG.topo.id, TREE.id, LANG.id, 0.01, 0.0, "exp/mono")


def tids(*spans: tuple[str, int]) -> np.ndarray:
    """Transition-ids of phones given as (name, number of frames), at least one frame per state."""
    out = []
    for name, frames in spans:
        states = np.nonzero(TRANSITIONS.phone == LANG.phones.id(name))[0]
        for i, ts in enumerate(states):
            stay = frames - len(states) if i == 0 else 0
            out += [2 * ts] * stay + [2 * ts + 1]
    return np.array(out, dtype=np.int32)


def example(cut_id: str = "u", confidence: bool = False) -> Alignment:
    """SIL 5, AB = A 4 B 3, B 2 (two B in a row), SIL 3."""
    ids = tids(("SIL", 5), ("A", 4), ("B", 3), ("B", 2), ("SIL", 3))
    words = np.array([[LANG.words.id("AB"), 5], [LANG.words.id("B"), 12]], dtype=np.int32)
    return Alignment(cut_id, ids, -12.5, words, np.linspace(0, 1, 17).astype(np.float16) if confidence else None)


def make_set(*alignments: Alignment) -> AliSet:
    return AliSet(HEADER, TRANSITIONS, LANG.words, alignments)


def test_repeated_phones_stay_apart():
    segments = make_set(example()).phones("u")
    assert [s.symbol for s in segments] == ["SIL", "A", "B", "B", "SIL"]
    np.testing.assert_allclose([s.start for s in segments], [0, 0.05, 0.09, 0.12, 0.14])
    np.testing.assert_allclose([s.end for s in segments], [0.05, 0.09, 0.12, 0.14, 0.17])


def test_words_exclude_silence():
    words = make_set(example()).words("u")
    assert [w.symbol for w in words] == ["AB", "B"]
    np.testing.assert_allclose([(w.start, w.end) for w in words], [(0.05, 0.12), (0.12, 0.14)])


def test_confidence_is_the_mean_over_frames():
    segment = make_set(example(confidence=True)).phones("u")[0]
    assert segment.confidence == pytest.approx(np.linspace(0, 1, 17)[:5].mean(), abs=1e-3)


def test_silence_share():
    assert make_set(example()).silence_share() == pytest.approx(8 / 17)


def test_subsample_every_and_majority():
    labels = np.array([3, 3, 1, 1, 1, 2, 7], dtype=np.int32)
    assert subsample(labels, 3).tolist() == [3, 1, 7]
    assert subsample(labels, 3, majority=True).tolist() == [3, 1, 7]
    assert subsample(np.array([1, 2, 2]), 3).tolist() == [1]
    assert subsample(np.array([1, 2, 2]), 3, majority=True).tolist() == [2]
    ali = make_set(example())
    assert len(ali.pdf_ids("u", 3)) == 6 and (ali.pdf_ids("u", 3) == ali.pdf_ids("u")[::3]).all()


@pytest.mark.parametrize("factor", [0.9, 1.1, 2.0])
def test_at_speed_scales_the_times(factor):
    fast = make_set(example(confidence=True)).at_speed(factor)
    cut_id = f"u_sp{factor}"
    assert list(fast) == [cut_id]
    assert len(fast[cut_id].transition_ids) == round(17 / factor)
    old = make_set(example()).words("u")
    for before, after in zip(old, fast.words(cut_id)):
        assert after.symbol == before.symbol
        assert abs(after.start - before.start / factor) <= 0.01
    assert make_set(example()).at_speed(1.0)["u_sp1.0"].transition_ids.tolist() == example().transition_ids.tolist()


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.5])
def test_at_speed_keeps_phones_and_words(factor):
    """Slower: a repeated frame ends its phone once. Faster: phones of one frame stay."""
    slow = make_set(example())
    fast = slow.at_speed(factor)
    cut_id = f"u_sp{factor}"
    assert [p for p, _, _ in fast.phone_segments(cut_id)] == [p for p, _, _ in slow.phone_segments("u")]
    assert [w.symbol for w in fast.words(cut_id)] == [w.symbol for w in slow.words("u")]
    ends = [
        ali[name].transition_ids[[first + count - 1 for _, first, count in ali.phone_segments(name)]].tolist()
        for ali, name in ((slow, "u"), (fast, cut_id))
    ]
    assert ends[0] == ends[1]  # phones are left where they were: by the forward transition of their last state


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.1, 1.5])
def test_at_speed_leaves_words_in_the_phone_that_they_start_in(factor):
    """As imported ones may: AB starts in the third of the four frames of A, B in the last one of the last silence."""
    words = np.array([[LANG.words.id("AB"), 7], [LANG.words.id("B"), 16]], dtype=np.int32)
    old = make_set(dataclasses.replace(example(), words=words))
    new = old.at_speed(factor)
    name = f"u_sp{factor}"
    for (_, at), (_, moved), phone in zip(words.tolist(), new[name].words.tolist(), (1, 4)):
        _, begin, count = new.phone_segments(name)[phone]
        assert begin <= moved < begin + count and abs(moved - at / factor) <= 1.0
    assert factor != 1.0 or new[name].words.tolist() == words.tolist()


@pytest.mark.parametrize(
    "bounds, total, moved",
    [
        ([0, 2, 5], 5, [0, 2, 5]),
        ([0, 1, 1, 1, 5], 5, [0, 1, 2, 3, 5]),
        ([0, 3, 5, 5, 5], 5, [0, 2, 3, 4, 5]),
        ([0, 0, 4, 4, 4], 4, [0, 1, 2, 3, 4]),
        ([0, 1, 1, 2], 2, [0, 1, 1, 2]),  # more spans than frames
    ],
)
def test_spread(bounds, total, moved):
    assert spread(np.array(bounds), total).tolist() == moved


def test_missing_cut_names_the_directory():
    with pytest.raises(DataError, match="no alignment for cut 'v'"):
        make_set(example())["v"]
    with pytest.raises(DataError, match="'u' is aligned twice"):
        make_set(example(), example())


@pytest.mark.parametrize("confidence", [False, True])
def test_shards_round_trip(tmp_path, confidence):
    items = [example(f"u{i}", confidence) for i in range(5)]
    with AliWriter(tmp_path / "a", HEADER, TREE, LANG.topo, TRANSITIONS, LANG.words, shard_size=2) as writer:
        for item in items:
            writer.write(item)
    assert len(list((tmp_path / "a").glob("ali.*.safetensors"))) == 3
    again = AliSet.load(tmp_path / "a")
    assert list(again) == [i.cut_id for i in items] and again.header == HEADER
    for item in items:
        got = again[item.cut_id]
        assert (got.transition_ids == item.transition_ids).all() and (got.words == item.words).all()
        assert got.log_like == item.log_like and (got.confidence is None) == (not confidence)


def write_one(directory):
    with AliWriter(directory, HEADER, TREE, LANG.topo, TRANSITIONS, LANG.words) as writer:
        writer.write(example())


def test_an_interrupted_writer_leaves_no_readable_set(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with AliWriter(tmp_path, HEADER, TREE, LANG.topo, TRANSITIONS, LANG.words) as writer:
            writer.write(example())
            raise KeyboardInterrupt
    with pytest.raises(DataError, match="ali.json: no such file"):
        AliSet.load(tmp_path)


def test_truncated_shard_is_named(tmp_path):
    write_one(tmp_path)
    shard = tmp_path / "ali.0.safetensors"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(DataError, match="ali.0.safetensors: damaged"):
        AliSet.load(tmp_path)
    shard.unlink()
    with pytest.raises(DataError, match="ali.0.safetensors: no such file"):
        AliSet.load(tmp_path)


def test_another_tree_is_a_mismatch(tmp_path):
    write_one(tmp_path)
    ali = AliSet.load(tmp_path)
    ali.check_tree(TREE, LANG.topo, "exp/tri1")
    other = make_lang(Lexicon([Pronunciation("A", ("A",))]))
    with pytest.raises(MismatchError, match="exp/tri1"):
        ali.check_tree(monophone_tree(other.phones, other.topo), LANG.topo, "exp/tri1")
    other_tree = monophone_tree(LANG.phones, LANG.topo, {"B": "A"})
    other_tree.save(tmp_path / "tree.json")
    with pytest.raises(MismatchError):
        AliSet.load(tmp_path)


def test_model_directory_round_trip(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"w": torch.arange(6, dtype=torch.float32).reshape(2, 3), "n": torch.tensor([3])}
    lm = LmMeta(vocab_size=3, tokens_id="t", config={}, epochs=[])
    save_model(tmp_path, tensors, lm)
    got, meta = load_model(tmp_path, LmMeta)
    assert meta == lm and all((got[k] == tensors[k]).all() for k in tensors)
    with pytest.raises(MismatchError, match="kind 'nn_lm', not 'nn'"):
        load_model(tmp_path, NetworkMeta)
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(DataError, match="damaged safetensors"):
        load_model(tmp_path, LmMeta)
