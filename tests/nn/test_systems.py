"""From a corpus with known times to a neural HMM, its alignment, and a hybrid model on it; and broken inputs."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.lang import Lang, make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.model_dir import load_hmm
from pipeline.base import cli
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import read_json, read_yaml, write_json
from pipeline.feats.compute import compute_feats
from pipeline.feats.dataset import Dataset
from pipeline.feats.options import FeatureOptions
from pipeline.nn.federated import train_federated
from pipeline.nn.federated_options import FederatedOptions
from pipeline.nn.hybrid import load_labelled, realign, share_changed, train_viterbi
from pipeline.nn.model import load_acoustic_model, load_scorer
from pipeline.nn.nhmm import train_nhmm
from pipeline.nn.options import NhmmOptions, TransitionEmOptions, ViterbiOptions
from pipeline.nn.priors import softmax_prior
from pipeline.nn.train import DivergenceError
from pipeline.nn.transition_em import estimate_transitions
from pipeline.tasks.align import AlignOptions, align
from pipeline.tasks.unknown_speech import with_unknown_speech
from tests.nn.conftest import WORDS
from tests.tasks.stretched import check_stretches

SHAPE = dict(
    encoder="tdnn", layers=2, dim=24, dilations=(1,), batch_frames=400, time_masks=0, feature_masks=0, device="cpu"
)
NHMM = NhmmOptions(epochs=8, learning_rate=5e-3, prior="on_the_fly", prior_scale=0.1, **SHAPE)
VITERBI = ViterbiOptions(epochs=4, learning_rate=5e-3, **SHAPE)


def align_with(model: Path, tones, out: Path, **options) -> AliSet:
    report = align(load_scorer(model), Lang.load(tones.lang), tones.data, out, AlignOptions(**options), str(model))
    assert not report.failed
    return AliSet.load(out)


def boundary_error(ali: AliSet, times: dict) -> float:
    """Mean absolute error in seconds of all phone starts and ends."""
    errors = []
    for cut_id, gold in times.items():
        phones = [p for p in ali.phones(cut_id) if p.symbol != "SIL"]
        assert [p.symbol for p in phones] == [g[0] for g in gold]
        errors += [abs(p.start - g[1]) for p, g in zip(phones, gold)] + [
            abs(p.end - g[2]) for p, g in zip(phones, gold)
        ]
    return float(np.mean(errors))


@pytest.fixture(scope="module")
def nhmm(tones, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("nhmm") / "model"
    facts = train_nhmm(tones.data, tones.lang, out, NHMM, tones.data)
    assert facts["utterances"] == 24 and 0.02 < facts["silence"] < 0.9
    return out


@pytest.fixture(scope="module")
def nhmm_ali(nhmm, tones, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ali") / "ali"
    align_with(nhmm, tones, out)
    return out


def test_full_sum_from_scratch_finds_the_boundaries(nhmm, nhmm_ali, tones):
    """Three states per phone of 100 ms: a linear alignment would be off by far more."""
    assert boundary_error(AliSet.load(nhmm_ali), tones.times) < 0.015
    hmm = load_hmm(nhmm)
    silence = hmm.transitions.phone == hmm.phones.id("SIL")
    learned = hmm.transitions.forward_prob
    assert len(set(learned[silence])) == 1 and len(set(learned[~silence])) == 1
    assert learned[silence][0] < learned[~silence][0]


def test_directory_rebuilds_the_model(nhmm, tones):
    model, hmm, meta = load_acoustic_model(nhmm)
    assert meta.criterion == "full_sum" and meta.frame_shift == 0.01 and hmm.tree.num_pdfs == model.num_pdfs
    scorer = load_scorer(nhmm)
    assert (scorer.acoustic_scale, scorer.transition_scale, scorer.num_pdfs) == (0.3, 0.3, 10)
    assert scorer.prior_scale == pytest.approx(1 / 3) and scorer.frame_offset == pytest.approx(0.0, abs=1e-4)
    batch = Dataset.open(tones.data, scorer.feat_options).batch(np.array([0]))
    feats, lens = batch.feats, batch.lens
    plain, _ = load_scorer(nhmm, prior_scale=0.0).log_likes(feats, lens)
    assert torch.allclose(plain.exp().sum(-1), torch.ones(1), atol=1e-5)
    scored, _ = load_scorer(nhmm, prior_scale=0.5).log_likes(feats, lens)
    assert torch.allclose(scored, plain - 0.5 * model.log_prior, atol=1e-5)
    assert scorer.transition_scores(feats, lens) is None


@pytest.mark.parametrize("kind", ["linear", "time", "blstm"])
def test_input_dependent_transitions(kind, tones, tmp_path):
    options = dataclasses.replace(NHMM, transitions=kind, transition_dim=4, epochs=2)
    train_nhmm(tones.data, tones.lang, tmp_path / "m", options)
    model, hmm, _ = load_acoustic_model(tmp_path / "m")
    batch = Dataset.open(tones.data, load_scorer(tmp_path / "m").feat_options).batch(np.array([0]))
    feats, lens = batch.feats, batch.lens
    scores = load_scorer(tmp_path / "m").transition_scores(feats, lens)
    assert scores.shape == (1, int(lens[0]), hmm.transitions.num_tids)
    assert hmm.transitions.forward_prob.min() > 0.01 and hmm.transitions.forward_prob.max() < 0.99
    for model in (load_scorer(tmp_path / "m"), with_unknown_speech(load_scorer(tmp_path / "m"))):
        check_stretches(model, feats[0], "nobody")
    align_with(tmp_path / "m", tones, tmp_path / "ali")


def test_subsampled_labels(tones, tmp_path):
    """Labels every 20 ms on a topology of 1 state; the alignment says so."""
    from pipeline.artifacts.lang import make_lang

    lexicon = Lang.load(tones.lang).lexicon
    make_lang(lexicon, speech_states=1, speech_forward=0.1).save(tmp_path / "lang")
    options = dataclasses.replace(NHMM, subsampling=2)
    train_nhmm(tones.data, tmp_path / "lang", tmp_path / "m", options)
    ali = align_with(tmp_path / "m", tones._replace(lang=tmp_path / "lang"), tmp_path / "ali")
    assert ali.header.frame_shift == pytest.approx(0.02)
    scorer = load_scorer(tmp_path / "m")
    feats = Dataset.open(tones.data, scorer.feat_options).flat(np.array([0]))
    for model in (scorer, with_unknown_speech(scorer)):
        check_stretches(model, feats, "nobody")
    assert boundary_error(ali, tones.times) < 0.03


def test_word_end_labels(tones, tmp_path):
    """The last phone of a word has labels of its own; scoring sees plain phones again."""
    from pipeline.artifacts.lang import make_lang
    from pipeline.tasks.tiers import AliTiers

    make_lang(Lang.load(tones.lang).lexicon, position="word_end").save(tmp_path / "lang")
    train_nhmm(tones.data, tmp_path / "lang", tmp_path / "m", NHMM)
    ali = align_with(tmp_path / "m", tones._replace(lang=tmp_path / "lang"), tmp_path / "ali")
    tiers = AliTiers(ali)
    marked = [p.symbol for c in ali for p in ali.phones(c) if p.symbol != "SIL"]
    assert all(name.endswith("_E") == bool(i % 2) for i, name in enumerate(marked))
    for cut_id, gold in tones.times.items():
        assert [p.symbol for p in tiers[cut_id].phones if p.symbol != "SIL"] == [g[0] for g in gold]


def test_configuration_of_the_paper_runs(tones, tmp_path):
    """egs/tiny/conf/paper_a, but for its size: Gammatone features, labels with word ends, six BLSTM layers, no prior."""
    conf = Path(__file__).resolve().parents[2] / "egs" / "tiny" / "conf" / "paper_a"
    lang, options, scales = (read_yaml(conf / f"{name}.yaml") for name in ("lang", "nhmm", "align"))
    lexicon = Lexicon([Pronunciation(word, phones) for word, phones in WORDS.items()])
    make_lang(lexicon, **lang).save(tmp_path / "lang")
    data = tmp_path / "data"
    data.mkdir()
    features = FeatureOptions(**{**read_yaml(conf / "gammatone.yaml"), "dim": 16})
    compute_feats(tones.data.parent / "local", data, data, features)
    small = NhmmOptions(**{**options, "dim": 4, "epochs": 2, "batch_frames": 800, "device": "cpu"})
    assert (small.prior, small.layers, small.encoder) == ("none", 6, "blstm")
    facts = train_nhmm(data, tmp_path / "lang", tmp_path / "model", small)
    assert facts["utterances"] == 24 and np.isfinite(facts["loss"])
    model, hmm, meta = load_acoustic_model(tmp_path / "model")
    assert hmm.tree.num_pdfs == 1 + 3 * 6 and meta.scales.prior == 0.0  # a, b and c inside of words and at their ends
    assert float(model.log_prior.exp().sum()) == pytest.approx(1.0, abs=1e-4)
    report = align(
        load_scorer(tmp_path / "model", scales["prior_scale"]),
        Lang.load(tmp_path / "lang"),
        data,
        tmp_path / "ali",
        AlignOptions(**scales),
        "m",
    )
    assert report.num_aligned == 24


def test_labels_of_a_tree_with_context(tones, tmp_path):
    """Senones: the first state of each phone is split by what stands before it; full-sum over the tied labels."""
    from pipeline.artifacts.model_dir import save_hmm
    from pipeline.artifacts.transitions import TransitionModel
    from pipeline.artifacts.tree import Leaf, Question, Root, Tree

    lang = Lang.load(tones.lang)
    roots, pdf = [], 0
    for name, topo in lang.topo.phones.items():
        for state in topo.pdf_classes:
            node = Leaf(pdf)
            if name != "SIL" and state == 0:
                node, pdf = Question(-1, frozenset([0, lang.silence_id]), Leaf(pdf), Leaf(pdf + 1)), pdf + 1
            roots.append(Root(frozenset([lang.phones.id(name)]), frozenset([state]), node))
            pdf += 1
    tree = Tree(roots, lang.phones, left=1)
    save_hmm(tmp_path / "tree", lang.topo, tree, TransitionModel(tree, lang.topo))
    train_nhmm(tones.data, tones.lang, tmp_path / "m", NHMM, tree_dir=tmp_path / "tree")
    assert load_scorer(tmp_path / "m").num_pdfs == 13
    ali = align_with(tmp_path / "m", tones, tmp_path / "ali")
    assert boundary_error(ali, tones.times) < 0.02
    train_viterbi(tones.data, tones.lang, tmp_path / "ali", tmp_path / "hybrid", dataclasses.replace(VITERBI, epochs=1))
    assert load_scorer(tmp_path / "hybrid").num_pdfs == 13


@pytest.mark.parametrize(
    "shape",
    [
        dict(encoder="blstm", dim=16, frames_per_step=2),
        dict(encoder="tds", dim=24, heads=4, conv_kernel=5),
        dict(encoder="transformer", dim=16, heads=2),
        dict(encoder="conformer", dim=16, heads=2, conv_kernel=5),
    ],
)
def test_every_encoder_trains_and_aligns(shape, tones, tmp_path):
    options = dataclasses.replace(NHMM, layers=1, epochs=10, **shape)
    train_nhmm(tones.data, tones.lang, tmp_path / "m", options)
    assert boundary_error(align_with(tmp_path / "m", tones, tmp_path / "ali"), tones.times) < 0.03


def test_viterbi_training_on_the_alignment(nhmm_ali, tones, tmp_path):
    facts = train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "m", VITERBI, tones.data, nhmm_ali)
    assert facts["dev_accuracy"] > 0.7
    assert read_json(tmp_path / "m" / "transitions.json") == read_json(nhmm_ali / "transitions.json")
    ali = align_with(tmp_path / "m", tones, tmp_path / "ali")
    assert boundary_error(ali, tones.times) < 0.015


def test_viterbi_training_at_a_lower_frame_rate(nhmm_ali, tones, tmp_path):
    options = dataclasses.replace(VITERBI, subsampling=3, majority=True, epochs=1)
    train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "m", options)
    assert load_scorer(tmp_path / "m").frame_shift == pytest.approx(0.03)
    before, after = (load_hmm(d).transitions.forward_prob for d in (nhmm_ali, tmp_path / "m"))
    assert np.allclose(after, np.minimum(1.0 - (1.0 - before) ** 3, 0.9)) and (after > 1.5 * before).all()
    align_with(tmp_path / "m", tones, tmp_path / "ali")  # whose frames are those of the labels
    train_viterbi(tones.data, tones.lang, tmp_path / "ali", tmp_path / "again", options)
    assert np.array_equal(load_hmm(tmp_path / "again").transitions.forward_prob, after)


@pytest.mark.parametrize("subsampling", [1, 2])
def test_realignment_is_the_alignment_of_the_model(subsampling, nhmm_ali, tones, tmp_path):
    """Transition probabilities are those of the model's directory, and the prior is taken out."""
    options = dataclasses.replace(VITERBI, subsampling=subsampling, epochs=1, learning_rate=1e-3)
    train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "m", options)
    lang, hmm, _, sets = load_labelled(tones.data, tones.lang, nhmm_ali, options)
    model = load_acoustic_model(tmp_path / "m")[0]
    found = realign(model, hmm, lang, sets[0], tmp_path)
    ali, pdf = align_with(tmp_path / "m", tones, tmp_path / "ali"), hmm.transitions.tid_pdf()
    for i, labels in enumerate(found.labels):
        assert np.array_equal(labels, pdf[ali[found.data.id(i)].transition_ids])
    model.log_prior.zero_()
    assert share_changed(found.labels, realign(model, hmm, lang, sets[0], tmp_path).labels) > 0.02


