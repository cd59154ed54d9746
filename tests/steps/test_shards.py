"""Trainings, alignment and decoding read lhotse Shar where it lies, and do the same as with unpacked features."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from steps.__main__ import main
from tests.conftest import ROOT
from tests.steps.small_recipe import NET, results
from tests.torchrun import torchrun

pytestmark = pytest.mark.slow
SMALL = [*NET[:6], "--epochs", "1", "--device", "cpu", "--batch-frames", "1500"]
READERS = {
    "train-mono": "train-mono {x} {d}/lang {o} --num-gauss 60 --num-iters 2 --realign-iters 1 --grow-iters 1",
    "train-nhmm": f"train-nhmm {{x}} {{d}}/lang {{o}} --dev {{x}} {' '.join(SMALL)}",
    "train-viterbi": f"train-viterbi {{x}} {{d}}/lang {{e}}/mono_ali {{o}} {' '.join(SMALL)}",
    "train-sequence": "train-sequence {x} {d}/lang {e}/hybrid {o} --criterion realign --epochs 1 --device cpu",
    "train-e2e": f"train-e2e {{x}} {{t}} {{o}} --model ctc --dev {{x}} {' '.join(SMALL)}",
    "align-data": "align-data {x} {d}/lang {e}/mono {o} --jobs 2",
    "decode": "decode {e}/mono {e}/mono/graph {x} {o} --lm-weights 10 --word-penalties 0",
}


@pytest.fixture(scope="module")
def shards(recipe, tmp_path_factory) -> tuple[Path, Path]:
    """The features of the recipe in three shards, and a set of tokens."""
    out = tmp_path_factory.mktemp("shards")
    for line in (
        f"export-shar {recipe}/data/mfcc {out}/shar --shard-size 10",
        f"train-tokens {recipe}/data/local/lm_text.txt {out}/tokens --unit char",
    ):
        done = CliRunner().invoke(main, line.split())
        assert done.exit_code == 0, (done.output, done.exception)
    return out / "shar", out / "tokens"


@pytest.mark.parametrize("reader", READERS)
def test_the_same_bytes(recipe, shards, tmp_path, reader):
    found = []
    for name, data in (("packed", recipe / "data/mfcc"), ("shar", shards[0])):
        out = tmp_path / name
        line = READERS[reader].format(x=data, d=recipe / "data", e=recipe / "exp", t=shards[1], o=out)
        done = CliRunner().invoke(main, line.split())
        assert done.exit_code == 0, (done.output, done.exception)
        found.append(results(out, [data, out]))
    assert len(found[0]) >= 2 and found[0] == found[1]


def test_two_processes_read_the_shards_together(recipe, shards, tmp_path, run_script):
    """Batch by batch, each its own."""
    found = []
    for name, data in (("packed", recipe / "data/mfcc"), ("shar", shards[0])):
        line = READERS["train-viterbi"].format(x=data, d=recipe / "data", e=recipe / "exp", o=tmp_path / name).split()
        step = ROOT / "steps" / "train_viterbi.py"
        done = run_script(*torchrun(2), step, *line[1:], "--cache-mib", "0", OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        found.append(results(tmp_path / name, [data, tmp_path / name]))
    assert "model.safetensors" in found[0] and found[0] == found[1]
