"""What people write to steer steps and tables, and what reports are made of."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.base.cli import load_options
from pipeline.base.option_values import options_json
from pipeline.experiments.results_page import write_report
from pipeline.experiments.tables import load_table
from pipeline.feats.options import FeatureOptions
from pipeline.nn.options import EncoderOptions
from pipeline.parallel.options import ClusterOptions
from tests.corpora.made import lines
from tests.fuzz.formats import add

OPTIONS = {
    "feats.yaml": (FeatureOptions, "type: mfcc\ndim: none\nnum-mel-bins: 23\nframe_shift: 0.01\n"),
    "encoder.yaml": (EncoderOptions, "encoder: tdnn\ndim: 24\nlayers: 2\ndropout: 0.1\n"),
    "cluster.yaml": (
        ClusterOptions,
        "threads: 1\nmemory_gib: 2.5\nsetup: [module load x]\nslurm: {qos: long, nice: 3}\n",
    ),
}
TABLE = """title: Transition models
seeds: [1, 2]
axes:
  transition: [fixed, speech_silence]
  ali:
    gmm: {source: exp/mono_ali}
    nhmm: {source: exp/nhmm_ali}
commands:
  - steps/x.py {source} {dir}/model --transition {transition} --seed {seed}
  - {run: "steps/y.py {dir}", when: {ali: gmm}}
columns:
  - {metric: tse_ms, part: train}
  - {metric: p_loop, fact: "model:p_loop", label: loop probability}
known:
  - {cell: {transition: fixed}, column: tse_ms/train, value: 44.9}
claims:
  - {text: Learning helps, column: tse_ms/train, better: {transition: speech_silence}, than: {transition: fixed}}
plots:
  - {column: tse_ms/train, x: transition, series: ali}
"""
ROW = {"id": "mono", "part": "test", "metric": "wer", "value": 12.5, "low": 9.5, "high": 14.0, "counts": {"errors": 9}}
STAMP = {
    "identity": "x",
    "id": "y",
    "facts": {"command_line": "steps/x.py"},
    "code": {"revision": "abc"},
    "device": "cpu",
}


def make_options(root: Path) -> None:
    for name, (_, text) in OPTIONS.items():
        (root / name).write_text(text, encoding="utf-8")
    (root / "table.yaml").write_text(TABLE, encoding="utf-8")


def read_options(root: Path, out: Path) -> None:
    for name, (cls, _) in OPTIONS.items():
        json.dumps(options_json(load_options(cls, root / name, {})), allow_nan=False)
    load_table(root / "table.yaml")


def make_results(root: Path) -> None:
    lines(root / "exp" / "a" / "results.json", json.dumps([ROW, {**ROW, "metric": "ser"}]))
    lines(root / "exp" / "a" / "stamp.json", json.dumps({**STAMP, "inputs": {"data": {"path": "../gone", "id": "z"}}}))
    lines(root / "exp" / "stage_times.jsonl", '{"stage": 3, "title": "GMM", "seconds": 2.5, "made": 1, "ok": true}')
    lines(
        root / "conf" / "references.yaml", '- {id: them, part: test, metric: wer, value: 10.5, source: "Paper, 2020"}'
    )


def read_results(root: Path, out: Path) -> None:
    write_report(root)
    for name in ("results.json", "RESULTS.md"):
        (root / name).unlink(missing_ok=True)


add("options", make_options, "*", read_options)
add("results", make_results, "exp/a/* exp/stage_times.jsonl conf/*", read_results)
