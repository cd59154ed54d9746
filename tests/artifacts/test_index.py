"""The index of a data directory: what it says, when it counts, and what damages it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import index as module
from pipeline.artifacts.corpus import audio_recording, save_data_dir, utterance
from pipeline.artifacts.index import INDEX, NO_FEATURES, load_index
from pipeline.base.errors import DataError
from pipeline.base.files import read_jsonl, write_jsonl
from tests.artifacts.test_corpus import ROOT, write_audio

SAID = {"s2-a": ("zwei", "größer als"), "s1-b": ("eins", "A B"), "s1-a": ("eins", "ÄÖ"), "s1-c": ("drei", "")}


def build(directory: Path) -> Path:
    cuts = []
    for name, (speaker, text) in SAID.items():
        recording = audio_recording(name, write_audio(directory.parent / "audio" / f"{name}.flac", 0.5 + len(text) / 9))
        cuts.append(utterance(name, recording, text or "-", speaker))
    save_data_dir(directory, cuts)
    return directory


@pytest.fixture
def data_dir(tmp_path) -> Path:
    return build(tmp_path / "data")


def with_features(data_dir: Path, key=lambda i: f"{10 * i},{10},{4},float16", **changes) -> None:
    cuts = list(read_jsonl(data_dir / "cuts.jsonl.gz"))
    for i, cut in enumerate(cuts):
        place = {"storage_type": "packed_frames", "storage_path": "/f/feats.bin", "storage_key": key(i)}
        cut["features"] = place | changes
    write_jsonl(data_dir / "cuts.jsonl.gz", cuts)


def check(index) -> None:
    names = sorted(SAID)
    assert len(index) == len(SAID) and index.ids() == names and index.ids([2, 0]) == [names[2], names[0]]
    assert index.speaker_names == ("drei", "eins", "zwei") and index.sampling_rate == 16000
    for i, name in enumerate(names):
        speaker, text = SAID[name]
        assert (index.id(i), index.speaker_of(i), index.text(i)) == (name, speaker, text or "-")
        assert index.find(name) == i and index.where(i).endswith(f"cuts.jsonl.gz:{i + 1}: utterance {name!r}")
        assert index.durations[i] == pytest.approx(0.5 + len(text) / 9, abs=1e-4)
    assert index.find("nobody") is None
    np.testing.assert_array_equal(index.positions([names[3], names[1]]), [3, 1])
    with pytest.raises(DataError, match=r"has no utterance 'x' \(2 of 3 are missing\)"):
        index.positions(["x", names[0], "y"])


def test_what_it_says_when_made_and_when_found(data_dir, monkeypatch):
    check(load_index(data_dir))
    made = (data_dir / INDEX).stat().st_mtime_ns
    monkeypatch.setattr(module, "iter_cuts", None)  # a second reading of the manifest would fail
    check(load_index(data_dir))
    assert (data_dir / INDEX).stat().st_mtime_ns == made


def test_a_changed_manifest_makes_a_new_one(data_dir):
    load_index(data_dir)
    cuts = list(read_jsonl(data_dir / "cuts.jsonl.gz"))
    cuts[1]["supervisions"][0]["text"] = "other"
    write_jsonl(data_dir / "cuts.jsonl.gz", cuts)
    assert load_index(data_dir).text(1) == "other"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_one_is_made_anew(data_dir, damage, caplog):
    load_index(data_dir)
    path = data_dir / INDEX
    good = path.read_bytes()
    begin = 8 + int.from_bytes(good[:8], "little")
    bad = {
        "cut": good[:-3],
        "flipped": good[:begin] + bytes([good[begin] ^ 1]) + good[begin + 1 :],
        "empty": b"",
        "text": good + b"x",
    }[damage]
    path.write_bytes(bad)
    check(load_index(data_dir))
    assert "the index is made anew" in caplog.text and path.read_bytes() == good


def test_a_directory_that_cannot_be_written_to_keeps_it_in_memory(data_dir, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(module, "atomic_write", refuse)
    check(load_index(data_dir))
    assert not (data_dir / INDEX).exists()


def test_a_manifest_that_changes_while_it_is_read(data_dir, monkeypatch):
    build_it = module._build

    def changing(directory):
        found = build_it(directory)
        with open(directory / "cuts.jsonl.gz", "ab") as out:
            out.write(b"\n")
        return found

    monkeypatch.setattr(module, "_build", changing)
    with pytest.raises(DataError, match="was changed while it was read"):
        load_index(data_dir)
    assert not (data_dir / INDEX).exists()


def test_features(data_dir):
    index = load_index(data_dir)
    assert (index.num_frames == NO_FEATURES).all()
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz:1: utterance 's1-a' has no features"):
        index.check_features()
    with_features(data_dir)
    index = load_index(data_dir)
    index.check_features()
    assert index.files == (("/f/feats.bin", 4, "float16"),)
    np.testing.assert_array_equal(index.first_byte, [0, 80, 160, 240])
    np.testing.assert_array_equal(index.num_frames, [10] * 4)


@pytest.mark.parametrize(
    "key", ["0,10,4", "0,x,4,float32", "0,10,4,int8", "-1,10,4,float32", "0,0,4,float32", "0,9999999999,4,float32", ""]
)
def test_features_of_a_key_that_is_none(data_dir, key):
    with_features(data_dir, lambda i: key if i == 2 else "0,10,4,float32")
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz:3: utterance 's1-c'"):
        load_index(data_dir)
    assert not (data_dir / INDEX).exists()


def test_features_of_another_kind(data_dir):
    with_features(data_dir, storage_type="lilcom_chunky")
    with pytest.raises(DataError, match="storage type 'lilcom_chunky', expected 'packed_frames'"):
        load_index(data_dir)


def test_damaged_text_is_noticed(data_dir):
    """It is not among the arrays, whose digest is checked when the index is read."""
    text = load_index(data_dir).text(1)
    path = data_dir / INDEX
    path.write_bytes(path.read_bytes().replace(text.encode(), text.swapcase().encode()))
    with pytest.raises(DataError, match="damaged text of utterance"):
        [load_index(data_dir).text(i) for i in range(4)]


def test_no_data_directory(tmp_path):
    with pytest.raises(DataError, match="is not a data directory"):
        load_index(tmp_path)


def test_two_processes_make_it_at_once(data_dir):
    code = "import sys; from pipeline.artifacts.index import load_index; print(load_index(sys.argv[1]).ids())"
    command = [sys.executable, "-c", code, str(data_dir)]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {process.communicate()[0] for process in both} == {f"{sorted(SAID)}\n"}
    check(load_index(data_dir))
    assert [name for name in os.listdir(data_dir) if name.startswith(INDEX)] == [INDEX]


def test_memory_of_an_utterance():
    """Arrays alone, without the text: what stays in memory while an index is in use."""
    per = sum(np.dtype(kind).itemsize for kind in module._KINDS.values())
    assert per < 80, per
