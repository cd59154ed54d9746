"""Boundaries from posteriors: against enumeration of all segmentations, medians and gaps by construction."""

from __future__ import annotations

import dataclasses
import itertools
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.ali import Alignment, AliHeader, AliSet, AliWriter
from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.model_dir import HmmDir, load_hmm, save_hmm
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import MismatchError
from pipeline.feats.dataset import Dataset
from pipeline.hmm.on_demand import FrameScores
from pipeline.parallel.parts import as_json
from pipeline.tasks import boundaries
from pipeline.tasks.boundaries import (
    BoundaryOptions,
    Distribution,
    Posteriors,
    Source,
    _group_sizes,
    begins_of,
    medians,
    refine,
    stretches,
)
from pipeline.tasks.respacing import chain_of, frames_of, respaced, separate, starts_of

LANG = make_lang(Lexicon([Pronunciation("AB", ("A", "B"))]), speech_states=2)
TREE = monophone_tree(LANG.phones, LANG.topo)
TRANSITIONS = TransitionModel(TREE, LANG.topo)
SIL, A, B = (LANG.phones.id(p) for p in ("SIL", "A", "B"))
FRAMES = 9


class FakeScorer:
    """Its features are its scores."""

    feat_options, frame_shift, frame_offset = None, 0.01, 0.0
    hmm = HmmDir(Path("fake"), LANG.phones, LANG.topo, TREE, TRANSITIONS)

    def __init__(self, moves=None) -> None:
        self.moves = moves
        self.scored: list[tuple[int, int]] = []

    def log_likes(self, feats, lens, speakers=None):
        return feats, lens

    def transition_scores(self, feats, lens):
        return self.moves

    def frame_scores(self, feats, speaker):
        def scores(begin, end):
            self.scored.append((begin, end))
            return feats[begin:end]

        return FrameScores(len(feats), scores, lambda b, e: None if self.moves is None else self.moves[0, b:e])


@pytest.fixture
def aligned(tmp_path):
    """(alignment directory, model directory): SIL 3, A 2, B 4 of one word."""
    phones = [SIL] * 3 + [A] * 2 + [B] * 4
    chain = chain_of_model([SIL, A, B])
    state = {SIL: [0, 0, 0], A: [1, 2], B: [3, 3, 3, 4]}
    tids = np.array([2 * chain.transition_state[s] for p in (SIL, A, B) for s in state[p]], dtype=np.int32)
    tids[[2, 3, 4, 7, 8]] += 1  # the last frame of each state leaves it
    assert len(tids) == len(phones) == FRAMES
    ali = Alignment("u", tids, -1.0, np.array([[LANG.words.id("AB"), 3]], dtype=np.int32))
    header = AliHeader(LANG.topo.id, TREE.id, LANG.id, 0.01, 0.0, "exp/mono")
    with AliWriter(tmp_path / "ali", header, TREE, LANG.topo, TRANSITIONS, LANG.words) as writer:
        writer.write(ali)
    save_hmm(tmp_path / "model", LANG.topo, TREE, TRANSITIONS)
    return tmp_path / "ali", tmp_path / "model"


def chain_of_model(phones):
    from pipeline.artifacts.model_dir import HmmDir

    return chain_of(HmmDir(None, LANG.phones, LANG.topo, TREE, TRANSITIONS), phones)


def use_scores(monkeypatch, scores: np.ndarray, moves: np.ndarray | None = None) -> FakeScorer:
    scorer = FakeScorer(None if moves is None else torch.from_numpy(moves.astype(np.float32))[None])
    data = Dataset.of([torch.from_numpy(scores.astype(np.float32))], ["u"])
    index = types.SimpleNamespace(positions=lambda cut_ids: np.zeros(len(cut_ids), dtype=np.int64))
    monkeypatch.setattr("pipeline.tasks.model.load_model", lambda *args, **kwargs: scorer)
    monkeypatch.setattr("pipeline.tasks.model.check_data", lambda model, data_dir: None)
    monkeypatch.setattr("pipeline.artifacts.index.load_index", lambda data_dir: index)
    monkeypatch.setattr(Dataset, "open", lambda *args, **kwargs: data)
    return scorer


