"""Options of Gaussian mixture training. Imports nothing heavy, so that the steps' --help stays fast."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.dataclasses import dataclass

from pipeline.base.option_values import Device
from pipeline.feats.options import cache_field

_CONFIG = ConfigDict(extra="forbid")
_IF_SET: JsonDict = {"stamp": "if_set"}  # options added later: what was made before them stays up to date


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
    beam: float = _option(
        200.0,
        "Beam of alignment in natural logs (Kaldi's 10 at its acoustic scale of 0.1 is 100); utterances "
        "that find no path are tried again with 4 times the beam, then without one.",
        gt=0.0,
    )
    min_count: float = _option(10.0, "Gaussians with fewer frames are removed.", ge=0.0)
    min_weight: float = _option(1e-5, "Gaussians with a smaller mixture weight are removed.", ge=0.0, lt=1.0)
    min_var: float = _option(0.001, "Floor for variances, in squared feature units.", gt=0.0)
    split_count: float = _option(20.0, "Frames that a pdf needs per Gaussian before it gets one more.", ge=0.0)
    perturb: float = _option(0.01, "Split means differ by this many standard deviations times a normal number.", gt=0.0)
    full_sum: bool = _option(False, "Train by Baum-Welch (sum over all paths) in place of Viterbi.")
    max_failed: float = _option(0.1, "Largest share of utterances that may fail to align.", ge=0.0, le=1.0)
    seed: int = _option(1, "Seed of all random numbers.")
    device: Device = _option("cpu", "cpu or cuda.", json_schema_extra={"stamp": False})
    cache_mib: int = cache_field()
    jobs: int = _option(
        1,
        "Threads that share alignments and statistics, at most one per core; they change nothing. 1: as many as torch.",
        ge=1,
        json_schema_extra={"stamp": False, "env": "FULLSUM_JOBS"},
    )


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class MonoOptions(GmmOptions):
    """Monophones from a flat start, cf. Kaldi train_mono.sh."""

    realign_iters: tuple[int, ...] = _option(
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 23, 26, 29, 32, 35, 38),
        "Iterations (from 1) that begin with a new alignment.",
    )
    cmvn: Literal["none", "utterance", "speaker", "global"] = _option(
        "speaker", "Over what feature means are normalised."
    )
    deltas: int = _option(2, "Order of time derivatives appended to the features.", ge=0, le=3)
    flat_min_count: float = _option(
        3.0, "min_count of the first update, when equal alignments leave little per pdf.", ge=0.0
    )


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class TreeOptions:
    """Decision trees, cf. Kaldi build-tree."""

    num_leaves: int = _option(2000, "Leaves of the tree at most, before similar ones are united.", ge=1)
    left: int = _option(1, "Context phones on the left.", ge=0, le=4)
    right: int = _option(1, "Context phones on the right.", ge=0, le=4)
    min_count: float = _option(50.0, "Frames that a leaf needs.", ge=0.0)
    min_gain: float = _option(1.0, "Log-likelihood that a split must gain, over all its frames.", ge=0.0)
    merge: bool = _option(True, "Unite leaves of a root that differ less than the last split gained.")


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class TieOptions(TreeOptions):
    """Tying the states of an alignment, and the features whose Gaussians the tree is built from."""

    cmvn: Literal["none", "utterance", "speaker", "global"] = _option(
        "speaker", "Over what feature means are normalised."
    )
    deltas: int = _option(2, "Order of time derivatives appended to the features.", ge=0, le=3)
    cache_mib: int = cache_field()


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class TriphoneOptions(GmmOptions):
    """What all stages that build a tree share."""

    num_gauss: int = _option(10000, "Gaussians at the end of training, over all pdfs.", ge=1)
    num_iters: int = _option(35, "Iterations of expectation-maximisation.", ge=1)
    grow_iters: int = _option(25, "The number of Gaussians grows linearly up to this iteration.", ge=1)
    realign_iters: tuple[int, ...] = _option((10, 20, 30), "Iterations (from 1) that begin with a new alignment.")
    num_leaves: int = _option(2000, "Leaves of the tree at most, before similar ones are united.", ge=1)
    left: int = _option(1, "Context phones on the left.", ge=0, le=4)
    right: int = _option(1, "Context phones on the right.", ge=0, le=4)
    leaf_min_count: float = _option(50.0, "Frames that a leaf of the tree needs.", ge=0.0)
    min_gain: float = _option(1.0, "Log-likelihood that a split of the tree must gain, over all its frames.", ge=0.0)
    merge: bool = _option(True, "Unite leaves of a root that differ less than the last split gained.")

    @property
    def tree(self) -> TreeOptions:
        """The options of the tree."""
        return TreeOptions(
            num_leaves=self.num_leaves,
            left=self.left,
            right=self.right,
            min_count=self.leaf_min_count,
            min_gain=self.min_gain,
            merge=self.merge,
        )


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class DeltasOptions(TriphoneOptions):
    """Triphones on features with deltas, cf. Kaldi train_deltas.sh."""

    cmvn: Literal["none", "utterance", "speaker", "global"] = _option(
        "speaker", "Over what feature means are normalised."
    )
    deltas: int = _option(2, "Order of time derivatives appended to the features.", ge=0, le=3)


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class LdaMlltOptions(DeltasOptions):
    """Triphones on spliced features with LDA and MLLT, cf. Kaldi train_lda_mllt.sh."""

    deltas: int = _option(0, "Order of time derivatives appended to the features before splicing.", ge=0, le=3)
    splice_left: int = _option(3, "Frames of left context that are joined.", ge=0)
    splice_right: int = _option(3, "Frames of right context that are joined.", ge=0)
    dim: int = _option(40, "Dimension after LDA.", ge=1)
    mllt_iters: tuple[int, ...] = _option((2, 4, 6, 12), "Iterations (from 1) that begin with an MLLT estimation.")


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class FmllrOptions:
    """Estimation of speaker transforms, cf. Kaldi gmm-est-fmllr."""

    fmllr_min_count: float = _option(500.0, "Frames of speech that a speaker needs for a full transform.", ge=0.0)
    bias_min_count: float = _option(
        100.0, "Frames needed for a bias alone; below, the transform is the identity.", ge=0.0
    )
    silence_weight: float = _option(0.0, "Weight of silence frames in the estimation.", ge=0.0, le=1.0)


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class SatOptions(TriphoneOptions):
    """Speaker-adaptive training with fMLLR, cf. Kaldi train_sat.sh; features are those of the model it starts from."""

    fmllr_iters: tuple[int, ...] = _option((2, 4, 6, 12), "Iterations (from 1) that begin with an fMLLR estimation.")
    fmllr_min_count: float = _option(500.0, "Frames of speech that a speaker needs for a full transform.", ge=0.0)
    bias_min_count: float = _option(
        100.0, "Frames needed for a bias alone; below, the transform is the identity.", ge=0.0
    )
    silence_weight: float = _option(0.0, "Weight of silence frames in the estimation of transforms.", ge=0.0, le=1.0)

    @property
    def fmllr(self) -> FmllrOptions:
        """The options of the transforms."""
        return FmllrOptions(
            fmllr_min_count=self.fmllr_min_count, bias_min_count=self.bias_min_count, silence_weight=self.silence_weight
        )


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class EstimateFmllrOptions(FmllrOptions):
    """Speaker transforms for new data from a first recognition pass, cf. Kaldi decode_fmllr.sh."""

    source: Literal["words", "lattices"] = _option(
        "words",
        "words: align the words that the pass recognised; lattices: use the "
        "posteriors of its lattices (decode.py --posteriors).",
        json_schema_extra=_IF_SET,
    )
    passes: int = _option(
        2, "Estimations from words; from the second on posteriors come from the adapted mixtures.", ge=1
    )
    boost_silence: float = _option(1.0, "Factor on the likelihood of silence when aligning.", gt=0.0)
    max_failed: float = _option(0.1, "Largest share of utterances that may fail to align.", ge=0.0, le=1.0)
    device: Device = _option("cpu", "cpu or cuda.", json_schema_extra={"stamp": False})
    cache_mib: int = cache_field()


@dataclass(frozen=True, config=_CONFIG, kw_only=True)
class AdaptOptions:
    """Adaptation of means to other speakers and recordings, cf. Kaldi train_map.sh."""

    tau: float = _option(
        20.0, "Frames that the old mean of a Gaussian counts as; more changes the model less.", gt=0.0, le=1e9
    )
    passes: int = _option(1, "Alignments of the data, each followed by an estimation of the means.", ge=1, le=100)
    boost_silence: float = _option(1.0, "Factor on the likelihood of silence when aligning.", gt=0.0)
    beam: float = _option(200.0, "See steps/align.py.", gt=0.0)
    max_failed: float = _option(0.1, "Largest share of utterances that may fail to align.", ge=0.0, le=1.0)
    device: Device = _option("cpu", "cpu or cuda.", json_schema_extra={"stamp": False})
    cache_mib: int = cache_field()
