"""Labels of an alignment for the frames of a network: which set holds a cut, at which rate, and of which length."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.artifacts.ali import Alignment, AliSet
from pipeline.base.errors import DataError, MismatchError

logger = logging.getLogger(__name__)

SPEED_SLACK = 2  # frames by which rounding may change the length of an utterance at another speed


def with_speeds(ali: AliSet, cut_ids: Sequence[str]) -> dict[str, AliSet]:
    """The set that holds each cut: the alignment; or that alignment at another speed for cuts of
    steps/perturb_speed.py; or under another name for the copies of steps/add_noise.py, of either."""
    found = {c: ali for c in cut_ids if c in ali}
    at_speed: dict[str, AliSet] = {}
    renamed: dict[int, list[Alignment]] = {}
    for cut_id in (c for c in cut_ids if c not in found):
        name = re.sub(r"_noise\d+$", "", cut_id)
        base, mark, factor = name.rpartition("_sp")
        own = ali if name in ali else None
        if own is None and mark and base in ali and re.fullmatch(r"\d+(\.\d+)?", factor):
            own = at_speed[factor] = at_speed.get(factor) or ali.at_speed(float(factor))
        if own is not None and name == cut_id:
            found[cut_id] = own
        elif own is not None:
            renamed.setdefault(id(own), []).append(replace(own[name], cut_id=cut_id))
    for copies in renamed.values():
        noisy = AliSet(ali.header, ali.transitions, ali.word_symbols, copies, ali.directory)
        found.update({copy.cut_id: noisy for copy in copies})
    return found


def frames_per_label(ali: AliSet, frame_shift: float, factor: int, data_dir: Path) -> int:
    """Alignment frames per label; MismatchError when the alignment is too coarse or does not divide.

    Args:
        frame_shift: seconds between the features of data_dir.
        factor: feature frames per label.
    """
    shift = frame_shift * factor
    count = int(round(shift / ali.header.frame_shift))
    if count < 1 or abs(count * ali.header.frame_shift - shift) > 1e-6:
        raise MismatchError(
            f"alignment {ali.directory} has a frame every {ali.header.frame_shift * 1000:g} ms; labels every "
            f"{shift * 1000:g} ms (features of {data_dir}, {factor} of them per label) cannot be taken from it; "
            f"--subsampling {max(1, round(ali.header.frame_shift / frame_shift))} fits"
        )
    return count


def check_missing(
    cut_ids: Sequence[str], found: Mapping[str, AliSet], ali: AliSet, data_dir: Path, max_missing: float
) -> None:
    """DataError when a larger share of the cuts than max_missing has no alignment; a warning when some have none."""
    missing = [c for c in cut_ids if c not in found]
    if not missing:
        return
    text = (
        f"{ali.directory} has no alignment for {len(missing):,} of the {len(cut_ids):,} utterances of {data_dir}, "
        f"the first: {missing[0]!r}"
    )
    if len(missing) > max_missing * len(cut_ids):
        raise DataError(f"{text}; align that data first")
    logger.warning("%s", text)


def fitted(frames: np.ndarray, expected: int, slack: int, cut_id: str, ali: AliSet, data_dir: Path) -> np.ndarray:
    """(expected,) labels: the same, or with the last one repeated or cut off where up to `slack` are missing or too
    many.
    """
    if abs(len(frames) - expected) > slack:
        raise MismatchError(
            f"{ali.directory} and {data_dir} do not belong together: utterance {cut_id!r} has {len(frames)} "
            f"labels and {expected} label frames"
        )
    return np.pad(frames, (0, max(expected - len(frames), 0)), mode="edge")[:expected]
