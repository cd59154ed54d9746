"""A packed model with speaker transforms adapts to the speakers of what it aligns, from the transcripts alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.feats.dataset import Dataset
from pipeline.gmm.model import load_scorer, load_transforms
from pipeline.gmm.mono import train_mono
from pipeline.gmm.new_speakers import estimate_fmllr
from pipeline.gmm.options import EstimateFmllrOptions, MonoOptions, SatOptions
from pipeline.gmm.sat import train_sat
from pipeline.tasks.align import AlignOptions, align
from pipeline.tasks.align_corpus import align_corpus
from pipeline.tasks.aligner import Aligner
from pipeline.tasks.corpus_options import AlignCorpusOptions
from pipeline.tasks.packed import make_card, pack
from pipeline.tasks.quality import measure
from tests.tasks.stretched import check_stretches

SMALL = dict(num_gauss=60, num_iters=6, grow_iters=4, num_leaves=40, leaf_min_count=20.0)
FMLLR = dict(fmllr_iters=(1, 3), fmllr_min_count=150.0, bias_min_count=50.0)


@pytest.fixture(scope="module")
def sat(tones, tmp_path_factory) -> Path:
    """mono, sat, and sat packed with monophones as its refiner."""
    d, lang = tmp_path_factory.mktemp("sat"), Lang.load(tones.lang)
    for name in ("mono", "sat"):
        (d / name).mkdir()
    train_mono(tones.data, lang, MonoOptions(num_gauss=40, num_iters=8, grow_iters=6, deltas=0), d / "mono")
    align(load_scorer(d / "mono"), lang, tones.data, d / "ali", AlignOptions(), "mono")
    options = SatOptions(**SMALL, **FMLLR, realign_iters=(2, 4))
    train_sat(tones.data, lang, d / "ali", d / "mono", options, d / "sat")
    pack(d / "sat", tones.lang, d / "sat.fsm", make_card({"name": "sat"}, "card"))
    card = make_card({"name": "both", "refine": {}}, "card")
    pack(d / "sat", tones.lang, d / "both.fsm", card, refiners=[d / "mono"])
    return d


def start_errors(ali: AliSet, times: dict) -> np.ndarray:
    """Absolute errors of phone starts in seconds."""
    found = []
    for cut_id, gold in times.items():
        ours = [p for p in ali.phones(cut_id) if p.symbol != "SIL"]
        assert [p.symbol for p in ours] == [symbol for symbol, _, _ in gold]
        found += [abs(p.start - start) for p, (_, start, _) in zip(ours, gold)]
    return np.array(found)


def test_transforms_are_those_of_the_transcripts(tones, sat, tmp_path):
    aligner = Aligner.load(sat / "sat.fsm")
    data = tones.data.parent / "local"
    ali, report = aligner.align_data(data, tmp_path, aligner.options())
    assert report.num_aligned == 31 and not report.failed
    index, lang = load_index(tmp_path / "feats"), Lang.load(tmp_path / "lang")
    texts = {index.id(i): index.text(i) for i in range(len(index))}
    (tmp_path / "by_hand").mkdir()
    estimate_fmllr(tmp_path / "feats", lang, sat / "sat", texts, EstimateFmllrOptions(), tmp_path / "by_hand")
    ours, theirs = (load_transforms(tmp_path / name, 13) for name in ("fmllr_model", "by_hand"))
    assert sorted(ours) == sorted(theirs) == ["spk0", "spk1", "spk2", "spk3"]
    assert all(np.array_equal(ours[s], theirs[s]) for s in ours)
    by_hand = load_scorer(sat / "sat", tmp_path / "by_hand")
    check_stretches(by_hand, Dataset.open(tmp_path / "feats", by_hand.feat_options).flat(np.array([0])), "spk0")
    align(by_hand, lang, tmp_path / "feats", tmp_path / "again", AlignOptions(confidence=True), "sat")
    again = AliSet.load(tmp_path / "again")
    assert all(np.array_equal(ali[c].transition_ids, again[c].transition_ids) for c in again)


def test_times_are_those_of_the_tones(tones, sat, tmp_path):
    aligner = Aligner.load(sat / "sat.fsm")
    ali, _ = aligner.align_data(tones.data.parent / "local", tmp_path, aligner.options())
    lang = Lang.load(tmp_path / "lang")
    align(aligner.model, lang, tmp_path / "feats", tmp_path / "plain", aligner.options(), "sat")
    ours, theirs = (start_errors(a, tones.times).mean() for a in (ali, AliSet.load(tmp_path / "plain")))
    assert ours < 0.02 and ours < 1.1 * theirs
    assert len(measure(aligner.model_for(tmp_path), ali, tmp_path / "feats", "cpu")) == 31
    assert aligner.model_for(tmp_path / "elsewhere") is aligner.model


def test_a_corpus_is_aligned_with_refined_boundaries_and_one_recording_too(tones, sat, tmp_path):
    import soundfile

    out = tmp_path / "out"
    out.mkdir()
    data = tones.data.parent / "local"
    facts = align_corpus(sat / "both.fsm", data, out, AlignCorpusOptions(keep=True))
    assert facts["aligned"] == 31 and facts["log_like_per_frame"] == pytest.approx(facts["log_like_per_frame"])
    assert (out / "work/fmllr_model").is_dir() and not (out / "work/fmllr_refiner1").exists()
    assert (out / "quality.csv").read_text().count("\n") == 32
    samples, rate = soundfile.read(data.parent / "utt03.wav", dtype="int16")
    spoken = Aligner.load(sat / "both.fsm").align(samples, load_index(data).text(3), rate)
    assert [w.symbol for w in spoken.words] == load_index(data).text(3).split()
