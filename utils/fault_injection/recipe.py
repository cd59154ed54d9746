"""A recipe in small as a list of commands, and what they made when nobody disturbed them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts.index import INDEX
from pipeline.base.files import read_json, write_json
from pipeline.base.stamp import DIGESTS, MEASURED, STAMP
from utils.fault_injection import warm

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("local", "conf")  # folders of a recipe
UNLIMITED = warm.Limits()
# Options that make egs/tiny small, by file of conf/ and for the preparation.
SMALL: dict[str, dict[str, Any]] = {
    "mono": {"num_gauss": 150, "num_iters": 5, "grow_iters": 3, "realign_iters": [1, 2, 4]},
    "nhmm": {"dim": 24, "layers": 2, "epochs": 3},
    "viterbi": {"dim": 24, "layers": 2, "epochs": 3},
    "e2e": {"dim": 24, "layers": 3, "dilations": [1, 1, 2], "epochs": 3},
    "tokens": {"vocab_size": 40},
}
CORPUS = ["--num-train", "16", "--num-dev", "3", "--num-test", "3", "--num-lm-sentences", "50"]
# Steps of other recipes, so that each training is there.
GMM = "--num-gauss 80 --num-iters 4 --grow-iters 2 --realign-iters 2 --num-leaves 40 --leaf-min-count 20"
NET = "--dim 24 --layers 2 --epochs 3 --device cpu"
MMI = "--criterion lfmmi --epochs 3 --device cpu"
MORE = f"""
train_deltas data/mfcc/train data/lang_phone exp/gmm_ali/train exp/tri1 {GMM}
train_lda_mllt data/mfcc/train data/lang_phone exp/gmm_ali/train exp/tri2 {GMM} --dim 20 --mllt-iters 2,3
align data/mfcc/train data/lang_phone exp/tri2 exp/tri2_ali
train_sat data/mfcc/train data/lang_phone exp/tri2_ali exp/tri3 {GMM} --fmllr-iters 2,3 --model exp/tri2
tie_states data/mfcc/train data/lang_phone exp/gmm_ali/train exp/tied_ali --num-leaves 40 --min-count 20
estimate_transitions data/fbank/train data/lang_phone exp/nhmm_speech_silence exp/nhmm_transitions --rounds 3
train_nhmm data/fbank/train data/lang_phone exp/nhmm_blstm --encoder blstm {NET}
make_den_graph data/fbank/train data/lang_phone exp/hybrid_gmm exp/hybrid_gmm/den
train_sequence data/fbank/train data/lang_phone exp/hybrid_gmm exp/mmi --graph exp/hybrid_gmm/den {MMI}
train_e2e data/fbank/train data/tokens exp/e2e_attention --model attention --decoder-dim 16 {NET}
train_e2e data/fbank/train data/tokens exp/e2e_rnnt --model transducer --decoder-dim 16 --joint-dim 16 {NET}
train_nn_lm data/local/lm_text.txt data/tokens exp/nn_lm --dim 16 --epochs 3
train_g2p data/local/lexicon.txt exp/g2p
refine_ali exp/gmm_ali/train exp/refined_ali --by exp/nhmm_speech_silence data/fbank/train
train_async data/fbank/train data/lang_phone exp/gmm_ali/train exp/async --mode synchronous --replicas 2 {NET}
"""
LAYERS = ("--aux-layers", "2")  # of the smaller encoder
PARTS = ("align", "compute_feats", "decode", "decode_e2e")  # steps that divide into parts


@dataclass(frozen=True)
class Step:
    """A command of a recipe.

    Attributes:
        name: of its script, with a number where it runs several times.
        argv: script and arguments, in the folder of the recipe.
        outputs: directories that it made, relative to the recipe's.
        jobs: parts into which it divides its work, if it does.
        processor: seconds that it computed. calls: of those that the shim counts.
    """

    name: str
    argv: list[str]
    outputs: tuple[str, ...] = ()
    jobs: int = 1
    processor: float = 0.0
    calls: int = 0

    @property
    def script(self) -> str:
        """Name of its script."""
        return Path(self.argv[0]).stem


def commands(recipe: Path, directory: Path) -> list[Step]:
    """What run.sh of a recipe calls, from a copy of the recipe in `directory`, made small; nothing of it runs."""
    for name in SOURCES:
        shutil.copytree(recipe / name, directory / name)
    for name, values in SMALL.items():
        path = directory / "conf" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))
    (directory / "run.sh").write_text((recipe / "run.sh").read_text().replace("../../utils", str(ROOT / "utils")))
    programs = directory / "programs"
    programs.mkdir()
    python = programs / "python"  # which only notes what it is asked for
    python.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >> "{programs}/asked"\nprintf "\\n" >> "{programs}/asked"\n')
    python.chmod(0o755)
    (programs / "cp").symlink_to("/bin/true")
    environment = {**os.environ, "FULLSUM_ENV": "system", "PATH": f"{programs}:{os.environ['PATH']}"}
    environment.pop("LD_PRELOAD", None)
    subprocess.run(["bash", "run.sh"], cwd=directory, env=environment, check=True, capture_output=True)
    asked = [line.split("\0")[:-1] for line in (programs / "asked").read_text().splitlines()]
    shutil.rmtree(programs)
    shutil.rmtree(directory / "exp")
    found = [_small(argv) for argv in asked if Path(argv[0]).name not in ("current.py", "results.py")]
    more = [line.split() for line in MORE.strip().splitlines()]
    # Before the report, which is about all of them.
    found[-1:-1] = [Step(script, [str(ROOT / "steps" / f"{script}.py"), *arguments]) for script, *arguments in more]
    return [replace(step, name=f"{i:02d}_{step.script}") for i, step in enumerate(found)]


def _small(argv: list[str]) -> Step:
    script = Path(argv[0]).name
    if script == "prepare.py":
        argv = [*argv, *CORPUS]
    if "--aux-layers" in argv:
        at = argv.index("--aux-layers")
        argv = [*argv[:at], *LAYERS, *argv[at + 2 :]]
    return Step(script, argv)


class Sandbox:
    """Folders of a campaign: `tree`, in which all commands run, so that paths in files are always the same, and
    `undisturbed`, a copy of it as it was after an undisturbed run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.tree, self.undisturbed = self.directory / "tree", self.directory / "undisturbed"
        self.scratch, self.output = self.tree / "scratch", self.directory / "output.txt"
        self._expected: dict[str, str] | None = None

    def empty(self) -> None:
        """Leaves of `tree` what commands do not make."""
        shutil.rmtree(self.tree, ignore_errors=True)
        self.scratch.mkdir(parents=True)
        for name in SOURCES:
            if (self.undisturbed / name).is_dir():
                shutil.copytree(self.undisturbed / name, self.tree / name)
        if (self.undisturbed / "run.sh").is_file():
            shutil.copy(self.undisturbed / "run.sh", self.tree)

    def keep(self) -> None:
        """Remembers `tree` as what nobody disturbed."""
        shutil.rmtree(self.undisturbed, ignore_errors=True)
        shutil.copytree(self.tree, self.undisturbed, symlinks=True)

    def start(self, step: Step, limits: warm.Limits = UNLIMITED, output: Path | None = None) -> int:
        """Starts a command in `tree`; its process id."""
        environment = {"TMPDIR": str(self.scratch), "PYTHONPATH": str(ROOT), "FULLSUM_JOBS": str(step.jobs)}
        return warm.start(step.argv, self.tree, output or self.output, environment, limits)

    def run(self, step: Step, limits: warm.Limits = UNLIMITED) -> warm.Ended:
        """Runs a command in `tree` to its end."""
        return warm.wait(self.start(step, limits), self.output)

    def reset(self, *steps: Step) -> None:
        """Makes `tree` as after an undisturbed run, but without what some steps make."""
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(self.undisturbed, self.tree, symlinks=True)
        for output in {output for step in steps for output in step.outputs}:
            shutil.rmtree(self.tree / output, ignore_errors=True)

    def differences(self, steps: Sequence[Step]) -> list[str]:
        """Files of `tree` that are not as after an undisturbed run; what was removed with the outputs of `steps` by
        ``reset`` and is made by later ones is not missed.
        """
        if self._expected is None:
            self._expected = snapshot(self.undisturbed)
        gone = {
            nested.parent.relative_to(self.undisturbed).as_posix() + "/"
            for step in steps
            for output in step.outputs
            for nested in (self.undisturbed / output).rglob(STAMP)
            if nested.parent.relative_to(self.undisturbed).as_posix() not in step.outputs
        }
        expected = {k: v for k, v in self._expected.items() if not k.startswith(tuple(gone))}
        found = snapshot(self.tree)
        return sorted(k for k in {**expected, **found} if expected.get(k) != found.get(k))


