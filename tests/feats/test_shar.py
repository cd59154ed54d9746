"""Data directories as Shar and back: the same frames and cuts; what is missing or damaged is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.corpus import iter_cuts
from pipeline.artifacts.features import FeatLoadOptions
from pipeline.base.errors import DataError
from pipeline.feats.compute import compute_feats
from pipeline.feats.dataset import Dataset, validate_feats
from pipeline.feats.options import FeatureOptions, SharOptions
from pipeline.feats.shar import FACTS, export_shar, import_shar
from tests.feats.test_feats import make_data


@pytest.fixture(params=["float32", "float16"])
def exported(request, tmp_path) -> tuple[Path, Path]:
    """A data directory with features of four utterances, and two shards of it."""
    data, out = tmp_path / "feats", tmp_path / "shar"
    data.mkdir()
    out.mkdir()
    compute_feats(make_data(tmp_path), data, data, FeatureOptions(precision=request.param))
    assert export_shar(data, out, SharOptions(shard_size=3)) == {"utterances": 4, "frames": 261, "shards": 2}
    return data, out


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


def test_lhotse_reads_the_shards(exported):
    from lhotse import CutSet

    data, shar = exported
    cuts = {cut.id: cut.load_features() for cut in CutSet.from_shar(in_dir=shar / "shar")}
    read = Dataset.open(data, FeatLoadOptions(cmvn="none"))
    assert sorted(cuts) == read.ids
    for n, name in enumerate(read.ids):
        assert np.array_equal(cuts[name], read.each(np.array([n]))[0].numpy())


def test_what_is_missing_or_damaged_is_named(exported, tmp_path):
    _, shar = exported
    with pytest.raises(DataError, match=r"feats/shar\.json"):
        back(tmp_path / "feats", tmp_path / "a")
    tar = shar / "shar" / "features.000001.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[: len(content) // 3])
    with pytest.raises(DataError, match=r"features\.000001\.tar: damaged or cut short"):
        back(shar, tmp_path / "b")
    tar.unlink()
    with pytest.raises(DataError, match=r"features\.000001\.tar: no such file"):
        back(shar, tmp_path / "c")
    tar.write_bytes(content)
    stated = json.loads((shar / FACTS).read_text())
    (shar / FACTS).write_text(json.dumps({**stated, "shards": 1}))
    with pytest.raises(DataError, match=r"3 utterances and .* frames, shar.json states 4 and 261"):
        back(shar, tmp_path / "d")


def test_the_steps(exported, tmp_path, run_script):
    from tests.conftest import ROOT

    data, shar = exported
    shutil.rmtree(shar)
    for command in (["export_shar", data, "shards"], ["import_shar", "shards", "again"]):
        done = run_script(ROOT / "steps" / f"{command[0]}.py", *command[1:])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "feats.bin").read_bytes() == (data / "feats.bin").read_bytes()
