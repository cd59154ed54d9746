"""--jobs of the trainings of mixtures: threads share the passes and change no bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.artifacts.lang import Lang
from pipeline.gmm.model import load_scorer
from pipeline.gmm.mono import train_mono
from pipeline.gmm.options import LdaMlltOptions, MonoOptions, SatOptions
from pipeline.gmm.sat import train_sat
from pipeline.gmm.triphone import train_lda_mllt
from pipeline.hmm import threads
from pipeline.tasks.align import AlignOptions, align

SMALL = {"num_iters": 3, "grow_iters": 2, "realign_iters": (2,), "num_gauss": 60, "num_leaves": 20}


def chain(tones, out: Path) -> dict[str, bytes]:
    """Monophones, triphones with LDA and MLLT, speaker-adaptive training; the tensors of all."""
    lang = Lang.load(tones.lang)

    def aligned(model: str) -> Path:
        scorer = load_scorer(out / model, transforms=None)
        align(scorer, lang, tones.data, out / f"{model}_ali", AlignOptions(max_failed=0.5), "model")
        return out / f"{model}_ali"

    mono = MonoOptions(num_iters=4, grow_iters=3, realign_iters=(1, 2, 3), num_gauss=40)
    train_mono(tones.data, lang, mono, out / "mono")
    for name in ("lda", "sat"):
        (out / name).mkdir()
    lda = LdaMlltOptions(**SMALL, mllt_iters=(2,), dim=10)
    train_lda_mllt(tones.data, lang, aligned("mono"), lda, out / "lda")
    sat = SatOptions(**SMALL, fmllr_iters=(2,), min_count=20.0)
    train_sat(tones.data, lang, aligned("lda"), out / "lda", sat, out / "sat")
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*.safetensors"))}


def test_the_chain_is_the_same_for_any_number_of_threads(tones, tmp_path, monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: range(3), raising=False)
    monkeypatch.setattr("pipeline.hmm.numba_calls.SERIAL_CELLS", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = chain(tones, tmp_path / "1")
        with threads.sharing(3):
            assert threads.thread_count() == 3 and torch.get_num_threads() == 1
            three = chain(tones, tmp_path / "3")
        assert threads.thread_count() == 1
    finally:
        torch.set_num_threads(before)
    assert {"mono/model.safetensors", "lda/model.safetensors", "sat/fmllr.safetensors"} <= set(one)
    assert one == three


def test_sharing_ends_with_its_context():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads.sharing(2):
        raise ZeroDivisionError
    assert threads.thread_count() == torch.get_num_threads() == before
