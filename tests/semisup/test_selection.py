"""Speech that is chosen by an encoder: what is near, what is different, and what is written of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.corpus import iter_cuts
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.e2e.model import load_end_to_end
from pipeline.e2e.training import train_end_to_end
from pipeline.feats.compute import compute_feats
from pipeline.feats.dataset import Dataset
from pipeline.feats.options import FeatureOptions
from pipeline.nn.hybrid import train_viterbi
from pipeline.nn.options import ViterbiOptions
from pipeline.tasks import selection
from pipeline.tasks.selection import embeddings, farthest_first, first_of, nearest, select_data, unit, write_part
from pipeline.tasks.train_options import SelectOptions
from tests.e2e.test_training import LOOP, SHAPE, ali, options_with, tokens  # noqa: F401
from tests.nn.conftest import tones  # noqa: F401


@pytest.fixture(scope="module")
def model(tones, tokens, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model"
    train_end_to_end(tones.data, tokens, out, options_with(epochs=1))
    return out


def test_an_embedding_is_the_mean_of_an_utterance_by_itself(tones, model):
    """Whatever batch it is in."""
    found = embeddings(tones.data, model, SelectOptions(batch_frames=900))
    network, meta = load_end_to_end(model)
    data = Dataset.open(tones.data, meta.feat_options)
    assert found.shape == (len(data), 12)
    for i in range(len(data)):
        batch = data.batch(np.array([i]))
        with torch.no_grad():
            encoded, _ = network.encode(batch.feats, batch.lens)
        assert found[i] == pytest.approx(encoded[0].mean(0).numpy(), abs=1e-5)


def test_the_nearest_are_those_of_the_target(tones, model, tmp_path):
    """Some utterances of the data are the target: these are chosen, with their features, in the order of the data."""
    index = load_index(tones.data)
    wanted = [index.id(i) for i in (2, 7, 11, 20)]
    (tmp_path / "target").mkdir()
    write_part(tones.data, tmp_path / "target", (c for _, c in iter_cuts(tones.data) if c["id"] in wanted))
    durations = np.array([index.durations[i] for i in (2, 7, 11, 20)])
    share = float(durations.sum() / np.sum(index.durations))
    options = SelectOptions(share=share)
    facts = select_data(tones.data, model, tmp_path / "target", tmp_path / "out", options)
    chosen = load_index(tmp_path / "out")
    assert [chosen.id(i) for i in range(len(chosen))] == wanted and facts["utterances"] == 4
    assert facts["similarity"] == pytest.approx(1.0, abs=1e-5) and facts["similarity_of_all"] < 0.999
    old, new = FeatureFacts.load(tones.data), FeatureFacts.load(tmp_path / "out")
    assert new.kind == old.kind and new.num_utterances == 4
    whole, part = (Dataset.open(d, options_with().feat_options()) for d in (tones.data, tmp_path / "out"))
    assert torch.equal(part.batch(np.array([1])).feats, whole.batch(np.array([7])).feats)


def test_a_hybrid_chooses_as_well(tones, ali, tmp_path):
    hybrid = ViterbiOptions(**SHAPE, **{**LOOP, "epochs": 1})
    train_viterbi(tones.data, tones.lang, ali, tmp_path / "hybrid", hybrid)
    facts = select_data(tones.data, tmp_path / "hybrid", None, tmp_path / "out", SelectOptions(share=0.3, by="diverse"))
    hours = float(np.sum(load_index(tones.data).durations)) / 3600
    assert 0 < facts["hours"] <= 0.3 * hours + 1e-4 and facts["utterances"] == len(load_index(tmp_path / "out"))


def test_the_farthest_comes_first():
    """Two clusters and an outlier: after one of the middle, the outlier, then the other cluster."""
    rows = np.array([[0.0, 0], [0.1, 0], [5, 0], [5.1, 0], [0, 30]], dtype=np.float32)
    order = np.array(list(farthest_first(rows)))
    assert order[1] == 4 and {int(order[0]) // 2, int(order[2]) // 2} == {0, 1} and sorted(order) == list(range(5))


def test_cosines_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = (unit(rng.normal(size=(n, 3)).astype(np.float32)) for n in (11, 7))
    expected = (a @ b.T).max(1)
    monkeypatch.setattr(selection, "ROWS", 4)
    assert nearest(a, b) == pytest.approx(expected)
    assert np.array_equal(unit(np.zeros((1, 3), np.float32)), np.zeros((1, 3), np.float32))


def test_a_share_is_one_of_time():
    seconds = np.array([1.0, 2.0, 3.0, 4.0])
    assert first_of(np.array([3, 0, 1, 2]), seconds, 0.5).tolist() == [3, 0]
    assert first_of(np.array([3, 0, 1, 2]), seconds, 0.1).tolist() == [3]


def test_what_does_not_fit_is_refused(tones, model, tmp_path):
    options = SelectOptions(share=0.3)
    with pytest.raises(ConfigError, match="--by nearest needs a --target"):
        select_data(tones.data, model, None, tmp_path / "a", options)
    with pytest.raises(ConfigError, match="nothing else does"):
        select_data(tones.data, model, tones.data, tmp_path / "a", SelectOptions(by="diverse"))
    (tmp_path / "mfcc").mkdir()
    local = tones.data.parent / "local"
    compute_feats(local, tmp_path / "mfcc", tmp_path / "mfcc", FeatureOptions(type="mfcc"))
    with pytest.raises(MismatchError, match="mfcc"):
        select_data(tmp_path / "mfcc", model, None, tmp_path / "a", SelectOptions(by="diverse"))
    (tmp_path / "gmm").mkdir()
    (tmp_path / "gmm" / "model.json").write_text('{"kind": "gmm"}')
    with pytest.raises(DataError, match=r"model\.json"):
        select_data(tones.data, tmp_path / "gmm", None, tmp_path / "a", SelectOptions(by="diverse"))
    assert not (tmp_path / "a").exists()
