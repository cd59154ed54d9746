"""Labels of an alignment for the frames of a network: which set holds a cut, at which rate, of which length; read when
a batch asks for them, so that memory holds none.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.lang import Lang
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.places import read_at, write_at
from pipeline.feats.dataset import Dataset

logger = logging.getLogger(__name__)

SPEED_SLACK = 2  # frames by which rounding may change the length of an utterance at another speed
Item = TypeVar("Item")


class Lazy(Sequence[Item]):
    """N items, each made when it is asked for."""

    def __init__(self, count: int, make: Callable[[int], Item]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> Item:  # type: ignore[override]  # no slices
        if not 0 <= i < self._count:
            raise IndexError(i)
        return self._make(int(i))


class LabelFile(Sequence[np.ndarray]):
    """(T_n,) int32 labels of N utterances in a temporary file, read and written one by one; the file goes with the
    object.

    Attributes:
        lens: (N,) int64 labels of each; 0 before they are written.
    """

    def __init__(self, directory: Path, room: np.ndarray) -> None:
        """Args:
        directory: where the file is made.
        room: (N,) labels that each utterance has at most.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  closed with the object
        self._begin = np.cumsum(room, dtype=np.int64) - room
        self._room, self.lens = np.asarray(room, dtype=np.int64), np.zeros(len(room), dtype=np.int64)

    @classmethod
    def of(cls, directory: Path, rows: Iterable[np.ndarray]) -> LabelFile:
        """A file with the given labels."""
        out = cls(directory, np.zeros(0, dtype=np.int64))
        lens = []
        for row in rows:
            out._file.write(np.ascontiguousarray(row, dtype=np.int32).data)
            lens.append(len(row))
        out._file.flush()
        out._room = out.lens = np.array(lens, dtype=np.int64)
        out._begin = np.cumsum(out.lens) - out.lens
        return out

    def __len__(self) -> int:
        return len(self.lens)

    def __setitem__(self, i: int, row: np.ndarray) -> None:
        assert len(row) <= self._room[i], (i, len(row), self._room[i])
        write_at(self._file.fileno(), np.ascontiguousarray(row, dtype=np.int32).data, int(self._begin[i]) * 4)
        self.lens[i] = len(row)

    def __getitem__(self, i: int) -> np.ndarray:  # type: ignore[override]  # no slices
        if not 0 <= i < len(self):
            raise IndexError(i)
        out = np.empty(int(self.lens[i]), dtype=np.int32)
        found = read_at(self._file.fileno(), out.data, int(self._begin[i]) * 4)
        assert found == out.nbytes, (i, found)
        return out


def word_ids(data: Dataset, lang: Lang) -> Lazy[list[int]]:
    """Word ids of the transcripts; DataError names the line of a word outside the lexicon."""
    return Lazy(len(data), lambda i: lang.word_ids(data.text(i), data.where(i)))


