"""Data directories as Shar and back: the same frames and cuts; what is missing or damaged is named."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.arpa import read_sentences
from pipeline.artifacts.audio_id import audio_files
from pipeline.artifacts.corpus import iter_cuts, validate_data_dir
from pipeline.artifacts.features import FeatLoadOptions
from pipeline.artifacts.index import NO_FEATURES, load_index
from pipeline.artifacts.shar import FACTS, arrays_of
from pipeline.base.errors import DataError
from pipeline.feats import frames as frames_module
from pipeline.feats.compute import compute_feats
from pipeline.feats.dataset import Dataset, validate_feats
from pipeline.feats.frame_file import FrameFile
from pipeline.feats.frames import Spans
from pipeline.feats.options import FeatureOptions, SharOptions
from pipeline.feats.shar import export_shar, import_shar
from pipeline.tasks.selection import select_data
from pipeline.tasks.split import split_corpus
from pipeline.tasks.train_options import PseudoOptions, SelectOptions, SplitOptions
from pipeline.tasks.untranscribed import transcribe
from tests.feats.test_feats import make_data


def made(tmp_path: Path, precision: str) -> tuple[Path, Path]:
    """A data directory with features of four utterances, and two shards of it."""
    data, out = tmp_path / "feats", tmp_path / "shar"
    data.mkdir()
    out.mkdir()
    compute_feats(make_data(tmp_path), data, data, FeatureOptions(precision=precision))
    assert export_shar(data, out, SharOptions(shard_size=3)) == {"utterances": 4, "frames": 261, "shards": 2}
    return data, out


@pytest.fixture(params=["float32", "float16"])
def exported(request, tmp_path) -> tuple[Path, Path]:
    return made(tmp_path, request.param)


@pytest.fixture
def shar(tmp_path) -> Path:
    """The shards alone."""
    return made(tmp_path, "float32")[1]


def back(shar: Path, out: Path) -> Path:
    out.mkdir()
    import_shar(shar, out, out)
    return out


def test_there_and_back(exported, tmp_path):
    data, shar = exported
    again = back(shar, tmp_path / "again")
    validate_feats(again)
    for name in ("feats.bin", "cmvn.json", "features.json"):
        assert (again / name).read_bytes() == (data / name).read_bytes(), name
    before, after = ([entry for _, entry in iter_cuts(place)] for place in (data, again))
    for entry in (*before, *after):
        entry["features"].pop("storage_path")
    assert before == after
    options = FeatLoadOptions(cmvn="speaker", deltas=1)
    whole, other = (Dataset.open(place, options) for place in (data, again))
    rows = np.arange(4)
    assert torch.equal(whole.flat(rows), other.flat(rows)) and whole.ids == other.ids


def test_texts_of_shards_are_those_of_the_data(exported):
    """For language models and tokens."""
    data, shar = exported
    texts = list(read_sentences(shar))
    assert texts == list(read_sentences(data)) and len(texts) == 4


def test_lhotse_reads_the_shards(exported):
    from lhotse import CutSet

    data, shar = exported
    cuts = {cut.id: cut.load_features() for cut in CutSet.from_shar(in_dir=shar / "shar")}
    read = Dataset.open(data, FeatLoadOptions(cmvn="none"))
    assert sorted(cuts) == read.ids
    for n, name in enumerate(read.ids):
        assert np.array_equal(cuts[name], read.each(np.array([n]))[0].numpy())


def opened(shar: Path) -> Dataset:
    return Dataset.open(shar, FeatLoadOptions(cmvn="speaker", deltas=1), cache_mib=0)


def test_they_are_read_where_they_are(exported, monkeypatch):
    """The same numbers as of the packed features; a batch reads its own frames and no others."""
    data, shar = exported
    whole, read = Dataset.open(data, FeatLoadOptions(cmvn="speaker", deltas=1)), opened(shar)
    assert read.ids == whole.ids and [read.text(i) for i in range(4)] == [whole.text(i) for i in range(4)]
    assert read.where(0).endswith("shar/cuts.000000.jsonl.gz:1: utterance 'a-1'")
    assert read.where(3).endswith("shar/cuts.000001.jsonl.gz:1: utterance 'c-1'")
    asked, fill = [], FrameFile._fill

    def noted(self, out, first):
        asked.append(out.nbytes)
        return fill(self, out, first)

    monkeypatch.setattr(FrameFile, "_fill", noted)
    for rows in ([3, 0], [1], [2, 1, 3]):
        same = whole.batch(np.array(rows))
        asked.clear()
        batch = read.batch(np.array(rows))
        assert torch.equal(batch.feats, same.feats) and torch.equal(batch.lens, same.lens)
        assert asked == [4 * 13 * int(n) for n in batch.lens]
    spans = Spans(np.array([3, 1]), np.array([5, 0]), np.array([20, 7]))
    assert all(torch.equal(x, y) for x, y in zip(read.frames.spans(spans), whole.frames.spans(spans)))


def test_more_shards_than_files_may_be_open(exported, monkeypatch):
    data, shar = exported
    monkeypatch.setattr(frames_module, "MOST_OPEN", 1)
    read = opened(shar)
    assert torch.equal(read.flat(np.arange(4)), opened(data).flat(np.arange(4)))
    assert all(file._fd is None for file in read.frames._files)


def test_their_cuts_are_those_of_a_data_directory(exported, tmp_path):
    data, shar = exported
    assert validate_data_dir(shar) == validate_data_dir(data) and validate_feats(shar) == validate_feats(data)
    assert audio_files(shar) == audio_files(data)
    every = [(line, cut["id"]) for line, cut in iter_cuts(shar)]
    assert every == [(line, cut["id"]) for line, cut in iter_cuts(data)] and len(every) == 4
    assert [cut["id"] for _, cut in iter_cuts(shar, lines=range(3, 5))] == [name for _, name in every[2:]]
    (tmp_path / "twice").mkdir()
    with pytest.raises(DataError, match="is in shards; steps/import_shar.py unpacks it"):
        export_shar(shar, tmp_path / "twice", SharOptions())


def members(tar: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(tar) as file:
        return [(m.name, file.extractfile(m).read()) for m in file]


def rewritten(tar: Path, content: list[tuple[str, bytes]]) -> None:
    before = tar.stat()
    with tarfile.open(tar, "w") as file:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # the clock of a disk may be coarse


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def in_place_of(content: list[tuple[str, bytes]], name: str, data: bytes) -> list[tuple[str, bytes]]:
    assert name in dict(content)
    return [(n, data if n == name else d) for n, d in content]


DAMAGES = {
    r"000\.tar: has no features of utterance 'b-1'": lambda c: c[:4],  # cut off between two members
    r"000\.tar: holds features of 'a-2', those of utterance 'a-1' are due": lambda c: c[2:4] + c[:2] + c[4:],
    r"000\.tar: holds features of 'x', which has no cut": lambda c: [*c, ("x.npy", c[0][1])],
    r"000\.tar: 49 frames of utterance 'a-1', its cut states 50": lambda c: in_place_of(
        c, "a-1.npy", npy(np.zeros((49, 13), np.float32))
    ),
    r"'a-1' has 50 frames of 12 features, features.json says 13": lambda c: in_place_of(
        c, "a-1.npy", npy(np.zeros((50, 12), np.float32))
    ),
    r"000\.tar: 'a-1.npy' is damaged or no such array \(an array of shape \(50, 13\), type float64": lambda c: (
        in_place_of(c, "a-1.npy", npy(np.zeros((50, 13))))
    ),
    r"000\.tar: 'a-1.npy' is damaged or no such array \(.*do not fit": lambda c: in_place_of(
        c, "a-1.npy", c[0][1][:-4]
    ),
    r"000\.tar: 'a-1.npy' is damaged or no such array": lambda c: in_place_of(c, "a-1.npy", bytes(3000)),
    r"000\.tar: holds 'a-1.llc', where features": lambda c: [("a-1.llc", b"lilcom"), *c[1:]],
    r"000\.tar: holds 'a-1.nodata', where features": lambda c: [("a-1.nodata", b""), *c[1:]],
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_shard_is_named(shar, message):
    tar = shar / "shar" / "features.000000.tar"
    rewritten(tar, DAMAGES[message](members(tar)))
    with pytest.raises(DataError, match=message):
        opened(shar)
    assert (shar / "index.safetensors").is_file()  # that of the export, which does not count any more


@pytest.mark.parametrize("size", [0, 100, 600, 2000, 5000, 9000])
def test_a_shard_cut_short_is_named(shar, size):
    tar = shar / "shar" / "features.000000.tar"
    assert tar.stat().st_size > size
    tar.write_bytes(tar.read_bytes()[:size])
    with pytest.raises(DataError, match=r"features\.000000\.tar: (damaged or cut short|has no features|.* is damaged)"):
        opened(shar)


def test_flipped_bytes_of_heads_are_no_bug(shar):
    tar = shar / "shar" / "features.000000.tar"
    good, random = tar.read_bytes(), np.random.default_rng(1)
    for _ in range(500):
        content = bytearray(good)
        content[random.integers(640)] = random.choice([*b"(){}[]',: ", random.integers(256)])
        tar.write_bytes(content)
        with contextlib.suppress(DataError):
            list(arrays_of(tar))


def test_a_shard_cut_short_behind_its_index_is_named(shar):
    """Between the look at its size and the reading of a batch."""
    read = opened(shar)
    tar = shar / "shar" / "features.000001.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"features\.000001\.tar: ends before byte"):
        read.batch(np.array([3]))


@pytest.mark.parametrize("name", ["features.000001.tar", "cuts.000001.jsonl.gz"])
def test_a_missing_field_is_named(shar, tmp_path, name):
    (shar / "shar" / name).unlink()
    for reading in (opened, lambda shar: back(shar, tmp_path / "back")):
        with pytest.raises(DataError, match=f"{re.escape(name)}: no such file; was the directory copied as a whole"):
            reading(shar)


def test_shards_that_are_not_those_stated(shar, tmp_path):
    with pytest.raises(DataError, match=r"feats/shar\.json: no such file"):
        back(tmp_path / "feats", tmp_path / "a")
    stated = json.loads((shar / FACTS).read_text())
    (shar / FACTS).write_text(json.dumps({**stated, "shards": 1}))
    with pytest.raises(DataError, match=r"states 4 utterances and 261 frames, the shards hold 3 and 181"):
        back(shar, tmp_path / "b")
    (shar / FACTS).write_text(json.dumps({**stated, "shards": 2**63}))
    with pytest.raises(DataError, match=r"cuts\.000002\.jsonl\.gz: no such file"):
        opened(shar)
    (shar / FACTS).write_text(json.dumps({**stated, "shards": "2"}))
    with pytest.raises(DataError, match=r"shar\.json: shards"):
        opened(shar)
    (shar / FACTS).write_text(json.dumps(stated))
    cuts = shar / "shar" / "cuts.000001.jsonl.gz"
    cuts.write_bytes(cuts.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cuts\.000001\.jsonl\.gz:\d: truncated or damaged"):
        opened(shar)


def test_parts_of_shards_have_no_features_or_are_refused(shar, tmp_path):
    """No other directory can name features that lie in shards, which would show when that one is read."""
    split_corpus([shar], tmp_path / "split", SplitOptions(folds=3))
    for part in ("train", "dev", "test"):
        index = load_index(tmp_path / "split" / part)
        assert len(index) and (index.num_frames == NO_FEATURES).all()
    for refused in (
        lambda: select_data(shar, tmp_path / "model", None, tmp_path / "a", SelectOptions(by="diverse")),
        lambda: transcribe(shar, tmp_path / "decoded", tmp_path / "b", PseudoOptions()),
    ):
        with pytest.raises(DataError, match="is in shards; steps/import_shar.py unpacks it"):
            refused()


def test_the_steps(exported, tmp_path, run_script):
    from tests.conftest import ROOT

    data, shar = exported
    shutil.rmtree(shar)
    for command in (["export_shar", data, "shards"], ["import_shar", "shards", "again"]):
        done = run_script(ROOT / "steps" / f"{command[0]}.py", *command[1:])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "feats.bin").read_bytes() == (data / "feats.bin").read_bytes()
