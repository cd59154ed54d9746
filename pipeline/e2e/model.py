"""The end-to-end model: feature normalisation, encoder, and up to two outputs, CTC and a decoder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from pipeline.artifacts.checkpoint import OTHER_SHAPE, TENSORS, load_model, save_model
from pipeline.artifacts.features import FeatLoadOptions, FeatureKind
from pipeline.artifacts.model_meta import META, EndToEndMeta, Figures
from pipeline.base.errors import ConfigError, DataError
from pipeline.base.records import from_json
from pipeline.e2e.decoder import AttentionDecoder
from pipeline.e2e.options import EndToEndOptions
from pipeline.e2e.transducer import Transducer
from pipeline.nn.encoders import Encoder, Hidden
from pipeline.nn.normalised import Normalised

E = TypeVar("E", bound=EndToEndMeta)


class EndToEnd(Normalised):
    """Features -> tokens.

    Attributes:
        options: its shape. vocab_size: V.
        encoder: see ``pipeline.nn.encoders.Encoder``.
        ctc: linear layer of the CTC output, None without one.
        decoder: of an attention model, else None.
        transducer: of an RNN-T, else None.
    """

    def __init__(self, feature_dim: int, vocab_size: int, options: EndToEndOptions) -> None:
        super().__init__(feature_dim)
        if options.model == "ctc" and not options.ctc:
            raise ConfigError("a model of kind ctc has a CTC output: leave --ctc on")
        self.options, self.vocab_size = options, vocab_size
        self.encoder = Encoder(feature_dim, options)
        dim = self.encoder.out_dim
        self.ctc = nn.Linear(dim, vocab_size) if options.ctc else None
        self.decoder: AttentionDecoder | None = None
        self.transducer: Transducer | None = None
        if options.model == "attention":
            self.decoder = AttentionDecoder(dim, vocab_size, options)
        elif options.model == "transducer":
            self.transducer = Transducer(dim, vocab_size, options)

    def encode(
        self, feats: torch.Tensor, lens: torch.Tensor, normalised: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> encoder output (N, T', D), (N,) with T' = ceil(T / subsampling)."""
        return self.encoder(feats if normalised else self.normalise(feats), lens)

    def encode_layers(
        self, feats: torch.Tensor, lens: torch.Tensor, wanted: Collection[int]
    ) -> tuple[torch.Tensor, torch.Tensor, dict[int, Hidden]]:
        """The same from normalised features, with what some layers hand out, by number from 1."""
        return self.encoder.layers(feats, lens, wanted)

    def ctc_log_probs(self, encoded: torch.Tensor) -> torch.Tensor:
        """(N, T', D) -> (N, T', V) natural-log probabilities; id 0 is the blank."""
        if self.ctc is None:
            raise ConfigError("this model has no CTC output (it was trained with --no-ctc)")
        return torch.log_softmax(self.ctc(encoded).float(), -1)


def save_end_to_end(
    directory: str | Path,
    model: EndToEnd,
    tokens_id: str,
    features: FeatureKind,
    feat_options: FeatLoadOptions,
    epochs: Sequence[Figures],
    ali: str | None = None,
) -> None:
    """Writes model.json and model.safetensors; arguments as in ``EndToEndMeta``."""
    meta = EndToEndMeta(
        config=asdict(model.options),
        vocab_size=model.vocab_size,
        feature_dim=model.feature_dim,
        tokens_id=tokens_id,
        features=features,
        feat_options=feat_options,
        frame_shift=features.frame_shift * model.encoder.subsampling,
        criterion=model.options.model,
        ali=ali,
        epochs=list(epochs),
    )
    save_model(directory, model.state_dict(), meta)


def load_end_to_end(directory: str | Path) -> tuple[EndToEnd, EndToEndMeta]:
    """Rebuilds a model from its directory alone.

    Returns:
        the model in evaluation mode, and model.json.
    """
    return load_network(directory, EndToEndMeta)


def load_network(directory: str | Path, record: type[E]) -> tuple[EndToEnd, E]:
    """The same for a directory of another kind that holds an end-to-end network."""
    tensors, meta = load_model(directory, record)
    where = Path(directory) / META
    options = from_json(EndToEndOptions, meta.config, where, "config.")
    try:
        model = EndToEnd(meta.feature_dim, meta.vocab_size, options)
        model.load_state_dict(tensors)
    except OTHER_SHAPE as e:
        raise DataError(f"{where}: does not describe the network of {TENSORS} ({e})") from None
    meta.check_frame_shift(model.encoder.subsampling, where)
    return model.eval(), meta
