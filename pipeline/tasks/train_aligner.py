"""An aligner of one's own corpus: trained on it, packed into one file, and the corpus aligned with it."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.artifacts.index import UtteranceIndex, load_index
from pipeline.artifacts.lang import Lang, make_lang
from pipeline.base import stamp
from pipeline.base.errors import DataError, naming
from pipeline.corpora.importer import LEFT_OUT, import_corpus
from pipeline.corpora.options import ImportOptions
from pipeline.feats.options import FeatureOptions
from pipeline.gmm.options import MonoOptions
from pipeline.tasks.align_corpus import align_corpus, import_options, is_data_dir
from pipeline.tasks.corpus_options import AlignCorpusOptions
from pipeline.tasks.packed import SUFFIX, Card, pack
from pipeline.tasks.pronounce import Pronounced, pronounce_words, words_of
from pipeline.tasks.sizes import aligner_sizes
from pipeline.tasks.train_options import TrainAlignerOptions

logger = logging.getLogger(__name__)

PACKED = f"aligner{SUFFIX}"
LEAST_SECONDS = 30.0  # of audio, below which nothing can be learned
SILENCE_STATES = 3  # phone starts of the TIMIT sample: 16.5 ms off with three, 17.9 with one
WINDOW = 0.015  # seconds; smears a boundary less than the usual 25 ms (egs/timit)
REFINE = {"acoustic_scale": 0.1}  # egs/timit, chosen on half of its speakers


def train_aligner(
    source: Path, out: Path, options: TrainAlignerOptions, lexicon: Path | None = None, name: str = "aligner"
) -> dict[str, Any]:
    """Trains an aligner on a corpus and aligns the corpus with it.

    Two monophone models from a flat start, see ``sizes.aligner_sizes``; the second refines the boundaries of the first.
    What an interrupted run has finished in the same directory is kept.

    Args:
        source: what `pipeline.corpora` reads, or a data directory of ours.
        out: existing directory; gets PACKED and what ``align_corpus`` writes.
        lexicon: pronunciations; without it words are spelt with their letters.
        name: of the aligner, for its card.
    Returns:
        facts for the stamp.
    Raises:
        DataError: a corpus that cannot be read, has too little audio, or words that cannot be pronounced.
    """
    work = out / "training"
    work.mkdir(exist_ok=True)
    data, imported = source, import_options(options.language)
    if not is_data_dir(source):
        data = _made(work / "data", "import_data", imported, {}, lambda tmp, end: _import(source, tmp, end, imported))
        shutil.copy(data / LEFT_OUT, out / LEFT_OUT)
    index = load_index(data)
    hours = _hours(index, source)
    said = pronounce_words(words_of(data), lexicon, options, learn=True)
    with naming(lexicon or source):
        lang = make_lang(said.lexicon, said.unit, silence_states=SILENCE_STATES)
    lang.save(work / "lang")
    models = _train(work, data, lang, hours, options)
    card = Card(
        name,
        language=options.language or "",
        data=f"{hours:.2f} h of audio, {len(index):,} utterances, {len(index.speaker_names):,} speakers",
        refine=REFINE,
    )
    _pack(out / PACKED, work, lang, said, models, card)
    shutil.rmtree(out / "work", ignore_errors=True)  # of an interrupted run
    given: dict[str, Any] = {"format": options.format, "max_failed": options.max_failed, "device": options.device}
    facts = align_corpus(out / PACKED, data, out, AlignCorpusOptions(**given))
    shutil.rmtree(work)
    return {**facts, "hours": round(hours, 4), "unit": said.unit, "pronounced": len(said.predicted)}


def _hours(index: UtteranceIndex, source: Path) -> float:
    seconds = float(index.durations.sum())
    if seconds < LEAST_SECONDS:
        raise DataError(
            f"{source}: {seconds:.0f} s of audio are too little to train on ({LEAST_SECONDS:.0f} s at least, and some "
            "minutes for good boundaries); a packed model aligns any amount: fullsum align english .."
        )
    return seconds / 3600


def _import(source: Path, tmp: Path, final: Path, options: ImportOptions) -> dict[str, Any]:
    return import_corpus(source, None, tmp, final, options)


def _train(work: Path, data: Path, lang: Lang, hours: float, options: TrainAlignerOptions) -> list[Path]:
    """The two models."""
    from pipeline.feats.compute import compute_feats

    shape: dict[str, Any] = {"type": "mfcc", "window": WINDOW}
    feature_options = FeatureOptions(**shape)

    def features(tmp: Path, final: Path) -> dict[str, Any]:
        return {"frames": compute_feats(data, tmp, final, feature_options).num_frames}

    feats = _made(work / "feats", "compute_feats", feature_options, {"data": data}, features)
    given: dict[str, Any] = {"device": options.device, "max_failed": max(options.max_failed, 0.1)}
    if options.num_gauss is not None:
        given["num_gauss"] = options.num_gauss
    models = []
    for model, sizes in zip(("mono", "static"), aligner_sizes(hours)):
        how = MonoOptions(**{**sizes, **given})
        logger.info("%s: %d Gaussians for %.2f h of audio", model, how.num_gauss, hours)
        train = functools.partial(_mono, feats, lang, how)
        models.append(_made(work / model, "train_mono", how, {"data": feats, "lang": work / "lang"}, train))
    return models


def _mono(feats: Path, lang: Lang, options: MonoOptions, tmp: Path, final: Path) -> dict[str, Any]:
    from pipeline.gmm.mono import train_mono

    return train_mono(feats, lang, options, tmp)


def _made(
    out: Path,
    command: str,
    options: Any,
    inputs: Mapping[str, Path],
    action: Callable[[Path, Path], Mapping[str, Any]],
) -> Path:
    """A directory that a step makes, unless an interrupted run has left it.

    Args:
        action: gets the directory to write into and the one that it will be.
    """
    ids = {name: stamp.artifact_id(path) for name, path in inputs.items()}
    work = stamp.Work(command, dataclasses.asdict(options), ids)
    stamp.run(out, work, lambda tmp: action(tmp, out), inputs, overwrite=True)
    return out


def _pack(path: Path, work: Path, lang: Lang, said: Pronounced, models: list[Path], card: Card) -> None:
    """The aligner in one file; it knows all words of the lexicon, not only those of the corpus."""
    lang.with_lexicon(said.all_entries(), "the lexicon").save(work / "packed_lang")
    g2p = None
    if said.g2p is not None:
        g2p = work / "g2p"
        said.g2p.save(g2p)
    size = pack(models[0], work / "packed_lang", path, card, g2p, models[1:])
    logger.info("%s: %.1f MiB", path.name, size / 2**20)
