"""A small training for the tests of asynchronous optimisation, in a module that spawned processes can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.feats.dataset import Dataset
from pipeline.nn.asynchronous.frames import FrameTargets
from pipeline.nn.asynchronous.job import Built
from pipeline.nn.asynchronous.options import AsyncTraining
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.model import AcousticModel
from pipeline.nn.options import EncoderOptions
from pipeline.nn.step import Task

ENCODER = EncoderOptions(encoder="dnn", layers=2, dim=8, dropout=0.2, window_left=2, window_right=1)
TRAINING = AsyncTraining(
    replicas=1,
    epochs=4,
    batch_frames=60,
    average=2,
    device="cpu",
    optimizer="adam",
    learning_rate=0.02,
    heartbeat_seconds=20.0,
)


def make_data(count: int = 12) -> tuple[Dataset, list[np.ndarray]]:
    """Utterances whose label is the sign of the first feature."""
    rng = np.random.default_rng(0)
    lens = rng.integers(5, 20, count)
    feats = torch.from_numpy(rng.standard_normal((int(lens.sum()), 4)).astype(np.float32)).split(lens.tolist())
    return Dataset.of(feats), [(own[:, 0] > 0).long().numpy() for own in feats]


class Killing(CrossEntropy):
    """Ends the process, as kill -9 would, at a call with a given number; once, as a file remembers."""

    def __init__(self, labels: list[np.ndarray], call: int, once: Path) -> None:
        super().__init__(labels)
        self.left, self.once = call, once

    def __call__(self, model: Any, batch: Any, done: float) -> Any:
        self.left -= 1
        if self.left < 0:
            try:
                self.once.touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return super().__call__(model, batch, done)


class Hanging(CrossEntropy):
    """Never returns from its third call in the first process that comes to it."""

    def __init__(self, labels: list[np.ndarray], once: Path) -> None:
        super().__init__(labels)
        self.left, self.once = 2, once

    def __call__(self, model: Any, batch: Any, done: float) -> Any:
        self.left -= 1
        if self.left < 0:
            try:
                self.once.touch(exist_ok=False)
                time.sleep(60)
            except FileExistsError:
                pass
        return super().__call__(model, batch, done)


class Returning(CrossEntropy):
    """Sleeps in the third call of the first process that comes to it until the server's log says that it is lost, and
    goes on; the others wait for it a little at each call, so that there is work left when it is back.
    """

    def __init__(self, labels: list[np.ndarray], once: Path) -> None:
        super().__init__(labels)
        self.left, self.once, self.back = 2, once, once.with_name("back")
        self.log = once.with_name("log") / "server0.log"

    def __call__(self, model: Any, batch: Any, done: float) -> Any:
        self.left -= 1
        if self.left < 0 and not self.once.exists():
            try:
                self.once.touch(exist_ok=False)
                until = time.monotonic() + 60
                while "is lost" not in self.log.read_text() and time.monotonic() < until:
                    time.sleep(0.1)
                self.back.touch()
            except FileExistsError:
                pass
        elif self.once.exists():
            time.sleep(0.05 if self.back.exists() else 0.5)
        return super().__call__(model, batch, done)


@dataclass(frozen=True)
class SignJob:
    """Learns the sign of a feature.

    Attributes:
        trouble: "kill_replica" at its third batch; "kill_server" when it evaluates the second epoch; "hang";
            "return"; "bad_data".
        once: file that is made when the trouble has happened.
    """

    training: AsyncTraining = TRAINING
    trouble: str = ""
    once: Path | None = None

    def build(self) -> Built:
        if self.trouble == "bad_data":
            from pipeline.base.errors import DataError

            raise DataError("feats.txt:3: no such frame")
        data, labels = make_data()
        torch.manual_seed(5)
        model = AcousticModel(4, 2, ENCODER)
        criterion = CrossEntropy(labels)
        dev = CrossEntropy(labels)
        if self.trouble == "kill_replica":
            criterion = Killing(labels, 2, self.once)
        if self.trouble == "hang":
            criterion = Hanging(labels, self.once)
        if self.trouble == "return":
            criterion = Returning(labels, self.once)
        if self.trouble == "kill_server":
            dev = Killing(labels, 5, self.once)
        return Built(model, Task(data, criterion), FrameTargets(labels), Task(data, dev), 0.01)
