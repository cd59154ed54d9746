"""Alignment of a data directory by the mixtures' own search: the same as through score matrices; what fails is
named.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipeline.artifacts.ali import AliSet
from pipeline.base.errors import DataError
from pipeline.base.spool import JsonSpool
from pipeline.gmm.model import load_scorer
from pipeline.gmm.mono import train_mono
from pipeline.gmm.options import MonoOptions
from pipeline.hmm.on_demand import FrameScores
from pipeline.tasks import quality
from pipeline.tasks.align import AlignOptions, align
from tests.gmm.world import World, draw, make_world_lang, write_corpus

LANG = make_world_lang()


RESCALED = 1 + 2**-40  # 1 in float32, but scores that are scaled are computed all, and searched exactly


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """data and mono of 30 utterances."""
    d = tmp_path_factory.mktemp("align")
    write_corpus(d / "data", draw(World.make(1), 30, seed=2))
    options = MonoOptions(num_gauss=9, num_iters=6, grow_iters=4, realign_iters=(1, 2, 3, 4, 5), cmvn="none", deltas=0)
    train_mono(d / "data", LANG, options, d / "mono")
    return d


def run(trained: Path, out: Path, **options):
    model = trained / "mono"
    return align(load_scorer(model), LANG, trained / "data", out, AlignOptions(**options), "mono")


def test_the_search_finds_the_paths_of_the_engine(trained, tmp_path):
    beam = run(trained, tmp_path / "beam", confidence=True)
    exact = run(trained, tmp_path / "exact", confidence=True, acoustic_scale=RESCALED)
    assert beam.num_aligned == exact.num_aligned == 30 and beam.num_frames == exact.num_frames
    assert beam.total_log_like == pytest.approx(exact.total_log_like, rel=1e-5)
    ours, theirs = AliSet.load(tmp_path / "beam"), AliSet.load(tmp_path / "exact")
    for cut_id in theirs:
        assert ours[cut_id].transition_ids.tolist() == theirs[cut_id].transition_ids.tolist()
        assert ours[cut_id].words.tolist() == theirs[cut_id].words.tolist()
        assert ours[cut_id].confidence == pytest.approx(theirs[cut_id].confidence, abs=2e-3)


def test_small_batches_change_nothing(trained, tmp_path):
    whole, pieces = run(trained, tmp_path / "whole"), run(trained, tmp_path / "pieces", batch_frames=10)
    assert whole == pieces
    a, b = AliSet.load(tmp_path / "whole"), AliSet.load(tmp_path / "pieces")
    assert all(a[c].transition_ids.tolist() == b[c].transition_ids.tolist() for c in a)


def test_quality_is_the_same_in_stretches(trained, tmp_path, monkeypatch):
    """Figures and words of long utterances, of which some frames are scored at a time."""
    run(trained, tmp_path / "ali", confidence=True)
    model, ali = load_scorer(trained / "mono"), AliSet.load(tmp_path / "ali")

    def measured() -> tuple[list[quality.Quality], dict]:
        words = JsonSpool()
        found = quality.measure(model, ali, trained / "data", audio=False, words=words)
        return found, {q.cut_id: words[q.cut_id] for q in found}

    whole, words = measured()
    scored: list[int] = []
    source = model.frame_scores

    def watched(feats, speaker):
        own = source(feats, speaker)
        return FrameScores(own.num_frames, lambda b, e: scored.append(e - b) or own.scores(b, e))

    monkeypatch.setattr(model, "frame_scores", watched)
    monkeypatch.setattr(model, "log_likes", lambda *args: pytest.fail("all scores of a long utterance"))
    monkeypatch.setattr(quality, "BATCH_FRAMES", 3)
    monkeypatch.setattr(quality, "STRETCH", 4)
    pieces, again = measured()
    assert max(scored) == 4 and sum(scored) == sum(ali.num_frames(c) for c in ali)
    assert len(pieces) == 30
    for ours, theirs in zip(pieces, whole):
        ours, theirs = dataclasses.astuple(ours), dataclasses.astuple(theirs)
        assert ours[0] == theirs[0] and ours[1:] == pytest.approx(theirs[1:], abs=1e-4, nan_ok=True)
        for a, b in zip(again[ours[0]], words[ours[0]], strict=True):
            assert a[0] == b[0] and a[1:] == pytest.approx(b[1:], abs=1e-4)


def test_a_word_outside_the_lexicon_is_told_before_there_is_work(trained, tmp_path, monkeypatch):
    import gzip
    import json
    import shutil

    shutil.copytree(trained / "data", tmp_path / "data")
    path = tmp_path / "data" / "cuts.jsonl.gz"
    cuts = [json.loads(line) for line in gzip.open(path, "rt")]
    cuts[-1]["supervisions"][0]["text"] += " unheard"
    with gzip.open(path, "wt") as f:
        f.writelines(json.dumps(c) + "\n" for c in cuts)
    model = load_scorer(trained / "mono")
    monkeypatch.setattr(model, "on_demand", lambda *args: pytest.fail("an utterance was scored"))
    with pytest.raises(DataError, match=r"cuts.jsonl.gz:30: .*word 'unheard' is not in the lexicon"):
        align(model, LANG, tmp_path / "data", tmp_path / "ali", AlignOptions(), "mono")


def test_a_narrow_beam_is_never_better(trained, tmp_path):
    narrow, wide = run(trained, tmp_path / "narrow", beam=1e-4), run(trained, tmp_path / "wide")
    assert wide.num_retried == 0 and not narrow.failed
    assert narrow.total_log_like < wide.total_log_like


def test_utterances_shorter_than_their_words_fail_by_name(trained, tmp_path):
    import gzip
    import json
    import shutil

    shutil.copytree(trained / "data", tmp_path / "data")
    path = tmp_path / "data" / "cuts.jsonl.gz"
    cuts = [json.loads(line) for line in gzip.open(path, "rt")]
    cuts[3]["supervisions"][0]["text"] = " ".join([cuts[3]["supervisions"][0]["text"]] * 60)
    with gzip.open(path, "wt") as f:
        f.writelines(json.dumps(cut) + "\n" for cut in cuts)
    scorer = load_scorer(trained / "mono")
    report = align(scorer, LANG, tmp_path / "data", tmp_path / "ali", AlignOptions(), "mono")
    assert [cut_id for cut_id, _ in report.failed] == [cuts[3]["id"]] and report.num_aligned == 29
    assert (tmp_path / "ali" / "failed.txt").read_text().startswith(cuts[3]["id"])
    with pytest.raises(DataError, match="1 failed"):
        report.check(tmp_path / "ali", 0.01)
