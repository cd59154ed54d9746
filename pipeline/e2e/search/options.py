"""Options of the searches of end-to-end models; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.dataclasses import dataclass

from pipeline.base.option_values import Device

_NO_STAMP: JsonDict = {"stamp": False}
Method = Literal[
    "attention",
    "ctc_greedy",
    "ctc_prefix",
    "transducer_greedy",
    "transducer_beam",
    "transducer_one",
    "transducer_viterbi",
]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SearchOptions:
    """How an end-to-end model is searched, and the weights that are tried."""

    method: Method | None = Field(
        None,
        description="attention: beam search with CTC prefix scores; ctc_greedy: best label of each frame; "
        "ctc_prefix: beam "
        "over label sequences; transducer_greedy; transducer_beam: beam, time-synchronous; transducer_one: beam "
        "with one token "
        "per frame at most; transducer_viterbi: best path with one token per frame at most, for stateless "
        "predictors, whose hypotheses with equal last tokens are one. None: attention, transducer_beam or ctc_prefix, "
        "by what the model has.",
    )
    beam: int = Field(8, ge=1, le=1000, description="Hypotheses kept per utterance.")
    ctc_weights: tuple[float, ...] = Field(
        (0.3,),
        min_length=1,
        description="attention: weights of the CTC prefix score tried; the attention's score gets the rest to 1.",
    )
    lm_weights: tuple[float, ...] = Field(
        (0.3, 0.6, 0.9), min_length=1, description="Weights of the language model tried, where there is one."
    )
    length_bonuses: tuple[float, ...] = Field(
        (0.0, 1.0, 2.0),
        min_length=1,
        description="Bonuses per token tried. attention: with those above 0 the search ends when not even five further "
        "tokens' bonus would bring a hypothesis among the best, though more tokens might.",
    )
    ilm_weights: tuple[float, ...] = Field(
        (0.0,),
        min_length=1,
        description="transducer: weights tried with which the score of its "
        "predictor alone is subtracted (Variani et al. 2020).",
    )
    max_length: float = Field(1.0, gt=0, le=10, description="attention: most tokens per encoder frame.")
    max_symbols: int = Field(4, ge=1, le=100, description="transducer: most tokens at one encoder frame.")
    nbest: int = Field(0, ge=0, description="Also write lists of the n best word sequences (at most the beam).")
    batch_frames: int = Field(20_000, gt=0, description="Feature frames per batch.", json_schema_extra=_NO_STAMP)
    device: Device = Field("cpu", description="cpu or cuda.", json_schema_extra=_NO_STAMP)

    def __post_init__(self) -> None:
        if any(not 0.0 <= w <= 1.0 for w in self.ctc_weights):
            raise ValueError("ctc_weights lie between 0 and 1")
        if any(w < 0.0 for w in (*self.lm_weights, *self.ilm_weights)):
            raise ValueError("lm_weights and ilm_weights are not negative")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class NnLmOptions:
    """An LSTM language model over tokens and its training."""

    dim: int = Field(256, ge=1, description="Width of embeddings and layers.")
    layers: int = Field(2, ge=1, le=16, description="LSTM layers.")
    dropout: float = Field(0.2, ge=0.0, lt=1.0, description="Dropout on embeddings and behind layers.")
    epochs: int = Field(15, ge=1, description="Passes over the text.")
    batch_tokens: int = Field(1000, ge=1, description="Tokens per batch, padding included.")
    max_batch: int = Field(64, ge=1, description="Sentences per batch at most.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate (one cycle).")
    average: int = Field(1, ge=1, description="The final model is the mean of the best so many epochs by dev loss.")
    seed: int = Field(1, ge=0, description="Seed of everything random.")
    device: Device = Field("cpu", description="cpu or cuda.", json_schema_extra=_NO_STAMP)
