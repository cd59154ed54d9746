"""Training graphs against their definition: every pronunciation, every silence, every context spelled out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import BOUNDARY, Leaf, Question, Root, Tree, monophone_tree
from pipeline.base.errors import DataError
from pipeline.hmm import Graphs, convert, full_sum, viterbi
from pipeline.hmm.compile import compile_graphs

LEXICON = Lexicon(
    [
        Pronunciation("A", ("a",)),
        Pronunciation("A", ("b", "a"), 0.25),
        Pronunciation("B", ("b",)),
        Pronunciation("CAB", ("c", "a", "b")),
    ]
)


def context_tree(lang, left: int, right: int) -> Tree:
    """A tree whose pdf depends on every context position."""
    counter = itertools.count()
    roots = []
    for name, topo in lang.topo.phones.items():
        for pdf_class in sorted(set(topo.pdf_classes)):

            def grow(positions):
                if not positions or name == "SIL":
                    return Leaf(next(counter))
                half = frozenset([BOUNDARY, lang.phones.id("a")] if positions[0] < 0 else [lang.phones.id("b")])
                return Question(positions[0], half, grow(positions[1:]), grow(positions[1:]))

            roots.append(
                Root(
                    frozenset([lang.phones.id(name)]),
                    frozenset([pdf_class]),
                    grow([p for p in range(-left, right + 1) if p]),
                )
            )
    return Tree(roots, lang.phones, left, right)


def spelled_out(lang, words):
    """All (phone names, log weight) of a transcript."""
    slots = [
        [([], math.log1p(-lang.silence_prob))] + ([(["SIL"], math.log(lang.silence_prob))] if lang.silence_prob else [])
    ]
    for word in words:
        slots.append([(list(e.phones), math.log(e.prob)) for e in lang.lexicon.by_word[word]])
        slots.append(slots[0])
    for choice in itertools.product(*slots):
        yield sum((p for p, _ in choice), []), sum(w for _, w in choice)


def chain(lang, tree, transitions, phones) -> Graphs:
    """The linear HMM of one phone sequence, its context read off the sequence itself."""
    ids = [BOUNDARY] * tree.left + [lang.phones.id(p) for p in phones] + [BOUNDARY] * tree.right
    pdfs, loops, forwards = [], [], []
    for i, phone in enumerate(phones):
        window = np.array([ids[i : i + tree.left + 1 + tree.right]])
        for state, pdf_class in enumerate(lang.topo[phone].pdf_classes):
            pdf = tree.lookup(window, np.array([pdf_class]))
            ts = int(transitions.transition_states(np.array([lang.phones.id(phone)]), np.array([state]), pdf)[0])
            pdfs.append(int(pdf[0]))
            loops.append(2 * ts)
            forwards.append(2 * ts + 1)
    return convert.linear([pdfs], [loops], [forwards], num_pdfs=tree.num_pdfs, num_tids=transitions.num_tids)


@pytest.mark.parametrize("silence_prob", [0.5, 0.2, 0.0])
@pytest.mark.parametrize("left, right", [(0, 0), (1, 1), (1, 0), (0, 1), (2, 1), (2, 2)])
def test_full_sum_equals_the_sum_over_spelled_out_sequences(left, right, silence_prob):
    lang = make_lang(LEXICON, silence_prob=silence_prob, speech_states=2)
    tree = context_tree(lang, left, right)
    transitions = TransitionModel(tree, lang.topo)
    transcripts = [["A"], ["CAB", "A"], ["A", "B", "A"]]
    ids = [[lang.words.id(w) for w in t] for t in transcripts]
    compiled = compile_graphs(lang, tree, transitions, ids)
    compiled.graphs.validate()
    torch.manual_seed(left * 3 + right)
    frames = 17
    emissions = torch.randn(len(ids), frames, tree.num_pdfs, dtype=torch.float64)
    scores = torch.randn(transitions.num_tids, dtype=torch.float64)
    got = full_sum(compiled.graphs, emissions, torch.full((len(ids),), frames), scores, backend="torch")
    for n, words in enumerate(transcripts):
        parts, shortest = [], []
        for phones, weight in spelled_out(lang, words):
            graph = chain(lang, tree, transitions, phones)
            shortest.append(graph.num_states)
            parts.append(
                full_sum(graph, emissions[n : n + 1], torch.tensor([frames]), scores, backend="torch")[0] + weight
            )
        assert float(got[n]) == pytest.approx(float(torch.logsumexp(torch.stack(parts), 0)), rel=1e-5)
        assert compiled.min_frames[n] == min(shortest)


def test_paths_name_words_and_transition_ids():
    lang = make_lang(LEXICON)
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    compiled = compile_graphs(lang, tree, transitions, [[lang.words.id("CAB"), lang.words.id("B")]])
    phones = ["SIL", "c", "a", "b", "SIL", "b"]
    pdfs = [
        p
        for name in phones
        for p in [tree.pdfs_of(lang.phones.id(name), c)[0] for c in lang.topo[name].pdf_classes] * 1
    ]
    frames = [p for p in pdfs for _ in range(2)]
    emissions = torch.full((1, len(frames), tree.num_pdfs), -20.0)
    emissions[0, torch.arange(len(frames)), torch.tensor(frames)] = 0.0
    best = viterbi(compiled.graphs, emissions, torch.tensor([len(frames)]), torch.from_numpy(transitions.log_probs()))
    assert best.pdfs[0].tolist() == frames
    assert (transitions.tid_pdf()[best.tids[0].numpy()] == frames).all()
    assert (best.tids[0] % 2).tolist() == [0, 1] * len(pdfs)  # each state loops once, then is left
    positions = compiled.state_word[best.states[0].numpy()]
    assert positions.tolist() == [-1] * 2 + [0] * 18 + [-1] * 2 + [1] * 6


def test_select_reorders_graphs_and_words():
    lang = make_lang(LEXICON)
    tree = monophone_tree(lang.phones, lang.topo)
    transitions = TransitionModel(tree, lang.topo)
    all_three = [[lang.words.id(w) for w in t] for t in (["A"], ["CAB", "A"], ["B"])]
    together = compile_graphs(lang, tree, transitions, all_three).select([2, 0])
    apart = compile_graphs(lang, tree, transitions, [all_three[2], all_three[0]])
    for name, value in apart.graphs.numpy().items():
        assert (together.graphs.numpy()[name] == value).all(), name
    assert (together.state_word == apart.state_word).all() and (together.min_frames == apart.min_frames).all()


def test_empty_transcript_is_refused():
    lang = make_lang(LEXICON)
    tree = monophone_tree(lang.phones, lang.topo)
    with pytest.raises(DataError, match="transcript 1 of the batch is empty"):
        compile_graphs(lang, tree, TransitionModel(tree, lang.topo), [[1], []])
