"""The chain end to end on corpora drawn from a known model: contexts are found, transforms undo speakers, bad input is
met.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.arpa import train_unigram
from pipeline.artifacts.lattice import Lattice
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.posteriors import PosteriorSet, PosteriorWriter
from pipeline.artifacts.tree import BOUNDARY, Leaf, questions
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import read_json
from pipeline.gmm import fmllr
from pipeline.gmm.model import GmmModel, load_scorer, load_transforms
from pipeline.gmm.mono import train_mono
from pipeline.gmm.new_speakers import estimate_fmllr, estimate_fmllr_soft
from pipeline.gmm.options import (
    DeltasOptions,
    EstimateFmllrOptions,
    LdaMlltOptions,
    MonoOptions,
    SatOptions,
    TieOptions,
)
from pipeline.gmm.sat import train_sat
from pipeline.gmm.tie import tie_states
from pipeline.gmm.triphone import train_deltas, train_lda_mllt
from pipeline.tasks.align import AlignOptions, align
from tests.gmm.world import DIM, World, draw, make_world_lang, random_speakers, write_corpus

LANG = make_world_lang()
WORLD = World.make(1)
RAW = dict(cmvn="none", deltas=0)
MONO = MonoOptions(num_gauss=9, num_iters=12, grow_iters=8, realign_iters=tuple(range(1, 12)), **RAW)
TRI = dict(num_gauss=11, num_iters=8, grow_iters=5, realign_iters=(3, 6), num_leaves=11, leaf_min_count=20.0)


def align_by(model: Path, data: Path, out: Path, transforms: Path | None = None) -> Path:
    report = align(load_scorer(model, transforms), LANG, data, out, AlignOptions(), str(model))
    assert not report.failed
    return out


def wrong_frames(ali: AliSet, utterances) -> float:
    """Share of frames whose phone is not the true one."""
    wrong = total = 0
    for u in utterances:
        truth = [p for p, first, end in u.spans for _ in range(end - first)]
        found = [LANG.phones.name(int(ali.transitions.tid_phone()[t])) for t in ali[u.name].transition_ids]
        wrong, total = wrong + sum(a != b for a, b in zip(truth, found)), total + len(truth)
    return wrong / total


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """data, mono, its alignment and tri1 of 150 utterances."""
    d = tmp_path_factory.mktemp("chain")
    write_corpus(d / "data", draw(WORLD, 150, seed=2))
    train_mono(d / "data", LANG, MONO, d / "mono")
    align_by(d / "mono", d / "data", d / "mono_ali")
    train_deltas(d / "data", LANG, d / "mono_ali", DeltasOptions(**TRI, **RAW), _new(d / "tri1"))
    return d


def _new(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_the_tree_finds_the_contexts_that_matter(chain):
    tree = load_hmm(chain / "tri1").tree
    ids = {p: LANG.phones.id(p) for p in ("SIL", *"abcd")}
    asked = {
        (LANG.phones.name(next(iter(r.phones))), next(iter(r.pdf_classes))): [q.pos for q in questions(r.node)]
        for r in tree.roots
    }
    assert {key: positions for key, positions in asked.items() if positions} == {("a", 0): [-1], ("b", 1): [1]}
    after = {p: tree.lookup(np.array([[i, ids["a"], ids["d"]]]), np.array([0]))[0] for p, i in ids.items()}
    assert after["b"] == after["c"] != after["SIL"] == after["a"] == after["d"]
    before = {p: tree.lookup(np.array([[ids["a"], ids["b"], i]]), np.array([1]))[0] for p, i in ids.items()}
    assert (
        before["d"] not in {before[p] for p in ("SIL", "a", "b", "c")}
        and len({before[p] for p in ("SIL", "a", "b", "c")}) == 1
    )
    edge = tree.lookup(np.array([[BOUNDARY, ids["a"], BOUNDARY]]), np.array([0]))[0]
    assert edge == after["SIL"]


def test_means_are_the_true_ones_in_every_context(chain):
    model, tree = GmmModel.load(chain / "tri1"), load_hmm(chain / "tri1").tree
    mixture = model.gmms
    for phones, i, state in ((["a"], 0, 0), (["c", "a"], 1, 0), (["b", "d"], 0, 1), (["b", "a"], 0, 1), (["d"], 0, 1)):
        padded = [BOUNDARY, *(LANG.phones.id(p) for p in phones), BOUNDARY]
        pdf = int(tree.lookup(np.array([padded[i : i + 3]]), np.array([state]))[0])
        span = slice(int(mixture.offsets[pdf]), int(mixture.offsets[pdf + 1]))
        mean = (mixture.weights[span, None] * mixture.means[span]).sum(0).numpy()
        assert np.abs(mean - WORLD.mean(phones, i, state)).max() < 0.4, (phones, state)


def test_triphones_fit_better_and_align_right(chain):
    utterances = draw(WORLD, 150, seed=2)
    likes = [read_json(chain / m / "model.json")["history"][-1]["log_like"] for m in ("mono", "tri1")]
    assert likes[1] > likes[0] + 0.1
    align_by(chain / "tri1", chain / "data", chain / "tri1_ali")
    mono, tri = (wrong_frames(AliSet.load(chain / a), utterances) for a in ("mono_ali", "tri1_ali"))
    assert tri < 0.005 and tri <= mono


def word_errors(model: Path, data: Path, transforms: Path | None = None) -> tuple[float, dict[str, str]]:
    """Word error rate in percent by the decoding graph of the model, and the words found."""
    wer, texts, _ = recognised(model, data, transforms)
    return wer, texts


def recognised(model: Path, data: Path, transforms: Path | None = None) -> tuple[float, dict[str, str], dict]:
    """word_errors, and the posteriors of the lattices."""
    from pipeline.graph.decoding import build_decoding_graph
    from pipeline.graph.lattices import Lattices
    from pipeline.graph.options import DecodeOptions
    from pipeline.tasks.decode import decode
    from pipeline.tasks.score import count_errors, total_errors

    hmm = load_hmm(model)
    arpa = train_unigram([list(WORDS_ONCE)])
    graph = build_decoding_graph(LANG, arpa, hmm)
    options, soft = DecodeOptions(acoustic_scale=1.0, beam=40.0), {}

    def keep(cut_id: str, lattice: Lattice) -> None:
        soft[cut_id] = Lattices([lattice]).posteriors(1.0, 0.0)[0]

    decoded = decode(load_scorer(model, transforms), graph, data, options, [(1.0, 0.0)], keep=[keep])
    hyps = decoded.hypotheses((1.0, 0.0), list(graph.words))
    return total_errors(count_errors(hyps)).wer, {h.cut_id: " ".join(h.hyp) for h in hyps}, soft


WORDS_ONCE = tuple(LANG.words)[1:]


def test_triphones_recognise_better(chain, tmp_path):
    data = write_corpus(tmp_path / "test", draw(WORLD, 40, seed=9, noise=2.2))
    mono, tri = (word_errors(chain / m, data)[0] for m in ("mono", "tri1"))
    assert tri < mono - 2.0, (mono, tri)


@pytest.mark.parametrize("left, right", [(1, 0), (0, 1), (2, 2)])
def test_other_contexts(chain, tmp_path, left, right):
    """Biphones see one side only; quinphones still ask what matters, the next neighbours, first."""
    options = DeltasOptions(**{**TRI, "left": left, "right": right, "num_iters": 2, "realign_iters": (1,)}, **RAW)
    train_deltas(chain / "data", LANG, chain / "mono_ali", options, _new(tmp_path / "tri"))
    tree = load_hmm(tmp_path / "tri").tree
    first = {
        (LANG.phones.name(next(iter(r.phones))), next(iter(r.pdf_classes))): r.node.pos
        for r in tree.roots
        if not isinstance(r.node, Leaf)
    }
    assert (first.get(("a", 0)) == -1) == (left > 0) and (first.get(("b", 1)) == 1) == (right > 0)
    assert all(-left <= p <= right for p in first.values())
    align_by(tmp_path / "tri", chain / "data", tmp_path / "ali")


def test_full_sum_training_finds_the_same_mixtures(chain, tmp_path):
    options = DeltasOptions(**TRI, **RAW, full_sum=True)
    train_deltas(chain / "data", LANG, chain / "mono_ali", options, _new(tmp_path / "tri"))
    soft, hard = GmmModel.load(tmp_path / "tri").gmms, GmmModel.load(chain / "tri1").gmms
    assert soft.num_pdfs == hard.num_pdfs
    for pdf in range(soft.num_pdfs):
        means = [
            (g.weights[s, None] * g.means[s]).sum(0)
            for g in (soft, hard)
            for s in [slice(int(g.offsets[pdf]), int(g.offsets[pdf + 1]))]
        ]
        assert (means[0] - means[1]).abs().max() < 0.3


def test_every_stage_trains_by_full_sum(sat, tmp_path):
    """Monophones, LDA and MLLT, and speaker-adaptive training fit as well by sums over all paths as by the best
    ones.
    """
    soft = {"full_sum": True}
    train_mono(sat / "data", LANG, dataclasses.replace(MONO, **soft), _new(tmp_path / "mono"))
    lda = LdaMlltOptions(**TRI, **RAW, splice_left=0, splice_right=0, dim=DIM, mllt_iters=(2, 4), **soft)
    train_lda_mllt(sat / "data", LANG, sat / "mono_ali", lda, _new(tmp_path / "tri2"))
    train_sat(
        sat / "data", LANG, sat / "tri1_ali", sat / "tri1", dataclasses.replace(SAT, **soft), _new(tmp_path / "tri3")
    )
    likes = {
        d / m: read_json(d / m / "model.json")["history"][-1]["log_like"]
        for d, m in ((sat, "mono"), (sat, "tri3"), (tmp_path, "mono"), (tmp_path, "tri2"), (tmp_path, "tri3"))
    }
    assert all(abs(likes[tmp_path / m] - likes[sat / m]) < 0.5 for m in ("mono", "tri3")), likes
    assert np.isfinite(likes[tmp_path / "tri2"]) and GmmModel.load(tmp_path / "tri3").adapted
    align_by(tmp_path / "tri3", sat / "data", tmp_path / "ali", tmp_path / "tri3")


def test_lda_and_mllt(chain, tmp_path):
    """Spliced features: LDA finds a space in which the phones are as far apart as in the four true dimensions."""
    options = LdaMlltOptions(**TRI, **RAW, splice_left=1, splice_right=1, dim=6, mllt_iters=(2, 4))
    train_lda_mllt(chain / "data", LANG, chain / "mono_ali", options, _new(tmp_path / "tri2"))
    model = GmmModel.load(tmp_path / "tri2")
    assert model.transform.shape == (6, 3 * DIM) and torch.isfinite(model.transform).all()
    align_by(tmp_path / "tri2", chain / "data", tmp_path / "ali")
    assert wrong_frames(AliSet.load(tmp_path / "ali"), draw(WORLD, 150, seed=2)) < 0.02


SPEAKERS = random_speakers(8, seed=3, strength=0.25)
SAT = SatOptions(**TRI, fmllr_iters=(2, 4), fmllr_min_count=150.0, bias_min_count=50.0)


@pytest.fixture(scope="module")
def sat(tmp_path_factory) -> Path:
    """Speakers who differ by an affine map; the last one says a single short word."""
    d = tmp_path_factory.mktemp("sat")
    utterances = draw(WORLD, 160, 4, SPEAKERS) + draw(
        WORLD, 1, 5, random_speakers(1, 6, 0.25, "short"), num_words=1, prefix="w"
    )
    write_corpus(d / "data", utterances)
    train_mono(d / "data", LANG, MONO, d / "mono")
    align_by(d / "mono", d / "data", d / "mono_ali")
    train_deltas(d / "data", LANG, d / "mono_ali", DeltasOptions(**TRI, **RAW), _new(d / "tri1"))
    align_by(d / "tri1", d / "data", d / "tri1_ali")
    train_sat(d / "data", LANG, d / "tri1_ali", d / "tri1", SAT, _new(d / "tri3"))
    return d


def test_training_transforms_undo_the_speakers(sat):
    """Up to one map common to all: distortion, then transform, is nearly the same for every speaker."""
    found = load_transforms(sat / "tri3", DIM)
    assert set(found) == {*SPEAKERS, "short0"}
    maps = fmllr.compose(np.stack([found[s].numpy() for s in SPEAKERS]), np.stack([SPEAKERS[s] for s in SPEAKERS]))
    before = np.stack(list(SPEAKERS.values()))
    for part in (slice(0, DIM), slice(DIM, DIM + 1)):
        assert maps.std(0)[:, part].mean() < 0.35 * before.std(0)[:, part].mean()


def test_a_speaker_with_one_short_utterance_keeps_the_identity(sat):
    assert np.array_equal(
        load_transforms(sat / "tri3", DIM)["short0"].numpy(), fmllr.identity(1, DIM)[0].astype(np.float32)
    )


def test_adapted_mixtures_fit_better(sat):
    likes = {m: read_json(sat / m / "model.json")["history"][-1]["log_like"] for m in ("tri1", "tri3")}
    found = load_transforms(sat / "tri3", DIM)
    log_det = np.mean([np.linalg.slogdet(found[s][:, :-1].numpy())[1] for s in SPEAKERS])
    assert likes["tri3"] + log_det > likes["tri1"] + 0.3


def test_two_passes_recognise_new_speakers_better(sat, tmp_path):
    """First pass with the speaker-independent mixtures, transforms from its words, second pass; also a speaker who
    says nothing.
    """
    new = random_speakers(4, seed=8, strength=0.25, prefix="t")
    utterances = draw(WORLD, 60, 9, new, noise=1.5)
    data = write_corpus(tmp_path / "test", utterances)
    first, texts = word_errors(sat / "tri3", data)
    assert GmmModel.load(sat / "tri3").adapted and 0 < first < 60
    silent = {u.name for u in utterances if u.speaker == "t3"}
    options = EstimateFmllrOptions(fmllr_min_count=150.0, bias_min_count=50.0)
    facts = estimate_fmllr(
        data, LANG, sat / "tri3", {c: "" if c in silent else t for c, t in texts.items()}, options, tmp_path / "fmllr"
    )
    assert facts["speakers"] == 4 and facts["without_words"] == 1 and facts["gain_per_frame"] > 0
    assert np.array_equal(
        load_transforms(tmp_path / "fmllr", DIM)["t3"].numpy(), fmllr.identity(1, DIM)[0].astype(np.float32)
    )
    estimate_fmllr(data, LANG, sat / "tri3", texts, options, tmp_path / "all")
    second, _ = word_errors(sat / "tri3", data, tmp_path / "all")
    independent, _ = word_errors(sat / "tri1", data)
    assert second < first and second < independent, (first, second, independent)


def test_transforms_from_lattices(sat, tmp_path):
    """Posteriors in place of words: as good a second pass, a third one from its own lattices; bad posteriors are
    refused.
    """
    data = write_corpus(
        tmp_path / "test", draw(WORLD, 60, 9, random_speakers(4, seed=8, strength=0.25, prefix="t"), noise=1.5)
    )
    options = EstimateFmllrOptions(fmllr_min_count=150.0, bias_min_count=50.0)
    first, texts, found = recognised(sat / "tri3", data)
    with PosteriorWriter(tmp_path / "decoded", "tree") as writer:
        for cut_id, own in found.items():
            writer.write(cut_id, own)
    stored = PosteriorSet(tmp_path / "decoded")
    facts = estimate_fmllr_soft(data, LANG, sat / "tri3", stored, options, tmp_path / "soft")
    assert facts["utterances"] == 60
    assert facts["speakers"] == 4 and facts["without_words"] == 0 and facts["gain_per_frame"] > 0
    estimate_fmllr(data, LANG, sat / "tri3", texts, options, tmp_path / "words")
    second, _, again = recognised(sat / "tri3", data, tmp_path / "soft")
    assert second < first and second <= word_errors(sat / "tri3", data, tmp_path / "words")[0] + 1.0
    estimate_fmllr_soft(data, LANG, sat / "tri3", again, options, tmp_path / "third", tmp_path / "soft")
    assert word_errors(sat / "tri3", data, tmp_path / "third")[0] <= second + 1.0
    cut = next(iter(found))
    for broken, message in (
        ({cut: dataclasses.replace(found[cut], frame=found[cut].frame + 1)}, "reach beyond"),
        ({}, "no posteriors"),
    ):
        with pytest.raises(DataError, match=message):
            estimate_fmllr_soft(data, LANG, sat / "tri3", broken, options, tmp_path / "broken")
    with pytest.raises(MismatchError, match="was not trained with speaker transforms"):
        estimate_fmllr_soft(data, LANG, sat / "tri1", found, options, tmp_path / "broken")


def test_the_independent_mixtures_of_an_adapted_model_are_usable(sat):
    """They fit features without transforms about as well as the model that adaptation started from."""
    model = GmmModel.load(sat / "tri3")
    report = align(load_scorer(sat / "tri3"), LANG, sat / "data", sat / "si_ali", AlignOptions(), "tri3")
    base = align(load_scorer(sat / "tri1"), LANG, sat / "data", sat / "base_ali", AlignOptions(), "tri1")
    assert model.independent is not None and not report.failed
    assert report.total_log_like / report.num_frames > base.total_log_like / base.num_frames - 0.5


def test_singular_features_end_in_finite_models(tmp_path):
    """A constant and a doubled feature: variances are floored, LDA leaves directions out, nothing becomes NaN."""
    utterances = draw(WORLD, 60, 7)
    for u in utterances:
        u.feats[:, 2] = 3.0
        u.feats[:, 3] = u.feats[:, 0]
    data = write_corpus(tmp_path / "data", utterances)
    train_mono(data, LANG, MONO, tmp_path / "mono")
    align_by(tmp_path / "mono", data, tmp_path / "ali")
    options = LdaMlltOptions(**TRI, **RAW, splice_left=1, splice_right=1, dim=12, mllt_iters=(2, 4))
    train_lda_mllt(data, LANG, tmp_path / "ali", options, _new(tmp_path / "tri2"))
    model = GmmModel.load(tmp_path / "tri2")
    assert torch.isfinite(model.transform).all()
    align_by(tmp_path / "tri2", data, tmp_path / "tri2_ali")
    train_sat(data, LANG, tmp_path / "tri2_ali", tmp_path / "tri2", SAT, _new(tmp_path / "tri3"))
    GmmModel.load(tmp_path / "tri3")  # checks every number
    align_by(tmp_path / "tri3", data, tmp_path / "tri3_ali", tmp_path / "tri3")


def test_a_phone_never_seen_is_named_and_usable(tmp_path, caplog):
    """The lexicon has the word C, the data does not: its states keep the Gaussian of all frames."""
    utterances = [u for u in draw(WORLD, 200, 12, num_words=2) if not {"C", "CAB"} & set(u.words)]
    data = write_corpus(tmp_path / "data", utterances)
    train_mono(data, LANG, MONO, tmp_path / "mono")
    align_by(tmp_path / "mono", data, tmp_path / "ali")
    with caplog.at_level("WARNING"):
        train_deltas(data, LANG, tmp_path / "ali", DeltasOptions(**TRI, **RAW), _new(tmp_path / "tri1"))
    assert "no frames for 2 of 9 roots (phones c)" in caplog.text and "no frames of the phones c" in caplog.text
    spoken = write_corpus(tmp_path / "test", draw(WORLD, 5, 13))  # says C
    align_by(tmp_path / "tri1", spoken, tmp_path / "test_ali")


def test_a_phone_seen_once(tmp_path):
    rare = [u for u in draw(WORLD, 200, 12, num_words=2) if not {"C", "CAB"} & set(u.words)]
    once = [
        u for u in draw(WORLD, 50, 14, num_words=2, prefix="x") if u.words[0] == "C" and u.words[1] not in ("C", "CAB")
    ][:1]
    data = write_corpus(tmp_path / "data", rare + once)
    train_mono(data, LANG, MONO, tmp_path / "mono")
    align_by(tmp_path / "mono", data, tmp_path / "ali")
    facts = train_deltas(data, LANG, tmp_path / "ali", DeltasOptions(**TRI, **RAW), _new(tmp_path / "tri1"))
    tree = load_hmm(tmp_path / "tri1").tree
    assert [len(tree.pdfs_of(LANG.phones.id("c"), s)) for s in (0, 1)] == [1, 1] and facts["failed"] == 0


def test_data_shorter_than_its_words_is_refused(tmp_path):
    utterances = [u for u in draw(WORLD, 3, 1)]
    short = [type(u)(u.name, u.speaker, u.words, u.feats[:3], u.spans) for u in utterances]
    data = write_corpus(tmp_path / "data", short)
    with pytest.raises(DataError, match="aligned 0 of 3|shorter than its HMM"):
        train_mono(data, LANG, MONO, tmp_path / "mono")


def test_tied_states_are_those_of_the_triphone_tree_and_keep_all_times(chain):
    options = TieOptions(num_leaves=11, min_count=20.0, **RAW)
    LANG.save(chain / "lang")
    facts = tie_states(chain / "data", chain / "lang", chain / "mono_ali", options, _new(chain / "tied"))
    plain, tied = AliSet.load(chain / "mono_ali"), AliSet.load(chain / "tied")
    assert tied.header.tree_id == load_hmm(chain / "tri1").tree.id != plain.header.tree_id
    assert facts["pdfs"] == tied.transitions.num_pdfs > plain.transitions.num_pdfs
    assert set(tied) == set(plain)
    for name in tied:
        assert tied.phone_segments(name) == plain.phone_segments(name)
        assert np.array_equal(tied[name].words, plain[name].words)
    counts = np.bincount(np.concatenate([a.transition_ids for a in tied.values()]), minlength=tied.transitions.num_tids)
    often = counts.reshape(-1, 2).sum(1) > 50
    measured = (counts[1::2] / np.maximum(counts.reshape(-1, 2).sum(1), 1))[often].clip(0.01, 0.99)
    assert np.allclose(tied.transitions.forward_prob[often], measured)


def test_decoding_scores_only_what_the_search_asks_for(chain):
    """The same words as with all scores, for every pair of weights, and again for searches that are repeated."""
    from pipeline.graph.decoding import build_decoding_graph
    from pipeline.graph.options import DecodeOptions
    from pipeline.tasks.decode import decode

    model = load_scorer(chain / "mono")
    graph = build_decoding_graph(LANG, train_unigram([list(WORDS_ONCE)]), model.hmm)

    class Dense:
        """Without scores on demand."""

        def __getattr__(self, name):
            if name == "on_demand":
                raise AttributeError(name)
            return getattr(model, name)

    class NoMatrix:
        """With them alone."""

        def __getattr__(self, name):
            assert name != "log_likes"
            return getattr(model, name)

    pairs = [(0.5, 0.0), (1.0, 1.0), (3.0, 0.0)]
    for options in (
        DecodeOptions(acoustic_scale=1.0, beam=40.0),
        DecodeOptions(acoustic_scale=1.0, beam=0.2, min_active=0),
    ):
        dense, demand = (decode(m, graph, chain / "data", options, pairs) for m in (Dense(), NoMatrix()))
        assert dense.found == demand.found and dense.retried == demand.retried and dense.failed == demand.failed
    assert demand.retried > 0
