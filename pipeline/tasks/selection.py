"""Choosing speech by what a model's own encoder makes of it: what is like a target, or as different as possible."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.corpus import iter_cuts, save_data_dir
from pipeline.artifacts.features import FEATURES_JSON, FeatLoadOptions, FeatureFacts, FeatureKind
from pipeline.artifacts.index import load_index
from pipeline.artifacts.model_meta import META, model_kind
from pipeline.artifacts.shar import check_unpacked
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.log import progress_of
from pipeline.feats.cmvn import CMVN_JSON
from pipeline.tasks.train_options import SelectOptions

if TYPE_CHECKING:
    from pipeline.e2e.model import EndToEnd
    from pipeline.nn.model import AcousticModel

logger = logging.getLogger(__name__)

ROWS = 4096  # of a table of similarities that is in memory
MOST_TOGETHER = 64  # utterances of a batch


def select_data(data: Path, model: Path, target: Path | None, out: Path, options: SelectOptions) -> dict[str, Any]:
    """Writes the data directory `out`: some utterances of `data`, in its order, with their features.

    Args:
        data, target: data directories with the features of the model; the target is for --by nearest alone.
        model: of a hybrid or end-to-end network.
    Returns:
        facts for the stamp: utterances and hours that were chosen, and their mean similarity to the target.
    Raises:
        ConfigError: a target where none is asked for, or the other way round. DataError: a model without an encoder, or
            data in shards.
    """
    if (target is not None) != (options.by == "nearest"):
        raise ConfigError("--by nearest needs a --target, and nothing else does")
    check_unpacked(data)
    index = load_index(data)
    vectors = embeddings(data, model, options)
    centre = vectors.mean(0)
    facts: dict[str, Any] = {}
    if target is None:
        order: Iterable[int] = farthest_first(vectors)
    else:
        # Without the mean of the pool: what all utterances share, such as silence, says nothing about which is near.
        closeness = nearest(unit(vectors - centre), unit(embeddings(target, model, options) - centre))
        order = np.argsort(-closeness, kind="stable").tolist()
    seconds = np.asarray(index.durations, dtype=np.float64)
    chosen = first_of(order, seconds, options.share)
    if target is not None:
        facts["similarity"] = float(closeness[chosen].mean())
        facts["similarity_of_all"] = float(closeness.mean())
    ids = {index.id(int(i)) for i in chosen}
    write_part(data, out, (cut for _, cut in iter_cuts(data) if cut["id"] in ids))
    facts |= {"utterances": len(chosen), "hours": round(float(seconds[chosen].sum()) / 3600, 4)}
    logger.info("%s: %d of %d utterances, %.3f h", data, len(chosen), len(index), facts["hours"])
    return facts


def embeddings(data: Path, model_dir: Path, options: SelectOptions) -> npt.NDArray[np.float32]:
    """(N, D) means of the encoder's output over the frames of each utterance; N x D numbers in memory."""
    import torch

    from pipeline.feats.dataset import Dataset, plan
    from pipeline.nn.masks import mask_of
    from pipeline.nn.windows import encode_windows

    model, kind, feat_options = _load(model_dir)
    model = model.to(options.device)
    kind.check_same(FeatureFacts.load(data).kind, model_dir, data)
    frames = Dataset.open(data, feat_options, cache_mib=0)
    out = np.zeros((len(frames), model.encoder.out_dim), dtype=np.float32)
    with torch.no_grad(), progress_of(len(frames), f"embed {data}") as done:
        for rows in plan(frames.lens, options.batch_frames, MOST_TOGETHER):
            batch = frames.batch(rows, options.device)
            encoded, lens = encode_windows(model.encode, batch.feats, batch.lens, model.encoder.subsampling)
            mask = mask_of(lens, encoded.shape[1])[:, :, None]
            means = (encoded.float() * mask).sum(1) / lens[:, None].clamp(min=1)
            out[rows] = means.cpu().numpy()
            done(len(rows))
    return out


def _load(directory: Path) -> tuple[AcousticModel | EndToEnd, FeatureKind, FeatLoadOptions]:
    """A network, the kind of its features, and how they are loaded."""
    from pipeline.e2e.model import load_end_to_end
    from pipeline.nn.model import load_acoustic_model

    kind = model_kind(directory)
    if kind == "e2e":
        model, facts = load_end_to_end(directory)
        return model, facts.features, facts.feat_options
    if kind == "nn":
        network, _, meta = load_acoustic_model(directory)
        return network, meta.features, meta.feat_options
    raise DataError(f"{directory / META}: a model of kind {kind!r} has no encoder to choose by")


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N, D) of length one; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def nearest(vectors: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N,) greatest cosine of each of (N, D) with one of (M, D), both of length one."""
    out = np.full(len(vectors), -np.inf, dtype=np.float32)
    for i in range(0, len(vectors), ROWS):
        for j in range(0, len(others), ROWS):
            out[i : i + ROWS] = np.maximum(out[i : i + ROWS], (vectors[i : i + ROWS] @ others[j : j + ROWS].T).max(1))
    return out


def farthest_first(vectors: npt.NDArray[np.float32]) -> Iterator[int]:
    """Rows of (N, D) in the order in which each is the one farthest from all before it, as in k-centre greedy (Sener
    and Savarese 2018); the first is that nearest to the mean. Each takes a pass over (N, D).
    """
    away = np.linalg.norm(vectors - vectors.mean(0), axis=1)
    best = int(np.argmin(away))
    left = np.full(len(vectors), np.inf, dtype=np.float32)
    for _ in range(len(vectors)):
        yield best
        left = np.minimum(left, np.linalg.norm(vectors - vectors[best], axis=1))
        left[best] = -np.inf
        best = int(np.argmax(left))


def first_of(order: Iterable[int], seconds: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.int64]:
    """The first of an order that make up a share of the time, one at least; no more of it is asked for."""
    limit, passed = share * seconds.sum() * (1 + 1e-9), 0.0
    chosen: list[int] = []
    for number in order:
        passed += seconds[number]
        if chosen and passed > limit:
            break
        chosen.append(number)
    return np.array(chosen, dtype=np.int64)


def write_part(data: Path, out: Path, cuts: Iterable[dict[str, Any]]) -> int:
    """Writes cuts of `data` as a data directory with the features that they have there; returns their number."""
    count = save_data_dir(out, cuts)
    if count and (data / FEATURES_JSON).is_file():
        index, facts = load_index(out), FeatureFacts.load(data)
        replace(facts, num_utterances=len(index), num_frames=int(index.num_frames.sum())).save(out)
        shutil.copyfile(data / CMVN_JSON, out / CMVN_JSON)
    return count
