"""Options of end-to-end models; nothing heavy is imported here."""
from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.nn.options import EncoderOptions, frozen

ModelKind = Literal["ctc", "attention", "transducer"]


@frozen
class EndToEndOptions(EncoderOptions):
    """The network from features to tokens; stored in the model, never asked for again."""

    model: ModelKind = Field("attention", description="ctc: encoder and CTC output alone; attention: LSTM decoder with "
                             "attention; transducer: RNN-T.")
    ctc: bool = Field(True, description="A CTC output beside the decoder.")
    embedding_dim: int = Field(64, ge=1, description="attention, transducer: width of token embeddings.")
    decoder_layers: int = Field(1, ge=1, le=8, description="attention: LSTM layers; transducer: LSTM layers of the predictor.")
    decoder_dim: int = Field(128, ge=1, description="attention, transducer: width of these layers.")
    decoder_dropout: float = Field(0.2, ge=0, lt=1, description="attention, transducer: dropout on embeddings and behind layers.")
    attention_heads: int = Field(4, ge=1, description="attention: heads of the decoder's attention.")
    attention_dim: int = Field(128, ge=1, description="attention: width of all heads together.")
    location: bool = Field(True, description="attention: heads see where they have looked so far (location-aware).")
    predictor: Literal["lstm", "stateless"] = Field("lstm", description="transducer: what follows the tokens so far; "
                                                    "stateless: a convolution over the last ones.")
    predictor_context: int = Field(2, ge=1, le=16, description="transducer, stateless: tokens that it sees.")
    joint_dim: int = Field(128, ge=1, description="transducer: width of the joint network.")
