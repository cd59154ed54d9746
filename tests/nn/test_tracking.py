"""Figures of epochs at trackers of experiments."""

from __future__ import annotations

import contextlib
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.base.errors import ConfigError
from pipeline.nn.tracking import tracked


class Runs(types.ModuleType):
    """What is used of mlflow: runs by id, with their names and figures."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.exceptions = types.SimpleNamespace(MlflowException=ConnectionError)
        self.away = False
        self.found: dict[str, tuple[str, list[tuple[int, dict[str, float]]]]] = {}

    def start_run(self, run_id: str | None, run_name: str):
        if self.away:
            raise ConnectionError("no server")
        key = run_id or f"run{len(self.found)}"
        self.found.setdefault(key, (run_name, []))
        self.now = key
        run = contextlib.nullcontext()
        run.info = types.SimpleNamespace(run_id=key)
        return run

    def log_metrics(self, figures: dict[str, float], step: int) -> None:
        if self.away:
            raise ConnectionError("no server")
        self.found[self.now][1].append((step, figures))


def test_a_resumed_training_goes_on_with_its_run(tmp_path, monkeypatch):
    runs = Runs()
    monkeypatch.setitem(sys.modules, "mlflow", runs)
    out = tmp_path / "exp" / "hybrid.tmp"
    with tracked(out, 0, "mlflow") as put:
        put({"loss": 2.0}, 1)
    with tracked(out, 1, "mlflow") as put:
        put({"loss": 1.5}, 2)
    assert runs.found == {"run0": ("exp/hybrid", [(1, {"loss": 2.0}), (2, {"loss": 1.5})])}
    with tracked(tmp_path / "exp" / "other.tmp", 0, "mlflow"):
        pass
    assert len(runs.found) == 2 and list((out / "log" / "tensorboard").glob("events*"))
    with tracked(tmp_path / "exp" / "third.tmp", 0, "none") as put:
        put({"loss": 2.0}, 1)
    assert len(runs.found) == 2


def test_a_server_that_is_away(tmp_path, monkeypatch, caplog):
    """At the start it is an error of the user; later a training goes on."""
    runs = Runs()
    monkeypatch.setitem(sys.modules, "mlflow", runs)
    with tracked(tmp_path / "ctc", 0, "mlflow") as put:
        runs.away = True
        put({"loss": 2.0}, 1)
    assert "did not take the figures of epoch 1: no server" in caplog.text
    with pytest.raises(ConfigError, match="no server"), tracked(tmp_path / "ctc", 0, "mlflow"):
        pass


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed")
def test_without_the_package(tmp_path):
    with pytest.raises(ConfigError, match=r"pip install 'fullsum\[mlflow\]'"), tracked(tmp_path, 0, "mlflow"):
        pass


@pytest.mark.skipif(find_spec("mlflow") is None, reason="no mlflow (pip install 'fullsum[mlflow]')")
def test_the_real_one(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions want a database where none is named
    mlflow.set_tracking_uri(Path(tmp_path / "runs").as_uri())
    for epoch in (1, 2):
        with tracked(tmp_path / "exp" / "ctc.tmp", epoch - 1, "mlflow") as put:
            put({"loss": 2.0 / epoch}, epoch)
    (run,) = mlflow.search_runs(output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.0), (2, 1.0)] and run.info.run_name == "exp/ctc"
