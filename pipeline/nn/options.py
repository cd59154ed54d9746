"""Options of the neural models; nothing heavy is imported here, so that every step answers --help at once."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.dataclasses import dataclass

from pipeline.artifacts.features import FeatLoadOptions
from pipeline.base.option_values import DeviceOrAuto
from pipeline.feats.options import cache_field

STRICT = ConfigDict(extra="forbid")
NOT_IN_STAMP: JsonDict = {"stamp": False}
IF_SET: JsonDict = {"stamp": "if_set"}  # options added later: models made before them stay up to date

TransitionKind = Literal["fixed", "speech_silence", "substate", "substate_silence", "label", "linear", "blstm", "time"]
PriorKind = Literal["none", "transcripts", "softmax", "on_the_fly"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderOptions:
    """The network between features and label posteriors; stored in the model, never asked for again."""

    encoder: Literal["blstm", "lc_blstm", "tdnn", "tds", "transformer", "conformer", "dnn"] = Field(
        default="blstm",
        description="blstm: bidirectional LSTM; lc_blstm: the same with bounded latency (chunk, right_context); "
        "tdnn: dilated convolutions, several times faster on a CPU; tds: time-depth separable convolutions; "
        "transformer, "
        "conformer: self-attention, without and with convolutions; dnn: feed-forward layers over a window of frames.",
    )
    layers: int = Field(default=3, ge=1, le=48, description="Number of layers.")
    dim: int = Field(default=128, ge=1, description="Width of a layer (blstm: per direction).")
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0, description="Dropout behind each layer.")
    subsampling: int = Field(
        default=1,
        ge=1,
        le=8,
        description="Feature frames per label frame: 3 turns 10 ms features into 30 ms alignments.",
    )
    subsampling_by: Literal["concat", "mean", "max"] = Field(
        default="concat", description="How the feature frames of a label frame are joined."
    )
    frames_per_step: int = Field(
        default=1,
        ge=1,
        le=8,
        description="Label frames that one step of the encoder reads and predicts together: the label "
        "frame rate stays, the cost falls.",
    )
    kernel: int = Field(
        default=3,
        ge=1,
        description="tdnn: frames that a convolution sees (odd); transformer and conformer: "
        "frames that their input layer sees.",
    )
    dilations: tuple[int, ...] = Field(
        default=(1, 1, 2, 2, 3, 3),
        description="tdnn: distance of the frames that a convolution sees, by layer; the last "
        "one counts for all further layers.",
    )
    heads: int = Field(
        default=4, ge=1, description="transformer, conformer: attention heads; tds: channels.", json_schema_extra=IF_SET
    )
    conv_kernel: int = Field(
        default=15, ge=1, description="conformer, tds: steps that a convolution sees (odd).", json_schema_extra=IF_SET
    )
    conv_right: int | None = Field(
        default=None,
        ge=0,
        description="tds: how many of the steps that a convolution sees lie in the future, which bounds the latency; "
        "none: half of them.",
        json_schema_extra=IF_SET,
    )
    levels: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Features become symbols of so many levels each, dMel with 16 and log-mel; 0: they stay numbers.",
        json_schema_extra=IF_SET,
    )
    attention: Literal["softmax", "sigmoid"] = Field(
        default="softmax",
        description="transformer, conformer: weights of a frame are 1 in sum, or independent of each other.",
        json_schema_extra=IF_SET,
    )
    positions: Literal["rotary", "cape"] = Field(
        default="rotary",
        description="transformer, conformer: queries and keys are rotated by their positions, or continuous augmented "
        "embeddings are added to the input.",
        json_schema_extra=IF_SET,
    )
    cape_shift: float = Field(
        default=1000.0,
        ge=0,
        description="cape: frames by which training shifts all positions of an utterance at most.",
        json_schema_extra=IF_SET,
    )
    cape_scale: float = Field(
        default=1.1,
        ge=1,
        description="cape: factor by which training stretches or shrinks the positions at most.",
        json_schema_extra=IF_SET,
    )
    norms: Literal["pre", "post"] = Field(
        default="pre",
        description="transformer: layer norms in front of attention and feed-forward layers, or behind the sums with "
        "them, as in Vaswani et al. 2017.",
        json_schema_extra=IF_SET,
    )
    sigma_reparam: bool = Field(
        default=False,
        description="Linear layers of the encoder are a learned scale times a matrix of spectral norm 1, with which "
        "deep transformers train without a warm-up (blstm, lc_blstm and tdnn have none).",
        json_schema_extra=IF_SET,
    )
    experts: int = Field(
        default=0,
        ge=0,
        le=256,
        description="transformer: each feed-forward layer is so many, of which a router chooses one for each frame; "
        "0: it is one.",
        json_schema_extra=IF_SET,
    )
    expert_router: Literal["shared", "layer"] = Field(
        default="shared",
        description="experts: one router for all layers, or one for each.",
        json_schema_extra=IF_SET,
    )
    expert_balance: float = Field(
        default=0.01,
        ge=0,
        description="experts: weight of a loss that is least when all of them have as many frames.",
        json_schema_extra=IF_SET,
    )
    strides: tuple[int, ...] = Field(
        default=(),
        description="How many frames are joined behind the first, second .. layer: 2,2 makes the third layer run at a "
        "fourth of the rate, and labels too.",
        json_schema_extra=IF_SET,
    )
    vgg: tuple[int, ...] = Field(
        default=(),
        description="Blocks of convolutions over time and frequency in front of the layers, given by their "
        "strides over "
        "time: 2,2,1.",
        json_schema_extra=IF_SET,
    )
    vgg_channels: int = Field(
        default=32,
        ge=1,
        description="Channels of the first of these blocks; the others have twice as many.",
        json_schema_extra=IF_SET,
    )
    chunk: int = Field(default=40, ge=1, description="lc_blstm: input frames of a chunk.", json_schema_extra=IF_SET)
    right_context: int = Field(
        default=20, ge=0, description="lc_blstm: input frames that are read beyond a chunk.", json_schema_extra=IF_SET
    )

    window_left: int = Field(
        default=20, ge=0, description="dnn: frames that are seen before each frame.", json_schema_extra=IF_SET
    )
    window_right: int = Field(
        default=5, ge=0, description="dnn: frames that are seen behind each frame.", json_schema_extra=IF_SET
    )

    @property
    def label_factor(self) -> int:
        """Feature frames per label frame."""
        return math.prod((self.subsampling, *self.vgg, *self.strides))


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainOptions:
    """The features and the training loop; the same for every criterion."""

    cmvn: Literal["none", "utterance", "speaker", "global"] = Field(
        default="speaker",
        description="Over what means of the features become 0; the model then scales all of them to mean 0 "
        "and variance 1 over the training data.",
    )
    norm_vars: bool = Field(default=False, description="Variances become 1 over the same data as the means.")
    deltas: int = Field(
        default=0, ge=0, le=3, description="Order of time derivatives that are appended to the features."
    )
    epochs: int = Field(default=20, ge=1, description="Passes over the training data.")
    batch_frames: int = Field(default=5000, ge=1, description="Feature frames per batch, padding included.")
    max_batch: int = Field(default=64, ge=1, description="Utterances per batch at most.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Batches per update (of each process, with torchrun): a large batch in little memory.",
        json_schema_extra=IF_SET,
    )
    tracker: Literal["none", "mlflow"] = Field(
        default="none",
        description="Where figures of epochs go beside OUT/log/tensorboard.",
        json_schema_extra={"stamp": False, "env": "FULLSUM_TRACKER"},
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="bfloat16, float16: mixed precision on a GPU, matrix products in 16 bits, sums over paths in 32. "
        "float16 scales the loss and is for GPUs without bfloat16.",
        json_schema_extra=IF_SET,
    )
    optimizer: Literal["nadam", "adam", "adamw", "sgd"] = Field(
        default="nadam", description="Optimizer; sgd: plain, without momentum."
    )
    learning_rate: float = Field(default=2e-3, gt=0, description="Peak learning rate.")
    schedule: Literal["one_cycle", "plateau", "constant", "tri_stage"] = Field(
        default="one_cycle",
        description="one_cycle: linear rise, linear fall, short final decay (as in Mann et al. 2023); "
        "plateau: multiplied by lr_decay when the dev loss does not fall; tri_stage: linear rise, constant, "
        "exponential fall.",
    )
    lr_rise: float = Field(
        default=0.3, gt=0, lt=1, description="one_cycle, tri_stage: share of the training in which the rate rises."
    )
    lr_start: float = Field(
        default=0.1, gt=0, le=1, description="one_cycle, tri_stage: first rate relative to the peak."
    )
    lr_hold: float = Field(
        default=0.3, ge=0, lt=1, description="tri_stage: share of the training at the peak.", json_schema_extra=IF_SET
    )
    lr_final: float = Field(
        default=0.02, gt=0, le=1, description="tri_stage: last rate relative to the peak.", json_schema_extra=IF_SET
    )
    lr_decay: float = Field(default=0.5, gt=0, lt=1, description="plateau: factor of a decay.")
    weight_decay: float = Field(default=1e-4, ge=0, description="L2 regularisation (adamw: decoupled).")
    clip: float = Field(default=5.0, gt=0, description="Largest norm of the gradient of the mean loss per frame.")
    average: int = Field(
        default=3,
        ge=1,
        description="The final model is the mean of the best so many epochs by dev loss (of "
        "the last ones without dev data).",
    )
    time_masks: int = Field(
        default=2, ge=0, description="SpecAugment: time masks per utterance; 0 and no feature masks: off."
    )
    time_mask_seconds: float = Field(default=0.1, ge=0, description="SpecAugment: longest time mask, in seconds.")
    time_mask_share: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="SpecAugment: an utterance has no more time masks than it takes, all of the longest size, to cover "
        "this share of it.",
    )
    feature_masks: int = Field(default=2, ge=0, description="SpecAugment: feature masks per utterance.")
    feature_mask_size: int = Field(default=5, ge=0, description="SpecAugment: features in a mask at most.")
    augment_from: float = Field(
        default=0.0, ge=0, le=1, description="SpecAugment begins after this share of the training."
    )
    max_skipped: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Largest share of utterances that may be left out (too short for their states).",
    )
    seed: int = Field(default=1, ge=0, description="Seed of everything random.")
    device: DeviceOrAuto = Field(
        default="auto",
        description="cpu, cuda, cuda:1 ..; auto takes a GPU if there is one.",
        json_schema_extra=NOT_IN_STAMP,
    )
    cache_mib: int = cache_field()

    def feat_options(self) -> FeatLoadOptions:
        """How the features are loaded."""
        return FeatLoadOptions(cmvn=self.cmvn, norm_vars=self.norm_vars, deltas=self.deltas)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NhmmOptions(TrainOptions, EncoderOptions):
    """Neural HMM trained from scratch by full-sum (Mann et al. 2023)."""

    epochs: int = Field(default=30, ge=1, description="Passes over the training data.")
    transitions: TransitionKind = Field(
        default="speech_silence",
        description="What the transition probabilities depend on; linear, blstm and time also on "
        "the input; fixed: not trained.",
    )
    transition_init: Literal["guessed", "flat", "random"] = Field(
        default="guessed", description="First transition probabilities: the topology's, 0.5, or random."
    )
    transition_dim: int = Field(default=128, ge=1, description="Width of the transition model's BLSTM per direction.")
    label_scale: float = Field(default=0.3, gt=0, le=5, description="alpha, exponent of the label posterior.")
    transition_scale: float = Field(
        default=0.3, ge=0, le=5, description="beta, exponent of the transition probability."
    )
    prior: PriorKind = Field(
        default="on_the_fly",
        description="Label prior in training; transcripts: counts by lexicon and "
        "durations; softmax: mean posterior of the last epoch; on_the_fly: running batch mean; none: such a model "
        "needs twice the epochs, and --prior-scale in alignment and decoding.",
    )
    prior_scale: float = Field(default=0.1, ge=0, le=5, description="kappa, exponent of the prior in training.")
    flat_start_epochs: int = Field(
        default=0, ge=0, description="Epochs of cross-entropy on a linear alignment before full-sum."
    )
    label_scale_start: float | None = Field(
        default=None,
        gt=0,
        le=5,
        description="If given, alpha starts here and reaches label_scale linearly at half time.",
    )
    transition_scale_start: float | None = Field(
        default=None, ge=0, le=5, description="The same for beta.", json_schema_extra=IF_SET
    )
    prior_scale_start: float | None = Field(
        default=None, ge=0, le=5, description="The same for kappa.", json_schema_extra=IF_SET
    )
    transition_rate: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Learning rate of the transition model relative to the network's. In a training of "
        "some hundred steps the few numbers of a static model cannot go far at the network's rate.",
        json_schema_extra=IF_SET,
    )
    transition_update: Literal["gradient", "em"] = Field(
        default="gradient",
        description="em: transition probabilities are not trained with the network but set in closed form to "
        "the expected counts after every epoch (not for models that depend on the input).",
        json_schema_extra=IF_SET,
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ViterbiOptions(TrainOptions, EncoderOptions):
    """Frame cross-entropy on an alignment."""

    epochs: int = Field(default=15, ge=1, description="Passes over the training data.")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the target spread evenly over all labels."
    )
    focal: float = Field(default=0.0, ge=0, le=10, description="Focal loss: frames weigh (1 - p) to this power.")
    majority: bool = Field(
        default=False, description="Labels at a lower frame rate: the most frequent instead of the first."
    )
    chunk_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Utterances are cut into pieces of this length for training; 0: whole utterances.",
        json_schema_extra=IF_SET,
    )
    realign_rounds: int = Field(
        default=0,
        ge=0,
        le=20,
        description="How often the model aligns the data anew and is trained further on what it aligned.",
        json_schema_extra=IF_SET,
    )
    realign_epochs: int = Field(default=5, ge=1, description="Epochs of each such round.", json_schema_extra=IF_SET)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TransitionEmOptions:
    """Closed-form estimation of transition probabilities under a frozen network."""

    transitions: TransitionKind = Field(
        default="label", description="Which states share a probability; not fixed, linear, blstm, time."
    )
    rounds: int = Field(default=10, ge=1, le=1000, description="Passes over the data, each with an update.")
    label_scale: float | None = Field(
        default=None, gt=0, le=5, description="Exponent of the label posterior; none: the model's."
    )
    transition_scale: float | None = Field(
        default=None, ge=0, le=5, description="Exponent of the transitions; none: the model's."
    )
    max_skipped: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Largest share of utterances that may be left out (too short for their states).",
        json_schema_extra=IF_SET,
    )
    cache_mib: int = cache_field()
