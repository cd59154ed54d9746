"""The acoustic model: feature normalisation, encoder, label posteriors and (for a neural HMM) transition
probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.artifacts.checkpoint import OTHER_SHAPE, TENSORS, load_model, save_model
from pipeline.artifacts.features import FeatLoadOptions, FeatureKind
from pipeline.artifacts.model_dir import HmmDir, load_hmm, save_hmm
from pipeline.artifacts.model_meta import META, Figures, NetworkMeta, Scales, TransitionShape
from pipeline.base.errors import DataError
from pipeline.base.records import from_json
from pipeline.hmm.on_demand import FrameScores
from pipeline.nn.encoders import Encoder
from pipeline.nn.normalised import Normalised
from pipeline.nn.options import EncoderOptions
from pipeline.nn.transitions import TransitionNet
from pipeline.nn.windows import encode_windows


class AcousticModel(Normalised):
    """Features -> log label posteriors.

    Attributes:
        options: shape of the encoder.
        encoder: see ``pipeline.nn.encoders.Encoder``.
        transitions: trained transition probabilities, None for a plain hybrid model.
        log_prior: (P,) natural-log label prior, uniform until one is set.
        transition_rate: factor of the learning rate of the transition probabilities.
    """

    log_prior: torch.Tensor

    def __init__(self, feature_dim: int, num_pdfs: int, options: EncoderOptions) -> None:
        super().__init__(feature_dim)
        self.options = options
        self.register_buffer("log_prior", torch.full((num_pdfs,), -float(torch.tensor(float(num_pdfs)).log())))
        self.encoder = Encoder(feature_dim, options)
        self.output = nn.Linear(self.encoder.out_dim, num_pdfs)
        nn.init.normal_(self.output.weight, std=0.1 / self.encoder.out_dim**0.5)
        nn.init.zeros_(self.output.bias)
        self.transitions: TransitionNet | None = None
        self.transition_rate = 1.0

    def rate_factors(self) -> dict[nn.Parameter, float]:
        """See ``Network``."""
        return {} if self.transitions is None else dict.fromkeys(self.transitions.parameters(), self.transition_rate)

    def without_decay(self) -> set[nn.Parameter]:
        """See ``Network``: logits of transitions, which decay would pull to a probability of 0.5."""
        logits = None if self.transitions is None else self.transitions.bias
        return {logits} if isinstance(logits, nn.Parameter) else set()

    @property
    def num_pdfs(self) -> int:
        return self.output.out_features

    def encode(
        self, feats: torch.Tensor, lens: torch.Tensor, normalised: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> encoder output (N, T', D), (N,)."""
        return self.encoder(feats if normalised else self.normalise(feats), lens)

    def log_posteriors(self, encoded: torch.Tensor) -> torch.Tensor:
        """(N, T', D) -> (N, T', P) natural-log label posteriors."""
        return torch.log_softmax(self.output(encoded).float(), -1)

    def forward(
        self, feats: torch.Tensor, lens: torch.Tensor, normalised: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log label posteriors.

        Args:
            feats: (N, T, F) float32; what stands behind an utterance's end is not read.
            lens: (N,) int64 frames.
            normalised: feats have gone through ``normalise`` already.
        Returns:
            (N, T', P) natural logs, (N,) int64 with T' = ceil(T / subsampling).
        """
        encoded, lens = self.encode(feats, lens, normalised)
        return self.log_posteriors(encoded), lens


def save_acoustic_model(
    directory: str | Path,
    model: AcousticModel,
    hmm: HmmDir,
    features: FeatureKind,
    feat_options: FeatLoadOptions,
    scales: Scales,
    *,
    criterion: str,
    lang_id: str,
    epochs: Sequence[Figures],
    ali: str | None = None,
    start: str | None = None,
    optimisation: dict[str, Any] | None = None,
) -> None:
    """Writes model.json, model.safetensors and the HMM files (transition probabilities taken from the model, if it has
    any).

    Arguments as in ``NetworkMeta``.
    """
    net = model.transitions
    meta = NetworkMeta(
        config=asdict(model.options),
        num_pdfs=model.num_pdfs,
        feature_dim=model.feature_dim,
        features=features,
        feat_options=feat_options,
        scales=scales,
        frame_shift=features.frame_shift * model.encoder.subsampling,
        tree_id=hmm.tree.id,
        topo_id=hmm.topo.id,
        transition_model=None if net is None else TransitionShape(net.kind, net.width),
        criterion=criterion,
        lang_id=lang_id,
        ali=ali,
        start=start,
        epochs=list(epochs),
        optimisation=optimisation,
    )
    save_hmm(directory, hmm.topo, hmm.tree, hmm.transitions)
    save_model(directory, model.state_dict(), meta)


def load_acoustic_model(directory: str | Path) -> tuple[AcousticModel, HmmDir, NetworkMeta]:
    """Rebuilds a model from its directory alone.

    Returns:
        the model in evaluation mode, its HMM side, and model.json.
    """
    tensors, meta = load_model(directory, NetworkMeta)
    hmm = load_hmm(directory)
    where = Path(directory) / META
    options, net = from_json(EncoderOptions, meta.config, where, "config."), meta.transition_model
    try:
        model = AcousticModel(meta.feature_dim, meta.num_pdfs, options)
        if net is not None:
            model.transitions = TransitionNet(net.kind, hmm.transitions, model.encoder.out_dim, width=net.dim)
        model.load_state_dict(tensors)
    except OTHER_SHAPE as e:
        raise DataError(f"{where}: does not describe the network of {TENSORS} ({e})") from None
    meta.check_frame_shift(model.encoder.subsampling, where)
    if hmm.tree.num_pdfs != model.num_pdfs:
        raise DataError(f"{where}: the network has {model.num_pdfs} labels, the tree beside it {hmm.tree.num_pdfs}")
    return model.eval(), hmm, meta


class NnScorer:
    """A network as ``pipeline.tasks.model.Model``: log posterior - prior_scale * log prior."""

    def __init__(
        self, model: AcousticModel, hmm: HmmDir, meta: NetworkMeta, prior_scale: float | None, device: str
    ) -> None:
        self.model, self.hmm, self.facts, scales = model.to(device), hmm, meta.features, meta.scales
        self.feat_options, self.frame_shift = meta.feat_options, meta.frame_shift
        # The features say where a frame's centre lies, alignments where its span begins.
        self.frame_offset = self.facts.frame_offset - self.facts.frame_shift / 2
        self.num_pdfs = model.num_pdfs
        self.acoustic_scale, self.transition_scale = scales.label, scales.transition
        self.prior_scale = scales.prior if prior_scale is None else prior_scale
        self._last: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    @torch.no_grad()
    def log_likes(
        self, feats: torch.Tensor, lens: torch.Tensor, speakers: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> (N, T', P) unscaled scores, (N,); `speakers` is not read."""
        encoded, out_lens = self._encode(feats, lens)
        scores = self.model.log_posteriors(encoded)
        return scores - self.prior_scale * self.model.log_prior, out_lens

    @torch.no_grad()
    def transition_scores(self, feats: torch.Tensor, lens: torch.Tensor) -> torch.Tensor | None:
        """(N, T', n_tid) log probabilities of an input-dependent transition model, else None."""
        net = self.model.transitions
        if net is None or not net.dynamic:
            return None
        return net(*self._encode(feats, lens))

    @torch.no_grad()
    def frame_scores(self, feats: torch.Tensor, speaker: str) -> FrameScores:
        """See ``pipeline.tasks.model.Model``; `speaker` is not read."""
        batch, lens = feats[None], torch.tensor([len(feats)])
        encoded, out_lens = self._encode(batch, lens)
        net, prior = self.model.transitions, self.prior_scale * self.model.log_prior

        def scores(begin: int, end: int) -> torch.Tensor:
            return self.model.log_posteriors(encoded[0, begin:end]) - prior

        if net is None or not net.dynamic:
            return FrameScores(int(out_lens), scores)
        context = net.context(encoded, out_lens)
        return FrameScores(int(out_lens), scores, lambda begin, end: net.log_probs(context[0, begin:end]))

    def _encode(self, feats: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's output; that of the last call is kept, since both kinds of scores are asked for one batch."""
        if self._last is None or self._last[0] is not feats:
            device = self.model.mean.device
            feats_here, lens_here = feats.to(device), lens.to(device)
            encoded = encode_windows(self.model.encode, feats_here, lens_here, self.model.encoder.subsampling)
            self._last = (feats, *encoded)
        return self._last[1:]


def load_scorer(model_dir: str | Path, prior_scale: float | None = None, device: str = "cpu") -> NnScorer:
    """The scorer of a network's directory.

    Args:
        prior_scale: weight of the label prior; None: the model's own.
    """
    model, hmm, meta = load_acoustic_model(model_dir)
    return NnScorer(model, hmm, meta, prior_scale, device)