def test_distributions_equal_the_sum_over_all_segmentations(aligned, monkeypatch):
    scores = np.random.default_rng(3).normal(size=(FRAMES, TREE.num_pdfs))
    use_scores(monkeypatch, scores)
    options = BoundaryOptions(acoustic_scale=0.7, transition_scale=0.4)
    centres, after = Posteriors(Source(aligned[1], aligned[1]), AliSet.load(aligned[0]), options).of(["u"])["u"][0]
    chain, log_probs = chain_of_model([SIL, A, B]), TRANSITIONS.log_probs()
    expected, total = np.zeros((FRAMES, 3)), 0.0
    for cuts in itertools.combinations(range(1, FRAMES), 4):  # first frames of states 1 to 4
        states = np.searchsorted(cuts, np.arange(FRAMES), side="right")
        ts = chain.transition_state[states]
        moved = np.diff(states)
        weight = np.exp(
            0.7 * scores[np.arange(FRAMES), chain.pdf[states]].sum() + 0.4 * log_probs[2 * ts[:-1] + moved].sum()
        )
        total += weight
        expected += weight * (chain.position[states][:, None] >= np.arange(3))
    np.testing.assert_allclose(after, expected / total, atol=1e-5)
    np.testing.assert_allclose(centres, 0.005 + 0.01 * np.arange(FRAMES))


def test_sure_scores_move_boundaries_and_words(aligned, monkeypatch, tmp_path):
    """Scores that allow one path alone: SIL to 0.02, A to 0.06, B; on a grid of 5 ms."""
    chain = chain_of_model([SIL, A, B])
    scores = np.full((FRAMES, TREE.num_pdfs), -1000.0)
    scores[np.arange(FRAMES), chain.pdf[[0, 0, 1, 1, 1, 2, 3, 4, 4]]] = 0.0
    use_scores(monkeypatch, scores)
    options = BoundaryOptions(acoustic_scale=1.0, frame_shift=0.005)
    source = Source(aligned[1], aligned[1])
    facts = refine(AliSet.load(aligned[0]), [source, source], tmp_path / "out", options, "models")
    out = AliSet.load(tmp_path / "out")
    assert facts == {"utterances": 1, "kept": 0, "too_short": 0} and out.header.producer == "models"
    assert [(s.symbol, round(s.start, 6), round(s.end, 6)) for s in out.phones("u")] == [
        ("SIL", 0.0, 0.02),
        ("A", 0.02, 0.06),
        ("B", 0.06, 0.09),
    ]
    assert [(s.symbol, round(s.start, 6), round(s.end, 6)) for s in out.words("u")] == [("AB", 0.02, 0.09)]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_long_recording_is_scored_some_stretches_at_a_time(aligned, monkeypatch, tmp_path, dynamic):
    """Stretches of 30 ms with their neighbours, which all paths pass where the alignment does: the same boundaries as in
    one piece, and never all scores at once. Where one stretch has no path, the recording keeps its boundaries.
    """
    chain = chain_of_model([SIL, A, B])
    scores = np.full((FRAMES, TREE.num_pdfs), -30.0)
    scores[np.arange(FRAMES), chain.pdf[[0, 0, 0, 1, 2, 2, 3, 3, 4]]] = 0.0
    moves = np.random.default_rng(1).uniform(-2, 0, (FRAMES, TRANSITIONS.num_tids)) if dynamic else None
    options, source = BoundaryOptions(acoustic_scale=1.0, frame_shift=0.005), Source(aligned[1], aligned[1])

    def refined(name: str) -> list[tuple[str, float]]:
        facts = refine(AliSet.load(aligned[0]), [source, source], tmp_path / name, options, "models")
        phones = AliSet.load(tmp_path / name).phones("u")
        return [("kept", float(facts["kept"])), *((p.symbol, round(p.start, 6)) for p in phones)]

    use_scores(monkeypatch, scores, moves)
    whole = refined("whole")
    assert whole == [("kept", 0.0), ("SIL", 0.0), ("A", 0.03), ("B", 0.06)]
    monkeypatch.setattr(boundaries, "WHOLE_SECONDS", 0.05)
    monkeypatch.setattr(boundaries, "STRETCH_SECONDS", 0.03)
    monkeypatch.setattr(boundaries, "CONTEXT_SECONDS", 0.0)
    monkeypatch.setattr(boundaries, "SCORED_SECONDS", 0.06)
    scorer = use_scores(monkeypatch, scores, moves)
    assert refined("pieces") == whole
    assert scorer.scored == [(0, 5), (0, 5), (0, 9), (0, 9)], "one stretch at a time, of one model after the other"
    scores[6:] = -np.inf
    use_scores(monkeypatch, scores, moves)
    assert refined("kept") == [("kept", 1.0), ("SIL", 0.0), ("A", 0.03), ("B", 0.05)]


