"""Features that are not those of the model: refused by every step that takes both, before a frame is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.feats.frame_file import FrameFile
from steps.__main__ import main
from tests.steps.small_recipe import NET, run

# What is changed in features.json, as if the features had been computed with other options.
KINDS = {
    "type": lambda facts: facts.update(type="fbank"),
    "dimension": lambda facts: facts.update(dim=facts["dim"] + 1),
    "rate": lambda facts: facts.update(sampling_rate=8000),
    "window": lambda facts: facts.update(window=0.032),
    "shift": lambda facts: facts.update(frame_shift=0.0125),
    "band": lambda facts: facts["extractor"].update(high_freq=3800.0),
}
SMALL = ["--num-leaves", "20", "--num-gauss", "60", "--num-iters", "2", "--realign-iters", "1", "--grow-iters", "1"]
NETWORK = [*NET[:6], "--epochs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def models(recipe, tmp_path_factory) -> Path:
    """A copy of the recipe with models of the other kinds, and one altered data directory for each of KINDS."""
    top = tmp_path_factory.mktemp("pairings")
    for part in ("data", "exp"):
        shutil.copytree(recipe / part, top / part)
    made = {
        "lda": f"train-lda-mllt {{d}}/mfcc {{d}}/lang {{e}}/mono_ali {{e}}/lda {' '.join(SMALL)} --mllt-iters 1 --dim 10",
        "lda_ali": "align-data {d}/mfcc {d}/lang {e}/lda {e}/lda_ali",
        "sat": f"train-sat {{d}}/mfcc {{d}}/lang {{e}}/lda_ali {{e}}/sat --model {{e}}/lda {' '.join(SMALL)} --fmllr-iters 1",
        "tokens": "train-tokens {d}/local/lm_text.txt {d}/tokens --unit char",
        "ctc": f"train-e2e {{d}}/mfcc {{d}}/tokens {{e}}/ctc --model ctc {' '.join(NETWORK)}",
        "graph": "make-graph {d}/lang {d}/lm {e}/hybrid {e}/hybrid/graph",
    }
    for name, line in made.items():
        arguments = line.format(d=top / "data", e=top / "exp").split()
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, (name, done.output, done.exception)
    for kind, change in KINDS.items():
        shutil.copytree(top / "data/mfcc", top / kind)
        facts = json.loads((top / kind / "features.json").read_text())
        change(facts)
        (top / kind / "features.json").write_text(json.dumps(facts))
    return top


TAKERS = {
    "align with a GMM": "align-data {x} {d}/lang {e}/mono {o}",
    "align with LDA": "align-data {x} {d}/lang {e}/lda {o}",
    "align with a neural HMM": "align-data {x} {d}/lang {e}/nhmm {o}",
    "align with a hybrid network": "align-data {x} {d}/lang {e}/hybrid {o}",
    "decode with a GMM": "decode {e}/mono {e}/mono/graph {x} {o}",
    "decode with a network": "decode {e}/hybrid {e}/hybrid/graph {x} {o}",
    "decode end to end": "decode-e2e {e}/ctc {d}/tokens {x} {o}",
    "estimate fMLLR": "estimate-fmllr {x} {d}/lang {e}/sat {e}/mono/decode {o}",
    "transform features": "transform-feats {x} {e}/lda {o}",
    "speaker-adaptive training": "train-sat {x} {d}/lang {e}/lda_ali {o} --model {e}/lda",
    "EM of transitions": "estimate-transitions {x} {d}/lang {e}/nhmm {o}",
    "sequence training": "train-sequence {x} {d}/lang {e}/hybrid {o} --graph {e}/hybrid/graph",
    "dev of sequence training": "train-sequence {d}/mfcc {d}/lang {e}/hybrid {o} --graph {e}/hybrid/graph --dev {x}",
    "dev of a neural HMM": f"train-nhmm {{d}}/mfcc {{d}}/lang {{o}} --dev {{x}} {' '.join(NET)}",
    "dev of a hybrid network": f"train-viterbi {{d}}/mfcc {{d}}/lang {{e}}/mono_ali {{o}} --dev {{x}} "
    f"--dev-ali {{e}}/mono_ali {' '.join(NET)}",
    "dev of CTC": f"train-e2e {{d}}/mfcc {{d}}/tokens {{o}} --dev {{x}} {' '.join(NETWORK)}",
}


@pytest.mark.slow
@pytest.mark.parametrize("taker", TAKERS)
def test_refused_before_a_frame_is_read(models, tmp_path, taker, monkeypatch, caplog):
    def read(self, first, out):
        raise AssertionError(f"{self.path} is read")

    monkeypatch.setattr(FrameFile, "read", read)
    for kind in KINDS:
        caplog.clear()
        line = TAKERS[taker].format(x=models / kind, d=models / "data", e=models / "exp", o=tmp_path / "out")
        done = CliRunner().invoke(main, line.split())
        said = caplog.text + done.output
        assert done.exit_code == 2 and "do not belong together" in said and str(models / kind) in said, (kind, said)
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_alignment_at_another_frame_rate(models, tmp_path):
    """Only the shift must agree: mixtures of any features may learn from an alignment."""
    command = [
        "steps/train_deltas.py",
        models / "shift",
        models / "data/lang",
        models / "exp/mono_ali",
        tmp_path / "out",
    ]
    done = run(["python", *map(str, command)])
    assert done.returncode == 2 and "features every 12.5 ms" in done.stderr, done.stderr
