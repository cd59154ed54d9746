"""Systems trained by replicas: with one of them equal to the ordinary steps, and sequence training in batches of
frames.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.artifacts.arpa import Arpa, train_unigram
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.base.errors import ConfigError
from pipeline.nn.asynchronous.options import AsyncSequenceOptions, AsyncViterbiOptions
from pipeline.nn.asynchronous.systems import SequenceJob, ViterbiJob, train_sequence_async, train_viterbi_async
from pipeline.nn.hybrid import train_viterbi
from pipeline.nn.model import load_acoustic_model, load_scorer
from pipeline.nn.nhmm import train_nhmm
from pipeline.nn.options import NhmmOptions, ViterbiOptions
from pipeline.nn.sequence_options import SequenceOptions
from pipeline.nn.sequence_training import Sources, train_sequence
from pipeline.nn.step import evaluate
from pipeline.tasks.align import AlignOptions, align
from tests.nn.conftest import WORDS

TRAIN = dict(batch_frames=400, time_masks=0, feature_masks=0, device="cpu")
CE = dict(encoder="dnn", layers=1, dim=24, window_left=4, window_right=2, epochs=3, learning_rate=5e-3, **TRAIN)
MMI = dict(
    epochs=2, learning_rate=1e-3, acoustic_scale=0.5, transition_scale=0.3, lattice_beam=20.0, average=1, **TRAIN
)


@pytest.fixture(scope="module")
def root(tones, tmp_path_factory) -> Path:
    """An alignment, a hybrid network with a window on it, and a graph of words."""
    from pipeline.graph.decoding import build_decoding_graph

    out = tmp_path_factory.mktemp("async_systems")
    lang = Lang.load(tones.lang)
    train_nhmm(
        tones.data,
        tones.lang,
        out / "nhmm",
        NhmmOptions(
            encoder="tdnn", layers=1, dim=16, dilations=(1,), epochs=6, learning_rate=5e-3, prior_scale=0.1, **TRAIN
        ),
    )
    align(load_scorer(out / "nhmm"), lang, tones.data, out / "ali", AlignOptions(), "nhmm")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_viterbi(tones.data, tones.lang, out / "ali", out / "hybrid", ViterbiOptions(**CE))
    train_unigram([list(WORDS)] * 3).save(out / "lm.arpa")
    build_decoding_graph(lang, Arpa.load(out / "lm.arpa"), load_hmm(out / "hybrid")).save(out / "graph")
    train_sequence(
        tones.data,
        Sources(tones.lang, out / "hybrid", out / "graph", out / "lm.arpa"),
        out / "mmi",
        SequenceOptions(**MMI),
        None,
        tones.data,
    )
    torch.set_num_threads(threads)
    return out


def same(a: Path, b: Path) -> bool:
    states = [load_acoustic_model(d)[0].state_dict() for d in (a, b)]
    return all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def sequence_job(tones, root: Path, **options) -> SequenceJob:
    return SequenceJob(
        tones.data,
        Sources(tones.lang, root / "hybrid", root / "graph", root / "lm.arpa"),
        AsyncSequenceOptions(**{**MMI, **options}),
        None,
        tones.data,
    )


def test_viterbi_training_by_one_replica_is_the_ordinary_one(tones, root, tmp_path):
    job = ViterbiJob(tones.data, tones.lang, root / "ali", AsyncViterbiOptions(replicas=1, keep_epochs=True, **CE))
    facts = train_viterbi_async(job, tmp_path / "m")
    assert same(tmp_path / "m", root / "hybrid") and facts["staleness_max"] == 0
    assert same(tmp_path / "m" / "epoch-1", tmp_path / "m" / "epoch-1") and not same(
        tmp_path / "m", tmp_path / "m" / "epoch-1"
    )
    assert len(list((tmp_path / "m").glob("epoch-*"))) == 3 and not list((tmp_path / "m").glob("shard*"))


def test_transitions_are_at_the_rate_of_the_labels(tones, root, tmp_path):
    shared = {**CE, "epochs": 1, "subsampling": 2}
    job = ViterbiJob(tones.data, tones.lang, root / "ali", AsyncViterbiOptions(replicas=1, **shared))
    train_viterbi_async(job, tmp_path / "async")
    train_viterbi(tones.data, tones.lang, root / "ali", tmp_path / "plain", ViterbiOptions(**shared))
    files = [(tmp_path / d / "transitions.json").read_bytes() for d in ("async", "plain")]
    assert files[0] == files[1] != (root / "ali" / "transitions.json").read_bytes()


def test_mmi_by_one_replica_is_the_ordinary_one(tones, root, tmp_path):
    facts = train_sequence_async(sequence_job(tones, root, replicas=1), tmp_path / "m")
    assert same(tmp_path / "m", root / "mmi")
    assert (tmp_path / "m" / "failed.txt").is_file() and 0 < facts["frame_error"] < 1


def test_mmi_in_frames_of_two_replicas(tones, root, tmp_path):
    """On-the-fly shuffling, only the last layer; the criterion on dev data gets better."""
    job = sequence_job(
        tones, root, replicas=2, shuffle="on_the_fly", frame_batch=12, update="last", refresh=3, epochs=3
    )
    train_sequence_async(job, tmp_path / "m")
    before, after = (load_acoustic_model(d)[0].state_dict() for d in (root / "hybrid", tmp_path / "m"))
    assert {k for k in before if not torch.equal(before[k], after[k])} == {"output.weight", "output.bias"}
    built = job.build()
    start = evaluate(built.model, built.dev, job.training, "cpu", 1.0)
    assert load_acoustic_model(tmp_path / "m")[2].epochs[-1]["dev_loss"] < start["dev_loss"]


def test_what_does_not_go_together_is_refused(tones, root, tmp_path):
    for options, match in ((dict(realign_rounds=1), "realign-rounds"), (dict(shuffle="full", focal=1.0), "--focal")):
        job = ViterbiJob(tones.data, tones.lang, root / "ali", AsyncViterbiOptions(**{**CE, **options}))
        with pytest.raises(ConfigError, match=match):
            train_viterbi_async(job, tmp_path / "m")
    with pytest.raises(ConfigError, match="--encoder dnn"):
        job = ViterbiJob(
            tones.data, tones.lang, root / "ali", AsyncViterbiOptions(**{**CE, "encoder": "blstm", "shuffle": "full"})
        )
        train_viterbi_async(job, tmp_path / "m")
    for options, match in (
        (dict(schedule="plateau"), "plateau"),
        (dict(accumulate=2), "--accumulate"),
        (dict(precision="bfloat16"), "--precision bfloat16"),
    ):
        job = ViterbiJob(tones.data, tones.lang, root / "ali", AsyncViterbiOptions(**CE, **options))
        with pytest.raises(ConfigError, match=match):
            train_viterbi_async(job, tmp_path / "m")
