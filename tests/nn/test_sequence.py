"""Outer gradients: sums, finite differences of the objective, rejected and cancelling frames, references outside of
lattices.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.base.errors import DataError
from pipeline.feats.dataset import Batch, Dataset
from pipeline.graph.decoding import build_decoding_graph
from pipeline.graph.denominator import Competitors, GraphSum, LatticeSum
from pipeline.graph.options import DecodeOptions
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.mmi import Failures, MmiOptions, SequenceObjective
from pipeline.nn.sequence import FrameCrossEntropy, Outer, SequenceCriterion
from pipeline.nn.step import Loss, add_sums, per_frame
from tests.graph.cases import hmm_of, language_model, random_tree, small_lang

WIDE = DecodeOptions(acoustic_scale=1.0, beam=1e4, lattice_beam=1e4, max_active=100_000, retries=0)
NONE = dict(reject_below=0.0, cancel_below=0.0)


class World:
    """References of a small lang, a unigram, and posteriors at random."""

    def __init__(self, texts: tuple[str, ...] = ("A B", "C"), frames: tuple[int, ...] = (6, 4)) -> None:
        self.lang = small_lang(states=1)
        self.hmm = hmm_of(self.lang, random_tree(self.lang, 1, 1))
        self.lm = language_model(1)
        self.words = [[self.lang.words.id(w) for w in t.split()] for t in texts]
        self.graphs = GraphSource(
            self.lang, self.hmm.tree, self.hmm.transitions, self.words.__getitem__, len(self.words)
        )
        self.lm_scores = np.array([self.lm.sentence_log_prob(t.split()) for t in texts])
        self.lens, self.indices = torch.tensor(frames), np.arange(len(texts))
        generator = torch.Generator().manual_seed(1)
        self.num_pdfs = self.hmm.transitions.num_pdfs
        self.log_post = torch.randn(len(texts), max(frames), self.num_pdfs, generator=generator).log_softmax(2)
        self.log_prior = torch.randn(self.num_pdfs, generator=generator).log_softmax(0)
        self.log_probs = self.hmm.transitions.log_probs()

    def objective(
        self, kind: str = "mmi", lattice: bool = False, options: DecodeOptions = WIDE, **settings
    ) -> SequenceObjective:
        own = {k: settings.pop(k) for k in list(settings) if k not in MmiOptions.__dataclass_fields__}
        graph = build_decoding_graph(self.lang, self.lm, self.hmm)
        denominator = None
        if lattice:
            denominator = LatticeSum(graph, self.log_probs, self.hmm.transitions.tid_pdf(), 0.5, options)
        elif kind != "realign":
            denominator = GraphSum(graph, self.log_probs, 0.5)
        criterion = MmiOptions(kind=kind, acoustic_scale=0.6, prior_scale=0.4, **settings)
        return SequenceObjective(
            self.graphs,
            torch.from_numpy(self.log_probs) * 0.5,
            denominator,
            self.log_prior,
            criterion,
            words=self.words,
            lm_scores=self.lm_scores,
            **own,
        )

    def outer(self, objective: SequenceObjective, log_post: torch.Tensor | None = None) -> Outer:
        return objective.outer(self.log_post if log_post is None else log_post, self.lens, self.indices)


def check_gradient(world: World, objective: SequenceObjective, tolerance: float) -> None:
    """Central differences of the objective by some log posteriors, moved alone as if they were free scores."""
    gradient = world.outer(objective).gradient
    rng = np.random.default_rng(0)
    for _ in range(8):
        n = int(rng.integers(len(world.lens)))
        t, p = int(rng.integers(int(world.lens[n]))), int(rng.integers(world.num_pdfs))
        values = []
        for sign in (1.0, -1.0):
            moved = world.log_post.clone()
            moved[n, t, p] += sign * 0.02
            values.append(world.outer(objective, moved).objective)
        assert (values[0] - values[1]) / 0.04 == pytest.approx(float(gradient[n, t, p]), abs=tolerance)


@pytest.mark.parametrize("settings", [{}, {"lattice": True}, {"kind": "smbr", "lattice": True}])
def test_gradient_sums_to_zero_and_equals_finite_differences(settings: dict) -> None:
    world = World()
    objective = world.objective(**settings, **NONE)
    if settings.get("kind") == "smbr":  # what is right must not change with the scores
        world.log_post += 3.0 * world.outer(world.objective(**NONE)).gradient
    found = world.outer(objective)
    assert found.frames == 10 and not found.failed
    assert found.gradient.sum(2).abs().max() < 1e-5 < found.gradient.abs().max()
    assert not found.gradient[1, 4:].any()
    check_gradient(world, objective, 2e-3)


def test_objective_is_the_posterior_of_the_references() -> None:
    """Sums over all word sequences: at most 0, and the same by the graph and by unpruned lattices."""
    world = World()
    values = [world.outer(world.objective(lattice=lattice, **NONE)).objective for lattice in (False, True)]
    assert values[0] == pytest.approx(values[1], abs=1e-4) and -20 < values[0] < 0


def test_boosting_favours_wrong_paths() -> None:
    world = World()
    plain, boosted = (world.outer(world.objective(boost=b, **NONE)) for b in (0.0, 2.0))
    assert boosted.gradient.sum(2).abs().max() < 1e-5
    reference = world.outer(world.objective(kind="realign")).gradient.argmax(2)
    at = [
        (g.gather(2, reference[:, :, None])[:, :, 0] * (torch.arange(6) < world.lens[:, None])).sum()
        for g in (plain.gradient, boosted.gradient)
    ]
    assert at[1] > at[0]  # less of the reference in the denominator
    huge = world.outer(
        world.objective(boost=2.0, same=torch.ones(world.num_pdfs, world.num_pdfs, dtype=torch.bool), **NONE)
    )
    torch.testing.assert_close(huge.gradient, plain.gradient)  # where all is right, boosting changes nothing


def test_realignment_is_cross_entropy_with_the_best_states() -> None:
    world = World()
    found = world.outer(world.objective(kind="realign"))
    hot = found.gradient + world.log_post.exp() * (torch.arange(6) < world.lens[:, None])[:, :, None]
    assert torch.allclose(hot.sum(2), (torch.arange(6) < world.lens[:, None]).float(), atol=1e-5)
    labels = [hot[n, : int(k)].argmax(1).numpy() for n, k in enumerate(world.lens)]
    peer = FrameCrossEntropy(labels).outer(world.log_post, world.lens, world.indices)
    torch.testing.assert_close(found.gradient, peer.gradient)
    assert found.objective == pytest.approx(peer.objective, rel=1e-5)
    right = sum(int((world.log_post[n, : len(row)].argmax(1).numpy() == row).sum()) for n, row in enumerate(labels))
    for own, row in zip(world.objective(kind="realign").references(world.log_post, world.lens, world.indices), labels):
        assert own.tolist() == row.tolist()
    assert found.sums["accuracy"] == peer.sums["accuracy"] == right > 0


def test_cross_entropy_can_be_added() -> None:
    world = World()
    parts = [world.outer(world.objective(**NONE)), world.outer(world.objective(kind="realign"))]
    both = world.outer(world.objective(cross_entropy=0.3, **NONE))
    torch.testing.assert_close(both.gradient, parts[0].gradient + 0.3 * parts[1].gradient)


def test_the_numerator_keeps_to_an_alignment() -> None:
    world = World()
    free = world.outer(world.objective(kind="realign")).gradient
    labels = [(free[n] + world.log_post[n].exp())[: int(k)].argmax(1).numpy() for n, k in enumerate(world.lens)]
    hard, soft = (world.objective(alignment=labels, tolerance=k, **NONE) for k in (0, 9))
    for row, length in enumerate(world.lens.tolist()):
        assert (
            hard._numerator(world.log_post, world.lens, world.indices)[1][row, :length].argmax(1).numpy() == labels[row]
        ).all()
        assert (
            float(hard._numerator(world.log_post, world.lens, world.indices)[1][row].max(1).values[:length].min())
            > 0.999
        )
    values = [world.outer(o).objective for o in (hard, soft, world.objective(**NONE))]
    assert values[0] < values[1] <= values[2] + 1e-5


def test_rejected_and_cancelling_frames_are_left_out() -> None:
    world = World()
    every = world.outer(world.objective(**NONE)).gradient.abs().amax(2) / 0.6
    threshold = float(every[every > 0].median())
    found = world.outer(world.objective(reject_below=0.0, cancel_below=threshold))
    gone = (every > 0) & (every < threshold)
    assert found.skipped_frames == int(gone.sum()) > 0 and not found.gradient[gone].any()
    assert found.gradient[~gone & (every > 0)].any(1).all()
    found = world.outer(world.objective(reject_below=0.999, cancel_below=0.0))
    assert found.rejected_frames == 10 and not found.gradient.any()


def test_frames_are_rejected_by_the_denominator() -> None:
    """Held to its reference by an alignment the numerator is sure of every frame; the denominator is not."""
    world = World()
    free = world.outer(world.objective(kind="realign")).gradient
    labels = [(free[n] + world.log_post[n].exp())[: int(k)].argmax(1).numpy() for n, k in enumerate(world.lens)]
    objective = world.objective(alignment=labels, reject_below=0.5, cancel_below=0.0)
    scores = 0.6 * (world.log_post - 0.4 * world.log_prior)
    found = objective.denominator(scores, world.lens, world.words)
    own = [found.occupancy[n, torch.arange(len(row)), torch.from_numpy(row)] for n, row in enumerate(labels)]
    expected = sum(int((row < 0.5).sum()) for row in own)
    assert 0 < expected and world.outer(objective).rejected_frames == expected


def test_frames_of_ignored_labels_are_left_out() -> None:
    world = World()
    reference = world.outer(world.objective(kind="realign")).gradient.argmax(2)
    label = int(reference[0, 0])
    found = world.outer(world.objective(ignore=[label], **NONE))
    inside = torch.arange(6) < world.lens[:, None]
    assert (found.gradient.any(2) == (inside & (reference != label))).all()


class Known:
    """A denominator that says what it is told."""

    def __init__(self, found: Competitors) -> None:
        self.found = found

    def __call__(self, scores, lens, references, accuracy=None) -> Competitors:
        return Competitors(self.found.log_z.clone(), self.found.occupancy.clone(), list(self.found.missing))


def test_a_reference_outside_of_its_lattice_joins_the_denominator() -> None:
    """With a lattice that is as probable as the reference the denominator is half of each; the objective log 1/2."""
    world = World()
    objective = world.objective(**NONE)
    scores = 0.6 * (world.log_post - 0.4 * world.log_prior)
    log_num, numerator = objective._numerator(scores, world.lens, world.indices)
    occupancy = torch.zeros_like(numerator)
    occupancy[:, :, 0] = (torch.arange(6) < world.lens[:, None]).float()
    objective.denominator = Known(Competitors(log_num.clone(), occupancy, [0]))
    found = world.outer(objective)
    torch.testing.assert_close(found.gradient[0], 0.3 * (numerator[0] - occupancy[0]))
    torch.testing.assert_close(found.gradient[1], 0.6 * (numerator[1] - occupancy[1]))
    assert found.objective == pytest.approx(float(np.log(0.5)), abs=1e-5)
    assert objective.failures.missing == {0} and not objective.failures.narrow
    objective.denominator = Known(
        Competitors(log_num - 1.0, occupancy, [0])
    )  # a better one was lost: the beam is too narrow
    world.outer(objective)
    assert (
        objective.failures.narrow == set(world.indices.tolist())
        and "beam too narrow" in objective.failures.reasons()[0]
    )


def test_frames_of_a_lost_reference_are_rejected_if_it_does_not_join() -> None:
    """What the denominator lacks has no occupancy there; where it knows the state, the frame stays."""
    world = World()
    objective = world.objective(add_lost=False, cancel_below=0.0)
    scores = 0.6 * (world.log_post - 0.4 * world.log_prior)
    log_num, numerator = objective._numerator(scores, world.lens, world.indices)
    reference = numerator.argmax(2)
    occupancy = torch.zeros_like(numerator)
    wrong = (reference + 1) % world.num_pdfs
    wrong[0, 2] = reference[0, 2]
    occupancy.scatter_(2, wrong[:, :, None], (torch.arange(6) < world.lens[:, None]).float()[:, :, None])
    objective.denominator = Known(Competitors(log_num - 1.0, occupancy, [0]))
    found = world.outer(objective)
    assert found.gradient.any(2).nonzero().tolist() == [[0, 2]] and found.rejected_frames == 9
    torch.testing.assert_close(found.gradient[0, 2], 0.6 * (numerator[0, 2] - occupancy[0, 2]))
    assert objective.failures.narrow == {0, 1} and "left out" in objective.failures.reasons()[0]
    joining = world.objective(cancel_below=0.0)
    joining.denominator = objective.denominator
    assert world.outer(joining).rejected_frames < 9


def test_failed_utterances_are_left_out_and_counted() -> None:
    world = World(("A B", "C C C C C", "C"), (6, 4, 4))  # five words need five frames
    objective = world.objective(**NONE)
    found = world.outer(objective)
    assert found.failed == [1] and found.frames == 10 and not found.gradient[1].any() and np.isfinite(found.objective)
    assert objective.failures.zero_numerator == {1}
    empty = Competitors(torch.tensor([0.0, -np.inf, -np.inf], dtype=torch.float64), torch.zeros(3, 6, world.num_pdfs))
    objective.denominator = Known(empty)
    found = world.outer(objective)
    assert found.failed == [1, 2] and found.frames == 6 and objective.failures.empty == {1, 2}
    assert sorted(objective.failures.reasons()) == [1, 2]


def test_failures_of_an_epoch_are_those_met_last_in_all_processes(tmp_path) -> None:
    """They travel in an epoch's sums; what has been repaired since is none."""
    world = World(("A B", "C C C C C", "C"), (6, 4, 4))
    objective, seen = world.objective(**NONE), []
    criterion, model = SequenceCriterion(objective), Net(world.log_post)
    objective.on_epoch = seen.append
    working = objective.denominator
    empty = Competitors(torch.tensor([0.0, -np.inf, 0.0], dtype=torch.float64), torch.zeros(3, 6, world.num_pdfs))
    sums: dict[str, float] = {}
    objective.denominator = Known(empty)
    add_sums(sums, criterion(model, batch_of(world), 0.0))
    assert objective.failures.empty == {1} and objective.failures.zero_numerator == {1}
    other = Loss(torch.zeros(()), 1, sums=Failures(missing={2}).numbers([0, 2]))  # by another process
    add_sums(sums, other)
    figures = {**per_frame(sums), **per_frame(sums, "dev_")}
    assert criterion.diagnose(model, figures, 0.5) is None
    assert not any("utterance" in name for name in figures) and "loss" in figures and "dev_accuracy" in figures
    assert seen == [Failures(zero_numerator={1}, empty={1}, missing={2})]
    data = Dataset.of([torch.zeros(2, 1)] * 3)
    seen[0].write(tmp_path / "failed.txt", data)
    assert (tmp_path / "failed.txt").read_text().splitlines() == [
        f"{data.id(1)}\tthe reference has no path: left out",
        f"{data.id(2)}\tthe reference is not in the lattice: added to the denominator",
    ]
    counts = Failures().count(tmp_path / "failed.txt")
    assert counts == {"zero_numerator": 1, "missing": 1, "empty": 0, "narrow": 0}
    objective.denominator = working
    found = world.outer(objective)
    assert objective.failures.reasons().keys() == {1} and not objective.failures.empty
    assert [name for name in found.sums if "utterance" in name] == ["number of utterance zero_numerator 1"]


