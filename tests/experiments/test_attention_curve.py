"""Entropy of attention over the epochs of trainings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.artifacts.model_meta import META
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.records import to_json
from pipeline.experiments.attention_curve import draw_entropies, entropies_of
from steps.plot_attention import main
from tests.artifacts.test_model_meta import NETWORK


def make(model: Path, *epochs: dict[str, float]) -> Path:
    model.mkdir()
    write_json(model / META, to_json(dataclasses.replace(NETWORK, epochs=list(epochs))))
    return model


def test_epochs_and_layers_keep_their_order(tmp_path):
    figures = {f"attention_entropy_{layer}": 3.0 - 0.1 * layer for layer in range(1, 12)}
    model = make(tmp_path / "model", {"loss": 1.0, **figures}, {"loss": 0.5, **dict.fromkeys(figures, 0.25)})
    assert entropies_of(model) == [list(figures.values()), [0.25] * 11]


def test_a_model_without_attention_is_refused(tmp_path):
    with pytest.raises(DataError, match="model.json: its epochs tell no entropy"):
        entropies_of(make(tmp_path / "model", {"loss": 1.0}))


def test_picture_is_the_same_each_time(tmp_path):
    for name in "ab":
        draw_entropies(tmp_path / name, {"plain": [[3.0, 2.0], [2.0, 0.1]], "sigma": [[3.0, 2.9]]})
    text = (tmp_path / "a").read_text()
    assert text == (tmp_path / "b").read_text()
    assert all(word in text for word in ("plain", "sigma", "layer 1", "layer 2"))


def test_step_draws_each_model_under_its_name(tmp_path):
    models = [str(make(tmp_path / name, {"attention_entropy_1": 2.0})) for name in ("one", "two")]
    arguments = [str(tmp_path / "out"), *models, "--picture", str(tmp_path / "pictures" / "p.svg")]
    result = CliRunner().invoke(main, [*arguments, "--name", "first", "--name", "second"])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "pictures" / "p.svg").read_text()
    assert "first" in text and "second" in text and text == (tmp_path / "out" / "entropy.svg").read_text()
    assert CliRunner().invoke(main, [*arguments, "--name", "first"]).exit_code == 2
