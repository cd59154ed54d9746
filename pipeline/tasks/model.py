"""Where models meet graphs and data: what tasks see of a trained model, of whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts, FeatureKind
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.model_meta import model_kind
from pipeline.base.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pipeline.hmm import OnDemand
    from pipeline.hmm.on_demand import FrameScores


class Model(Protocol):
    """A model that scores frames by pdf-id.

    Attributes:
        hmm: its labels, topology, transition probabilities, and the directory that it comes from.
        facts: of the features that it was trained on.
        feat_options: how ``pipeline.feats`` must load the features (CMVN, deltas) that log_likes expects.
        frame_shift, frame_offset: seconds; output frame i stands for [i * shift + offset, (i + 1) * shift + offset).
        num_pdfs: P.
        acoustic_scale, transition_scale: the scales that the model was made with: the default for alignment.
    """

    hmm: HmmDir
    facts: FeatureKind
    feat_options: FeatLoadOptions
    frame_shift: float
    frame_offset: float
    num_pdfs: int
    acoustic_scale: float
    transition_scale: float

    def log_likes(
        self, feats: torch.Tensor, lens: torch.Tensor, speakers: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of a padded batch.

        Args:
            feats: (N, T, F) float32, zero behind each utterance's end.
            lens: (N,) int64 frames.
            speakers: N names; models with speaker transforms need them.
        Returns:
            (N, T', P) natural-log scores, unscaled (log-likelihoods, or log posterior minus prior_scale * log prior),
            and (N,) int64 output lengths.
        """

    def transition_scores(self, feats: torch.Tensor, lens: torch.Tensor) -> torch.Tensor | None:
        """(N, T', n_tid) log probabilities of an input-dependent transition model; None: those in transitions.json
        hold.
        """

    def frame_scores(self, feats: torch.Tensor, speaker: str) -> FrameScores:
        """The same scores of one long utterance, (T, F) loaded features, a stretch at a time: all that depends on other
        frames is computed at once.
        """


@runtime_checkable
class OnDemandModel(Protocol):
    """A model that can score only what a search with a beam asks for, which is worth it where scores are costly."""

    def on_demand(self, feats: Sequence[torch.Tensor], speakers: Sequence[str]) -> OnDemand:
        """Scores of N utterances, (T, F) loaded features each."""


@runtime_checkable
class EmittingModel(Protocol):
    """A model that says at which frame each token is emitted, in place of scores for an HMM.

    Attributes:
        token_of_pdf: (P,) token of each label.
    """

    token_of_pdf: np.ndarray

    def emission_frames(
        self, feats: torch.Tensor, lens: torch.Tensor, tokens: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, np.ndarray]], list[int]]:
        """By utterance the score and the label frame of each token, and the number of label frames.

        Args:
            feats: (N, T, F). lens: (N,). tokens: ids by utterance.
        """


def check_data(model: Model, data_dir: str | Path) -> None:
    """MismatchError naming model and data unless the features are of the kind that the model was trained on."""
    model.facts.check_same(FeatureFacts.load(Path(data_dir)).kind, model.hmm.directory, data_dir)


def load_model(
    model_dir: str | Path,
    prior_scale: float | None = None,
    transforms: str | Path | None = None,
    device: str = "cpu",
    blank_penalty: float = 0.0,
) -> Model:
    """Loads a model directory of any kind.

    Args:
        prior_scale: weight of the label prior of a network (None: the model's own); GMMs have none.
        transforms: directory of speaker transforms (fMLLR), for models trained with them.
        device: "cpu" or "cuda".
        blank_penalty: natural log taken off the blank of an end-to-end model; others have no blank.
    """
    kind = model_kind(model_dir)
    if blank_penalty and kind in ("gmm", "nn"):
        raise ConfigError(f"{model_dir} is no end-to-end model, so --blank-penalty does not apply")
    if kind == "gmm":
        if prior_scale is not None:
            raise ConfigError(f"{model_dir} is a GMM: it has likelihoods, so --prior-scale does not apply")
        from pipeline.gmm.model import load_scorer as load_gmm

        return load_gmm(model_dir, transforms=transforms, device=device)
    if kind == "nn":
        if transforms is not None:
            raise ConfigError(f"{model_dir} is a network: it does not take speaker transforms")
        from pipeline.nn.model import load_scorer as load_nn

        return load_nn(model_dir, prior_scale=prior_scale, device=device)
    if kind == "e2e_hmm":
        if transforms is not None or prior_scale is not None:
            raise ConfigError(
                f"{model_dir} is an end-to-end model: it has neither speaker transforms nor a prior scale"
            )
        from pipeline.e2e.scorer import load_scorer as load_e2e

        return load_e2e(model_dir, device, blank_penalty)
    if kind == "e2e":
        raise ConfigError(
            f"{model_dir}: an end-to-end model has no HMM; steps/export_e2e.py gives it one over its tokens"
        )
    raise ConfigError(f"{model_dir}: cannot score with a model of kind {kind!r}")
