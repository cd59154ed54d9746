"""Options of end-to-end models; nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.nn.options import IF_SET, STRICT, EncoderOptions, TrainOptions

ModelKind = Literal["ctc", "attention", "transducer"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EndToEndOptions(EncoderOptions):
    """The network from features to tokens; stored in the model, never asked for again."""

    model: ModelKind = Field(
        default="attention",
        description="ctc: encoder and CTC output alone; attention: LSTM decoder with attention; transducer: RNN-T.",
    )
    ctc: bool = Field(default=True, description="A CTC output beside the decoder.")
    embedding_dim: int = Field(default=64, ge=1, description="attention, transducer: width of token embeddings.")
    decoder_layers: int = Field(
        default=1, ge=1, le=8, description="attention: LSTM layers; transducer: LSTM layers of the predictor."
    )
    decoder_dim: int = Field(default=128, ge=1, description="attention, transducer: width of these layers.")
    decoder_dropout: float = Field(
        default=0.2, ge=0, lt=1, description="attention, transducer: dropout on embeddings and behind layers."
    )
    attention_heads: int = Field(default=4, ge=1, description="attention: heads of the decoder's attention.")
    attention_dim: int = Field(default=128, ge=1, description="attention: width of all heads together.")
    location: bool = Field(
        default=True, description="attention: heads see where they have looked so far (location-aware)."
    )
    predictor: Literal["lstm", "stateless"] = Field(
        default="lstm",
        description="transducer: what follows the tokens so far; stateless: a convolution over the last ones.",
    )
    predictor_context: int = Field(default=2, ge=1, le=16, description="transducer, stateless: tokens that it sees.")
    joint_dim: int = Field(default=128, ge=1, description="transducer: width of the joint network.")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainEndToEndOptions(TrainOptions, EndToEndOptions):
    """Training of an end-to-end model, with weak supervision by an alignment at layers of the encoder."""

    epochs: int = Field(default=40, ge=1, description="Passes over the training data.")
    ctc_weight: float = Field(
        default=1.0, ge=0, description="attention, transducer: weight of the CTC loss beside the decoder's."
    )
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=1, description="attention: share of the target spread evenly over all tokens."
    )
    rnnt: Literal["full", "pruned"] = Field(
        default="full",
        description="transducer: loss over the whole lattice, or over a band of it "
        "that a cheap joint network finds (less memory for many tokens).",
    )
    prune_range: int = Field(default=5, ge=2, description="transducer, pruned: token positions per frame.")
    simple_weight: float = Field(
        default=0.5, ge=0, description="transducer, pruned: weight of the cheap joint network's loss."
    )
    choose_by: Literal["loss", "errors"] = Field(
        default="errors",
        description="By what the best epochs on dev data are chosen: token errors (of greedy CTC where there is a CTC "
        "output, else of the decoder given the right tokens before; a transducer without CTC has its loss), or "
        "the loss.",
    )
    max_seconds: float = Field(
        default=60.0, gt=0, description="Longer utterances are left out, up to the share max_skipped."
    )
    spec_augment: Literal["custom", "ld"] = Field(
        default="custom",
        description="ld: the policy LD of Park et al. 2019 (2 feature masks up to a third of the features, 2 "
        "time masks "
        "up to 1 s) in place of all mask options; its p is 1.",
    )
    aux_layers: tuple[int, ...] = Field(
        default=(), description="Layers of the encoder, from 1, whose frames learn the labels of --ali."
    )
    aux_weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of this frame cross-entropy.",
    )
    aux_per: Literal["frame", "utterance"] = Field(
        default="frame",
        description="What losses of frames (--aux-weight, --aux-token-weight, --aux-kl-weight) are beside those of "
        "sequences. frame: a mean over frames (of the divergence: frames and tokens) beside means per token; "
        "utterance: each utterance has the sum of its sequence loss and the mean of its frame losses (Liu et al. "
        "2020), so that frames weigh less by the number of tokens of an utterance.",
        json_schema_extra=IF_SET,
    )
    aux_smoothing: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="m: share of these targets that is spread evenly over all labels; "
        "0: the alignment alone, 1: nothing of it. Also of --aux-token-weight's.",
    )
    aux_labels: Literal["pdf", "phone"] = Field(
        default="pdf", description="What the frames learn: tied states, or phones."
    )
    aux_soft: bool = Field(
        default=False,
        description="Frames learn which tied states they may belong to, and with what probability, in place of one "
        "label each: the occupancies in --ali (steps/align.py --occupancies), at lower frame rates their means.",
        json_schema_extra=IF_SET,
    )
    aux_hidden: int = Field(
        default=0,
        ge=0,
        description="Width of a hidden layer in each auxiliary output below the top layer; 0: linear (branches of "
        "--aux-transducer-layers: as wide as the encoder).",
    )
    aux_top_hidden: int = Field(
        default=0,
        ge=0,
        description="The same for outputs at the top layer.",
        json_schema_extra=IF_SET,
    )
    aux_norm: bool = Field(
        default=True,
        description="Layer normalisation in front of each auxiliary output.",
        json_schema_extra=IF_SET,
    )
    aux_majority: bool = Field(
        default=False, description="Labels at a lower frame rate: the most frequent instead of the first."
    )
    aux_ctc_layers: tuple[int, ...] = Field(
        default=(), description="Layers that learn by CTC the sequence of tied states in --ali, one per phone."
    )
    aux_ctc_weight: float = Field(default=0.3, ge=0, description="Weight of this CTC loss.")
    aux_token_weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of a frame cross-entropy at the top with tokens at the times "
        "of their words in --ali; 0: none.",
    )
    aux_alternate: bool = Field(
        default=False, description="A batch learns either the labels or the tokens of --ali, by chance."
    )
    ali_shift_ms: float = Field(
        default=0.0,
        ge=0,
        description="Boundaries between the frame labels of --aux-layers are moved at random by so "
        "much on average: what a worse alignment would do.",
    )
    aux_transducer_layers: tuple[int, ...] = Field(
        default=(), description="transducer: layers from which a branch goes into the shared decoder (Liu et al. 2020)."
    )
    aux_transducer_weight: float = Field(default=0.3, ge=0, description="Weight of these branches' RNN-T losses.")
    aux_kl_weight: float = Field(
        default=0.0, ge=0, description="Weight of the symmetric KL divergence between branch and decoder."
    )
    bag_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="ctc: share of the training utterances of which only the bag of tokens is learned, as if the order "
        "of their words were not known (Pratap et al. 2021).",
        json_schema_extra=IF_SET,
    )
    bag_weight: float = Field(
        default=1.0, ge=0, description="Weight of the loss of these utterances beside CTC.", json_schema_extra=IF_SET
    )
    self_supervised: Literal["none", "contrast", "position"] = Field(
        default="none",
        description="A loss without transcripts that updates learn in turns with the others, from DATA and "
        "--unlabelled. contrast: masked frames tell their own features from those of other frames (Baevski et al. "
        "2020, Talnikar et al. 2020). position: frames tell where they are, by a Transformer that knows no positions "
        "(Zhai et al. 2022).",
        json_schema_extra=IF_SET,
    )
    self_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the updates that learn it; 1: nothing else, an encoder for --init-from.",
        json_schema_extra=IF_SET,
    )
    self_rate: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Learning rate of these updates relative to that of the others.",
        json_schema_extra=IF_SET,
    )
    self_mask_share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Share of the frames that is masked; position: that self-attention does not look at.",
        json_schema_extra=IF_SET,
    )
    self_mask_seconds: float = Field(
        default=0.2,
        gt=0,
        description="contrast: length of a masked span, in seconds.",
        json_schema_extra=IF_SET,
    )
    repeat_labelled: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Times that an epoch sees an utterance with a transcript, beside --unlabelled.",
        json_schema_extra=IF_SET,
    )
