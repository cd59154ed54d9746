"""Packed aligners adapted to a corpus: a packed model in, a packed model out."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from pipeline.artifacts.index import load_index
from pipeline.artifacts.model_meta import model_kind
from pipeline.base.errors import ConfigError
from pipeline.gmm.adapt import adapt
from pipeline.gmm.options import AdaptOptions
from pipeline.tasks.align_corpus import as_data_dir
from pipeline.tasks.aligner import Aligner
from pipeline.tasks.packed import pack


def adapt_packed(
    packed: Path, source: Path, out: Path, options: AdaptOptions, lexicon: Path | None = None, name: str | None = None
) -> dict[str, Any]:
    """Adapts the mixtures of a packed model, its refiners too, to the transcripts of a corpus.

    Args:
        packed: the packed model.
        source: a data directory with audio of the model's sampling rate, or what `pipeline.corpora` reads.
        out: the new packed model; its lexicon and grapheme-to-phoneme model are those of the old one.
        lexicon: pronunciations that come before the model's own when the corpus is aligned.
        name: of the new model; by default that of the file.
    Returns:
        what ``pipeline.gmm.adapt.adapt`` tells of the model itself.
    Raises:
        ConfigError: a network, or mixtures with speaker transforms.
    """
    with tempfile.TemporaryDirectory(prefix="fullsum-") as scratch:
        work = Path(scratch)
        aligner = Aligner.load(packed, work / "packed", options.device)
        models = [aligner.directory / "model", *sorted(aligner.directory.glob("refiner*"))]
        for model in models:
            if model_kind(model) != "gmm":
                raise ConfigError(f"{packed}: {model.name} is a network; only Gaussian mixtures can be adapted")
        data = as_data_dir(source, work / "data", aligner.sampling_rate, aligner.card.language or None)
        lang = aligner.prepare(data, work, lexicon)
        facts, adapted = [], []
        for model in models:
            adapted.append(work / "adapted" / model.name)
            adapted[-1].mkdir(parents=True)
            facts.append(adapt(work / "feats", lang, model, options, adapted[-1]))
        index = load_index(data)
        hours = float(index.durations.sum()) / 3600
        card = dataclasses.replace(
            aligner.card,
            name=name or out.stem,
            data=f"{aligner.card.data}; means adapted to {hours:.2f} h of {source.name}".removeprefix("; "),
            scores={},  # those of the old model do not hold any more
        )
        g2p = aligner.directory / "g2p"
        pack(adapted[0], aligner.directory / "lang", out, card, g2p if g2p.is_dir() else None, adapted[1:])
        return facts[0]
