"""Memory of a training does not grow with the corpus."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.ali import Alignment, AliHeader, AliWriter
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree

ROOT = Path(__file__).resolve().parents[2]
INDEX_BYTES = 250  # that an utterance may take
TRAIN = """
import sys
from pathlib import Path
import pipeline.base.cli
from pipeline.nn.hybrid import train_viterbi
from pipeline.nn.options import ViterbiOptions
options = ViterbiOptions(
    encoder="tdnn", layers=1, dim=4, deltas=2, batch_frames=4000, epochs=1, cache_mib=int(sys.argv[5]), device="cpu"
)
train_viterbi(*map(Path, sys.argv[1:5]), options)
# ru_maxrss would count what the process that started this one held.
print(next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def repeat(data: Path, lang: Lang, out: Path, times: int) -> int:
    """A data directory with the utterances of another one under new ids, and an alignment that says nothing; returns
    the number of utterances.
    """
    lines = gzip.decompress((data / "cuts.jsonl.gz").read_bytes()).decode().splitlines()
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    header = AliHeader(lang.topo.id, tree.id, lang.id, 0.01, 0.0, "test")
    (out / "data").mkdir(parents=True)
    with (
        gzip.open(out / "data" / "cuts.jsonl.gz", "wt", compresslevel=1) as file,
        AliWriter(out / "ali", header, tree, lang.topo, transitions, lang.words) as writer,
    ):
        for number in range(times):
            for cut in map(json.loads, lines):
                cut["id"] = cut["recording"]["id"] = f"{cut['id']}-{number}"
                cut["supervisions"][0] |= {"id": cut["id"], "recording_id": cut["id"]}
                file.write(json.dumps(cut) + "\n")
                frames = int(cut["features"]["storage_key"].split(",")[1])
                tids, words = np.zeros(frames, dtype=np.int32), np.zeros((0, 2), dtype=np.int32)
                writer.write(Alignment(cut["id"], tids, 0.0, words))
    facts = json.loads((data / "features.json").read_text())
    facts |= {key: facts[key] * times for key in ("num_utterances", "num_frames")}
    (out / "data" / "features.json").write_text(json.dumps(facts))
    (out / "data" / "cmvn.json").write_text((data / "cmvn.json").read_text())
    return len(lines) * times


def peak(tones, directory: Path, cache_mib: int) -> int:
    """Bytes that a training holds at most."""
    # The C library keeps freed blocks of many sizes in its heap, more of them the more batches there are; blocks of
    # their own are given back, so that what is left is what the training holds.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    arguments = directory / "data", tones.lang, directory / "ali", directory / f"model{cache_mib}", cache_mib
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_training_holds_no_more_of_a_larger_corpus(tones, tmp_path):
    lang = Lang.load(tones.lang)
    counts = [repeat(tones.data, lang, tmp_path / str(times), times) for times in (80, 400)]
    small, large = (peak(tones, tmp_path / str(times), cache_mib=0) for times in (80, 400))
    assert large - (counts[1] - counts[0]) * INDEX_BYTES < 1.1 * small, (small, large)
    assert peak(tones, tmp_path / "400", cache_mib=2048) > 1.2 * large  # what the test would see of features in memory