def test_stretches_are_grouped_while_they_lie_close():
    assert list(_group_sizes([(0, 30), (20, 50), (40, 70), (60, 90)], 50)) == [2, 2]
    assert list(_group_sizes([(0, 300), (250, 350), (340, 360)], 50)) == [1, 1, 1]
    assert list(_group_sizes([(i, i + 1) for i in range(19)], 50)) == [8, 8, 3]
    assert list(_group_sizes([], 50)) == []


def test_an_utterance_without_path_keeps_its_boundaries(aligned, monkeypatch, tmp_path):
    use_scores(monkeypatch, np.full((FRAMES, TREE.num_pdfs), -np.inf))
    ali = AliSet.load(aligned[0])
    facts = refine(ali, [Source(aligned[1], aligned[1])], tmp_path / "out", BoundaryOptions(frame_shift=0.005), "m")
    assert facts == {"utterances": 1, "kept": 1, "too_short": 0}
    new = AliSet.load(tmp_path / "out")
    assert [(s.symbol, round(s.start, 6), round(s.end, 6)) for s in new.phones("u")] == [
        (s.symbol, round(s.start, 6), round(s.end, 6)) for s in ali.phones("u")
    ]


def test_a_model_of_other_phones_is_a_mismatch(aligned, monkeypatch):
    other = make_lang(Lexicon([Pronunciation("C", ("C",))]))
    tree = monophone_tree(other.phones, other.topo)
    hmm = HmmDir(Path("other"), other.phones, other.topo, tree, TransitionModel(tree, other.topo))
    model = types.SimpleNamespace(hmm=hmm)
    monkeypatch.setattr("pipeline.tasks.model.load_model", lambda *args, **kwargs: model)
    with pytest.raises(MismatchError, match="other phones"):
        Posteriors(Source(Path("other"), Path("data")), AliSet.load(aligned[0]), BoundaryOptions())


def test_the_median_of_several_models_lies_between_theirs():
    times = np.arange(10) + 0.5
    steps = [Distribution(times, (np.arange(10) >= first).astype(float)[:, None]) for first in (2, 4, 8)]
    grid = np.arange(21) / 2
    for step, first in zip(steps, (2, 4, 8)):
        assert medians([step], grid).tolist() == [2 * first]
    assert medians(steps, grid).tolist() == [8]
    assert begins_of([[s, s] for s in steps], grid).tolist() == [0, 8]
    assert begins_of([[steps[0], steps[0]], [steps[1], None]], grid) is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), min_size=1, max_size=6), st.integers(0, 10))
def test_separated_phones_are_long_enough(phones, spare):
    starts, shortest = (np.array(x) for x in zip(*phones))
    starts = np.sort(starts)
    starts[0] = 0
    length = int(shortest.sum()) + spare
    new = separate(starts, shortest, length)
    assert new[0] == 0 and (np.diff(np.append(new, length)) >= shortest).all()
    fine = (np.diff(np.append(starts, length)) >= shortest).all()
    assert not fine or (new == starts).all()


