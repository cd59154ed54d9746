"""``--device cuda`` without a GPU for mixtures: training and alignment, held to the CPU's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.gmm.model import load_scorer
from pipeline.gmm.mono import train_mono
from pipeline.gmm.options import LdaMlltOptions, MonoOptions, SatOptions
from pipeline.gmm.sat import train_sat
from pipeline.gmm.triphone import train_lda_mllt
from pipeline.tasks.align import AlignOptions, align
from tests.gmm.test_chain import LANG, RAW, TRI, WORLD
from tests.gmm.world import draw, write_corpus
from tests.pretend_cuda import pretend_cuda

pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("1."), reason="the modes of torch 1 do not see properties of tensors"
)
MONO = MonoOptions(num_gauss=9, num_iters=4, grow_iters=2, realign_iters=(1, 2, 3), **RAW)


def test_chain(tmp_path):
    write_corpus(tmp_path / "data", draw(WORLD, 40, seed=2))

    def chain(out, device):
        for name in ("mono", "lda", "sat"):
            (out / name).mkdir(parents=True)
        train_mono(tmp_path / "data", LANG, dataclasses.replace(MONO, device=device), out / "mono")
        use = AlignOptions(device=device)
        align(load_scorer(out / "mono", device=device), LANG, tmp_path / "data", out / "ali", use, "mono")
        lda = LdaMlltOptions(**(TRI | {"num_iters": 4, "realign_iters": (2,)}), dim=3, device=device, cmvn="none")
        train_lda_mllt(tmp_path / "data", LANG, out / "ali", lda, out / "lda")
        align(load_scorer(out / "lda", device=device), LANG, tmp_path / "data", out / "lda_ali", use, "lda")
        sat = SatOptions(**(TRI | {"num_iters": 4, "realign_iters": (2,)}), fmllr_iters=(1,), device=device)
        train_sat(tmp_path / "data", LANG, out / "lda_ali", out / "lda", sat, out / "sat")

    chain(tmp_path / "cpu", "cpu")
    with pretend_cuda() as gpu:
        chain(tmp_path / "gpu", "cuda")
    assert gpu.calls > 100
    for name in ("ali", "lda_ali"):
        ours, theirs = (AliSet.load(tmp_path / where / name) for where in ("gpu", "cpu"))
        equal = [np.mean(ours[cut].transition_ids == theirs[cut].transition_ids) for cut in theirs]
        assert np.mean(equal) > 0.99, name  # other sums in float32 move a boundary now and then
