"""Aligners that travel: a packed model aligns data that it has never seen, words outside its lexicon included."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.ali import AliSet, Segment
from pipeline.artifacts.bias import BoundaryBias
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.lexicon_formats import read_lexicon
from pipeline.artifacts.model_meta import GmmMeta, load_meta, model_kind
from pipeline.base.errors import ConfigError, DataError, PipelineError
from pipeline.base.option_values import load_options
from pipeline.tasks.align import AlignOptions, AlignReport, align
from pipeline.tasks.bias import correct
from pipeline.tasks.boundaries import BoundaryOptions, Source, refine
from pipeline.tasks.model import Model, load_model
from pipeline.tasks.packed import SUFFIX, Card, unpack
from pipeline.tasks.pronounce import letters, predict, spelling_in
from pipeline.tasks.unknown_speech import with_unknown_speech, with_unknown_word

if TYPE_CHECKING:
    import numpy as np

    from pipeline.artifacts.features import FeatureKind
    from pipeline.feats.options import FeatureOptions

logger = logging.getLogger(__name__)

SHIPPED = Path(__file__).resolve().parent.parent / "models"  # packed models that come with the program
SHOWN = 5  # words in a message


@dataclasses.dataclass(frozen=True)
class AlignedSpeech:
    """An aligned utterance.

    Attributes:
        words, phones: in order, with start and duration in seconds and the mean posterior of their frames; silence is
            SIL among the phones.
        log_like_per_frame: natural log-likelihood (for networks: of scaled posteriors) per frame.
    """

    words: list[Segment]
    phones: list[Segment]
    log_like_per_frame: float


class Aligner:
    """A packed model, unpacked and loaded.

    Attributes:
        card: what it is.
        model: scores frames.
        lang: its phones; it has no words.
        words: word -> its pronunciations, with the lang's position markers.
        unknown_speech: lang and model have the word <unk> for it.
    """

    def __init__(self, card: Card, directory: Path, device: str = "cpu", unknown_speech: bool = False) -> None:
        """Args:
        directory: where `unpack` has written to.
        device: "cpu" or "cuda".
        unknown_speech: see ``load``.
        """
        self.card, self.directory, self.device, self.unknown_speech = card, directory, device, unknown_speech
        self.lang, self.words = Lang.load_without_words(directory / "lang")
        if unknown_speech:
            if model_kind(directory / "model") == "gmm" and load_meta(directory / "model", GmmMeta).adapted:
                raise ConfigError(f"{card.name}: unknown speech is for models without speaker transforms only")
            self.lang = with_unknown_word(self.lang)
        self._refinement()  # what the card says is checked before there is work
        self.model: Model = self._loaded()
        self.model.hmm.check_lang(self.lang, directory / "lang")

    @classmethod
    def load(
        cls, name: str | Path, directory: Path | None = None, device: str = "cpu", unknown_speech: bool = False
    ) -> Aligner:
        """Loads a packed model.

        Args:
            name: of a shipped model, or a file.
            directory: where to unpack it; by default a temporary one that goes with the object.
            unknown_speech: words that cannot be pronounced, and with ``options(skip_speech=True)`` speech that the text
                lacks, are aligned as the word <unk> (`tasks.unknown_speech`).
        """
        path = find_model(name)
        scratch = None if directory is not None else tempfile.TemporaryDirectory(prefix="fullsum-")
        place = directory if scratch is None else Path(scratch.name)
        assert place is not None
        card = unpack(path, place)
        try:
            loaded = cls(card, place, device, unknown_speech)
        except PipelineError as err:  # names files that the user has not written
            raise type(err)(f"{path}: {str(err).replace(f'{place}{os.sep}', '')}") from None
        loaded._scratch = scratch  # type: ignore[attr-defined]  # kept as long as the object
        return loaded

    def _loaded(self, transforms: Path | None = None) -> Model:
        """The model with the prior that its card asks for."""
        model = load_model(self.directory / "model", self.options().prior_scale, transforms, self.device)
        return with_unknown_speech(model) if self.unknown_speech else model

    @property
    def sampling_rate(self) -> int:
        """Of the audio that it was trained on, in Hz."""
        return self.model.facts.sampling_rate

    def options(self, **given: Any) -> AlignOptions:
        """Options of an alignment: those of the card, and what is given."""
        values = {"confidence": True, "device": self.device, **self.card.align, **given}
        options: AlignOptions = load_options(AlignOptions, None, values)
        return options

    def _refinement(self) -> BoundaryOptions | None:
        """How the card wants boundaries refined."""
        if self.card.refine is None:
            return None
        options: BoundaryOptions = load_options(BoundaryOptions, None, {**self.card.refine, "device": self.device})
        return options

    def pronounce(self, words: Iterable[str], lexicon: Lexicon | None = None) -> Lexicon:
        """A lexicon of some words: from the lexicon given, from the model's, then by its grapheme-to-phoneme model.

        Words are also found when they differ from an entry in case, in surrounding punctuation, or in how accents are
        encoded.

        Raises:
            DataError: words that are nowhere, and no model to pronounce them; with unknown_speech they are left out.
        """
        entries: list[Pronunciation] = []
        unknown: list[str] = []
        for word in sorted(set(words) - {self.lang.oov_word}):
            known = self._known(word, lexicon)
            entries += known
            if not known:
                unknown.append(word)
        if unknown:
            entries += self._predict(unknown)
        return Lexicon(entries)

    def unknown_words(self, words: Iterable[str], lexicon: Lexicon | None = None) -> set[str]:
        """The words that neither the lexicon given nor the model's has."""
        return {word for word in set(words) if not self._known(word, lexicon)}

    def _known(self, word: str, lexicon: Lexicon | None) -> list[Pronunciation]:
        """Pronunciations of a word in the first lexicon that has it."""
        own = None if lexicon is None else spelling_in(lexicon.by_word, word)
        if lexicon is not None and own is not None:
            return [dataclasses.replace(e, word=word) for e in lexicon.by_word[own]]
        spelling = spelling_in(self.words, word)
        if spelling is None or spelling == self.lang.oov_word:
            return []
        bare = self.lang.base_phone
        return [Pronunciation(word, tuple(map(bare, e.phones)), e.prob) for e in self.words[spelling]]

    def _predict(self, unknown: list[str]) -> list[Pronunciation]:
        """Pronunciations from the letters of words; those without any are an error, or left out as unknown speech."""
        shown = ", ".join(unknown[:SHOWN])
        if self.lang.unit == "grapheme":
            others = set(self.lang.phones)
            spelt = [Pronunciation(w, letters(w, others)) for w in unknown]
            found = [p for p in spelt if p.phones and all(c in self.lang.phones for c in p.phones)]
            why = f"no model of a letter of {len(unknown) - len(found)} words"
        elif not (self.directory / "g2p").is_dir():
            found, why = [], f"{len(unknown)} words are not in its lexicon; give their pronunciations with --lexicon, "
            why += "or pack it with a grapheme-to-phoneme model (fullsum pack --g2p)"
        else:
            from pipeline.g2p.joint_units import G2p

            try:
                found = predict(G2p.load(self.directory / "g2p"), unknown, self.words, not self.unknown_speech)
            except DataError as err:
                raise DataError(f"{self.card.name}: {err}") from None
            why = f"{len(unknown) - len(found)} words cannot be pronounced from their letters"
            logger.info("%d words pronounced from their letters, the first: %s", len(found), shown)
        missing = sorted(set(unknown) - {p.word for p in found})
        if missing and not self.unknown_speech:
            raise DataError(f"{self.card.name}: {why} ({', '.join(missing[:SHOWN])})")
        return found

    def check_rate(self, data: Path) -> None:
        """ConfigError unless a data directory has audio of the model's sampling rate."""
        index = load_index(data)
        if index.sampling_rate != self.sampling_rate:
            raise ConfigError(
                f"{data} has audio of {index.sampling_rate} Hz, and {self.card.name} was trained on "
                f"{self.sampling_rate} Hz; fullsum import --rate {self.sampling_rate} converts it"
            )

    def prepare(self, data: Path, work: Path, lexicon: Path | None = None) -> Lang:
        """Makes work/feats, features as the model wants them, and work/lang, its lang with the words of the data.

        Args:
            data, work, lexicon: see `align_data`.
        Raises:
            ConfigError: audio of another rate. DataError: words that cannot be pronounced.
        """
        from pipeline.feats.compute import compute_feats

        self.check_rate(data)
        index = load_index(data)
        own = None if lexicon is None else read_lexicon(lexicon)
        words = {word for i in range(len(index)) for word in index.text(i).split()}
        lang = self.lang.with_lexicon(self.pronounce(words, own), lexicon or self.card.name)
        lang.save(work / "lang")
        compute_feats(data, work / "feats", work / "feats", feature_options(self.model.facts))
        return lang

    def model_for(self, work: Path) -> Model:
        """The model that `align_data` has aligned with there: adapted to the speakers if it was trained that way."""
        transforms = transforms_of(self.directory / "model", work)
        return self.model if transforms is None else self._loaded(transforms)

    def align_data(
        self, data: Path, work: Path, options: AlignOptions, lexicon: Path | None = None, bias: Path | None = None
    ) -> tuple[AliSet, AlignReport]:
        """Aligns a data directory; work/ali is the alignment, work/lang its words, work/feats the features.

        A model that was trained with speaker transforms gets those of the data from its transcripts: an alignment by
        its speaker-independent mixtures, fMLLR from it, an alignment of the adapted features, fMLLR again, and the
        alignment that counts; cf. Kaldi steps/align_fmllr.sh.

        Args:
            data: manifests and audio of the model's sampling rate.
            work: existing directory for all that is made.
            lexicon: pronunciations that come before the model's own, as lines of a word and its phones.
            bias: of the model's boundaries (steps/estimate_bias.py), which is taken off.
        """
        known = None if bias is None else BoundaryBias.load(bias)
        lang = self.prepare(data, work, lexicon)
        models = [self.directory / "model", *sorted(self.directory.glob("refiner*"))]
        for model in models:
            estimate_transforms(model, lang, work, options)
        report = align(self.model_for(work), lang, work / "feats", work / "ali", options, producer=self.card.name)
        report.check(work / "ali", options.max_failed)
        ali = AliSet.load(work / "ali")
        how = self._refinement()
        if how is not None:
            sources = [Source(m, work / "feats", transforms_of(m, work), self.unknown_speech) for m in models]
            refine(ali, sources, work / "refined", how, producer=self.card.name)
            ali = AliSet.load(work / "refined")
        if known is not None:
            correct(ali, known, data, work / "corrected")
            ali = AliSet.load(work / "corrected")
        return ali, report

    def align(self, audio: str | Path | np.ndarray, text: str, rate: int | None = None) -> AlignedSpeech:
        """Aligns one recording with its words.

        Args:
            audio: a file, or samples (T,): int16, or floats within -1 .. 1.
            text: the words.
            rate: sampling rate of samples; by default the model's.
        Raises:
            DataError: no alignment, audio of another rate, or a word that cannot be pronounced.
        """
        from pipeline.artifacts.corpus import audio_recording, save_data_dir, store_audio, utterance

        with tempfile.TemporaryDirectory(prefix="fullsum-") as scratch:
            work = Path(scratch)
            if isinstance(audio, str | Path):
                recording = audio_recording("utterance", Path(audio))
            else:
                path = work / "audio.flac"
                recording = store_audio("utterance", _samples(audio), rate or self.sampling_rate, path, path)
            save_data_dir(work / "data", [utterance("utterance", recording, text, "speaker")])
            ali, report = self.align_data(work / "data", work, self.options())
            per_frame = report.total_log_like / max(report.num_frames, 1)
            phones = [dataclasses.replace(p, symbol=self.lang.base_phone(p.symbol)) for p in ali.phones("utterance")]
            return AlignedSpeech(ali.words("utterance"), phones, per_frame)


