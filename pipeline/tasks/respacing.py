"""An alignment with other times: the HMM-states of its phones, spread anew over a finer grid of frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.tree import BOUNDARY

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chain:
    """The HMM-states of a phone sequence, left to right.

    Attributes:
        pdf, transition_state: (S,) int.
        position: (S,) int, which phone of the sequence a state belongs to.
    """

    pdf: np.ndarray
    transition_state: np.ndarray
    position: np.ndarray


def chain_of(hmm: HmmDir, phones: Sequence[int]) -> Chain:
    """States of a phone sequence in context, by the tree of a model."""
    tree = hmm.tree
    padded = [BOUNDARY] * tree.left + list(phones) + [BOUNDARY] * tree.right
    topos = [hmm.topo[hmm.phones.name(p)].pdf_classes for p in phones]
    position = np.repeat(np.arange(len(phones)), [len(classes) for classes in topos])
    state = np.concatenate([np.arange(len(classes)) for classes in topos])
    windows = np.array([padded[i : i + tree.left + 1 + tree.right] for i in range(len(phones))])[position]
    pdf = tree.lookup(windows, np.array([c for classes in topos for c in classes]))
    return Chain(pdf, hmm.transitions.transition_states(np.array(phones)[position], state, pdf), position)


def separate(starts: np.ndarray, shortest: np.ndarray, length: int) -> np.ndarray:
    """Moves starts as little as needed so that each phone gets at least `shortest` (K,) frames of `length` in all."""
    assert shortest.sum() <= length, (shortest.sum(), length)
    room = np.cumsum(shortest) - shortest  # frames that the phones before need
    forward = np.maximum.accumulate(starts - room)
    behind = length - shortest.sum()
    return np.minimum(forward, behind).clip(min=0) + room


def frames_of(ali: AliSet, cut_id: str, frame_shift: float) -> int:
    """Frames of an utterance on a grid of another resolution that begins at time 0."""
    frames = len(ali[cut_id].transition_ids)
    return round((frames * ali.header.frame_shift + ali.header.frame_offset) / frame_shift)


def starts_of(ali: AliSet, cut_id: str, frame_shift: float) -> np.ndarray:
    """(K,) int64 points of such a grid next to where the phones begin; 0 for the first one."""
    begins = np.array([b for _, b, _ in ali.phone_segments(cut_id)])
    seconds = begins * ali.header.frame_shift + ali.header.frame_offset
    starts: np.ndarray = np.round(seconds.clip(min=0) / frame_shift).astype(np.int64)
    starts[0] = 0
    return starts


def respaced(ali: AliSet, hmm: HmmDir, cut_id: str, starts: np.ndarray, frame_shift: float) -> Alignment | None:
    """An alignment whose phones begin at other times; the states of a phone share its time equally.

    Args:
        hmm: tree, topology and transitions of the alignment.
        starts: (K,) points of the grid of `frame_shift`; moved as little as needed for each phone to have its states.
    Returns:
        None, after a warning, where the grid has fewer points than the phones have states.
    """
    segments, old = ali.phone_segments(cut_id), ali[cut_id]
    length = frames_of(ali, cut_id, frame_shift)
    chain = chain_of(hmm, [p for p, _, _ in segments])
    num_states = np.bincount(chain.position)
    if len(chain.pdf) > length:
        logger.warning(
            "%s: %s is left out: %d frames of %g ms are too few for the %d states of its phones",
            *(ali.directory, cut_id, length, frame_shift * 1000, len(chain.pdf)),
        )
        return None
    starts = separate(starts, num_states, length)
    frames = np.diff(np.append(starts, length))
    # State i of n gets the frames from i * f // n to (i + 1) * f // n of a phone with f frames.
    i = np.arange(len(chain.pdf)) - np.repeat(np.cumsum(num_states) - num_states, num_states)
    f, n = frames[chain.position], num_states[chain.position]
    spans = (i + 1) * f // n - i * f // n
    tids = np.repeat(2 * chain.transition_state, spans)
    tids[np.cumsum(spans) - 1] += 1
    words = old.words.copy()
    # A word that starts within a phone, as imported ones may, starts with it.
    words[:, 1] = starts[np.searchsorted([b for _, b, _ in segments], old.words[:, 1], side="right") - 1]
    confidence = None
    if old.confidence is not None:  # a phone keeps that of its frames, on the mean
        means = [old.confidence[b : b + n].astype(np.float64).mean() for _, b, n in segments]
        confidence = np.repeat(means, frames).astype(np.float16)
    return Alignment(cut_id, tids.astype(np.int32), old.log_like, words, confidence)
