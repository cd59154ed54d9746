"""model.json: what is known of a trained model beside its tensors, one class for each kind of model.

The shape of a network stands in ``config``, by the names of the options that it was made with; the module that builds
the network turns it into these options (``from_json``). How files of other versions are read is said in
``pipeline.base.records``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts, FeatureKind, Positive, Seconds
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import read_json
from pipeline.base.records import STRICT, from_json

META = "model.json"
ENTROPY = "attention_entropy_"  # figures of an epoch, in nats; followed by the number of a layer, from 1

Head = Literal["ctc", "transducer", "attention"]
Figures = dict[str, bool | int | float]  # of an epoch or iteration, by name
Exponent = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Scales:
    """Exponents that a model was trained with, the default for alignment; prior is relative to the label posterior."""

    label: Exponent = 1.0
    transition: Exponent = 1.0
    prior: Exponent = 1.0


@dataclass(frozen=True, config=STRICT)
class TransitionShape:
    """The part of a network that gives transition probabilities: on what they depend, and its width."""

    kind: str
    dim: Positive


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ModelMeta:
    """What model.json holds of every kind of model."""

    kind: str


@dataclass(frozen=True, config=STRICT, kw_only=True)
class GmmMeta(ModelMeta):
    """A mixture model.

    Args:
        lang_id, tree_id, topo_id: what it was trained with.
        frame_shift, frame_offset: seconds; frame i stands for [i * shift + offset, (i + 1) * shift + offset).
        num_gauss: Gaussians of all pdfs.
        adapted: whether it was trained with speaker transforms.
        features: those that it was trained on. feat_options: how they are loaded.
        config: options of the training. history: figures of each iteration.
    """

    kind: Literal["gmm"] = "gmm"
    lang_id: str
    tree_id: str
    topo_id: str
    frame_shift: Seconds
    frame_offset: float
    num_pdfs: Positive
    num_gauss: Positive
    adapted: bool
    features: FeatureFacts
    feat_options: FeatLoadOptions
    config: dict[str, Any]
    history: list[Figures]

    @model_validator(mode="after")
    def _check(self) -> GmmMeta:
        if self.frame_shift != self.features.frame_shift:
            raise ValueError(f"frame_shift {self.frame_shift} is not that of the features, {self.features.frame_shift}")
        return self


@dataclass(frozen=True, config=STRICT, kw_only=True)
class NetworkMeta(ModelMeta):
    """A network with labels of an HMM: hybrid model or neural HMM.

    Args:
        config: shape of the encoder.
        feature_dim: features per frame as the network reads them.
        scales: exponents of its training.
        frame_shift: seconds per label frame.
        transition_model: the part with transition probabilities; None where those of transitions.json hold.
        criterion: what the last training has optimised.
        ali: alignment that it was trained on. start: model that the training began with. Both are paths, for people.
        epochs: figures of each epoch.
        optimisation: facts about an asynchronous training; None for the usual one.
    """

    kind: Literal["nn"] = "nn"
    config: dict[str, Any]
    num_pdfs: Positive
    feature_dim: Positive
    features: FeatureKind
    feat_options: FeatLoadOptions
    scales: Scales
    frame_shift: Seconds
    tree_id: str
    topo_id: str
    transition_model: TransitionShape | None
    criterion: str
    lang_id: str
    ali: str | None = None
    start: str | None = None
    epochs: list[Figures]
    optimisation: dict[str, Any] | None = None

    def check_frame_shift(self, factor: int, path: Path) -> None:
        """DataError unless a label frame is as long as `factor` feature frames."""
        _check_frame_shift(self.frame_shift, self.features, factor, path)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class EndToEndMeta(ModelMeta):
    """An end-to-end model; its exported form is ``ExportedMeta``.

    Args:
        config: shape of the network.
        vocab_size: V. tokens_id: of the tokens that it writes.
        feature_dim: features per frame as the network reads them.
        frame_shift: seconds per frame of the encoder's output.
        criterion: ctc, attention or transducer.
        ali: alignment of the auxiliary losses, a path for people; None without.
        epochs: figures of each epoch.
    """

    kind: Literal["e2e", "e2e_hmm"] = "e2e"
    config: dict[str, Any]
    vocab_size: Positive
    feature_dim: Positive
    tokens_id: str
    features: FeatureKind
    feat_options: FeatLoadOptions
    frame_shift: Seconds
    criterion: str
    ali: str | None
    epochs: list[Figures]

    def check_frame_shift(self, factor: int, path: Path) -> None:
        """DataError unless a frame of the encoder's output is as long as `factor` feature frames."""
        _check_frame_shift(self.frame_shift, self.features, factor, path)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ExportedMeta(EndToEndMeta):
    """An end-to-end model as a model with an HMM over its tokens.

    Args:
        head: the part that says where tokens are.
        lang_id, tree_id: made of the tokens.
    """

    kind: Literal["e2e_hmm"] = "e2e_hmm"
    head: Head
    lang_id: str
    tree_id: str


@dataclass(frozen=True, config=STRICT, kw_only=True)
class LmMeta(ModelMeta):
    """A neural language model over tokens.

    Args:
        vocab_size: V. tokens_id: of the tokens.
        config: shape of the network. epochs: figures of each epoch.
    """

    kind: Literal["nn_lm"] = "nn_lm"
    vocab_size: Positive
    tokens_id: str
    config: dict[str, Any]
    epochs: list[Figures]


ScoringMeta = GmmMeta | NetworkMeta | ExportedMeta
SCORING: tuple[type[ScoringMeta], ...] = (GmmMeta, NetworkMeta, ExportedMeta)  # models that score frames
M = TypeVar("M", bound=ModelMeta)


def model_kind(directory: str | Path) -> str:
    """The kind of a model directory: "gmm", "nn", "e2e", "e2e_hmm" or "nn_lm"."""
    return _read(Path(directory) / META)[0]


def load_meta(directory: str | Path, *classes: type[M]) -> M:
    """Reads model.json.

    Args:
        classes: the kinds that are expected.
    Raises:
        DataError: a missing or damaged file, naming file and field. MismatchError: another kind of model.
    """
    path = Path(directory) / META
    kind, values = _read(path)
    for cls in classes:
        if cls.kind == kind:
            return from_json(cls, values, path)
    wanted = " or ".join(repr(cls.kind) for cls in classes)
    raise MismatchError(f"{directory} holds a model of kind {kind!r}, not {wanted}")


def _check_frame_shift(frame_shift: float, features: FeatureKind, factor: int, path: Path) -> None:
    if frame_shift != features.frame_shift * factor:
        raise DataError(
            f"{path}: frame_shift: {frame_shift} is not {factor} times that of the features, {features.frame_shift}"
        )


def _read(path: Path) -> tuple[str, Any]:
    values = read_json(path)
    kind = values.get("kind") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise DataError(f"{path}: names no kind of model")
    return kind, values