def transforms_of(model: Path, work: Path) -> Path | None:
    """Directory with the speaker transforms of a model that `estimate_transforms` has made; None if it made none."""
    place = work / f"fmllr_{model.name}"
    return place if place.is_dir() else None


def estimate_transforms(model: Path, lang: Lang, work: Path, options: AlignOptions) -> None:
    """Speaker transforms from the transcripts of work/feats, if a model was trained with such."""
    if model_kind(model) != "gmm":
        return
    from pipeline.gmm.new_speakers import estimate_fmllr
    from pipeline.gmm.options import EstimateFmllrOptions

    if not load_meta(model, GmmMeta).adapted:
        return
    index = load_index(work / "feats")
    texts = {index.id(i): index.text(i) for i in range(len(index))}
    out = work / f"fmllr_{model.name}"
    out.mkdir()
    how = EstimateFmllrOptions(max_failed=options.max_failed, device=options.device)
    estimate_fmllr(work / "feats", lang, model, texts, how, out)


def find_model(name: str | Path) -> Path:
    """The file of a packed model; ConfigError lists the shipped ones for a name that is none."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = SHIPPED / f"{name}{SUFFIX}"
    if shipped.is_file() and path.name == str(name):
        return shipped
    names = ", ".join(sorted(p.stem for p in SHIPPED.glob(f"*{SUFFIX}"))) or "none"
    raise ConfigError(f"{name}: neither a file nor the name of a shipped model ({names})")


def feature_options(kind: FeatureKind) -> FeatureOptions:
    """Options of steps/compute_feats.py that make features as a model was trained on."""
    from pipeline.feats.options import FeatureOptions

    extractor = kind.extractor
    bins = {"num_mel_bins": extractor["num_filters"]} if kind.type == "mfcc" else {}
    return FeatureOptions(
        type=kind.type,  # type: ignore[arg-type]  # pydantic checks it
        dim=kind.dim,
        frame_shift=kind.frame_shift,
        window=kind.window,
        low_freq=extractor["low_freq"],
        high_freq=extractor["high_freq"],
        dither=extractor["dither"],
        **bins,
    )


def _samples(audio: np.ndarray) -> np.ndarray:
    """Samples as int16."""
    import numpy as np

    if audio.ndim != 1:
        raise DataError(f"audio has shape {audio.shape}; one channel of samples (T,) is needed")
    if audio.dtype == np.int16:
        return audio
    if not np.issubdtype(audio.dtype, np.floating) or not np.isfinite(audio).all() or np.abs(audio).max(initial=0) > 1:
        raise DataError("audio must be int16, or finite floats within -1 .. 1")
    return np.round(audio * 32767).astype(np.int16)
