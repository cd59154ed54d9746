"""Data directories as lhotse Shar, and back; ``pipeline.artifacts.shar`` reads them where they are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.corpus import as_cut, iter_cuts, save_data_dir
from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.artifacts.shar import FACTS, SHARDS, SharFacts, check_unpacked, is_shar
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.log import progress_of
from pipeline.base.records import read_record, to_json
from pipeline.feats.frames import StoredFrames
from pipeline.feats.options import SharOptions

_BESIDE = ("features.json", "cmvn.json")
_FRAMES = "feats.bin"


def export_shar(data_dir: Path, out_dir: Path, options: SharOptions) -> dict[str, int]:
    """Writes a data directory with features as shards; of the audio only the names of its files.

    Args:
        out_dir: gets shar/ with cuts and features, and what belongs to all of them beside it.
    Returns:
        facts for the stamp.
    Raises:
        DataError: it has no features, or is in shards already.
    """
    from lhotse.shar import SharWriter

    import pipeline.feats.storage  # noqa: F401  lhotse reads frames by what is registered there

    check_unpacked(data_dir)
    facts, index = FeatureFacts.load(data_dir), load_index(data_dir)
    index.check_features()
    (out_dir / SHARDS).mkdir(exist_ok=True)
    with (
        SharWriter(out_dir / SHARDS, {"features": "numpy"}, options.shard_size, warn_unused_fields=False) as writer,
        progress_of(len(index), "shards") as done,
    ):
        for _, entry in iter_cuts(data_dir):
            writer.write(as_cut(entry))
            done(1)
    for name in _BESIDE:
        shutil.copyfile(data_dir / name, out_dir / name)
    shards = -(-len(index) // options.shard_size)
    precision: Any = min(precision for _, _, precision in index.files)
    stated = SharFacts(len(index), facts.num_frames, shards, precision)
    write_json(out_dir / FACTS, to_json(stated))
    load_index(out_dir)  # made here, where there is time, and found by the steps that read the shards
    return {"utterances": stated.utterances, "frames": stated.frames, "shards": stated.shards}


def import_shar(shar_dir: Path, work_dir: Path, final_dir: Path) -> dict[str, int]:
    """Unpacks shards into a data directory with the same features.

    Args:
        shar_dir: made by ``export_shar``.
        work_dir: where the data directory is written. final_dir: where it will stand; its manifests name the feature
            file there.
    Returns:
        facts for the stamp.
    Raises:
        DataError: no such directory, or shards that are missing or cut short.
    """
    from pipeline.feats.storage import PackedFramesWriter

    if not is_shar(shar_dir):
        raise DataError(f"{shar_dir / FACTS}: no such file; {shar_dir} does not hold shards of steps/export_shar.py")
    stated, facts, index = read_record(shar_dir / FACTS, SharFacts), FeatureFacts.load(shar_dir), load_index(shar_dir)
    frames = StoredFrames(index, facts.dim, FeatLoadOptions(cmvn="none"))
    with (
        PackedFramesWriter(work_dir / _FRAMES, stated.precision) as writer,
        progress_of(stated.utterances, "shards") as done,
    ):

        def entries() -> Iterator[dict[str, Any]]:
            for i, (_, entry) in enumerate(iter_cuts(shar_dir)):
                key = writer.write(entry["id"], frames.flat(np.array([i])).numpy())
                place = {"storage_type": PackedFramesWriter.name, "storage_key": key}
                entry["features"] |= {**place, "storage_path": str(final_dir.resolve() / _FRAMES)}
                yield entry
                done(1)

        save_data_dir(work_dir, entries())
    for name in _BESIDE:
        shutil.copyfile(shar_dir / name, work_dir / name)
    load_index(work_dir)
    return {"utterances": stated.utterances, "frames": stated.frames}
