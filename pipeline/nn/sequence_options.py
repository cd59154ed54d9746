"""Options of sequence training; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.features import FeatLoadOptions
from pipeline.base.option_values import DeviceOrAuto
from pipeline.feats.options import cache_field
from pipeline.graph.options import DecodeOptions
from pipeline.nn.options import IF_SET, NOT_IN_STAMP, STRICT, TrainOptions


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SequenceOptions:
    """Criterion, denominator and optimisation of sequence training (Heigold et al. 2014)."""

    criterion: Literal["mmi", "lfmmi", "bmmi", "smbr", "realign"] = Field(
        default="mmi",
        description="mmi: against the words of the graph; lfmmi: against phones, with a graph by make_den_graph; "
        "bmmi: boosted "
        "MMI; smbr: expected state accuracy; realign: cross-entropy with the states of a realignment, without a "
        "denominator.",
    )
    denominator: Literal["graph", "lattice"] = Field(
        default="graph",
        description="graph: the sum over all paths of the graph within --graph-beam; lattice: over those that "
        "the beam search leaves in lattices, slower and less exact.",
    )
    graph_beam: float = Field(
        default=13.0,
        gt=0,
        description="graph: states whose natural-log probability is by more below that of a "
        "frame's best one are left out.",
        json_schema_extra={"stamp": "if_set"},
    )
    graph_max_active: int = Field(
        default=10_000,
        ge=1,
        description="graph: states of a frame at most; bounds memory.",
        json_schema_extra={"stamp": "if_set"},
    )
    acoustic_scale: float = Field(
        default=0.2, gt=0, description="k, weight of the acoustic scores: the inverse of decoding's LM weight."
    )
    transition_scale: float | None = Field(
        default=None, ge=0, description="Weight of transition log probabilities; none: the model's."
    )
    prior_scale: float | None = Field(default=None, ge=0, description="Weight of the label prior; none: the model's.")
    boost: float = Field(
        default=0.1, ge=0, description="bmmi: a denominator path loses this many natural logs per right frame."
    )
    accuracy: Literal["state", "phone"] = Field(
        default="state", description="bmmi, smbr: a frame is right in the same state, or phone."
    )
    cross_entropy: float = Field(
        default=0.0, ge=0, description="Weight of the frame cross-entropy with the numerator's states, added per frame."
    )
    ali_tolerance: int = Field(
        default=0, ge=0, description="With --ali: frames by which the numerator may differ from the alignment."
    )
    reject_below: float = Field(
        default=0.001,
        ge=0,
        lt=1,
        description="Frames whose reference state has a smaller denominator occupancy are left out.",
    )
    lost_references: Literal["add", "reject"] = Field(
        default="add",
        description="References that their denominator lacks. add: they join it, so that their frames have an "
        "occupancy there; reject: it stays as it is, and --reject-below leaves their frames out (Heigold et al. 2014).",
        json_schema_extra={"stamp": "if_set"},
    )
    cancel_below: float = Field(
        default=0.001, ge=0, lt=1, description="Frames in which no state's occupancies differ by as much are skipped."
    )
    beam: float = Field(default=10.0, gt=0, description="lattice: beam of the search.")
    lattice_beam: float = Field(default=8.0, gt=0, description="lattice: beam of the lattices themselves.")
    min_active: int = Field(
        default=30, ge=0, description="Active states per frame below which the beam is not tightened."
    )
    max_active: int = Field(
        default=2000, ge=1, description="Active states per frame above which the beam is tightened."
    )
    retries: int = Field(
        default=2,
        ge=0,
        description="How often a search that reaches no end is repeated with doubled beam and max_active.",
    )
    max_failed: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of utterances without lattice, numerator or alignment above which the step fails.",
    )
    max_missing: float = Field(
        default=0.5, ge=0, le=1, description="Share of references missing in their lattice above which the step fails."
    )
    update: Literal["all", "last"] = Field(
        default="all", description="Layers that are trained: all, or only the last one."
    )
    update_silence: bool = Field(default=True, description="Also learn from frames whose reference is silence.")
    refresh: int = Field(
        default=0,
        ge=0,
        description="Outer gradients are those of a copy of the network, renewed after so many utterances; "
        "0: exact in every batch.",
    )
    epochs: int = Field(default=3, ge=1, description="Passes over the training data.")
    batch_frames: int = Field(default=5000, ge=1, description="Feature frames per batch, padding included.")
    max_batch: int = Field(default=32, ge=1, description="Utterances per batch at most.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Batches per update (of each process, with torchrun).",
        json_schema_extra=IF_SET,
    )
    optimizer: Literal["nadam", "adam", "adamw", "sgd"] = Field(
        default="adam", description="Optimizer; sgd: plain, without momentum."
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="Peak learning rate.")
    schedule: Literal["one_cycle", "plateau", "constant"] = Field(
        default="constant", description="Learning rate over time."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="L2 regularisation.")
    clip: float = Field(default=5.0, gt=0, description="Largest norm of the gradient of the mean loss per frame.")
    average: int = Field(
        default=1,
        ge=1,
        description="The final model is the mean of the best so many epochs by the criterion on dev data (of "
        "the last ones without dev data).",
    )
    time_masks: int = Field(default=0, ge=0, description="SpecAugment: time masks of up to 0.1 s per utterance.")
    feature_masks: int = Field(default=0, ge=0, description="SpecAugment: masks of up to 5 features per utterance.")
    seed: int = Field(default=1, ge=0, description="Seed of everything random.")
    device: DeviceOrAuto = Field(
        default="auto",
        description="cpu, cuda, cuda:1 ..; auto takes a GPU if there is one.",
        json_schema_extra=NOT_IN_STAMP,
    )
    cache_mib: int = cache_field()

    def __post_init__(self) -> None:
        if self.max_active <= self.min_active:
            raise ValueError(f"max_active {self.max_active} must be above min_active {self.min_active}")

    def training(self, feats: FeatLoadOptions) -> TrainOptions:
        """Options of the training loop, with the features that the model was made for."""
        names = (
            "epochs",
            "batch_frames",
            "max_batch",
            "accumulate",
            "optimizer",
            "learning_rate",
            "schedule",
            "weight_decay",
            "clip",
            "average",
            "time_masks",
            "feature_masks",
            "seed",
            "device",
        )
        return TrainOptions(
            cmvn=feats.cmvn, norm_vars=feats.norm_vars, deltas=feats.deltas, **{n: getattr(self, n) for n in names}
        )

    def search(self, device: str) -> DecodeOptions:
        """Options of the search for lattices, whose scores come scaled."""
        return DecodeOptions(
            acoustic_scale=1.0,
            beam=self.beam,
            lattice_beam=self.lattice_beam,
            min_active=self.min_active,
            max_active=self.max_active,
            retries=self.retries,
            device=device,
        )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PhoneLmOptions:
    """The phone n-gram of lattice-free sequence training."""

    order: int = Field(default=3, ge=2, le=6, description="n: phones of a history, plus one.")
    min_count: float = Field(default=0.0, ge=0, description="Histories seen less often are shortened by a phone.")
