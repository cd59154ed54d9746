"""Adapted means lie between the old ones and those of the data, as Kaldi has them, and fit new speakers better."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.base.errors import ConfigError, DataError
from pipeline.gmm.adapt import adapt, map_means
from pipeline.gmm.diag import Evaluator
from pipeline.gmm.em import update
from pipeline.gmm.frame_labels import FrameLabels, Piece
from pipeline.gmm.model import GmmModel, load_scorer
from pipeline.gmm.mono import train_mono
from pipeline.gmm.options import AdaptOptions, MonoOptions, SatOptions
from pipeline.gmm.sat import train_sat
from pipeline.gmm.stats import accumulate
from pipeline.tasks.align import AlignOptions, align
from tests.gmm.test_diag import random_gmms
from tests.gmm.world import World, draw, make_world_lang, random_speakers, write_corpus

LANG = make_world_lang()
WORLD = World.make(1)
MONO = MonoOptions(num_gauss=18, num_iters=8, grow_iters=6, realign_iters=(1, 2, 3, 5), cmvn="none", deltas=0)


def labelled(gmms, count: int, seed: int):
    """Statistics of random frames of all pdfs but the last."""
    rng = np.random.default_rng(seed)
    feats = torch.from_numpy(rng.standard_normal((count, gmms.dim)).astype(np.float32) * 2)
    pdfs = rng.integers(0, gmms.num_pdfs - 1, count)
    return feats, pdfs, accumulate(Evaluator(gmms), [Piece(feats, FrameLabels.from_pdfs(pdfs, gmms.num_pdfs))])


@pytest.mark.parametrize("tau", [0.5, 20.0])
def test_means_are_those_of_kaldi(tau):
    khg = pytest.importorskip("kaldi_hmm_gmm", reason="kaldi-hmm-gmm is not installed (pip install -e '.[dev]')")
    from tests.gmm.test_kaldi import parameters, their_mixtures

    gmms = random_gmms([3, 2, 4, 2], 5, seed=3)
    feats, pdfs, stats = labelled(gmms, 300, 4)
    am, acc = their_mixtures(gmms), khg.AccumAmDiagGmm()
    acc.init(am, khg.GmmUpdateFlags.kGmmAll)
    for x, pdf in zip(feats.numpy(), pdfs):
        acc.accumulate_for_gmm(am, x, int(pdf), 1.0)
    khg.map_am_diag_gmm_update(khg.MapDiagGmmOptions(mean_tau=tau), acc, khg.GmmUpdateFlags.kGmmMeans, am)
    new = map_means(gmms, stats, tau)
    assert np.allclose(new.means, parameters(am)[1], atol=2e-3)
    assert float((new.means - gmms.means).abs().max()) > 0.1


def test_means_between_prior_and_maximum_likelihood():
    gmms = random_gmms([3, 1, 2], 4)
    _, _, stats = labelled(gmms, 400, 1)
    most, _ = update(gmms, stats, min_count=0.0, min_weight=0.0)
    seen = stats.occ > 1e-6
    assert torch.allclose(map_means(gmms, stats, 1e-6).means[seen], most.means[seen], atol=1e-3)
    assert torch.allclose(map_means(gmms, stats, 1e9).means, gmms.means, atol=1e-5)
    new = map_means(gmms, stats, 7.0)
    assert torch.equal(new.means[~seen], gmms.means[~seen]) and (~seen).sum() == 2
    assert torch.equal(new.weights, gmms.weights) and torch.equal(new.vars, gmms.vars)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> Path:
    """mono, trained on one speaker; speech of another one: adapt and held_out."""
    d = tmp_path_factory.mktemp("adapt")
    other = random_speakers(1, seed=9, strength=0.12)
    write_corpus(d / "data", draw(WORLD, 80, seed=2))
    write_corpus(d / "new", draw(WORLD, 30, seed=3, speakers=other))
    write_corpus(d / "held_out", draw(WORLD, 30, seed=4, speakers=other))
    (d / "mono").mkdir()
    train_mono(d / "data", LANG, MONO, d / "mono")
    return d


def per_frame(model: Path, data: Path, out: Path) -> float:
    report = align(load_scorer(model), LANG, data, out, AlignOptions(), "model")
    assert not report.failed
    return report.total_log_like / report.num_frames


def test_what_is_adapted_fits_held_out_speech_better_and_twice_is_the_same(worlds, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        told = adapt(worlds / "new", LANG, worlds / "mono", AdaptOptions(), tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert first == second and first != (worlds / "mono/model.safetensors").read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(p.name for p in (worlds / "mono").iterdir())
    before = per_frame(worlds / "mono", worlds / "held_out", tmp_path / "ali0")
    after = per_frame(tmp_path / "a", worlds / "held_out", tmp_path / "ali1")
    assert after > before + 0.3
    assert told["log_like_after"] > told["log_like_before"] and told["utterances"] == 30 and told["failed"] == 0
    assert told["log_like_before"] == pytest.approx(per_frame(worlds / "mono", worlds / "new", tmp_path / "ali2"), 1e-5)


def test_more_passes_fit_the_data_better_and_a_large_tau_changes_nothing(worlds, tmp_path):
    likes = []
    for name, options in (("one", {}), ("three", {"passes": 3}), ("stiff", {"tau": 1e9})):
        (tmp_path / name).mkdir()
        told = adapt(worlds / "new", LANG, worlds / "mono", AdaptOptions(**options), tmp_path / name)
        likes.append(told["log_like_after"])
    assert likes[1] > likes[0] > likes[2] == pytest.approx(told["log_like_before"], abs=1e-3)
    old, stiff = GmmModel.load(worlds / "mono"), GmmModel.load(tmp_path / "stiff")
    assert torch.allclose(old.gmms.means, stiff.gmms.means, atol=1e-4)
    assert stiff.config["adapted_with"] == {"tau": 1e9, "passes": 1}


def test_models_with_speaker_transforms_and_unknown_words_are_refused(worlds, tmp_path):
    align(load_scorer(worlds / "mono"), LANG, worlds / "data", tmp_path / "ali", AlignOptions(), "mono")
    (tmp_path / "sat").mkdir()
    small = SatOptions(num_gauss=11, num_iters=3, grow_iters=2, realign_iters=(2,), fmllr_iters=(1,), num_leaves=11)
    train_sat(worlds / "data", LANG, tmp_path / "ali", worlds / "mono", small, tmp_path / "sat")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="was trained with speaker transforms"):
        adapt(worlds / "new", LANG, tmp_path / "sat", AdaptOptions(), tmp_path / "out")
    speech = draw(WORLD, 2, seed=6)
    write_corpus(tmp_path / "odd", [speech[0], dataclasses.replace(speech[1], words=("A", "XYZ"))])
    with pytest.raises(DataError, match="XYZ"):
        adapt(tmp_path / "odd", LANG, worlds / "mono", AdaptOptions(), tmp_path / "out")