def snapshot(directory: Path) -> dict[str, str]:
    """Path -> SHA-256 of what must not depend on when, or how often, a step was started.

    Left out are logs, curves and indexes that readers make; of stamps what they say of time, memory and code.
    """
    found = {}
    for path in sorted(directory.rglob("*")):
        inside = path.relative_to(directory)
        if path.is_dir() or path.name in (INDEX, DIGESTS) or {"log", "tensorboard", "scratch"} & set(inside.parts):
            continue
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if path.name == STAMP:
            stamp = json.loads(content)
            content = json.dumps([stamp["identity"], stamp["id"], stamp["inputs"], stamp["options"]]).encode()
        elif path.suffix == ".json":
            content = MEASURED.sub(b"", content)
        found[inside.as_posix()] = hashlib.sha256(content).hexdigest()
    return found


def save_steps(path: Path, steps: Sequence[Step]) -> None:
    """Writes the steps of a campaign, with what was found of them."""
    write_json(path, [asdict(step) for step in steps])


def load_steps(path: Path) -> list[Step]:
    """What ``save_steps`` wrote."""
    return [Step(**{**entry, "outputs": tuple(entry["outputs"])}) for entry in read_json(path)]


def stamps(directory: Path) -> set[str]:
    """Directories that steps have made."""
    return {path.parent.relative_to(directory).as_posix() for path in directory.rglob(STAMP)}
