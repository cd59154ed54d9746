"""Nothing that stands in data is executed, fetched, followed or unpacked elsewhere; see also tests/test_layers.py."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.checkpoint import load_tensors
from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.artifacts.index import load_index
from pipeline.base import files, stamp
from pipeline.base.errors import DataError, PipelineError
from pipeline.corpora.elan import parse_elan
from pipeline.corpora.options import ImportOptions
from pipeline.feats.compute import compute_feats
from pipeline.feats.options import FeatureOptions
from pipeline.tasks.packed import unpack
from tests.artifacts.test_corpus import data_dir, edit  # noqa: F401  a fixture
from tests.corpora.made import Imported, audio, lines
from tests.fuzz.of_corpora import make_shar, read_shar
from tests.fuzz.of_models import make_packed


class Harm:
    """Unpickled, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def harm(tmp_path):
    """What must not appear."""
    path = tmp_path / "harm"
    yield path
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        path.rmdir()


def test_pickles_are_no_tensors(tmp_path, harm):
    torch.save({"weight": Harm(harm)}, tmp_path / "model.safetensors")
    (tmp_path / "plain.safetensors").write_bytes(pickle.dumps(Harm(harm)))
    for name in ("model.safetensors", "plain.safetensors"):
        with pytest.raises(DataError, match=f"{name}: damaged"):
            load_tensors(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: damaged"):
            files_of_arrays(tmp_path / name)


def files_of_arrays(path: Path) -> None:
    from pipeline.artifacts.arrays import ArrayFile

    ArrayFile(path)


def test_pickles_in_shards_are_no_features(tmp_path, harm):
    make_shar(tmp_path)
    shard = next((tmp_path / "shar" / "shar").glob("features.000000.tar"))
    blob, held = io.BytesIO(), io.BytesIO()
    np.save(held, np.array([Harm(harm)], dtype=object), allow_pickle=True)
    with tarfile.open(shard) as old, tarfile.open(fileobj=blob, mode="w") as new:
        for entry in old.getmembers():
            content = held.getvalue() if entry.name.endswith(".npy") else old.extractfile(entry).read()
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    shard.write_bytes(blob.getvalue())
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="features.000000.tar: 'u000.npy' is damaged"):
        read_shar(tmp_path, tmp_path / "out")


def test_yaml_makes_values_only(tmp_path, harm):
    for text in ("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"):
        (tmp_path / "x.yaml").write_text(f"a: {text} ['{harm}']\n")
        with pytest.raises(DataError, match="x.yaml:1: not YAML"):
            files.read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize("kind", ["command", "url"])
def test_audio_of_data_directories_is_neither_run_nor_fetched(data_dir, tmp_path, harm, kind):
    source = f"mkdir {harm}" if kind == "command" else f"file://{harm}"
    edit(data_dir, lambda cut: cut["recording"]["sources"][0].update(type=kind, source=source))
    (tmp_path / "out").mkdir()
    for read in (
        load_index,
        load_cuts,
        validate_data_dir,
        lambda data: compute_feats(data, tmp_path / "out", tmp_path / "out", FeatureOptions()),
    ):
        with pytest.raises(DataError, match=f"type '{kind}'"):
            read(data_dir)


def test_commands_of_kaldi_run_when_they_are_allowed_and_then_without_a_shell(tmp_path, harm):
    audio(tmp_path / "corpus" / "a.wav")
    data = tmp_path / "corpus" / "data"
    for number, command in enumerate(("mkdir {} |", "cat {}.wav; mkdir {} |", "cat $(mkdir {}) |", "cat `mkdir {}` |")):
        lines(data / "wav.scp", "s-a " + command.format(harm, harm))
        lines(data / "text", "s-a A")
        lines(data / "utt2spk", "s-a s")
        with pytest.raises(DataError, match="--allow-commands"):
            Imported(data, tmp_path / f"refused{number}")
        if number:
            with pytest.raises(DataError, match="needs a shell, which is not used|command failed"):
                Imported(data, tmp_path / f"out{number}", allow_commands=True, rate=16000)


def test_documents_declare_no_entities(tmp_path, harm):
    text = '<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>\n<ANNOTATION_DOCUMENT/>\n'
    (tmp_path / "x.eaf").write_text(text)
    with pytest.raises(DataError, match="x.eaf"):
        parse_elan(tmp_path / "x.eaf", ImportOptions())


def packed_with(tmp_path: Path, name: str, content: bytes, mode: int = 0o644) -> Path:
    """A packed model with one entry changed or added."""
    make_packed(tmp_path)
    with zipfile.ZipFile(tmp_path / "small.fsm") as old, zipfile.ZipFile(tmp_path / "x.fsm", "w") as new:
        for other in old.namelist():
            if other != name:
                new.writestr(other, old.read(other))
        entry = zipfile.ZipInfo(name)
        entry.external_attr, entry.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        new.writestr(entry, content)
    return tmp_path / "x.fsm"


def test_archives_stay_where_they_are_unpacked(tmp_path, harm):
    for name in ("../harm", "model/../../harm", str(harm), "model/./../../harm"):
        (tmp_path / "m").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="does not belong"):
            unpack(packed_with(tmp_path, name, b"x"), tmp_path / "m" / "out")


def test_links_in_archives_are_files(tmp_path, harm):
    """Their text is what a link would lead to, and no model's."""
    path = packed_with(tmp_path, "lang/words.txt", str(harm).encode(), 0o120777)
    unpack(path, tmp_path / "out")
    assert not (tmp_path / "out" / "lang" / "words.txt").is_symlink()


def test_archives_that_would_fill_the_disk(tmp_path, harm, monkeypatch):
    """By what entries promise; none gives more than that."""
    monkeypatch.setattr("pipeline.tasks.packed.MOST_BYTES", 1 << 20)
    path = packed_with(tmp_path, "lang/words.txt", b"a" * (2 << 20))
    assert path.stat().st_size < 1 << 17
    with pytest.raises(DataError, match="would unpack to more than"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    raw = path.read_bytes().replace((2 << 20).to_bytes(4, "little"), (1 << 10).to_bytes(4, "little"))
    path.write_bytes(raw)
    with pytest.raises(DataError, match="words.txt is damaged"):
        unpack(path, tmp_path / "out")


def test_headers_name_files_beside_them(tmp_path, harm):
    from pipeline.artifacts.posteriors import PosteriorSet
    from tests.fuzz.of_artifacts import make_posteriors

    make_posteriors(tmp_path / "p")
    header = json.loads((tmp_path / "p" / "posteriors.json").read_text())
    for name in ("../other.safetensors", "/etc/passwd", "a/b", "", "."):
        (tmp_path / "p" / "posteriors.json").write_text(json.dumps({**header, "shards": [name]}))
        with pytest.raises(DataError, match=r"posteriors.json: shards.0"):
            PosteriorSet(tmp_path / "p")


def test_links_in_the_place_of_temporary_files_are_not_followed(tmp_path, harm):
    """Names of temporary files and locks can be guessed by who may write to the directory."""
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / f".out.json.{os.getpid()}.tmp").symlink_to(target)
    with pytest.raises(DataError, match="is a symbolic link"):
        files.write_json(tmp_path / "out.json", {})
    (tmp_path / "step.lock").symlink_to(harm)
    source = lines(tmp_path / "source.txt", "x")
    with pytest.raises(PipelineError, match=r"step.lock: is a symbolic link"):
        stamp.run(tmp_path / "step", stamp.Work("w", {}, {"in": "x"}), lambda tmp: None, {"in": source})
    assert target.read_text() == "kept"