def test_closed_form_instead_of_gradients(nhmm, nhmm_ali, tones, tmp_path):
    """EM in training and EM under a frozen network find what gradients find: the inverse of the true durations."""
    options = dataclasses.replace(NHMM, transition_update="em")
    facts = train_nhmm(tones.data, tones.lang, tmp_path / "em", options)
    seconds = [end - start for gold in tones.times.values() for _, start, end in gold]
    assert facts["speech_forward"] == pytest.approx(3 * 0.01 / np.mean(seconds), rel=0.1)
    fixed = dataclasses.replace(NHMM, transitions="fixed")
    train_nhmm(tones.data, tones.lang, tmp_path / "fixed", fixed)
    em = TransitionEmOptions(transitions="speech_silence", rounds=3, transition_scale=1.0)
    facts = estimate_transitions(tones.data, tones.lang, tmp_path / "fixed", tmp_path / "after", em)
    assert facts["speech_forward"] == pytest.approx(3 * 0.01 / np.mean(seconds), rel=0.1)
    assert load_hmm(tmp_path / "after").transitions.forward_prob[-1] == pytest.approx(facts["speech_forward"])
    before, after = (load_acoustic_model(tmp_path / d)[0] for d in ("fixed", "after"))
    assert torch.equal(before.output.weight, after.output.weight) and after.transitions.kind == "speech_silence"
    align_with(tmp_path / "after", tones, tmp_path / "ali")
    with pytest.raises(ConfigError, match="--transitions linear has no closed-form update"):
        train_nhmm(tones.data, tones.lang, tmp_path / "x", dataclasses.replace(options, transitions="linear"))


