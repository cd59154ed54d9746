"""The recipe once more, in another environment, and by how much the values of files differ where their bytes do."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.stamp import MEASURED, STAMP
from utils.fault_injection.kinds import Campaign
from utils.fault_injection.recipe import snapshot

# What of the environment may change results; of variables that are not set nothing is told.
TOLD = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "PYTHONHASHSEED", "MKL_CBWR", "LC_ALL")


def run_again(campaign: Campaign, name: str) -> dict[str, Any]:
    """Runs all steps from nothing.

    Returns:
        a row: name, environment, number of files, and for each that differs by how much (see ``difference``), and which
        steps made those that only differ in content, that is, without what they have from others.
    """
    box = campaign.box
    box.empty()
    for step in campaign.steps:
        if step.jobs == 1:
            ended = box.run(step)
            if ended.code != 0:
                raise RuntimeError(f"{step.name}: {ended.output[-3000:]}")
    expected, found = snapshot(box.undisturbed), snapshot(box.tree)
    names = sorted(k for k in {**expected, **found} if expected.get(k) != found.get(k))
    told = {key: os.environ[key] for key in TOLD if key in os.environ}
    # Stamps differ wherever something did that came before.
    shown = {k: difference(box.undisturbed / k, box.tree / k) for k in names if Path(k).name != STAMP}
    return {"again": name, "environment": told, "files": len(expected), "different": shown}


def difference(first: Path, second: Path) -> str:
    """How much two files differ, for people: by values where they have any."""
    if not (first.exists() and second.exists()):
        return "only one of them"
    if first.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return _arrays(load_file(first), load_file(second))
    try:
        pairs = list(_numbers(_json(first), _json(second)))
    except (ValueError, TypeError):
        return "other bytes"
    return f"numbers by up to {_largest(pairs):.1e}"


def _arrays(first: dict[str, Any], second: dict[str, Any]) -> str:
    if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in second.items()}:
        return "other shapes"
    largest = max(
        (
            np.abs(a.astype(np.float64) - second[k]).max() / max(np.abs(a).max(), 1e-30)
            for k, a in first.items()
            if a.size
        ),
        default=0.0,
    )
    return f"values by up to {largest:.1e} of the largest one"


def _json(path: Path) -> Any:
    """Without times that were measured."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    raw = MEASURED.sub(b'"measured": 0', raw)
    return [json.loads(line) for line in raw.splitlines()] if ".jsonl" in path.name else json.loads(raw)


def _numbers(first: Any, second: Any) -> Iterator[tuple[float, float]]:
    """Pairs of numbers at equal places; ValueError where something else differs."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            yield from _numbers(first[key], second[key])
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for a, b in zip(first, second):
            yield from _numbers(a, b)
    elif isinstance(first, (int, float)) and isinstance(second, (int, float)):
        yield float(first), float(second)
    elif first != second:
        raise ValueError("other content")


def _largest(pairs: list[tuple[float, float]]) -> float:
    return max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs), default=0.0)
