"""Options of federated training; nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.nn.options import STRICT, ViterbiOptions

PLAIN = ViterbiOptions()
_WITHOUT_EFFECT = (
    *("accumulate", "average", "precision", "chunk_seconds", "realign_rounds", "realign_epochs"),
    *("lr_rise", "lr_start", "lr_hold", "lr_final", "lr_decay"),
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FederatedOptions(ViterbiOptions):
    """Frame cross-entropy on an alignment, trained by clients that keep their speech: each speaker is one."""

    epochs: int = Field(default=1, ge=1, description="Passes of a client over its own utterances in a round.")
    optimizer: Literal["sgd"] = Field(default="sgd", description="Optimizer of the clients: plain gradient descent.")
    learning_rate: float = Field(default=0.1, gt=0, description="Learning rate of the clients.")
    schedule: Literal["constant"] = Field(default="constant", description="Of the clients' learning rate.")
    rounds: int = Field(default=20, ge=1, description="Updates of the server's model.")
    share: float = Field(
        default=0.5, gt=0, le=1, description="Probability with which a client takes part in a round, by itself."
    )
    server: Literal["fedavg", "fedadam", "fedlamb"] = Field(
        default="fedavg",
        description="What the server does with the mean of the clients' changes: adds it (times server_rate), takes it "
        "as a gradient of Adam, or that with each tensor's step brought to the norm of the tensor (layer-wise "
        "normalisation).",
    )
    server_rate: float = Field(default=1.0, gt=0, description="Learning rate of the server.")
    clipping: Literal["none", "global", "layer"] = Field(
        default="none",
        description="What is shortened to a bound: the change of a client as a whole, or of each of its tensors.",
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="Bound of a client's change; with clipping layer its L tensors share it evenly."
    )
    noise: float = Field(
        default=0.0,
        ge=0,
        description="Noise multiplier: standard deviation of the Gaussian noise on the sum of the clients' changes, in "
        "units of clip_norm.",
    )
    delta: float = Field(
        default=1e-6, gt=0, lt=1, description="Probability with which the privacy may fail: delta of (epsilon, delta)."
    )
    population: int = Field(
        default=0,
        ge=0,
        description="Epsilon is reported for so many clients, of which the same share takes part and whose mean has "
        "the same noise; 0: for those that there are.",
    )

    @model_validator(mode="after")
    def _check(self) -> FederatedOptions:
        if self.noise and self.clipping == "none":
            raise ValueError(f"noise {self.noise} without clipping hides nothing: a client's change has no bound")
        if self.population and not self.noise:
            raise ValueError(f"population {self.population} is for epsilon, which there is none of without noise")
        for name in _WITHOUT_EFFECT:
            if getattr(self, name) != getattr(PLAIN, name):
                raise ValueError(f"{name} {getattr(self, name)} has no effect in federated training")
        return self