def test_collapse_to_silence_is_named(tones, tmp_path):
    """Closed-form updates of full weight from the first epoch on: phones shrink to one frame per state."""
    options = dataclasses.replace(NHMM, transition_update="em", label_scale=1.0, transition_scale=1.0)
    with pytest.raises(DivergenceError, match="silence collapse.*Usual cures: a lower --transition-scale"):
        train_nhmm(tones.data, tones.lang, tmp_path / "em", options)


def test_the_prior_is_that_of_the_final_model(tones, tmp_path):
    """The mean of epochs has posteriors of its own."""
    options = dataclasses.replace(NHMM, prior="softmax", epochs=3, average=3)
    train_nhmm(tones.data, tones.lang, tmp_path / "m", options)
    model, _, meta = load_acoustic_model(tmp_path / "m")
    assert torch.allclose(model.log_prior.exp().sum(), torch.ones(()), atol=1e-5)
    own = softmax_prior(model, Dataset.open(tones.data, meta.feat_options).batches(20_000, 64))
    assert torch.allclose(model.log_prior, own, atol=1e-4)


def test_an_explosion_is_no_model(tones, tmp_path):
    options = dataclasses.replace(
        NHMM,
        **dict(prior="none", transitions="fixed", optimizer="sgd"),
        **dict(schedule="constant", learning_rate=1e25, clip=1e30, epochs=4),
    )
    with pytest.raises(DivergenceError, match="loss.* is nan"):
        train_nhmm(tones.data, tones.lang, tmp_path / "m", options, tones.data)