def test_posteriors_that_are_no_numbers_are_not_failures_of_the_references() -> None:
    world = World()
    objective = world.objective(**NONE)
    broken = world.log_post.clone()
    broken[0, 2] = float("nan")
    loss = SequenceCriterion(objective)(Net(broken), batch_of(world), 0.0)
    assert np.isnan(float(loss.total)) and loss.frames == 10 and loss.skipped == 0
    assert not objective.failures.reasons()


@pytest.mark.parametrize(
    "name, advice",
    [("zero_numerator", "transcripts"), ("empty", "--beam"), ("narrow", "--beam"), ("missing", "--lattice-beam")],
)
def test_too_many_failures_are_an_error_with_advice(name: str, advice: str) -> None:
    failures = Failures()
    getattr(failures, name).update(range(30))
    failures.check(19, 0.05, 0.05)  # too few to say
    failures.check(600, 0.05, 0.05)
    with pytest.raises(DataError, match=advice):
        failures.check(599, 0.05, 0.05)


def test_a_narrow_beam_is_noticed() -> None:
    world = World(("A B",) * 24, (6,) * 24)
    narrow = DecodeOptions(acoustic_scale=1.0, beam=1e-3, lattice_beam=1e-3, min_active=0, max_active=1, retries=0)
    objective = world.objective(lattice=True, options=narrow, max_failed=0.05, max_missing=0.05, **NONE)
    with pytest.raises(DataError, match="--(lattice-)?beam"):
        world.outer(objective)


