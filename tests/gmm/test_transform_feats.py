"""Features of a mixture model as a data directory: against the transforms by hand, and as a network's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError, MismatchError
from pipeline.feats.dataset import Dataset, validate_feats
from pipeline.gmm.diag import DiagGmms
from pipeline.gmm.model import GmmModel, save_transforms
from pipeline.gmm.transform_feats import transform_feats
from pipeline.nn.nhmm import train_nhmm
from pipeline.nn.options import NhmmOptions
from tests.nn.conftest import tones  # noqa: F401  speech with LDA-able MFCC in place of that of this folder

DIM, LOAD = 6, FeatLoadOptions(cmvn="speaker", splice_left=1, splice_right=1)


@pytest.fixture(scope="module")
def model(tones, tmp_path_factory) -> tuple[Path, torch.Tensor, dict[str, np.ndarray]]:
    """An adapted GMM with random numbers, its global transform and the speakers' transforms."""
    rng = np.random.default_rng(0)
    directory, lang = tmp_path_factory.mktemp("gmm") / "tri3", Lang.load(tones.lang)
    tree = monophone_tree(lang.phones, lang.topo)
    gmms, independent = (
        DiagGmms(
            torch.ones(tree.num_pdfs),
            torch.randn(tree.num_pdfs, DIM),
            torch.ones(tree.num_pdfs, DIM),
            torch.arange(tree.num_pdfs + 1),
        )
        for _ in range(2)
    )
    transform = torch.from_numpy(rng.standard_normal((DIM, 48)).astype(np.float32))
    made = GmmModel(gmms, LOAD, FeatureFacts.load(tones.data), transform, independent)
    made.save(directory, lang.topo, tree, TransitionModel(tree, lang.topo), lang.id)
    matrices = {f"spk{i}": rng.standard_normal((DIM, DIM + 1)).astype(np.float32) for i in range(3)}
    save_transforms(directory / "speakers", list(matrices), np.stack(list(matrices.values())))
    return directory, transform, matrices


def test_features_are_those_of_the_mixtures(model, tones, tmp_path):
    directory, transform, matrices = model
    facts = transform_feats(tones.data, directory, directory / "speakers", tmp_path, tmp_path)
    assert (facts.type, facts.dim) == ("transformed", DIM) and validate_feats(tmp_path) == facts
    loaded, ours = Dataset.open(tones.data, LOAD), Dataset.open(tmp_path, FeatLoadOptions(cmvn="none"))
    assert ours.ids == loaded.ids and np.array_equal(ours.lens, loaded.lens)
    everything = np.arange(len(ours))
    for i, (before, after) in enumerate(zip(loaded.each(everything), ours.each(everything))):
        lda = before @ transform.t()
        expected = torch.cat([lda, torch.ones(len(lda), 1)], 1) @ torch.from_numpy(matrices[ours.speaker(i)]).t()
        assert torch.allclose(after, expected, atol=1e-4)


def test_without_speakers_only_the_global_transform(model, tones, tmp_path):
    directory, transform, _ = model
    transform_feats(tones.data, directory, None, tmp_path, tmp_path)
    loaded, ours = Dataset.open(tones.data, LOAD), Dataset.open(tmp_path, FeatLoadOptions(cmvn="none"))
    everything = np.arange(len(ours))
    assert torch.allclose(ours.flat(everything), loaded.flat(everything) @ transform.t(), atol=1e-4)


def test_a_network_trains_on_them(model, tones, tmp_path):
    directory = model[0]
    (tmp_path / "feats").mkdir()
    transform_feats(tones.data, directory, directory / "speakers", tmp_path / "feats", tmp_path / "feats")
    options = NhmmOptions(
        encoder="tdnn", layers=1, dim=8, batch_frames=400, epochs=1, cmvn="none", device="cpu", max_skipped=0.5
    )
    train_nhmm(tmp_path / "feats", tones.lang, tmp_path / "m", options)
    with pytest.raises(MismatchError, match="of their features is"):
        FeatureFacts.load(tmp_path / "feats").kind.check_same(FeatureFacts.load(tones.data).kind, tmp_path, tones.data)


def test_a_speaker_without_transform_is_named(model, tones, tmp_path):
    directory, _, matrices = model
    save_transforms(tmp_path / "few", ["spk0"], matrices["spk0"][None])
    (tmp_path / "feats").mkdir()
    with pytest.raises(DataError, match="no transform for speaker 'spk"):
        transform_feats(tones.data, directory, tmp_path / "few", tmp_path / "feats", tmp_path / "feats")