def test_estimated_transitions_of_a_hybrid(nhmm_ali, tones, tmp_path):
    train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "hybrid", VITERBI)
    facts = estimate_transitions(
        tones.data, tones.lang, tmp_path / "hybrid", tmp_path / "em", TransitionEmOptions(rounds=1)
    )
    assert facts["silence_forward"] < 0.15 < facts["speech_forward"]
    assert load_scorer(tmp_path / "em").prior_scale == load_scorer(tmp_path / "hybrid").prior_scale == 1.0


def test_utterances_that_are_too_short_for_transitions_are_counted(nhmm, tones, tmp_path, monkeypatch, caplog):
    """Of 24 one is left out with a warning; three are more than 5 %."""
    text, data = Dataset.text, Dataset.open(tones.data, NHMM.feat_options())
    long, em = " ".join(["AB"] * int(data.lens.max())), TransitionEmOptions(transitions="speech_silence", rounds=1)
    short = {data.id(7)}
    monkeypatch.setattr(Dataset, "text", lambda self, i: long if self.id(i) in short else text(self, i))
    facts = estimate_transitions(tones.data, tones.lang, nhmm, tmp_path / "em", em)
    assert facts["utterances"] == 23
    assert f"1 of 24 utterances are shorter than their HMM, the first: {data.id(7)!r}" in caplog.text
    short.update((data.id(3), data.id(9)))
    with pytest.raises(DataError, match=f"3 of 24 .*, the first: {data.id(3)!r}, .*--max-skipped"):
        estimate_transitions(tones.data, tones.lang, nhmm, tmp_path / "no", em)
    em = dataclasses.replace(em, max_skipped=0.2)
    assert estimate_transitions(tones.data, tones.lang, nhmm, tmp_path / "few", em)["utterances"] == 21


