"""Criteria against brute force and against torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.feats.dataset import Batch
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.linear import linear_labels
from pipeline.nn.losses import CrossEntropy, FullSum, Ramp
from pipeline.nn.model import AcousticModel
from pipeline.nn.options import EncoderOptions
from pipeline.nn.transitions import TransitionNet

LANG = make_lang(
    Lexicon([Pronunciation("A", ("a",)), Pronunciation("AB", ("a", "b"))]), speech_states=1, silence_prob=0.4
)
TREE = monophone_tree(LANG.phones, LANG.topo)
HMM = TransitionModel(TREE, LANG.topo)
LENS = torch.tensor([5, 4])


def make_model(kind: str = "speech_silence") -> AcousticModel:
    torch.manual_seed(0)
    model = AcousticModel(4, TREE.num_pdfs, EncoderOptions(encoder="tdnn", layers=1, dim=6, dropout=0.0))
    model.transitions = TransitionNet(kind, HMM, model.encoder.out_dim, "random", width=3)
    with torch.no_grad():
        model.output.weight.normal_()
        if model.transitions.weight is not None:
            model.transitions.weight.normal_()
    return model


def make_batch() -> Batch:
    torch.manual_seed(1)
    return Batch(np.array([0, 1]), torch.randn(2, 5, 4), LENS)


def graphs_of(*texts: str) -> GraphSource:
    return GraphSource(LANG, TREE, HMM, lambda i: LANG.word_ids(texts[i], "test"), len(texts))


def phone_sequences(text: str) -> list[tuple[list[str], float]]:
    """All (phones, log weight) of a transcript: silence is optional at every word boundary."""
    words = [{"A": ["a"], "AB": ["a", "b"]}[w] for w in text.split()]
    out = []
    for silences in itertools.product([False, True], repeat=len(words) + 1):
        phones = ["SIL"] * silences[0]
        for word, silence in zip(words, silences[1:]):
            phones += word + ["SIL"] * silence
        out.append((phones, sum(np.log(0.4 if s else 0.6) for s in silences)))
    return out


def brute_force(text: str, emissions: np.ndarray, transitions: np.ndarray) -> float:
    """log sum over paths; transitions (T, n_tid), those into frame t are scored with the state that is left."""
    names = [HMM.phones.name(int(p)) for p in HMM.phone]
    num_frames, total = len(emissions), []
    for phones, weight in phone_sequences(text):
        states = [names.index(p) for p in phones]
        for cuts in itertools.combinations(range(1, num_frames), len(states) - 1):
            bounds = [0, *cuts, num_frames]
            path = [s for i, s in enumerate(states) for _ in range(bounds[i + 1] - bounds[i])]
            score = weight + sum(emissions[t, HMM.pdf[s]] for t, s in enumerate(path))
            for t in range(1, num_frames):
                score += transitions[t, 2 * path[t - 1] + (1 if t in cuts else 0)]
            total.append(score)
    return float(np.logaddexp.reduce(total))


@pytest.mark.parametrize("kind", ["fixed", "speech_silence", "label", "linear", "blstm", "time"])
def test_full_sum_is_the_sum_over_all_paths(kind):
    model, batch, texts = make_model(kind), make_batch(), ["AB A", "A"]
    alpha, beta, kappa = 0.7, 0.4, 0.2
    model.log_prior.copy_(torch.log_softmax(torch.arange(TREE.num_pdfs).float(), 0))
    loss = FullSum(graphs_of(*texts), [0], Ramp(alpha), Ramp(beta), Ramp(kappa), prior="transcripts")(model, batch, 0.5)
    encoded, _ = model.encode(batch.feats, LENS, normalised=True)
    scores = alpha * model.log_posteriors(encoded) - kappa * model.log_prior
    transitions = model.transitions(encoded, LENS)
    if transitions.dim() == 1:
        transitions = transitions.expand(2, 5, -1)
    expected = sum(
        brute_force(t, scores[i, :n].detach().numpy(), beta * transitions[i, :n].detach().numpy())
        for i, (t, n) in enumerate(zip(texts, LENS.tolist()))
    )
    assert float(loss.total) == pytest.approx(-expected, rel=1e-4)
    assert loss.frames == 9 and loss.skipped == 0


def test_impossible_utterance_is_counted_and_has_no_gradient():
    model, batch = make_model(), make_batch()
    both = FullSum(graphs_of("AB AB AB", "A"), [0], Ramp(1.0), Ramp(1.0))(model, batch, 0.0)
    assert both.skipped == 1 and both.frames == 4
    both.total.backward()
    gradient = model.output.weight.grad.clone()
    model.zero_grad()
    alone = Batch(np.array([0]), batch.feats[1:, :4], LENS[1:])
    FullSum(graphs_of("A"), [0], Ramp(1.0), Ramp(1.0))(model, alone, 0.0).total.backward()
    assert torch.isfinite(gradient).all() and torch.allclose(gradient, model.output.weight.grad, atol=1e-5)


@pytest.mark.parametrize(
    "kind, broken",
    [
        ("linear", "output.bias"),
        ("linear", "transitions.bias"),
        ("linear", "transitions.weight"),
        ("label", "transitions.bias"),
    ],
)
def test_a_network_that_knows_no_number_is_not_an_impossible_utterance(kind, broken):
    model, batch = make_model(kind), make_batch()
    with torch.no_grad():
        model.get_parameter(broken)[0] = float("nan")
    criterion = FullSum(graphs_of("A", "A"), [0], Ramp(1.0), Ramp(1.0), Ramp(0.3), prior="on_the_fly")
    loss = criterion(model.train(), batch, 0.0)
    assert np.isnan(float(loss.total)) and loss.frames == 9 and loss.skipped == 0
    assert torch.isfinite(model.log_prior).all()


def test_what_stands_behind_an_end_is_no_failure(monkeypatch):
    model, batch = make_model(), make_batch()
    criterion = FullSum(graphs_of("A", "A"), [0], Ramp(1.0), Ramp(1.0))
    expected = float(criterion(model, batch, 0.0).total)
    whole = model.log_posteriors

    def padded(encoded):
        mask = torch.arange(5)[None, :, None] < LENS[:, None, None]
        return whole(encoded).masked_fill(~mask, float("nan"))

    monkeypatch.setattr(model, "log_posteriors", padded)
    assert float(criterion(model, batch, 0.0).total) == pytest.approx(expected, rel=1e-6)


def test_scales_change_until_half_time():
    ramp = Ramp(1.0, 0.2)
    assert [ramp(d) for d in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert Ramp(0.3)(0.0) == 0.3


@pytest.mark.parametrize("which", ["alpha", "beta", "kappa"])
def test_schedules_hold_in_training_and_final_scales_on_dev(which):
    model, batch = make_model(), make_batch()
    model.log_prior.copy_(torch.randn(TREE.num_pdfs).log_softmax(0))
    scales = {"alpha": Ramp(0.5), "beta": Ramp(0.3), "kappa": Ramp(0.2)}
    graphs = graphs_of("A AB", "A")

    def loss(training: bool, done: float, **changed: Ramp) -> float:
        criterion = FullSum(graphs, [0], **{**scales, **changed}, prior="transcripts")
        return float(criterion(model.train(training), batch, done).total)

    moving = {which: Ramp(0.9, 0.1)}
    assert loss(True, 0.25, **moving) == pytest.approx(loss(True, 0.25, **{which: Ramp(0.5)}), rel=1e-5)
    assert loss(False, 0.25, **moving) == pytest.approx(loss(False, 0.0, **{which: Ramp(0.9)}), rel=1e-5)


def test_flat_start_is_cross_entropy_on_a_linear_alignment():
    model, batch = make_model(), make_batch()
    graphs = graphs_of("A AB", "A")
    labels = linear_labels(graphs.of([0, 1]).graphs, LENS.tolist(), [0])
    names = [HMM.phones.name(int(p)) for p in HMM.phone]
    assert [[names[i] for i in row] for row in labels] == [["SIL", "a", "a", "b", "SIL"], ["SIL", "SIL", "a", "SIL"]]
    flat = FullSum(graphs, [0], Ramp(1.0), Ramp(1.0), linear_until=0.5, linear_silence=[0])
    expected = CrossEntropy(labels)(model, batch, 0.0)
    model.train()
    assert float(flat(model, batch, 0.4).total) == pytest.approx(float(expected.total), rel=1e-5)
    plain = FullSum(graphs, [0], Ramp(1.0), Ramp(1.0))
    assert float(flat(model, batch, 0.5).total) == float(plain(model, batch, 0.5).total)
    assert float(flat(model.eval(), batch, 0.4).total) == float(plain(model, batch, 0.5).total)


class OneBatch:
    """A data set that is one batch; stands for Dataset."""

    @property
    def lens(self) -> np.ndarray:
        return make_batch().lens.numpy()

    def batch(self, rows: np.ndarray, device: str):
        assert sorted(rows.tolist()) == [0, 1]  # all utterances, in one batch
        return make_batch()


def test_em_climbs_and_its_fixed_point_has_no_gradient():
    """Closed-form updates never lower the likelihood, and end where gradients would."""
    model = make_model("label").eval()
    criterion = FullSum(graphs_of("A AB", "A"), [0], Ramp(0.5), Ramp(1.0), em=True)
    scores = []
    for _ in range(60):
        scores.append(-float(criterion(model, make_batch(), 0.0).total))
        model.transitions.maximise(criterion.transition_counts(model, OneBatch()), floor=1e-6, min_count=0.0)
    assert (np.diff(scores) > -1e-4).all() and scores[-1] > scores[0] + 0.1
    criterion(model, make_batch(), 0.0).total.backward()
    inside = (model.transitions.forward_probs() > 1e-4) & (model.transitions.forward_probs() < 1 - 1e-4)
    assert inside.any()
    gradient = model.transitions.bias.grad[model.transitions.classes]
    assert gradient[torch.from_numpy(inside)].abs().max() < 1e-2


def test_on_the_fly_prior_moves_in_training_only():
    model, batch = make_model(), make_batch()
    criterion = FullSum(graphs_of("A", "A"), [0], Ramp(1.0), Ramp(1.0), Ramp(0.3), prior="on_the_fly")
    before = model.log_prior.clone()
    criterion(model.eval(), batch, 0.0)
    assert torch.equal(before, model.log_prior)
    criterion(model.train(), batch, 0.0)
    assert not torch.equal(before, model.log_prior)


def test_troubles_are_named():
    model = make_model()
    criterion = FullSum(graphs_of("A"), [0], Ramp(0.3), Ramp(0.3))
    assert criterion.diagnose(model, {"silence": 0.4}, 0.5) is None
    assert "silence collapse" in criterion.diagnose(model, {"silence": 0.97}, 0.5)
    with torch.no_grad():
        model.transitions.bias.fill_(-6.0)
    assert "all-loop" in criterion.diagnose(model, {"silence": 0.4}, 0.5)
    with torch.no_grad():
        model.transitions.bias.fill_(6.0)
    assert "silence has all the time" in criterion.diagnose(model, {"silence": 0.4}, 0.5)


def test_phones_that_hardly_last_are_told_once(caplog):
    """Much silence alone may be right, and so may short phones; the training goes on in any case."""
    model = make_model()
    criterion = FullSum(graphs_of("A"), [0], Ramp(0.3), Ramp(0.3), least_speech=0.14, linear_until=0.2)
    for silence, done in ((0.49, 0.5), (0.77, 0.5), (0.79, 0.1)):
        assert criterion.diagnose(model, {"silence": silence}, done) is None and not caplog.text
    for _ in range(2):
        assert criterion.diagnose(model, {"silence": 0.79}, 0.5) is None
    assert caplog.text.count("collapsing into silence") == 1 and "phones last 1.5 times as long" in caplog.text
    caplog.clear()
    FullSum(graphs_of("A"), [0], Ramp(0.3), Ramp(0.3)).diagnose(model, {"silence": 0.79}, 0.5)  # length unknown
    assert not caplog.text


def test_cross_entropy_is_torch_s():
    model, batch = make_model(), make_batch()
    labels = [np.array([0, 1, 1, 2, 0]), np.array([2, 2, 0, 1])]
    log_post, _ = model(batch.feats, LENS, normalised=True)
    real = torch.cat([log_post[0, :5], log_post[1, :4]])
    targets = torch.from_numpy(np.concatenate(labels))
    for smoothing in (0.0, 0.3):
        loss = CrossEntropy(labels, smoothing)(model, batch, 0.0)
        expected = torch.nn.functional.cross_entropy(real, targets, label_smoothing=smoothing, reduction="sum")
        assert float(loss.total) == pytest.approx(float(expected), rel=1e-5) and loss.frames == 9
    assert loss.sums["accuracy"] == (real.argmax(1) == targets).sum()


def test_focal_loss_weighs_frames():
    model, batch = make_model(), make_batch()
    labels = [np.array([0, 1, 1, 2, 0]), np.array([2, 2, 0, 1])]
    log_post, _ = model(batch.feats, LENS, normalised=True)
    p = torch.cat([log_post[0, :5], log_post[1, :4]]).exp()
    p = p.gather(1, torch.from_numpy(np.concatenate(labels))[:, None])
    loss = CrossEntropy(labels, focal=2.0)(model, batch, 0.0)
    assert float(loss.total) == pytest.approx(float(-((1 - p) ** 2 * p.log()).sum()), rel=1e-5)
