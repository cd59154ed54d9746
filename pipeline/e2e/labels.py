"""What an alignment teaches the layers of an encoder: labels of frames, sequences of states, tokens in time."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.artifacts.ali import AliSet, stretched, subsample
from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.posteriors import POSTERIORS, PosteriorSet
from pipeline.artifacts.tokens import BLANK_ID, WORD_START, Tokens
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.feats.dataset import Dataset
from pipeline.nn.encoders import layer_factors
from pipeline.nn.labels import AlignedCuts, Lazy, check_missing, fitted, frames_per_label

logger = logging.getLogger(__name__)

_NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class AuxTargets:
    """Targets of the auxiliary losses by utterance index; empty for utterances without an alignment.

    Attributes:
        num_labels: classes of the frame labels. num_states: of the sequences.
        frame: by layer, (T'_n,) labels at the layer's frame rate, or (T'_n, num_labels) their probabilities.
        states: (U'_n,) tied states, one per phone, from 1; 0 is CTC's blank.
        token: (T'_n,) tokens at the frame rate of the encoder's output, blank between words.
    """

    num_labels: int
    num_states: int
    frame: dict[int, Sequence[np.ndarray]]
    states: Sequence[np.ndarray]
    token: Sequence[np.ndarray]


def needs_alignment(options: TrainEndToEndOptions) -> bool:
    """Whether any auxiliary loss reads an alignment."""
    return bool(options.aux_layers or options.aux_ctc_layers or options.aux_token_weight)


def make_aux_targets(
    ali_dir: Path | None,
    data_dir: Path,
    data: Dataset,
    facts: FeatureFacts,
    tokens: Tokens,
    options: TrainEndToEndOptions,
) -> AuxTargets | None:
    """Opens an alignment for the auxiliary losses that the options ask for; None when they ask for none.

    Args:
        ali_dir: any AliSet. Cuts of steps/perturb_speed.py take the labels of the original, stretched.
    Raises:
        ConfigError: no alignment where one is needed. MismatchError: one of another frame rate or of other utterances.
        DataError: too many utterances are missing in it.
    """
    if not needs_alignment(options):
        if ali_dir is not None:
            logger.warning(
                "--ali %s is not used: none of --aux-layers, --aux-ctc-layers and --aux-token-weight is given", ali_dir
            )
        return None
    if ali_dir is None:
        raise ConfigError("--aux-layers, --aux-ctc-layers and --aux-token-weight need an alignment (--ali)")
    ali = AliSet.load(ali_dir)
    source = _Supervision(ali, data_dir, data, facts, tokens, options)
    check_missing(data, source.cuts.present(data), ali, data_dir, options.max_skipped)
    source.check()
    num_pdfs = source.num_pdfs
    return AuxTargets(
        num_pdfs if options.aux_labels == "pdf" else len(ali.transitions.phones),
        num_pdfs,
        {number: Lazy(len(data), partial(source.frames, number)) for number in options.aux_layers},
        Lazy(len(data), source.states),
        Lazy(len(data), source.tokens_in_time),
    )


class _Supervision:
    """What an alignment says of single utterances, read when it is asked for."""

    def __init__(
        self,
        ali: AliSet,
        data_dir: Path,
        data: Dataset,
        facts: FeatureFacts,
        tokens: Tokens,
        options: TrainEndToEndOptions,
    ) -> None:
        self.ali, self.cuts, self.data_dir, self.data = ali, AlignedCuts(ali), data_dir, data
        self._tokens, self._options, self._shift = tokens, options, options.label_factor * facts.frame_shift
        self.num_pdfs = int(ali.transitions.pdf.max()) + 1
        self._soft = _open_occupancies(ali) if options.aux_soft else None
        self._first = facts.frame_offset + (self._shift - facts.frame_shift) / 2  # centre of the encoder's first frame
        layers = layer_factors(options)
        self._factors = {number: layers[number - 1] for number in options.aux_layers}
        self._rates = {
            number: frames_per_label(ali, facts.frame_shift, factor, data_dir)
            for number, factor in self._factors.items()
        }

    def check(self) -> None:
        """MismatchError for the first utterance whose alignment is of another length or transcript."""
        for i, length in enumerate(self.data.lens.tolist()):
            cut_id = self.data.id(i)
            own = self.cuts.of(cut_id)
            if own is None:
                continue
            for number, factor in self._factors.items():
                self.cuts.check_length(cut_id, self._rates[number], -(-length // factor), self.data_dir)
            if self._options.aux_token_weight:
                check_words(own, cut_id, len(own[cut_id].words), len(self.data.text(i).split()))

    def _own(self, i: int) -> tuple[str, AliSet | None]:
        cut_id = self.data.id(i)
        return cut_id, self.cuts.of(cut_id)

    def frames(self, layer: int, i: int) -> np.ndarray:
        """(T',) labels at a layer's frame rate, or (T', num_pdfs) probabilities of labels."""
        cut_id, own = self._own(i)
        if self._soft is not None:
            return self._soft_frames(layer, i)
        if own is None:
            return _NOTHING
        options = self._options
        labels = _moved(_labels(own, cut_id, options.aux_labels), cut_id, options, self.ali.header.frame_shift)
        lower = subsample(labels, self._rates[layer], options.aux_majority)
        return fitted(lower, -(-int(self.data.lens[i]) // self._factors[layer]))

    def _soft_frames(self, layer: int, i: int) -> np.ndarray:
        """(T', num_pdfs) float32 probabilities of tied states; none for an utterance without an alignment."""
        assert self._soft is not None
        cut_id = self.data.id(i)
        origin = self.cuts.origin(cut_id)
        if origin is None:
            return np.zeros((0, self.num_pdfs), np.float32)
        base, speed, _ = origin
        try:
            found = self._soft[base]
        except KeyError:
            raise MismatchError(f"{self.ali.directory}: no occupancies of utterance {base!r}") from None
        if found.pdf.max(initial=0) >= self.num_pdfs or found.frame.max(initial=0) >= self.ali.num_frames(base):
            raise DataError(f"{self.ali.directory}: the occupancies of {base!r} have other frames or pdfs than it")
        if speed:
            old = self.ali.num_frames(base)
            new = max(1, round(old / float(speed)))
            found = found.at(stretched(old, new))
        count = -(-int(self.data.lens[i]) // self._factors[layer])
        return found.by_label(count, self._rates[layer], self.num_pdfs)

    def states(self, i: int) -> np.ndarray:
        """(U',) see ``state_sequence``."""
        cut_id, own = self._own(i)
        return _NOTHING if own is None else state_sequence(own, cut_id)

    def tokens_in_time(self, i: int) -> np.ndarray:
        """(T',) see ``tokens_in_time``."""
        cut_id, own = self._own(i)
        if own is None:
            return _NOTHING
        centres = self._first + self._shift * np.arange(-(-int(self.data.lens[i]) // self._options.label_factor))
        return tokens_in_time(own, cut_id, self.data.text(i).split(), self._tokens, centres)


def _open_occupancies(ali: AliSet) -> PosteriorSet:
    """Those beside an alignment; ConfigError without any, MismatchError for those of another tree."""
    assert ali.directory is not None
    if not (Path(ali.directory) / POSTERIORS).is_file():
        raise ConfigError(f"{ali.directory}: no occupancies for --aux-soft; steps/align.py --occupancies writes them")
    found = PosteriorSet(ali.directory)
    if found.tree_id != ali.header.tree_id:
        raise MismatchError(f"{ali.directory}: its occupancies are of another tree")
    return found


def _labels(ali: AliSet, cut_id: str, kind: str) -> np.ndarray:
    """(T,) pdf-ids or phone ids of all frames."""
    if kind == "pdf":
        return ali.pdf_ids(cut_id)
    segments = ali.phone_segments(cut_id)
    return np.repeat([phone for phone, _, _ in segments], [count for _, _, count in segments])


def _moved(labels: np.ndarray, cut_id: str, options: TrainEndToEndOptions, frame_shift: float) -> np.ndarray:
    """The labels with boundaries moved by ali_shift_ms on average, equal for equal seeds."""
    if not options.ali_shift_ms:
        return labels
    rng = np.random.default_rng((options.seed, zlib.crc32(cut_id.encode())))
    return jitter(labels, options.ali_shift_ms / 1000.0 / frame_shift, rng)


def jitter(labels: np.ndarray, frames: float, rng: np.random.Generator) -> np.ndarray:
    """Moves each boundary between runs of equal labels by a uniform number of frames of the given mean size.

    Boundaries keep their order, so runs may vanish but never change places.
    """
    starts = np.flatnonzero(np.diff(labels)) + 1
    moved = starts + np.rint(rng.uniform(-2 * frames, 2 * frames, len(starts))).astype(np.int64)
    bounds = np.sort(moved.clip(0, len(labels)))
    run = np.searchsorted(bounds, np.arange(len(labels)), side="right")
    return labels[np.concatenate([[0], starts])][run]


def state_sequence(ali: AliSet, cut_id: str) -> np.ndarray:
    """(U',) tied state in the middle of each phone, plus 1."""
    pdfs = ali.pdf_ids(cut_id).astype(np.int64)
    return np.array([pdfs[first + count // 2] + 1 for _, first, count in ali.phone_segments(cut_id)], dtype=np.int64)


def tokens_in_time(ali: AliSet, cut_id: str, words: Sequence[str], tokens: Tokens, centres: np.ndarray) -> np.ndarray:
    """Tokens of frames: each word's time is divided among its tokens by their letters; blank where no word is.

    Args:
        words: the transcript, in which words outside of the alignment's lexicon have their letters.
        centres: (T',) seconds.
    Returns:
        (T',) int64 token ids.
    Raises:
        MismatchError: the alignment is of another transcript.
    """
    out = np.full(len(centres), BLANK_ID, dtype=np.int64)
    aligned = ali.words(cut_id)
    check_words(ali, cut_id, len(aligned), len(words))
    for word, spelling in zip(aligned, words):
        ids = tokens.encode_word(spelling)
        sizes = np.array([max(len(tokens.pieces[i].lstrip(WORD_START)), 0.5) for i in ids])
        ends = word.start + word.duration * np.cumsum(sizes) / sizes.sum()
        inside = (centres >= word.start) & (centres < word.end)
        out[inside] = np.array(ids)[np.searchsorted(ends, centres[inside], side="right").clip(0, len(ids) - 1)]
    return out


def check_words(ali: AliSet, cut_id: str, aligned: int, written: int) -> None:
    """MismatchError unless an alignment has as many words as the transcript."""
    if aligned != written:
        raise MismatchError(f"alignment {ali.directory}: {cut_id!r} has {aligned} words, its transcript has {written}")
