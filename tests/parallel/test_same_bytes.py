"""What a step writes does not depend on the number of parts: not a byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.hyp import RECOGS, Hypothesis, save_hypotheses
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.posteriors import PosteriorSet
from pipeline.base.errors import DataError
from pipeline.e2e.search.options import SearchOptions
from pipeline.feats.compute import compute_in_parts
from pipeline.feats.options import FeatureOptions
from pipeline.gmm import blocks, new_speakers
from pipeline.gmm.model import load_transforms
from pipeline.gmm.mono import train_mono
from pipeline.gmm.options import EstimateFmllrOptions, MonoOptions, TieOptions
from pipeline.gmm.tie import tie_states
from pipeline.parallel.options import ParallelOptions
from pipeline.tasks import align as align_module
from pipeline.tasks.align import AlignOptions
from pipeline.tasks.align_parts import AlignSources, align_in_parts
from pipeline.tasks.boundaries import BoundaryOptions, Source
from pipeline.tasks.boundaries_parts import refine_in_parts
from pipeline.tasks.decode_e2e_parts import Sources, decode_directory
from pipeline.tasks.model import load_model
from tests.e2e.test_decode_e2e import saved
from tests.feats.test_feats import make_data
from tests.gmm.world import World, draw, make_world_lang, random_speakers, write_corpus
from tests.nn.conftest import tones  # noqa: F401
from tests.parallel.inline import content, install

JOBS = (1, 2, 3, 7, 50)
RESCALED = 1 + 2**-40  # as good as 1, but all scores are computed, a batch at a time


@pytest.fixture(autouse=True)
def _inline(monkeypatch):
    install(monkeypatch)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_features(tmp_path, precision):
    """Speakers' utterances stand in several parts; one part has none."""
    data = make_data(tmp_path)
    found = {}
    for jobs in JOBS:
        out = tmp_path / "feats.tmp"
        out.mkdir()
        facts = compute_in_parts(
            data, out, tmp_path / "feats", FeatureOptions(precision=precision), ParallelOptions(jobs=jobs)
        )
        assert facts.num_utterances == 4 and facts.num_frames == 261
        found[jobs] = content(out)
        out.rename(tmp_path / f"feats{jobs}")
    assert set(found[1]) >= {"feats.bin", "cuts.jsonl.gz", "cmvn.json", "features.json", "recordings.jsonl.gz"}
    assert all(found[jobs] == found[1] for jobs in JOBS)


def test_features_by_real_processes(tmp_path, monkeypatch):
    monkeypatch.undo()
    data, found = make_data(tmp_path), {}
    for jobs in (1, 2):
        out = tmp_path / "feats.tmp"
        out.mkdir()
        compute_in_parts(data, out, tmp_path / "feats", FeatureOptions(), ParallelOptions(jobs=jobs))
        found[jobs] = content(out)
        out.rename(tmp_path / f"feats{jobs}")
    assert found[1] == found[2]


