"""Where models meet graphs: every acoustic model is a function from features to a score matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.artifacts.model_dir import model_kind
from pipeline.base.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from pipeline.feats.options import FeatLoadOptions


class Scorer(Protocol):
    """A model that scores frames by pdf-id; alignment, decoding and sequence training see nothing else of it.

    Attributes:
        feat_options: how ``pipeline.feats`` must load the features (CMVN, deltas) that log_likes expects.
        frame_shift, frame_offset: seconds; output frame i stands for [i * shift + offset, (i + 1) * shift + offset).
        num_pdfs: P.
        acoustic_scale, transition_scale: the scales that the model was made with: the default for alignment.
    """

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


def load_scorer(
    model_dir: str | Path,
    prior_scale: float | None = None,
    transforms: str | Path | None = None,
    device: str = "cpu",
    blank_penalty: float = 0.0,
) -> Scorer:
    """Loads the scorer of a model directory of any kind.

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