def test_an_utterance_too_short_for_the_grid_is_left_out(aligned, monkeypatch, tmp_path, caplog):
    use_scores(monkeypatch, np.zeros((FRAMES, TREE.num_pdfs)))
    options = BoundaryOptions(frame_shift=0.03)
    facts = refine(AliSet.load(aligned[0]), [Source(aligned[1], aligned[1])], tmp_path / "out", options, "m")
    assert facts == {"utterances": 1, "kept": 0, "too_short": 1} and list(AliSet.load(tmp_path / "out")) == []
    assert "u is left out: 3 frames of 30 ms are too few for the 5 states" in caplog.text


def of_header(directory: Path, **header: float) -> AliSet:
    ali = AliSet.load(directory)
    return AliSet(dataclasses.replace(ali.header, **header), ali.transitions, ali.word_symbols, ali.values(), directory)


def test_the_offset_of_the_first_frame_counts(aligned, monkeypatch):
    """4 ms: 9 frames of 10 ms end at 94 ms, and phones begin at 34 and 54 ms."""
    ali = of_header(aligned[0], frame_offset=0.004)
    assert frames_of(ali, "u", 0.005) == 19 and starts_of(ali, "u", 0.005).tolist() == [0, 7, 11]
    made = respaced(ali, load_hmm(aligned[0]), "u", starts_of(ali, "u", 0.005), 0.005)
    assert made is not None and len(made.transition_ids) == 19 and made.words[:, 1].tolist() == [7]
    assert [(p.start, p.end) for p in ali.phones("u")] == [
        (pytest.approx(0.004), pytest.approx(0.034)), (pytest.approx(0.034), pytest.approx(0.054)),
        (pytest.approx(0.054), pytest.approx(0.094)),
    ]  # fmt: skip
    asked = []
    monkeypatch.setattr(boundaries, "stretches", lambda *args: asked.append(args) or stretches(*args))
    use_scores(monkeypatch, np.zeros((FRAMES, TREE.num_pdfs)))
    Posteriors(Source(aligned[1], aligned[1]), ali, BoundaryOptions()).of(["u"])
    ((begins, end),) = asked
    assert begins.tolist() == pytest.approx([0.004, 0.034, 0.054]) and end == pytest.approx(0.094)


@pytest.mark.parametrize("start, moved", [(3, 6), (4, 6), (7, 10), (8, 10)])
def test_a_word_that_starts_within_a_phone_starts_with_it(aligned, start, moved):
    """Not with the next one, which the last phone does not have."""
    old = AliSet.load(aligned[0])
    own = dataclasses.replace(old["u"], words=np.array([[LANG.words.id("AB"), start]], dtype=np.int32))
    ali = AliSet(old.header, old.transitions, old.word_symbols, [own], aligned[0])
    made = respaced(ali, load_hmm(aligned[0]), "u", starts_of(ali, "u", 0.005), 0.005)
    assert made is not None and made.words[:, 1].tolist() == [moved]


def test_batches_are_bounded_with_their_padding(monkeypatch):
    """One long utterance among short ones would make each of them as long."""
    lens = [10] * 50 + [500]
    posteriors = Posteriors.__new__(Posteriors)
    posteriors.data = Dataset.of([torch.zeros(n, 1) for n in lens], [f"u{i}" for i in range(len(lens))])
    posteriors.index = types.SimpleNamespace(positions=lambda cut_ids: np.arange(len(cut_ids)))
    posteriors.options = BoundaryOptions(batch_frames=1000)
    batches: list[list[int]] = []
    monkeypatch.setattr(posteriors, "_batch", lambda rows: batches.append(rows.tolist()) or ())
    posteriors.of([posteriors.data.id(n) for n in range(len(lens))])
    assert sorted(sum(batches, [])) == list(range(len(lens)))
    assert all(len(rows) * max(lens[n] for n in rows) <= 1000 for rows in batches)


def test_sources_travel_to_parts_whole(tmp_path) -> None:
    for source in (Source(tmp_path, tmp_path / "a"), Source(tmp_path, tmp_path, tmp_path / "b", unknown_speech=True)):
        assert Source(**as_json(source)) == source
