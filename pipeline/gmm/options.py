"""Options of Gaussian mixture training. Imports nothing heavy, so that the steps' --help stays fast."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_CONFIG = ConfigDict(extra="forbid")


def _option(default, text: str, **kwargs):
    return Field(default=default, description=text, **kwargs)


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class GmmOptions:
    """What every stage of mixture training shares; the defaults are Kaldi's where it has the same option."""

    num_gauss: int = _option(1000, "Gaussians at the end of training, over all pdfs.", ge=1)
    num_iters: int = _option(40, "Iterations of expectation-maximisation.", ge=1)
    grow_iters: int = _option(30, "The number of Gaussians grows linearly up to this iteration.", ge=1)
    realign_iters: tuple[int, ...] = _option((), "Iterations (from 1) that begin with a new alignment.")
    power: float = _option(0.25, "Gaussians per pdf grow as its frames to this power.", ge=0.0, le=1.0)
    boost_silence: float = _option(1.0, "Factor on the likelihood of silence when aligning.", gt=0.0)
    min_count: float = _option(10.0, "Gaussians with fewer frames are removed.", ge=0.0)
    min_weight: float = _option(1e-5, "Gaussians with a smaller mixture weight are removed.", ge=0.0, lt=1.0)
    min_var: float = _option(0.001, "Floor for variances, in squared feature units.", gt=0.0)
    split_count: float = _option(20.0, "Frames that a pdf needs per Gaussian before it gets one more.", ge=0.0)
    perturb: float = _option(0.01, "Split means differ by this many standard deviations times a normal number.", gt=0.0)
    full_sum: bool = _option(False, "Train by Baum-Welch (sum over all paths) in place of Viterbi.")
    max_failed: float = _option(0.1, "Largest share of utterances that may fail to align.", ge=0.0, le=1.0)
    seed: int = _option(1, "Seed of all random numbers.")
    device: str = _option("cpu", "cpu or cuda.", json_schema_extra={"stamp": False})


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class MonoOptions(GmmOptions):
    """Monophones from a flat start, cf. Kaldi train_mono.sh."""

    realign_iters: tuple[int, ...] = _option(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 23, 26, 29, 32, 35, 38),
        "Iterations (from 1) that begin with a new alignment.",
    )
    cmvn: Literal["none", "utterance", "speaker", "global"] = _option("speaker", "Over what feature means are normalised.")
    deltas: int = _option(2, "Order of time derivatives appended to the features.", ge=0, le=3)
    flat_min_count: float = _option(3.0, "min_count of the first update, when equal alignments leave little per pdf.", ge=0.0)
