"""A chain of GMM trainings for processes of torchrun: tests/gmm/shared_job.py DATA LANG DIR [iteration to die in]."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from pipeline.artifacts.lang import Lang
from pipeline.base import log
from pipeline.gmm import blocks, train
from pipeline.gmm.model import load_scorer
from pipeline.gmm.mono import train_mono
from pipeline.gmm.options import LdaMlltOptions, MonoOptions, SatOptions
from pipeline.gmm.sat import train_sat
from pipeline.gmm.triphone import train_lda_mllt
from pipeline.nn.distributed import World, follow, lead
from pipeline.tasks.align import AlignOptions, align

SMALL = {"num_iters": 3, "grow_iters": 2, "realign_iters": (2,), "num_gauss": 60, "num_leaves": 20}


def chain(data: Path, lang_dir: Path, out: Path) -> None:
    """Monophones, by full-sum too, triphones with LDA and MLLT, speaker-adaptive training."""
    blocks.BLOCK_FRAMES = 300
    lang, rank = Lang.load(lang_dir), World.current().rank

    def aligned(model: str) -> Path:
        if not rank:
            scorer = load_scorer(out / model, transforms=None)
            align(scorer, lang, data, out / f"{model}_ali", AlignOptions(max_failed=0.5), "model")
        World.current().sum_of({})  # the others wait
        return out / f"{model}_ali"

    mono = MonoOptions(num_iters=4, grow_iters=3, realign_iters=(1, 2, 3), num_gauss=40)
    train_mono(data, lang, mono, out / "mono")
    soft = MonoOptions(num_iters=2, grow_iters=1, realign_iters=(2,), num_gauss=30, full_sum=True)
    train_mono(data, lang, soft, out / "soft")
    for name in ("lda", "sat"):
        (out / name).mkdir(exist_ok=True)
    lda = LdaMlltOptions(**SMALL, mllt_iters=(2,), dim=10)
    train_lda_mllt(data, lang, aligned("mono"), lda, out / "lda")
    sat = SatOptions(**SMALL, fmllr_iters=(2,), min_count=20.0)
    train_sat(data, lang, aligned("lda"), out / "lda", sat, out / "sat")


def main() -> None:
    """The first process works in the directory, the others find it by the first one."""
    log.setup_default()
    data, lang, out = (Path(p) for p in sys.argv[1:4])
    if len(sys.argv) > 4:
        _die_once(int(sys.argv[4]), out)
    if int(os.environ.get("RANK", 0)):
        follow(lambda place: chain(data, lang, place), "cpu")
        return
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        lead(out, "cpu")
    chain(data, lang, out)


def _die_once(iteration: int, out: Path) -> None:
    """Has the last process killed when it begins an iteration, in the first attempt; checkpoints after each."""
    train.CHECKPOINT_EVERY = 0.0
    last = int(os.environ["RANK"]) + 1 == int(os.environ["WORLD_SIZE"])
    if not last or os.environ["TORCHELASTIC_RESTART_COUNT"] != "0":
        return
    iterate = train._iterate

    def dying(state, aligner, options, silence, adaptation, number, start):
        if number == iteration:
            (out / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        iterate(state, aligner, options, silence, adaptation, number, start)

    train._iterate = dying


if __name__ == "__main__":
    main()
