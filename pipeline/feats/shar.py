"""Data directories as lhotse Shar, shards that are read from the front to the back, and back.

Object stores and slow shared disks deliver large files well and small pieces of a file badly. Shards travel there; a
machine that trains unpacks them onto a disk of its own, once, where frames are read in any order.
"""

from __future__ import annotations

import io
import logging
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.corpus import as_cut, cut_entry, iter_cuts, save_data_dir
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.base.errors import DataError
from pipeline.base.files import read_json, write_json
from pipeline.base.log import progress_of
from pipeline.feats.options import SharOptions

logger = logging.getLogger(__name__)

SHARDS = "shar"  # directory of the shards, which lhotse reads: CutSet.from_shar(in_dir=..)
FACTS = "shar.json"
_BESIDE = ("features.json", "cmvn.json")
_FRAMES = "feats.bin"
_OF_LHOTSE = ("shard_origin", "shar_epoch")  # it notes in cuts where it has read them


def export_shar(data_dir: Path, out_dir: Path, options: SharOptions) -> dict[str, int]:
    """Writes a data directory with features as shards; of the audio only the names of its files.

    Args:
        out_dir: gets shar/ with cuts and features, and what belongs to all of them beside it.
    Returns:
        facts for the stamp.
    """
    from lhotse.shar import SharWriter

    import pipeline.feats.storage  # noqa: F401  lhotse reads frames by what is registered there

    facts, index = FeatureFacts.load(data_dir), load_index(data_dir)
    (out_dir / SHARDS).mkdir(exist_ok=True)
    precisions = set()
    with (
        SharWriter(out_dir / SHARDS, {"features": "numpy"}, options.shard_size, warn_unused_fields=False) as writer,
        progress_of(len(index), "shards") as done,
    ):
        for _, entry in iter_cuts(data_dir):
            precisions.add(entry["features"]["storage_key"].split(",")[-1])
            writer.write(as_cut(entry))
            done(1)
    for name in _BESIDE:
        shutil.copyfile(data_dir / name, out_dir / name)
    shards = -(-len(index) // options.shard_size)
    counts = {"utterances": len(index), "frames": facts.num_frames, "shards": shards}
    write_json(out_dir / FACTS, {**counts, "precision": sorted(precisions)[0]})
    return counts


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

    stated, facts = read_json(shar_dir / FACTS), FeatureFacts.load(shar_dir)
    with (
        PackedFramesWriter(work_dir / _FRAMES, stated["precision"]) as writer,
        progress_of(stated["utterances"], "shards") as done,
    ):

        def entries() -> Iterator[dict[str, Any]]:
            for cut, feats in _read(shar_dir / SHARDS, stated["shards"]):
                if feats.shape[1:] != (facts.dim,):
                    raise DataError(f"{shar_dir}: utterance {cut.id!r} has features of shape {feats.shape}")
                entry = cut_entry(cut)
                custom = {k: v for k, v in (entry.pop("custom", None) or {}).items() if k not in _OF_LHOTSE}
                entry |= {"custom": custom} if custom else {}
                place = {"storage_type": PackedFramesWriter.name, "storage_key": writer.write(cut.id, feats)}
                entry["features"] |= {**place, "storage_path": str(final_dir.resolve() / _FRAMES)}
                yield entry
                done(1)

        count = save_data_dir(work_dir, entries())
    for name in _BESIDE:
        shutil.copyfile(shar_dir / name, work_dir / name)
    frames = int(load_index(work_dir).num_frames.sum())
    if (count, frames) != (stated["utterances"], stated["frames"]):
        raise DataError(
            f"{shar_dir}: its shards hold {count:,} utterances and {frames:,} frames, {FACTS} states "
            f"{stated['utterances']:,} and {stated['frames']:,}; was it copied as a whole?"
        )
    return {"utterances": count, "frames": frames}


def _read(directory: Path, shards: int) -> Iterator[tuple[Any, np.ndarray]]:
    """Cuts and their (T, F) float32 features, one after the other."""
    from lhotse.shar import LazySharIterator

    for number in range(shards):
        fields = {"cuts": f"cuts.{number:06d}.jsonl.gz", "features": f"features.{number:06d}.tar"}
        for name in fields.values():
            if not (directory / name).is_file():
                raise DataError(f"{directory / name}: no such file; was the directory copied as a whole?")
        cuts = iter(LazySharIterator(fields={field: [directory / name] for field, name in fields.items()}))
        while True:
            try:
                cut = next(cuts)
                feats = np.load(io.BytesIO(cut.features.storage_key), allow_pickle=False)
            except StopIteration:
                break
            except (tarfile.TarError, EOFError, OSError, ValueError, AssertionError, RuntimeError, KeyError) as err:
                names = " or ".join(str(directory / name) for name in fields.values())
                raise DataError(f"{names}: damaged or cut short ({err or type(err).__name__})") from None
            yield cut, feats
