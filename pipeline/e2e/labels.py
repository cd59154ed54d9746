"""What an alignment teaches the layers of an encoder: labels of frames, sequences of states, tokens in time."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.artifacts.ali import AliSet, subsample
from pipeline.artifacts.corpus import iter_cuts
from pipeline.artifacts.tokens import BLANK_ID, WORD_START, Tokens
from pipeline.base.errors import ConfigError, MismatchError
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.feats.facts import FeatureFacts
from pipeline.nn.encoders import layer_factors
from pipeline.nn.labels import SPEED_SLACK, check_missing, fitted, frames_per_label, with_speeds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lessons:
    """Targets of the auxiliary losses by utterance index; empty for utterances without an alignment, and for losses
    without use.

    Attributes:
        num_labels: classes of the frame labels. num_states: of the sequences.
        frame: by layer, (T'_n,) labels at the layer's frame rate.
        states: (U'_n,) tied states, one per phone, from 1; 0 is CTC's blank.
        token: (T'_n,) tokens at the frame rate of the encoder's output, blank between words.
    """

    num_labels: int
    num_states: int
    frame: dict[int, list[np.ndarray]]
    states: list[np.ndarray]
    token: list[np.ndarray]


def needs_alignment(options: TrainEndToEndOptions) -> bool:
    """Whether any auxiliary loss reads an alignment."""
    return bool(options.aux_layers or options.aux_ctc_layers or options.aux_token_weight)


def make_lessons(
    ali_dir: Path | None,
    data_dir: Path,
    cut_ids: Sequence[str],
    lens: np.ndarray,
    facts: FeatureFacts,
    tokens: Tokens,
    options: TrainEndToEndOptions,
) -> Lessons | None:
    """Reads an alignment for the auxiliary losses that the options ask for; None when they ask for none.

    Args:
        ali_dir: any AliSet. Cuts of steps/perturb_speed.py take the labels of the original, stretched.
        cut_ids, lens: the utterances and their feature frames.
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
    layers = layer_factors(options)
    factors = {number: layers[number - 1] for number in options.aux_layers}
    rates = {number: frames_per_label(ali, facts.frame_shift, factor, data_dir) for number, factor in factors.items()}
    found = with_speeds(ali, cut_ids)
    texts = {}
    if options.aux_token_weight:
        texts = {entry["id"]: entry["supervisions"][0]["text"].split() for _, entry in iter_cuts(data_dir)}
    check_missing(cut_ids, found, ali, data_dir, options.max_skipped)
    frame: dict[int, list[np.ndarray]] = {number: [] for number in options.aux_layers}
    states, token = [], []
    nothing = np.zeros(0, np.int64)
    shift = options.label_factor * facts.frame_shift
    first = facts.frame_offset + (shift - facts.frame_shift) / 2  # centre of the encoder's first frame
    for cut_id, length in zip(cut_ids, lens.tolist()):
        own = found.get(cut_id)
        rows, sequence, spoken = {}, nothing, nothing
        if own is not None:
            slack = 0 if own is ali else SPEED_SLACK
            labels = _moved(_labels(own, cut_id, options.aux_labels), cut_id, options, ali.header.frame_shift)
            rows = {
                number: fitted(
                    subsample(labels, rates[number], options.aux_majority),
                    -(-length // factor),
                    slack,
                    cut_id,
                    ali,
                    data_dir,
                )
                for number, factor in factors.items()
            }
            if options.aux_ctc_layers:
                sequence = state_sequence(own, cut_id)
            if options.aux_token_weight:
                centres = first + shift * np.arange(-(-length // options.label_factor))
                spoken = tokens_in_time(own, cut_id, texts[cut_id], tokens, centres)
        for number in frame:
            frame[number].append(rows.get(number, nothing))
        states.append(sequence)
        token.append(spoken)
    transitions = ali.transitions
    num_pdfs = int(transitions.pdf.max()) + 1
    return Lessons(num_pdfs if options.aux_labels == "pdf" else len(transitions.phones), num_pdfs, frame, states, token)


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
    if len(aligned) != len(words):
        raise MismatchError(
            f"alignment {ali.directory}: {cut_id!r} has {len(aligned)} words, its transcript has {len(words)}"
        )
    for word, spelling in zip(aligned, words):
        ids = tokens.encode_word(spelling)
        sizes = np.array([max(len(tokens.pieces[i].lstrip(WORD_START)), 0.5) for i in ids])
        ends = word.start + word.duration * np.cumsum(sizes) / sizes.sum()
        inside = (centres >= word.start) & (centres < word.end)
        out[inside] = np.array(ids)[np.searchsorted(ends, centres[inside], side="right").clip(0, len(ids) - 1)]
    return out