def test_flat_start_and_schedules(tones, tmp_path):
    options = dataclasses.replace(
        NHMM, flat_start_epochs=1, label_scale_start=0.1, transition_scale_start=0.0, prior_scale_start=0.0, epochs=6
    )
    train_nhmm(tones.data, tones.lang, tmp_path / "m", options, tones.data)
    assert boundary_error(align_with(tmp_path / "m", tones, tmp_path / "ali"), tones.times) < 0.02


def test_interrupted_full_sum_ends_with_the_same_bits(tones, tmp_path, monkeypatch):
    """With everything that a neural HMM estimates besides its parameters: prior, closed-form transitions."""
    from pipeline.nn import losses

    options = dataclasses.replace(NHMM, epochs=3, transition_update="em", time_masks=1)
    train_nhmm(tones.data, tones.lang, tmp_path / "whole", options)
    calls, plain = [0], losses.FullSum.__call__

    def stopping(self, model, batch, done):
        calls[0] += 1
        if calls[0] == 12:
            raise KeyboardInterrupt
        return plain(self, model, batch, done)

    monkeypatch.setattr("pipeline.nn.train.SAVE_SECONDS", 0.0)
    monkeypatch.setattr(losses.FullSum, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_nhmm(tones.data, tones.lang, tmp_path / "broken", options)
    torch.manual_seed(99)
    train_nhmm(tones.data, tones.lang, tmp_path / "broken", options)
    for name in ("model.safetensors", "transitions.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


def test_realignment_mends_a_shifted_alignment(nhmm_ali, tones, tmp_path):
    """Labels that come 40 ms late; the network's own alignment comes closer to the truth round by round."""
    from pipeline.artifacts.ali import AliWriter

    ali, hmm = AliSet.load(nhmm_ali), load_hmm(nhmm_ali)
    with AliWriter(tmp_path / "late", ali.header, hmm.tree, hmm.topo, hmm.transitions, ali.word_symbols) as writer:
        for cut_id, item in ali.items():
            tids = item.transition_ids
            writer.write(dataclasses.replace(item, transition_ids=np.concatenate([tids[:1].repeat(4), tids[:-4]])))
    options = dataclasses.replace(VITERBI, epochs=2, realign_epochs=2, label_smoothing=0.1)
    errors = {}
    for rounds in (0, 3):
        out = tmp_path / f"m{rounds}"
        facts = train_viterbi(
            tones.data,
            tones.lang,
            tmp_path / "late",
            out,
            dataclasses.replace(options, realign_rounds=rounds),
            tones.data,
            tmp_path / "late",
        )
        errors[rounds] = boundary_error(align_with(out, tones, tmp_path / f"a{rounds}"), tones.times)
        assert not list(out.glob("round*"))
    assert all(0 < facts[f"changed_{i}"] <= 1 for i in (1, 2, 3)) and len(load_acoustic_model(out)[2].epochs) == 8
    assert errors[3] < 0.8 * errors[0]


def test_interrupted_realignment_ends_with_the_same_bits(nhmm_ali, tones, tmp_path, monkeypatch):
    from pipeline.nn import losses

    options = dataclasses.replace(VITERBI, epochs=1, realign_rounds=1, realign_epochs=2)
    calls, stop, plain = [0], [0], losses.CrossEntropy.__call__

    def counting(self, model, batch, done):
        calls[0] += 1
        if calls[0] == stop[0]:
            raise KeyboardInterrupt
        return plain(self, model, batch, done)

    monkeypatch.setattr(losses.CrossEntropy, "__call__", counting)
    train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "whole", options)
    stop[0], calls[0] = calls[0] - 1, 0
    with pytest.raises(KeyboardInterrupt):
        train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "broken", options)
    assert (tmp_path / "broken" / "round1").is_dir()
    train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "broken", options)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "broken" / "model.safetensors"
    ).read_bytes()