class AlignedCuts:
    """The set that holds each cut: the alignment; or that alignment at another speed for cuts of
    steps/perturb_speed.py; or under another name for the copies of steps/add_noise.py, of either.
    """

    def __init__(self, ali: AliSet) -> None:
        self.ali = ali
        self._copies: dict[tuple[str, str], AliSet] = {}

    def origin(self, cut_id: str) -> tuple[str, str, str] | None:
        """Id of the cut that is aligned, the speed as it is written and the suffix of noise, each empty for none; None
        for a cut that is no copy of an aligned one either.
        """
        if cut_id in self.ali:
            return cut_id, "", ""
        name = re.sub(r"_noise\d+$", "", cut_id)
        base, speed = name, ""
        if name not in self.ali:
            base, mark, speed = name.rpartition("_sp")
            if not mark or base not in self.ali or not re.fullmatch(r"\d+(\.\d+)?", speed):
                return None
        return base, speed, cut_id[len(name) :]

    def of(self, cut_id: str) -> AliSet | None:
        """The set of a cut, None if there is none."""
        found = self.origin(cut_id)
        if found is None:
            return None
        _, speed, noise = found
        if not (speed or noise):
            return self.ali
        key = speed, noise
        if key not in self._copies:
            copies = self.ali.at_speed(float(speed)) if speed else self.ali
            self._copies[key] = copies.renamed(noise) if noise else copies
        return self._copies[key] if cut_id in self._copies[key] else None

    def slack(self, own: AliSet) -> int:
        """Labels by which the length of an utterance of this set may differ from its features."""
        return 0 if own is self.ali else SPEED_SLACK

    def present(self, data: Dataset) -> np.ndarray:
        """(N,) bool, which utterances are aligned."""
        return np.fromiter((self.of(data.id(i)) is not None for i in range(len(data))), dtype=bool, count=len(data))

    def check_length(self, cut_id: str, rate: int, expected: int, data_dir: Path) -> None:
        """MismatchError unless a cut has as many labels as label frames, without reading them.

        Args:
            rate: alignment frames per label.
        """
        own = self.of(cut_id)
        assert own is not None, cut_id
        count = -(-own.num_frames(cut_id) // rate)
        if abs(count - expected) > self.slack(own):
            raise MismatchError(
                f"{self.ali.directory} and {data_dir} do not belong together: utterance {cut_id!r} has {count} "
                f"labels and {expected} label frames"
            )


def aligned_labels(
    data: Dataset, cuts: AlignedCuts, lens: np.ndarray, rate: int, majority: bool, data_dir: Path
) -> Lazy[np.ndarray]:
    """(T'_n,) int32 pdf-ids of each utterance; all of them are aligned.

    Args:
        lens: (N,) label frames.
        rate: alignment frames per label.
        majority: the most frequent label instead of the first.
    Raises:
        MismatchError: an utterance of another length; all are looked at.
    """
    for i, expected in enumerate(lens.tolist()):
        cuts.check_length(data.id(i), rate, expected, data_dir)

    def make(i: int) -> np.ndarray:
        cut_id = data.id(i)
        own = cuts.of(cut_id)
        assert own is not None, cut_id
        return fitted(own.pdf_ids(cut_id, rate, majority), int(lens[i]))

    return Lazy(len(data), make)


def frames_per_label(
    ali: AliSet, frame_shift: float, factor: int, data_dir: Path, model_dir: Path | None = None
) -> int:
    """Alignment frames per label; MismatchError when the alignment is too coarse or does not divide.

    Args:
        frame_shift: seconds between the features of data_dir.
        factor: feature frames per label.
        model_dir: the model that has this factor already; None: it is an option.
    """
    shift = frame_shift * factor
    count = int(round(shift / ali.header.frame_shift))
    if count < 1 or abs(count * ali.header.frame_shift - shift) > 1e-6:
        cure = f"--subsampling {max(1, round(ali.header.frame_shift / frame_shift))} fits"
        if model_dir is not None:
            cure = f"an alignment by {model_dir} itself fits, or one of finer frames"
        raise MismatchError(
            f"alignment {ali.directory} has a frame every {ali.header.frame_shift * 1000:g} ms; labels every "
            f"{shift * 1000:g} ms (features of {data_dir}, {factor} of them per label) cannot be taken from it; {cure}"
        )
    return count


def check_missing(data: Dataset, present: np.ndarray, ali: AliSet, data_dir: Path, max_missing: float) -> None:
    """DataError when a larger share of the utterances than max_missing has no alignment; a warning when some have none.

    Args:
        present: (N,) bool, which are aligned.
    """
    missing = np.flatnonzero(~present)
    if not len(missing):
        return
    text = (
        f"{ali.directory} has no alignment for {len(missing):,} of the {len(data):,} utterances of {data_dir}, "
        f"the first: {data.id(int(missing[0]))!r}"
    )
    if len(missing) > max_missing * len(data):
        raise DataError(f"{text}; align that data first")
    logger.warning("%s", text)


def fitted(labels: np.ndarray, expected: int) -> np.ndarray:
    """(expected,) labels: the same, or with the last one repeated or cut off where some are missing or too many."""
    return np.pad(labels, (0, max(expected - len(labels), 0)), mode="edge")[:expected]
