"""One process that aligns again and again: its memory, its files and what it leaves."""

from __future__ import annotations

import os
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest

ALIGNMENTS = int(os.environ.get("SOAK", "120"))  # each takes a tenth of a second
WARM = 40
MOST_MIB = 24  # by which memory may grow after the first WARM alignments: what allocators keep in pieces


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_alignments_in_one_process(tmp_path, monkeypatch):
    from pipeline.tasks.aligner import Aligner

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    aligner, rng = Aligner.load("english"), np.random.default_rng(1)
    kept = sorted(path.name for path in tmp_path.iterdir())  # the unpacked model
    for number in range(ALIGNMENTS):
        samples = rng.integers(-3000, 3000, 6000 + 40 * (number % 100)).astype(np.int16)
        assert [w.symbol for w in aligner.align(samples, "a boat", aligner.sampling_rate).words] == ["a", "boat"]
        if number + 1 == WARM:
            memory, files = resident_mib(), open_files()
    # Files of tests before this one in the same process may be closed meanwhile.
    assert resident_mib() - memory < MOST_MIB and open_files() <= files
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