def test_training_on_chunks(nhmm_ali, tones, tmp_path):
    options = dataclasses.replace(VITERBI, chunk_seconds=0.3)
    train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "m", options, tones.data, nhmm_ali)
    assert boundary_error(align_with(tmp_path / "m", tones, tmp_path / "ali"), tones.times) < 0.02


@pytest.mark.parametrize(
    "name, value",
    [
        ("label_scale", 0.0),
        ("label_scale", 6.0),
        ("transition_scale", -0.1),
        ("prior_scale", 9.0),
        ("label_scale_start", -1.0),
        ("transition_scale_start", 7.0),
    ],
)
def test_scales_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: Input should be"):
        cli.load_options(NhmmOptions, None, {name: value})


def test_prior_is_the_share_of_the_labels(nhmm_ali, tones, tmp_path):
    train_viterbi(tones.data, tones.lang, nhmm_ali, tmp_path / "m", dataclasses.replace(VITERBI, epochs=1))
    ali = AliSet.load(nhmm_ali)
    counts = np.bincount(np.concatenate([ali.pdf_ids(c) for c in ali]), minlength=10) + 1
    model, _, _ = load_acoustic_model(tmp_path / "m")
    assert np.allclose(model.log_prior.exp(), counts / counts.sum(), atol=1e-5)


def test_short_utterances_are_counted_or_refused(tones, tmp_path):
    with pytest.raises(DataError, match="20 of 24 utterances are shorter.*subsampling"):
        train_nhmm(tones.data, tones.lang, tmp_path, dataclasses.replace(NHMM, subsampling=8))


def test_other_speeds_take_the_stretched_labels(nhmm_ali, tones, tmp_path):
    """Training on data at three speeds with the alignment of the original only."""
    from pipeline.feats.augment import perturb_speed
    from pipeline.feats.compute import compute_feats
    from pipeline.feats.options import FeatureOptions

    (tmp_path / "sp").mkdir()
    (tmp_path / "feats").mkdir()
    perturb_speed(tones.data, tmp_path / "sp", (0.9, 1.0, 1.1))
    compute_feats(tmp_path / "sp", tmp_path / "feats", tmp_path / "feats", FeatureOptions(type="fbank", dim=16))
    options = dataclasses.replace(VITERBI, epochs=2)
    facts = train_viterbi(
        tmp_path / "feats", tones.lang, nhmm_ali, tmp_path / "m", options, tmp_path / "feats", nhmm_ali
    )
    assert facts["utterances"] == 72 and facts["dev_accuracy"] > 0.7
    assert boundary_error(align_with(tmp_path / "m", tones, tmp_path / "ali"), tones.times) < 0.02


