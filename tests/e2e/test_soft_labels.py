"""Weak supervision by occupancies: which probabilities a frame's label has, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.posteriors import POSTERIORS, Posteriors, PosteriorWriter
from pipeline.artifacts.tokens import Tokens
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.e2e.auxiliary import check_layers, smoothed_cross_entropy
from pipeline.e2e.criterion import frame_losses
from pipeline.e2e.labels import AuxTargets, make_aux_targets
from pipeline.e2e.training import train_end_to_end
from pipeline.feats.dataset import Dataset
from tests.e2e.test_training import OPTIONS, ali, options_with, tokens  # noqa: F401
from tests.nn.conftest import tones  # noqa: F401


def write_occupancies(ali: AliSet, out: Path, share: float, tree_id: str | None = None, leave_out: str = "") -> None:
    """The label of each frame with the given share, the next pdf with the rest."""
    count = int(ali.transitions.pdf.max()) + 1
    with PosteriorWriter(out, ali.header.tree_id if tree_id is None else tree_id) as writer:
        for cut_id in ali:
            pdfs = ali.pdf_ids(cut_id)
            shares = np.zeros((len(pdfs), count), np.float32)
            shares[np.arange(len(pdfs)), pdfs] = share
            shares[np.arange(len(pdfs)), (pdfs + 1) % count] += 1 - share
            if cut_id != leave_out:
                writer.write(cut_id, Posteriors.of_frames(shares))


@pytest.fixture
def soft_ali(ali, tmp_path) -> Path:
    shutil.copytree(ali, tmp_path / "ali")
    write_occupancies(AliSet.load(ali), tmp_path / "ali", 0.75)
    return tmp_path / "ali"


def targets_of(tones, tokens, ali: Path, data: Dataset, **options) -> AuxTargets:
    facts = FeatureFacts.load(tones.data)
    found = make_aux_targets(ali, tones.data, data, facts, Tokens.load(tokens), options_with(**options))
    assert found is not None
    return found


def test_frames_have_the_shares_of_the_occupancies(tones, tokens, soft_ali):
    """At half the rate their means."""
    data = Dataset.open(tones.data, OPTIONS.feat_options())
    hard = targets_of(tones, tokens, soft_ali, data, aux_layers=(1, 2))
    soft = targets_of(tones, tokens, soft_ali, data, aux_layers=(1, 2), aux_soft=True)
    assert soft.num_labels == hard.num_labels
    for i in range(len(data)):
        labels, rows = hard.frame[1][i], soft.frame[1][i]
        assert rows.shape == (len(labels), soft.num_labels) and rows.dtype == np.float32
        assert rows[np.arange(len(labels)), labels] == pytest.approx(0.75)
        assert rows.sum(1) == pytest.approx(1.0)
        pairs = [rows[t : t + 2].mean(0) for t in range(0, len(rows), 2)]
        assert soft.frame[2][i] == pytest.approx(np.array(pairs), abs=1e-6)


def test_certain_occupancies_cost_what_labels_cost(tones, tokens, ali, tmp_path):
    shutil.copytree(ali, tmp_path / "ali")
    write_occupancies(AliSet.load(ali), tmp_path / "ali", 1.0)
    data = Dataset.open(tones.data, OPTIONS.feat_options())
    pair = [targets_of(tones, tokens, tmp_path / "ali", data, aux_layers=(1,), aux_soft=soft) for soft in (False, True)]
    torch.manual_seed(0)
    head = torch.nn.Linear(5, pair[0].num_labels)
    x = torch.randn(2, int(data.lens[:2].max()), 5)
    losses = [frame_losses(head, x, targets.frame[1], np.array([0, 1]), 0.3) for targets in pair]
    assert torch.allclose(losses[0][0], losses[1][0], rtol=1e-5) and torch.equal(losses[0][1], losses[1][1])


def test_cross_entropy_of_probabilities_is_its_formula():
    torch.manual_seed(0)
    logits, q = torch.randn(3, 4), torch.rand(3, 4).softmax(-1)
    log_p = logits.log_softmax(-1)
    expected = -(0.8 * (q * log_p).sum(-1) + 0.2 * log_p.mean(-1))
    assert torch.allclose(smoothed_cross_entropy(logits, q, 0.2), expected, atol=1e-6)


def test_copies_at_another_speed_take_stretched_occupancies(tones, tokens, soft_ali, monkeypatch):
    data = Dataset.open(tones.data, OPTIONS.feat_options())
    plain = targets_of(tones, tokens, soft_ali, data, aux_layers=(1,), aux_soft=True).frame[1]
    before, length = [plain[i] for i in range(3)], int(data.lens[0])
    name = data.id(0)
    monkeypatch.setattr(Dataset, "id", lambda self, i: f"{name}_sp0.5_noise1" if i == 0 else self.ids[i])
    monkeypatch.setattr(data, "lens", np.array([2 * length, *data.lens[1:]]))
    moved = targets_of(tones, tokens, soft_ali, data, aux_layers=(1,), aux_soft=True).frame[1]
    assert np.array_equal(moved[0], np.repeat(before[0], 2, axis=0)) and np.array_equal(moved[1], before[1])


def test_training_learns_them(tones, tokens, soft_ali, tmp_path):
    options = options_with(aux_layers=(1, 2), aux_soft=True, aux_smoothing=0.0)
    facts = train_end_to_end(tones.data, tokens, tmp_path / "m", options, tones.data, soft_ali)
    assert facts["utterances"] == 24 and facts["auxiliary_parameters"] > 0


def test_what_does_not_fit_is_refused(tones, tokens, ali, tmp_path):
    data = Dataset.open(tones.data, OPTIONS.feat_options())

    def refused(error, text, where=tmp_path / "ali", **options):
        with pytest.raises(error, match=text):
            targets = targets_of(tones, tokens, where, data, aux_layers=(1,), aux_soft=True, **options)
            [targets.frame[1][i] for i in range(len(data))]

    refused(ConfigError, "no occupancies for --aux-soft; steps/align.py --occupancies", ali)
    shutil.copytree(ali, tmp_path / "ali")
    labels = AliSet.load(ali)
    write_occupancies(labels, tmp_path / "ali", 0.75, "another")
    refused(MismatchError, "its occupancies are of another tree")
    write_occupancies(labels, tmp_path / "ali", 0.75, leave_out=data.id(2))
    refused(MismatchError, f"no occupancies of utterance '{data.id(2)}'")
    with PosteriorWriter(tmp_path / "ali", labels.header.tree_id) as writer:
        for cut_id in labels:
            writer.write(cut_id, Posteriors(np.zeros(1, np.int32), np.array([99], np.int32), np.ones(1, np.float32)))
    refused(DataError, "other frames or pdfs")
    (tmp_path / "ali" / POSTERIORS).write_text("{}")
    refused(DataError, POSTERIORS)
    for wrong in (dict(aux_labels="phone"), dict(aux_majority=True), dict(ali_shift_ms=5.0), dict(aux_layers=())):
        with pytest.raises(ConfigError, match="--aux-soft"):
            check_layers(options_with(**{"aux_layers": (1,), "aux_soft": True, **wrong}))
