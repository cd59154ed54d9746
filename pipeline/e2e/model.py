"""The end-to-end model: feature normalisation, encoder, and up to two outputs, CTC and a decoder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.artifacts.checkpoint import META, load_model, save_model
from pipeline.base.errors import ConfigError, DataError
from pipeline.e2e.decoder import AttentionDecoder
from pipeline.e2e.options import EndToEndOptions
from pipeline.e2e.transducer import Transducer
from pipeline.feats.options import FeatLoadOptions
from pipeline.nn.encoders import Encoder, Hidden
from pipeline.nn.normalised import Normalised

KIND = "e2e"


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
        return torch.log_softmax(self.ctc(encoded), -1)


def save_end_to_end(
    directory: str | Path,
    model: EndToEnd,
    tokens_id: str,
    facts: dict[str, Any],
    feat_options: FeatLoadOptions,
    extra: dict[str, Any],
) -> None:
    """Writes model.json and model.safetensors.

    Args:
        tokens_id: ``Tokens.id`` of the tokens the model writes.
        facts: of the features, see ``pipeline.nn.model.feature_facts``.
        extra: further facts.
    """
    meta = {
        "kind": KIND,
        "config": asdict(model.options),
        "vocab_size": model.vocab_size,
        "feature_dim": len(model.mean),
        "tokens_id": tokens_id,
        "features": facts,
        "feat_options": asdict(feat_options),
        "frame_shift": facts["frame_shift"] * model.encoder.subsampling,
        **extra,
    }
    save_model(directory, model.state_dict(), meta)


def load_end_to_end(directory: str | Path, kind: str = KIND) -> tuple[EndToEnd, dict[str, Any]]:
    """Rebuilds a model from its directory alone.

    Args:
        kind: expected kind of directory.
    Returns:
        the model in evaluation mode, and model.json.
    """
    tensors, meta = load_model(directory, kind)
    try:
        config = {k: tuple(v) if isinstance(v, list) else v for k, v in meta["config"].items()}
        model = EndToEnd(int(meta["feature_dim"]), int(meta["vocab_size"]), EndToEndOptions(**config))
        model.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as e:
        raise DataError(f"{Path(directory) / META}: not an end-to-end model of this version ({e})") from None
    return model.eval(), meta
