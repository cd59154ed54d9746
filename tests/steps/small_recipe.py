"""A whole recipe in small: every step from speech synthesis to decoding as commands, on 24 utterances."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

from pipeline.artifacts.index import INDEX

ROOT = Path(__file__).resolve().parent.parent.parent
NET = [
    "--encoder",
    "tdnn",
    "--dim",
    "24",
    "--layers",
    "2",
    "--epochs",
    "3",
    "--device",
    "cpu",
    "--frames-per-step",
    "3",
]

# name -> (output, command); {d} is the directory of the recipe. In the order in which they depend on each other.
STEPS: dict[str, tuple[str, list[str]]] = {
    "prepare": (
        "data/local",
        [
            "egs/tiny/local/prepare.py",
            "{d}/data/local",
            "--num-train",
            "24",
            "--num-dev",
            "4",
            "--num-test",
            "4",
            "--num-lm-sentences",
            "50",
        ],
    ),
    "lang": (
        "data/lang",
        ["steps/make_lang.py", "{d}/data/local/lexicon.txt", "{d}/data/lang", "--silence-states", "1"],
    ),
    "lm": ("data/lm", ["steps/train_lm.py", "{d}/data/local/lm_text.txt", "{d}/data/lang", "{d}/data/lm"]),
    "feats": ("data/mfcc", ["steps/compute_feats.py", "{d}/data/local/train", "{d}/data/mfcc"]),
    "feats_test": ("data/mfcc_test", ["steps/compute_feats.py", "{d}/data/local/test", "{d}/data/mfcc_test"]),
    "mono": (
        "exp/mono",
        [
            "steps/train_mono.py",
            "{d}/data/mfcc",
            "{d}/data/lang",
            "{d}/exp/mono",
            "--num-iters",
            "6",
            "--grow-iters",
            "4",
            "--num-gauss",
            "150",
            "--realign-iters",
            "1,2,4",
        ],
    ),
    "align": (
        "exp/mono_ali",
        ["steps/align.py", "{d}/data/mfcc", "{d}/data/lang", "{d}/exp/mono", "{d}/exp/mono_ali", "--confidence"],
    ),
    "nhmm": ("exp/nhmm", ["steps/train_nhmm.py", "{d}/data/mfcc", "{d}/data/lang", "{d}/exp/nhmm", *NET]),
    "viterbi": (
        "exp/hybrid",
        ["steps/train_viterbi.py", "{d}/data/mfcc", "{d}/data/lang", "{d}/exp/mono_ali", "{d}/exp/hybrid", *NET],
    ),
    "graph": (
        "exp/mono/graph",
        ["steps/make_graph.py", "{d}/data/lang", "{d}/data/lm", "{d}/exp/mono", "{d}/exp/mono/graph"],
    ),
    "decode": (
        "exp/mono/decode",
        [
            "steps/decode.py",
            "{d}/exp/mono",
            "{d}/exp/mono/graph",
            "{d}/data/mfcc_test",
            "{d}/exp/mono/decode",
            "--lm-weights",
            "10",
            "--word-penalties",
            "0",
            "--lattices",
            "--confidences",
            "--posteriors",
        ],
    ),
    "export": (
        "exp/mono/lattices_htk",
        ["steps/export_lattices.py", "{d}/exp/mono/decode", "{d}/exp/mono/lattices_htk", "--format", "htk"],
    ),
}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def command(name: str, directory: Path, *extra: str) -> list[str]:
    parts = [p.format(d=directory) for p in STEPS[name][1]]
    return [sys.executable, str(ROOT / parts[0]), *parts[1:], *extra]


def run(args: list[str], timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run(args, env=environment(), capture_output=True, text=True, timeout=timeout)


def run_step(name: str, directory: Path, *extra: str) -> subprocess.CompletedProcess:
    return run(command(name, directory, *extra))


def results(directory: Path, roots: list[Path]) -> dict[str, bytes]:
    """What must not depend on when, where or how often a step was started: content of its files, decompressed, without
    the paths of the roots; times, logs, indexes that readers make and outputs of other steps inside are not part of it.
    """
    nested = [p.parent for p in directory.rglob("stamp.json") if p.parent != directory]
    out = {}
    for path in sorted(directory.rglob("*")):
        inside = path.relative_to(directory)
        volatile = path.name in ("stamp.json", "results.json", INDEX) or {"log", "tensorboard"} & set(inside.parts)
        if path.is_file() and not volatile and not any(n in path.parents for n in nested):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            for root in roots:
                content = content.replace(str(root).encode(), b"")
            out[inside.as_posix()] = (
                re.sub(rb'"seconds": [0-9.e-]+', b"", content) if path.suffix == ".json" else content
            )
    return out