def test_features_of_broken_audio_name_it(tmp_path):
    data = make_data(tmp_path)
    (tmp_path / "audio" / "b-1.flac").write_bytes(b"fLaC")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"(?s)b-1\.flac.*1 of 3 parts failed") as err:
        compute_in_parts(data, tmp_path / "out", tmp_path / "out", FeatureOptions(), ParallelOptions(jobs=3))
    assert "compute_part." in str(err.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """data, lang and mono of 30 utterances; the text of one is too long for it."""
    d = tmp_path_factory.mktemp("align")
    lang = make_world_lang()
    lang.save(d / "lang")
    write_corpus(d / "data", draw(World.make(1), 30, seed=2))
    options = MonoOptions(num_gauss=9, num_iters=6, grow_iters=4, realign_iters=(1, 2, 3, 4, 5), cmvn="none", deltas=0)
    train_mono(d / "data", lang, options, d / "mono")
    return d


@pytest.mark.parametrize("scale", [None, RESCALED])
def test_alignments(trained, tmp_path, monkeypatch, scale):
    """Several windows, several batches in each; both ways to score."""
    monkeypatch.setattr(align_module, "WINDOW_FRAMES", 250)
    monkeypatch.setattr(align_module, "ON_DEMAND_FRAMES", 60)
    options = AlignOptions(acoustic_scale=scale, batch_frames=60, confidence=True, occupancies=True, beam=30.0)
    sources = AlignSources(trained / "data", trained / "lang", trained / "mono", producer="mono")
    found, reports = {}, {}
    for jobs in JOBS:
        reports[jobs] = align_in_parts(sources, tmp_path / str(jobs), options, ParallelOptions(jobs=jobs))
        found[jobs] = content(tmp_path / str(jobs))
    assert reports[1].num_aligned == 30 and {"ali.0.safetensors", "posteriors.0.safetensors"} <= set(found[1])
    assert all(reports[jobs] == reports[1] and found[jobs] == found[1] for jobs in JOBS)


def test_occupancies_hold_the_confidence_of_the_labels(trained, tmp_path):
    """Of each frame they sum to 1, and the share of the aligned pdf is its posterior, which another pass computes."""
    options = AlignOptions(confidence=True, occupancies=True)
    sources = AlignSources(trained / "data", trained / "lang", trained / "mono")
    align_in_parts(sources, tmp_path / "ali", options, ParallelOptions())
    ali, soft = AliSet.load(tmp_path / "ali"), PosteriorSet(tmp_path / "ali")
    assert list(soft) == list(ali) and soft.tree_id == ali.header.tree_id
    unsure = 0
    for cut_id in ali:
        pdfs, confidence = ali.pdf_ids(cut_id), ali[cut_id].confidence
        shares = np.zeros((len(pdfs), int(ali.transitions.pdf.max()) + 1))
        found = soft[cut_id]
        shares[found.frame, found.pdf] = found.share
        assert shares.sum(1) == pytest.approx(1.0, abs=0.01)
        assert shares[np.arange(len(pdfs)), pdfs] == pytest.approx(confidence.astype(float), abs=2e-3)
        unsure += int((confidence < 0.9).sum())
    assert unsure > 5  # or nothing was tested
    assert soft.transforms_id == ""
    model, lang = load_model(trained / "mono"), Lang.load(trained / "lang")
    align_module.align(model, lang, trained / "data", tmp_path / "b", options, "mono", transforms_id="t")
    assert PosteriorSet(tmp_path / "b").transforms_id == "t"


def test_refined_boundaries(trained, tmp_path):
    """Two models, whose batches are those of the first one's frames."""
    align_in_parts(
        AlignSources(trained / "data", trained / "lang", trained / "mono"),
        tmp_path / "ali",
        AlignOptions(confidence=True),
        ParallelOptions(),
    )
    sources = [Source(trained / "mono", trained / "data")] * 2
    found, options = {}, BoundaryOptions(batch_frames=200)
    for jobs in JOBS:
        facts = refine_in_parts(
            tmp_path / "ali", sources, tmp_path / str(jobs), options, "m", ParallelOptions(jobs=jobs)
        )
        assert facts == {"utterances": 30, "kept": 0, "too_short": 0}
        found[jobs] = content(tmp_path / str(jobs))
    assert "ali.0.safetensors" in found[1] and all(found[jobs] == found[1] for jobs in JOBS)


def test_speaker_transforms(trained, tmp_path, monkeypatch):
    """Speakers' utterances are scattered over the data; one speaker says nothing."""
    monkeypatch.setattr(new_speakers, "TOGETHER_FRAMES", 150)
    utterances = draw(World.make(1), 40, 9, random_speakers(6, seed=8, strength=0.25, prefix="t"))
    write_corpus(tmp_path / "data", utterances)
    said = [Hypothesis(u.name, u.speaker, u.words, u.words if u.speaker != "t3" else ()) for u in utterances]
    (tmp_path / "hyp").mkdir()
    save_hypotheses(tmp_path / "hyp" / RECOGS, said)
    sources = new_speakers.Sources(tmp_path / "data", trained / "lang", trained / "mono", tmp_path / "hyp")
    options, found = EstimateFmllrOptions(fmllr_min_count=60.0, bias_min_count=20.0), {}
    for jobs in JOBS:
        out = tmp_path / str(jobs)
        out.mkdir()
        facts = new_speakers.estimate_in_parts(sources, options, out, ParallelOptions(jobs=jobs))
        assert facts["speakers"] == 6 and facts["without_words"] == 1 and facts["gain_per_frame"] > 0
        found[jobs] = facts, content(out)
    assert list(found[1][1]) == ["fmllr.safetensors"] and all(found[jobs] == found[1] for jobs in JOBS)
    known = load_transforms(tmp_path / "1", 4)
    assert len({matrix.numpy().tobytes() for matrix in known.values()}) == 6


def test_tied_states(trained, tmp_path, monkeypatch):
    """Ten blocks or so, with the phones of any context in several of them."""
    monkeypatch.setattr(blocks, "BLOCK_FRAMES", 100)
    align_in_parts(
        AlignSources(trained / "data", trained / "lang", trained / "mono"),
        tmp_path / "ali",
        AlignOptions(),
        ParallelOptions(),
    )
    options, found = TieOptions(num_leaves=20, min_gain=0.0, cmvn="none", deltas=0), {}
    for jobs in JOBS:
        out = tmp_path / str(jobs)
        out.mkdir()
        places = trained / "data", trained / "lang", tmp_path / "ali"
        assert tie_states(*places, options, out, None, ParallelOptions(jobs=jobs))["utterances"] == 30
        found[jobs] = content(out)
    assert "tree.json" in found[1] and all(found[jobs] == found[1] for jobs in JOBS)


def test_failures_are_listed_in_the_order_of_the_data(trained, tmp_path, monkeypatch):
    import gzip
    import json
    import shutil

    monkeypatch.setattr(align_module, "ON_DEMAND_FRAMES", 60)
    shutil.copytree(trained / "data", tmp_path / "data")
    path = tmp_path / "data" / "cuts.jsonl.gz"
    cuts = [json.loads(line) for line in gzip.open(path, "rt")]
    for n in (3, 20, 11):
        cuts[n]["supervisions"][0]["text"] = " ".join([cuts[n]["supervisions"][0]["text"]] * 60)
    with gzip.open(path, "wt") as f:
        f.writelines(json.dumps(cut) + "\n" for cut in cuts)
    sources = AlignSources(tmp_path / "data", trained / "lang", trained / "mono")
    found = []
    for jobs in (1, 3):
        report = align_in_parts(sources, tmp_path / str(jobs), AlignOptions(), ParallelOptions(jobs=jobs))
        assert [cut_id for cut_id, _ in report.failed] == [cuts[n]["id"] for n in (3, 11, 20)]
        found.append(content(tmp_path / str(jobs)))
    assert found[0] == found[1] and found[0]["failed.txt"].count(b"\n") == 3


def test_end_to_end_decoding(tones, tmp_path):
    """Two sets of weights, so that the spools hold lists; best hypotheses, n-best lists and weights are compared."""
    sources = Sources(saved(tmp_path, tones.data), tmp_path / "tokens", tones.data)
    options = SearchOptions(beam=2, nbest=2, max_length=0.2, length_bonuses=(0.0, 1.0), batch_frames=400)
    found = {}
    for jobs in JOBS:
        out = tmp_path / str(jobs)
        out.mkdir()
        facts = decode_directory(sources, out, options, "x", "dev", ParallelOptions(jobs=jobs))
        assert facts["utterances"] == 24 and facts["real_time_factor"] > 0
        found[jobs] = {name: file for name, file in content(out).items() if name != "results.json"}  # has times
        assert (out / "results.json").is_file()
    assert {"recogs.jsonl.gz", "nbest.jsonl.gz", "best.json"} <= set(found[1])
    assert all(found[jobs] == found[1] for jobs in JOBS)
