"""Options of asynchronous training; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.nn.options import IF_SET, NOT_IN_STAMP, STRICT, TrainOptions, ViterbiOptions
from pipeline.nn.sequence_options import SequenceOptions


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AsyncOptions:
    """How the work is divided, how old parameters may be, and in which order frames are seen."""

    replicas: int = Field(
        2, ge=1, le=512, description="Processes that compute gradients, each on its own share of the utterances."
    )
    servers: int = Field(
        1, ge=1, le=64, description="Processes that hold the parameters; each has some of the tensors."
    )
    mode: Literal["asynchronous", "synchronous"] = Field(
        "asynchronous",
        description="synchronous: the server waits for the gradients of all replicas and takes their mean.",
    )
    fetch_utterances: float = Field(
        0.0, ge=0, description="A replica fetches parameters after so many utterances; 0: before each batch."
    )
    fetch_seconds: float = Field(0.0, ge=0, description="A replica fetches parameters at most once in so many seconds.")
    fetch_by: Literal["replica", "all"] = Field(
        "replica",
        description="Whose utterances and seconds these are. replica: of each replica by itself; all: of all together, "
        "counted by the server when it gives out work, so that all fetch at the same times (before the batch that they "
        "begin next).",
        json_schema_extra=IF_SET,
    )
    shuffle: Literal["utterances", "none", "on_the_fly", "full"] = Field(
        "utterances",
        description="utterances: batches of whole utterances. Else batches of frames, for networks that see a "
        "window (encoder dnn): none: one utterance after the other, in batches that the next one fills up; "
        "on_the_fly: each place of the batch walks "
        "through an "
        "utterance of its own; full: frames of all utterances of a replica, shuffled.",
    )
    frame_batch: int = Field(200, ge=1, le=100_000, description="Frames per batch, where batches are made of frames.")
    held_megabytes: int = Field(
        1000,
        ge=1,
        description="Outer gradients that a replica holds at most, where batches are made of frames; full "
        "shuffling is then done within what fits, and on-the-fly shuffling in fewer places.",
    )
    target_loss: float | None = Field(
        None,
        description="The result says after how many seconds the dev loss was as low as this, if ever (linear "
        "between epochs).",
        json_schema_extra=IF_SET,
    )
    keep_epochs: bool = Field(False, description="The model after each epoch is kept as a model directory OUT/epoch-N.")
    simulate_decode_rtf: float = Field(
        0.0,
        ge=0,
        description="Replicas sleep so many seconds per second of speech, in place of a decoder on a core of its "
        "own: for measuring with more replicas than cores. The result says so.",
    )
    threads: int = Field(1, ge=1, description="Threads of each process.", json_schema_extra=NOT_IN_STAMP)
    checkpoint_seconds: float = Field(
        300.0,
        ge=0,
        description="Between checkpoints of the server; each epoch ends with one.",
        json_schema_extra=NOT_IN_STAMP,
    )
    heartbeat_seconds: float = Field(
        300.0,
        gt=0,
        description="A replica that has been silent for so long is given up, and its utterances go to the others; "
        "likewise one that has been busy with one batch for so long.",
        json_schema_extra=NOT_IN_STAMP,
    )
    max_restarts: int = Field(
        3,
        ge=0,
        description="How often a lost server is started again from its checkpoint.",
        json_schema_extra=NOT_IN_STAMP,
    )
    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of the first server, the next ones of further servers; 0: free ones.",
        json_schema_extra=NOT_IN_STAMP,
    )


REFRESH = Field(
    0,
    ge=0,
    description="Where batches are made of frames: utterances that are begun together, which with full shuffling "
    "are those "
    "whose frames are shuffled together; 0: one, and with full shuffling all of a replica's in an epoch.",
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AsyncTraining(AsyncOptions, TrainOptions):
    """An asynchronous training as its processes see it, whatever the criterion."""

    refresh: int = REFRESH


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AsyncViterbiOptions(AsyncOptions, ViterbiOptions):
    """Frame cross-entropy on an alignment by replicas and a parameter server."""

    refresh: int = REFRESH


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AsyncSequenceOptions(AsyncOptions, SequenceOptions):
    """Sequence training by replicas, each with a decoder of its own, and a parameter server."""


def training_of(options: AsyncOptions, train: TrainOptions, refresh: int) -> AsyncTraining:
    """The part of a step's options that decides on the optimisation."""
    names = [field.name for field in fields(AsyncOptions)]
    values = {field.name: getattr(train, field.name) for field in fields(TrainOptions)}
    return AsyncTraining(**values, **{name: getattr(options, name) for name in names}, refresh=refresh)
