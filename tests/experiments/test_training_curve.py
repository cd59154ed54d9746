"""Errors over the time of a training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.base.records import to_json
from pipeline.experiments.training_curve import Point, curve_of, draw_curve
from tests.artifacts.test_model_meta import NETWORK


def make(tmp_path: Path, wers: list[float], **meta) -> tuple[Path, list[Path]]:
    """A model of two epochs and a decoding for each rate."""
    model = tmp_path / "model"
    model.mkdir()
    epochs = [{"seconds": 10.0, "dev_accuracy": 0.75}, {"seconds": 25.0, "frame_error": 0.5}]
    write_json(model / "model.json", to_json(dataclasses.replace(NETWORK, epochs=epochs, **meta)))
    decoded = []
    for number, wer in enumerate(wers):
        decoded.append(tmp_path / f"decode{number}")
        decoded[-1].mkdir()
        write_json(
            decoded[-1] / "results.json",
            [
                {"id": "m", "part": "dev", "metric": "wer", "value": wer},
                {"id": "m", "part": "dev", "metric": "rtf", "value": 0.1},
            ],
        )
    return model, decoded


def test_seconds_of_either_training(tmp_path):
    model, decoded = make(tmp_path, [9.0, 8.0])
    assert curve_of(model, decoded) == [Point(10.0, 9.0, 25.0), Point(35.0, 8.0, 50.0)]
    (tmp_path / "b").mkdir()
    model, decoded = make(tmp_path / "b", [9.0, 8.0], optimisation={"replicas": 2})
    assert [p.seconds for p in curve_of(model, decoded)] == [10.0, 25.0]


def test_what_is_missing_is_named(tmp_path):
    model, decoded = make(tmp_path, [9.0])
    with pytest.raises(DataError, match="2 epochs; there are 1 decodings"):
        curve_of(model, decoded)
    write_json(decoded[0] / "results.json", [])
    with pytest.raises(DataError, match="results.json.*--id"):
        curve_of(model, decoded * 2)


def test_picture_is_the_same_each_time(tmp_path):
    points = [Point(10.0, 9.0, 25.0), Point(35.0, 8.0, None)]
    for name in "ab":
        draw_curve(tmp_path / name, {"model": points})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() and b"frame error" in (
        tmp_path / "a"
    ).read_bytes()
