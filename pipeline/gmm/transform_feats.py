"""Features as a mixture model sees them (LDA, MLLT, fMLLR) as a data directory, so that networks can be trained on
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.corpus import as_cut, iter_cuts, save_data_dir
from pipeline.artifacts.features import FeatureFacts
from pipeline.base import stamp
from pipeline.base.errors import DataError
from pipeline.feats.cmvn import CmvnStats
from pipeline.feats.dataset import Dataset
from pipeline.gmm.model import AdaptedFeatures, GmmModel, check_features, load_transforms

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

PIECE = 50_000  # frames that are loaded at a time


def transform_feats(
    data_in: Path, model_dir: Path, transforms: Path | None, work_dir: Path, final_dir: Path
) -> FeatureFacts:
    """Write a data directory whose features are those of a GMM's mixtures, cf. Kaldi steps/nnet/make_fmllr_feats.sh.

    Args:
        data_in: data directory with features of the model's kind.
        model_dir: GMM model directory; its normalisation, context and transform are applied.
        transforms: directory with an fMLLR transform for each speaker, or None.
        work_dir: where the new data directory is written.
        final_dir: where it will stand; its manifests name the feature file there.
    Returns:
        the facts; features of two directories are of the same kind only if the same model made them.
    Raises:
        MismatchError: other features than the model's; DataError: a speaker without transform.
    """
    from lhotse.utils import fastcopy

    from pipeline.feats.storage import PackedFramesWriter

    model = GmmModel.load(model_dir)
    check_features(model, model_dir, data_in)
    dim = model.gmms.dim
    known = None if transforms is None else load_transforms(transforms, dim)
    adapted = AdaptedFeatures(model, known, str(transforms))
    data = Dataset.open(data_in, model.feat_options, cache_mib=0)
    path, stats = str(Path(final_dir).resolve() / "feats.bin"), CmvnStats(dim)
    with PackedFramesWriter(work_dir / "feats.bin") as writer:

        def transformed() -> Iterator[MonoCut]:
            cuts = iter_cuts(data_in)
            for rows in data.pieces(PIECE):
                for n, loaded in zip(rows.tolist(), data.each(rows)):
                    cut = as_cut(next(cuts)[1])
                    assert cut.id == data.id(n), (cut.id, data.id(n))
                    feats = adapted.of(loaded, data.speaker(n))
                    if feats.shape[1] != dim:
                        raise DataError(f"{model_dir}: {feats.shape[1]} features per frame for mixtures of {dim}")
                    stats.add(data.speaker(n), feats)
                    key = writer.write(cut.id, feats.numpy())
                    features = fastcopy(
                        cut.features, type="transformed", num_features=dim, storage_path=path, storage_key=key
                    )
                    yield fastcopy(cut, features=features)

        save_data_dir(work_dir, transformed())
    stats.save(work_dir)
    facts = FeatureFacts.load(data_in)
    facts = replace(
        facts,
        type="transformed",
        dim=dim,
        extractor={"of": facts.extractor, "model": stamp.artifact_id(model_dir), "speakers": transforms is not None},
    )
    facts.save(work_dir)
    return facts
