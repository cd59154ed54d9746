"""TIMIT's label files (.phn, .wrd): first sample, sample behind the last one, and label in each line."""

from __future__ import annotations

import math
from pathlib import Path

from pipeline.artifacts.characters import WHOLE_NUMBER
from pipeline.base.errors import DataError
from pipeline.base.files import read_lines


def read_labels(path: Path, rate: int, duration: float = math.inf) -> list[tuple[str, float, float]]:
    """Read a .phn or .wrd file.

    Args:
        path: lines ``FIRST_SAMPLE END_SAMPLE LABEL``.
        rate: samples per second.
        duration: of the audio in seconds; labels are cut to it, and to the end of the label before (a few words
            overlap).
    Returns:
        (label, start, end) in seconds.
    """
    labels: list[tuple[str, float, float]] = []
    for line_no, line in read_lines(path):
        if not line:
            continue
        fields = line.split()
        if len(fields) != 3 or not all(map(WHOLE_NUMBER.fullmatch, fields[:2])):
            raise DataError(f"{path}:{line_no}: needs 'FIRST_SAMPLE END_SAMPLE LABEL'")
        start, end = int(fields[0]) / rate, min(int(fields[1]) / rate, duration)
        start = max(start, labels[-1][2]) if labels else start
        if end <= start:
            raise DataError(f"{path}:{line_no}: {fields[2]!r} ends before it starts, or starts after the audio's end")
        labels.append((fields[2], start, end))
    if not labels:
        raise DataError(f"{path}: holds no label")
    return labels