def test_missing_alignments(nhmm_ali, tones, tmp_path):
    from pipeline.artifacts.ali import AliWriter

    ali = AliSet.load(nhmm_ali)
    hmm = load_hmm(nhmm_ali)
    with AliWriter(tmp_path / "few", ali.header, hmm.tree, hmm.topo, hmm.transitions, ali.word_symbols) as writer:
        for cut_id in list(ali)[:20]:
            writer.write(ali[cut_id])
    with pytest.raises(DataError, match="no alignment for 4 of the 24.*utt20"):
        train_viterbi(tones.data, tones.lang, tmp_path / "few", tmp_path / "m", VITERBI)
    options = dataclasses.replace(VITERBI, epochs=1, max_skipped=0.2)
    assert train_viterbi(tones.data, tones.lang, tmp_path / "few", tmp_path / "m", options)["utterances"] == 20


def test_other_frame_rate_and_length(nhmm_ali, tones, tmp_path):
    shutil.copytree(nhmm_ali, tmp_path / "ali")
    header = read_json(nhmm_ali / "ali.json")
    header["header"]["frame_shift"] = 0.02
    write_json(tmp_path / "ali" / "ali.json", header)
    with pytest.raises(MismatchError, match="every 20 ms.*--subsampling 2 fits"):
        train_viterbi(tones.data, tones.lang, tmp_path / "ali", tmp_path / "m", VITERBI)
    with pytest.raises(MismatchError, match="labels and .* label frames"):
        train_viterbi(
            tones.data, tones.lang, tmp_path / "ali", tmp_path / "m", dataclasses.replace(VITERBI, subsampling=2)
        )


def test_other_lang(nhmm_ali, tones, tmp_path):
    from pipeline.artifacts.lang import make_lang

    make_lang(Lang.load(tones.lang).lexicon, speech_states=2).save(tmp_path / "lang")
    with pytest.raises(MismatchError, match="lang"):
        train_viterbi(tones.data, tmp_path / "lang", nhmm_ali, tmp_path / "m", VITERBI)


def test_word_outside_the_lexicon(tones, tmp_path):
    from pipeline.artifacts.lang import make_lang
    from pipeline.artifacts.lexicon import Lexicon

    make_lang(Lexicon([e for e in Lang.load(tones.lang).lexicon.entries if e.word != "BC"])).save(tmp_path / "lang")
    with pytest.raises(DataError, match=r"cuts.jsonl.gz:\d+: utterance 'utt\d+': word 'BC'"):
        train_nhmm(tones.data, tmp_path / "lang", tmp_path / "m", NHMM)


def test_other_kind_of_model(nhmm, tmp_path):
    shutil.copytree(nhmm, tmp_path / "m")
    meta = read_json(nhmm / "model.json")
    write_json(tmp_path / "m" / "model.json", {**meta, "config": {**meta["config"], "layers": 3}})
    with pytest.raises(DataError, match="model.json"):
        load_acoustic_model(tmp_path / "m")
    write_json(tmp_path / "m" / "model.json", {**meta, "kind": "gmm"})
    with pytest.raises(MismatchError, match="gmm"):
        load_acoustic_model(tmp_path / "m")


def test_federated_training_from_a_model(nhmm_ali, tones, tmp_path):
    start = tmp_path / "start"
    train_viterbi(tones.data, tones.lang, nhmm_ali, start, dataclasses.replace(VITERBI, epochs=1))
    options = FederatedOptions(**SHAPE, rounds=2, share=1.0, learning_rate=0.5)
    sources = (tones.data, tones.lang, nhmm_ali)
    facts = train_federated(*sources, tmp_path / "m", options, tones.data, nhmm_ali, start)
    model, _, meta = load_acoustic_model(tmp_path / "m")
    before, _, meta_before = load_acoustic_model(start)
    assert facts["utterances"] == 24 and facts["clients"] == 3 and meta.start == str(start)
    assert len(meta.epochs) == 2 and meta.epochs[-1]["dev_loss"] < meta_before.epochs[-1]["loss"]
    assert torch.equal(model.mean, before.mean) and torch.equal(model.log_prior, before.log_prior)
    wide = dataclasses.replace(options, dim=32)
    with pytest.raises(MismatchError, match="its dim is 24, the options say 32"):
        train_federated(*sources, tmp_path / "wide", wide, init_dir=start)
    noisy = dataclasses.replace(options, clipping="global", noise=1.0)
    with pytest.raises(ConfigError, match="noise needs --init"):
        train_federated(*sources, tmp_path / "noisy", noisy)
