"""Posteriors of lattices, against sums over all paths of the decoding graph; their file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.artifacts.posteriors import POSTERIORS, Posteriors, PosteriorSet, PosteriorWriter
from pipeline.base.errors import DataError
from pipeline.base.files import write_json
from pipeline.graph.decoding import DecodingGraph, build_decoding_graph
from pipeline.graph.options import DecodeOptions
from tests.graph.cases import hmm_of, language_model, random_tree, small_lang

SCALE, TRANSITION_SCALE = 0.5, 0.7


def forward_backward(
    graph: DecodingGraph, log_probs: np.ndarray, scores: np.ndarray, lm_weight: float, penalty: float
) -> np.ndarray:
    """(T, P) posteriors by dense matrices: all paths through the graph, each frame one arc, the last arc the end's."""
    src = np.repeat(np.arange(graph.num_states), np.diff(graph.splits))
    weight = (
        graph.lm
        + graph.lex
        + TRANSITION_SCALE * np.append(log_probs, 0.0)[graph.tid]
        - penalty * graph.words_per_label()[graph.word]
    )
    emits = graph.pdf >= 0

    def step(t: int) -> np.ndarray:
        out = np.zeros((graph.num_states, graph.num_states, scores.shape[1]))
        np.add.at(
            out,
            (src[emits], graph.dst[emits], graph.pdf[emits]),
            np.exp(weight[emits] + scores[t][graph.pdf[emits]] / lm_weight),
        )
        return out

    ends = np.zeros(graph.num_states)
    np.add.at(ends, src[~emits], np.exp(weight[~emits]))
    steps = [step(t) for t in range(len(scores))]
    alpha = [np.eye(graph.num_states)[0]]
    for s in steps:
        alpha.append(alpha[-1] @ s.sum(2))
    beta = [ends]
    for s in reversed(steps):
        beta.insert(0, s.sum(2) @ beta[0])
    return np.stack([np.einsum("i,ijp,j->p", alpha[t], steps[t], beta[t + 1]) for t in range(len(scores))]) / (
        alpha[0] @ beta[0]
    )


@pytest.mark.parametrize("left, right", [(0, 0), (1, 0), (0, 1)])
def test_posteriors_are_sums_over_all_paths(left: int, right: int) -> None:
    from pipeline.graph.search import Searcher

    lang = small_lang(states=1)
    hmm = hmm_of(lang, random_tree(lang, left, right))
    graph = build_decoding_graph(lang, language_model(1), hmm)
    log_probs, frames = hmm.transitions.log_probs(), (6, 3, 1)
    options = DecodeOptions(acoustic_scale=SCALE, beam=1e4, lattice_beam=1e4, max_active=100_000)
    scores = torch.randn(3, 6, hmm.transitions.num_pdfs, generator=torch.Generator().manual_seed(5)) * 2
    lattices = Searcher(graph, log_probs, hmm.transitions.tid_pdf(), TRANSITION_SCALE, options).search(
        scores, torch.tensor(frames)
    )
    for lm_weight, penalty in ((1 / SCALE, 0.0), (0.8, 0.5)):
        for found, own, length in zip(lattices.posteriors(lm_weight, penalty), scores.double().numpy(), frames):
            dense = np.zeros((length, scores.shape[2]))
            dense[found.frame, found.pdf] = found.share
            assert np.abs(dense - forward_backward(graph, log_probs, own[:length], lm_weight, penalty)).max() < 2e-3
            assert (np.diff(found.frame) >= 0).all() and (dense.sum(1) > 0.98).all()


def test_searches_without_an_end_have_no_posteriors() -> None:
    """Words of two frames at least: the second utterance has no path, alone and beside another one."""
    from tests.graph.test_lm_lattice import lattices_of

    for frames in ((5, 1), (1,)):
        _, lattices = lattices_of(0, 0, frames, silence_prob=0.0, states=2)
        assert [len(o.frame) > 0 for o in lattices.posteriors(1.0, 0.0)] == [n > 1 for n in frames]


def test_equal_triples_are_added_and_small_ones_dropped() -> None:
    found = Posteriors.summed(
        np.array([1, 0, 1, 0, 2, 2]), np.array([3, 1, 3, -1, 0, 2]), np.array([0.25, 1.0, 0.5, 0.7, 1e-4, 0.999])
    )
    assert found.frame.tolist() == [0, 1, 2] and found.pdf.tolist() == [1, 3, 2]
    assert found.share.tolist() == pytest.approx([1.0, 0.75, 0.999])


def saved(directory, found: dict[str, Posteriors]) -> PosteriorSet:
    with PosteriorWriter(directory, "tree", "transforms") as writer:
        for cut_id, own in found.items():
            writer.write(cut_id, own)
    return PosteriorSet(directory)


def test_round_trip(tmp_path) -> None:
    found = {c: Posteriors.summed(np.arange(n), np.arange(n) % 3, np.ones(n)) for c, n in (("b/1", 4), ("a", 0))}
    again = saved(tmp_path, found)
    assert (again.tree_id, again.transforms_id) == ("tree", "transforms") and list(again) == ["b/1", "a"]
    assert "a" in again and "c" not in again and again.get("c") is None
    for c in found:
        assert all(np.array_equal(getattr(found[c], n), getattr(again[c], n)) for n in ("frame", "pdf", "share"))


@pytest.mark.parametrize("frame, pdf, share", [([-1], [0], [1.0]), ([0], [-2], [1.0]), ([0], [0], [np.nan])])
def test_damaged_posteriors_are_refused(tmp_path, frame: list, pdf: list, share: list) -> None:
    broken = Posteriors(np.array(frame, np.int32), np.array(pdf, np.int32), np.array(share, np.float32))
    with pytest.raises(DataError, match="damaged posteriors of utterance 'a'"):
        saved(tmp_path, {"a": broken})["a"]


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=f"{POSTERIORS}: no such file"):
        PosteriorSet(tmp_path)
    write_json(tmp_path / POSTERIORS, {"tree_id": "x"})
    with pytest.raises(DataError, match="posteriors.json: key 'transforms_id' is missing"):
        PosteriorSet(tmp_path)
    uneven = Posteriors(np.array([0, 1], np.int32), np.array([0], np.int32), np.array([1.0], np.float32))
    with pytest.raises(DataError, match="the lengths do not add up"):
        saved(tmp_path, {"a": uneven})
