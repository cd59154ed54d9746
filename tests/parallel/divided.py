"""All steps that work in parts, on data that make several units of each, for comparing back-ends with one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts.arpa import train_unigram
from pipeline.artifacts.hyp import RECOGS, Hypothesis, save_hypotheses
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.e2e.search.options import SearchOptions
from pipeline.feats.compute import compute_in_parts
from pipeline.feats.options import FeatureOptions
from pipeline.gmm import new_speakers
from pipeline.gmm.mono import train_mono
from pipeline.gmm.options import EstimateFmllrOptions, MonoOptions, TieOptions
from pipeline.gmm.tie import tie_states
from pipeline.graph.decoding import build_decoding_graph
from pipeline.graph.options import DecodeOptions
from pipeline.parallel.options import ParallelOptions
from pipeline.tasks import decode_e2e_parts, decode_parts
from pipeline.tasks.align import AlignOptions
from pipeline.tasks.align_parts import AlignSources, align_in_parts
from pipeline.tasks.boundaries import BoundaryOptions, Source
from pipeline.tasks.boundaries_parts import refine_in_parts
from tests.e2e.test_decode_e2e import saved
from tests.feats.test_feats import make_data
from tests.gmm.world import WORDS, World, draw, make_world_lang, random_speakers, write_corpus


def build(d: Path) -> Path:
    """What the steps read: 120,000 frames of six speakers, which are four blocks of statistics and two groups of
    speakers; a model of them with its graph, its alignment, what they said; and an end-to-end model.
    """
    make_data(d / "sound")
    lang = make_world_lang()
    lang.save(d / "lang")
    world, speakers = World.make(1), random_speakers(6, seed=8, strength=0.25, prefix="t")
    utterances = draw(world, 300, 9, speakers, num_words=22)
    write_corpus(d / "data", utterances)
    write_corpus(d / "few", draw(world, 30, seed=2))
    options = MonoOptions(num_gauss=9, num_iters=6, grow_iters=4, realign_iters=(1, 2, 3, 4, 5), cmvn="none", deltas=0)
    train_mono(d / "few", lang, options, d / "mono")
    (d / "graph").mkdir()
    lm = train_unigram([list(u.words) for u in utterances], list(WORDS))
    build_decoding_graph(Lang.load(d / "lang"), lm, load_hmm(d / "mono")).save(d / "graph", {"lm_id": "x"})
    align_in_parts(AlignSources(d / "data", d / "lang", d / "mono"), d / "ali", AlignOptions(), ParallelOptions())
    (d / "hyp").mkdir()
    save_hypotheses(d / "hyp" / RECOGS, [Hypothesis(u.name, u.speaker, u.words, u.words) for u in utterances])
    saved(d, d / "few")
    return d


def _features(d: Path, out: Path, parallel: ParallelOptions) -> None:
    compute_in_parts(d / "sound" / "data", out, d / "feats", FeatureOptions(), parallel)


def _align(d: Path, out: Path, parallel: ParallelOptions) -> None:
    options = AlignOptions(batch_frames=5000, confidence=True, occupancies=True, beam=30.0)
    align_in_parts(AlignSources(d / "data", d / "lang", d / "mono", producer="mono"), out, options, parallel)


def _refine(d: Path, out: Path, parallel: ParallelOptions) -> None:
    sources = [Source(d / "mono", d / "data")] * 2
    refine_in_parts(d / "ali", sources, out, BoundaryOptions(batch_frames=5000), "m", parallel)


def _fmllr(d: Path, out: Path, parallel: ParallelOptions) -> None:
    sources = new_speakers.Sources(d / "data", d / "lang", d / "mono", d / "hyp")
    new_speakers.estimate_in_parts(sources, EstimateFmllrOptions(), out, parallel)


def _tie(d: Path, out: Path, parallel: ParallelOptions) -> None:
    options = TieOptions(num_leaves=20, min_gain=0.0, cmvn="none", deltas=0)
    tie_states(d / "data", d / "lang", d / "ali", options, out, None, parallel)


def _decode(d: Path, out: Path, parallel: ParallelOptions) -> None:
    sources = decode_parts.Sources(d / "mono", d / "graph", d / "few")
    options = DecodeOptions(lm_weights=(1.0, 2.0), word_penalties=(0.0,), lattices=True, batch_frames=500)
    decode_parts.decode_directory(sources, out, options, "x", "dev", parallel)


def _decode_e2e(d: Path, out: Path, parallel: ParallelOptions) -> None:
    sources = decode_e2e_parts.Sources(d / "model", d / "tokens", d / "few")
    options = SearchOptions(beam=2, nbest=2, max_length=0.2, length_bonuses=(0.0, 1.0), batch_frames=800)
    decode_e2e_parts.decode_directory(sources, out, options, "x", "dev", parallel)


STEPS: dict[str, Callable[[Path, Path, ParallelOptions], None]] = {
    "compute_feats": _features,
    "align": _align,
    "refine_ali": _refine,
    "estimate_fmllr": _fmllr,
    "tie_states": _tie,
    "decode": _decode,
    "decode_e2e": _decode_e2e,
}
"""Step -> (what `build` has made, empty directory, how to divide the work)."""