class Net(torch.nn.Module):
    """Posteriors that are parameters."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())

    def forward(self, feats, lens, normalised=False):
        return self.logits[: len(feats)].log_softmax(2), lens


def batch_of(world: World) -> Batch:
    return Batch(world.indices, torch.zeros(len(world.lens), 6, 1), world.lens)


def test_the_criterion_has_the_gradient_of_the_objective_and_its_value() -> None:
    """By autograd through log-softmax against finite differences in the logits."""
    world = World()
    criterion, net = SequenceCriterion(world.objective(**NONE)), Net(world.log_post * 2.0)
    loss = criterion(net, batch_of(world), 0.0)
    loss.total.backward()
    assert loss.frames == 10
    for n, t, p in ((0, 0, 1), (0, 5, 3), (1, 2, 0)):
        values = []
        for sign in (1.0, -1.0):
            moved = Net(net.logits.detach())
            with torch.no_grad():
                moved.logits[n, t, p] += sign * 0.02
            values.append(float(criterion(moved, batch_of(world), 0.0).total))
        assert (values[0] - values[1]) / 0.04 == pytest.approx(float(net.logits.grad[n, t, p]), abs=2e-3)
    assert not net.logits.grad[1, 4:].any()


def test_gradient_ascent_raises_the_objective() -> None:
    world = World()
    criterion, net = SequenceCriterion(world.objective(**NONE)), Net(world.log_post)
    values = []
    for _ in range(30):
        net.zero_grad()
        loss = criterion(net, batch_of(world), 0.0)
        loss.total.backward()
        values.append(-float(loss.total))
        with torch.no_grad():
            net.logits -= net.logits.grad
    assert values[-1] > values[0] + 0.5 and values == sorted(values)


def test_stale_gradients_are_renewed_after_so_many_utterances() -> None:
    world = World()
    criterion, net = SequenceCriterion(world.objective(**NONE), refresh=4), Net(world.log_post)
    net.train()
    exact = SequenceCriterion(world.objective(**NONE))
    gradients = []
    for step in range(3):  # two utterances each: renewed before steps 0 and 2
        own = torch.autograd.grad(criterion(net, batch_of(world), 0.0).total, net.logits)[0]
        fresh = torch.autograd.grad(exact(net, batch_of(world), 0.0).total, net.logits)[0]
        gradients.append(torch.allclose(own, fresh, atol=1e-7))
        with torch.no_grad():
            net.logits -= 5.0 * fresh
    assert gradients == [True, False, True]
    net.eval()
    assert float(criterion(net, batch_of(world), 0.0).total) == pytest.approx(
        float(exact(net, batch_of(world), 0.0).total)
    )
