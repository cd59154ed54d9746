"""Networks that several processes of torchrun train together: as one process does with so much accumulation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from pipeline.artifacts.checkpoint import load_tensors
from pipeline.artifacts.lang import Lang
from pipeline.nn.model import load_scorer
from pipeline.nn.nhmm import train_nhmm
from pipeline.nn.options import NhmmOptions
from pipeline.nn.train import Task
from pipeline.tasks.align import AlignOptions, align
from tests.conftest import ROOT
from tests.torchrun import torchrun

SHAPE = "--encoder tdnn --layers 1 --dim 8 --dropout 0 --epochs 3 --average 1 --batch-frames 400 --device cpu".split()
# An odd number of batches: at an epoch's end the first process has one more.
SIGMA = [*SHAPE, "--encoder", "transformer", "--heads", "2", "--sigma-reparam", "--batch-frames", "500"]
PLAIN = ["--time-masks", "0", "--feature-masks", "0"]
DYING = Path(__file__).with_name("dying_step.py")


@pytest.fixture(scope="module")
def start(tones, tmp_path_factory) -> Path:
    """A neural HMM and its alignment."""
    out = tmp_path_factory.mktemp("start")
    shape = dict(encoder="tdnn", layers=1, dim=16, batch_frames=400, time_masks=0, feature_masks=0, device="cpu")
    train_nhmm(tones.data, tones.lang, out / "model", NhmmOptions(epochs=4, learning_rate=5e-3, **shape))
    lang = Lang.load(tones.lang)
    align(load_scorer(out / "model"), lang, tones.data, out / "ali", AlignOptions(), "model")
    return out


def commands(tones, start: Path) -> dict[str, list]:
    """Steps with their inputs; the output and what is common to all come behind."""
    return {
        "train_nhmm": [tones.data, tones.lang, "OUT", "--dev", tones.data, "--prior", "softmax", *SHAPE, *PLAIN],
        "train_viterbi": [tones.data, tones.lang, start / "ali", "OUT", "--realign-rounds", "1", *SHAPE, *PLAIN],
        "train_sequence": [
            *(tones.data, tones.lang, start / "model", "OUT", "--criterion", "realign", "--epochs", "2"),
            *("--batch-frames", "400", "--device", "cpu", *PLAIN),
        ],
    }


@pytest.mark.slow
@pytest.mark.parametrize("step", ["train_nhmm", "train_viterbi", "train_sequence"])
def test_two_processes_do_what_one_does_with_accumulation(tones, start, tmp_path, run_script, step):
    def command(out: Path) -> list:
        return [ROOT / "steps" / f"{step}.py", *(out if x == "OUT" else x for x in commands(tones, start)[step])]

    one = run_script(sys.executable, *command(tmp_path / "one"), "--accumulate", "2", OMP_NUM_THREADS="1")
    assert one.returncode == 0, one.stderr
    two = run_script(*torchrun(2), *command(tmp_path / "two"), OMP_NUM_THREADS="1")
    assert two.returncode == 0, two.stderr
    models = [load_tensors(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert set(models[0]) == set(models[1])
    for name, tensor in models[0].items():
        assert torch.allclose(tensor, models[1][name], atol=2e-4), name
    files = [{p.name for p in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [SHAPE, SIGMA], ids=["tdnn", "sigma"])
def test_a_process_that_is_killed_costs_no_bit(tones, start, tmp_path, run_script, shape):
    """torchrun starts both again, and they go on from the checkpoint, in which all is that of the first one."""
    step = [ROOT / "steps" / "train_viterbi.py", tones.data, tones.lang, start / "ali"]
    for name in ("whole", "killed"):
        how = [DYING, "3", tmp_path / "died"] if name == "killed" else []
        done = run_script(*torchrun(2, 1), *how, *step, tmp_path / name, *shape, *PLAIN, OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists() and "resuming after epoch 2" in done.stderr
    whole, killed = (load_tensors(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_priors_of_processes_are_averaged():
    """By a world of two, whose other member has seen nothing but the first label."""
    from pipeline.nn.losses import FullSum, Ramp
    from pipeline.nn.model import AcousticModel
    from pipeline.nn.options import EncoderOptions
    from pipeline.nn.step import KeepsStatistics

    class Two:
        size = 2

        def sum_tensor(self, tensor):
            return tensor + torch.tensor([1.0, 0.0])

    model = AcousticModel(3, 2, EncoderOptions(encoder="tdnn", layers=1, dim=4))
    criterion = FullSum(None, [0], Ramp(1.0), Ramp(1.0), prior="on_the_fly")
    assert isinstance(criterion, KeepsStatistics) and Task(None, criterion).criterion is criterion
    criterion.join(model, Two())
    assert torch.allclose(model.log_prior.exp(), torch.tensor([0.75, 0.25]))
