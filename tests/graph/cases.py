"""Small langs, trees and language models, and the brute-force search that decoding graphs are compared with."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from pipeline.artifacts.arpa import BOS, EOS, UNK, ZERO, Arpa, train_kneser_ney, train_unigram
from pipeline.artifacts.lang import Lang, make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Leaf, Node, Question, Root, Tree
from pipeline.graph.beam_search import Beams, BeamSearch, SearchGraph
from pipeline.graph.decoding import DecodingGraph
from pipeline.graph.grammar import Grammar
from pipeline.hmm import convert
from pipeline.hmm.compile import compile_graphs
from pipeline.hmm.viterbi import viterbi

SENTENCES = [s.split() for s in ("A B", "B A C", "C C D", "D", "A A B", "B D", "C", "A C")]


def small_lang(silence_prob: float = 0.3, states: int = 2, position: str = "none") -> Lang:
    """Prefixes, homophones, variants and one-phone words."""
    lexicon = Lexicon(
        [
            Pronunciation("A", ("x",)),
            Pronunciation("B", ("x", "y")),
            Pronunciation("B", ("y", "y", "z"), 0.5),
            Pronunciation("C", ("x", "y", "z")),
            Pronunciation("D", ("x", "y")),
        ]
    )
    return make_lang(lexicon, speech_states=states, silence_prob=silence_prob, position=position)


def language_model(order: int) -> Arpa:
    return train_unigram(SENTENCES) if order == 1 else train_kneser_ney(SENTENCES, order)


def random_lm(order: int, seed: int, words: str = "ABC") -> Arpa:
    """A model over some words of the lang, <unk> and Q, which the lang lacks; all its numbers are random."""
    rng = np.random.default_rng(seed)
    vocabulary = [*words, "Q", UNK, EOS]
    histories, probs = [()], {(BOS,): ZERO}
    backoffs = {(BOS,): 0.0}
    for n in range(1, order + 1):
        grown = [(*h, w) for h in histories for w in vocabulary if n == 1 or rng.random() < 0.4]
        probs |= {ngram: -rng.uniform(0.1, 9.0) for ngram in grown}
        histories = [ngram for ngram in ([(BOS,)] if n == 1 else []) + grown if ngram[-1] != EOS]
        backoffs |= {ngram: rng.uniform(-4.0, 1.0) for ngram in histories if n < order}
    return Arpa(order, probs, backoffs)


def random_tree(lang: Lang, left: int, right: int, seed: int = 0) -> Tree:
    """A tree that asks random questions at every position of its window."""
    rng = np.random.default_rng(seed)
    pdfs = itertools.count()
    every = np.arange(len(lang.phones))  # 0 is the boundary

    def grow(positions: list[int]) -> Node:
        if not positions:
            return Leaf(next(pdfs))
        yes = frozenset(int(p) for p in every[rng.random(len(every)) < 0.5])
        return Question(positions[0], yes, grow(positions[1:]), grow(positions[1:]))

    around = [p for p in range(-left, right + 1) if p != 0]
    roots = [
        Root(frozenset([lang.phones.id(name)]), frozenset([c]), grow(around))
        for name, topo in lang.topo.phones.items()
        for c in sorted(set(topo.pdf_classes))
    ]
    return Tree(roots, lang.phones, left, right)


def hmm_of(lang: Lang, tree: Tree, seed: int = 0) -> HmmDir:
    transitions = TransitionModel(tree, lang.topo)
    transitions.forward_prob = np.random.default_rng(seed).uniform(0.2, 0.8, len(transitions.forward_prob))
    return HmmDir("memory", lang.phones, lang.topo, tree, transitions)


def best_in_grammar(grammar: Grammar, words: list[int]) -> float:
    """Best path of a word sequence through G, where back-off is allowed even if the n-gram is listed (as in
    decoding).
    """

    def backed_off(scores: dict[int, float]) -> dict[int, float]:
        out = dict(scores)
        for state in sorted(scores, key=lambda s: -grammar.backoff[s]):
            score = scores[state]
            while grammar.backoff[state] >= 0:
                score, state = score + grammar.backoff_weight[state], int(grammar.backoff[state])
                out[state] = max(out.get(state, -np.inf), score)
        return out

    scores = backed_off({grammar.start: 0.0})
    for word in words:
        reached: dict[int, float] = {}
        for a in np.nonzero(grammar.word == word)[0]:
            if int(grammar.src[a]) in scores:
                dst = int(grammar.dst[a])
                reached[dst] = max(reached.get(dst, -np.inf), scores[int(grammar.src[a])] + grammar.weight[a])
        scores = backed_off(reached)
    return max((s + grammar.final[q] for q, s in scores.items()), default=-np.inf)


def score_in_grammar(grammar: Grammar, words: list[int]) -> float:
    """Score of a word sequence through G, where back-off is taken only if the n-gram is not listed."""
    state, score = grammar.start, 0.0
    for word in words:
        while not (found := np.flatnonzero((grammar.src == state) & (grammar.word == word))).size:
            score, state = score + grammar.backoff_weight[state], int(grammar.backoff[state])
        score, state = score + grammar.weight[found[0]], int(grammar.dst[found[0]])
    while grammar.final[state] == -np.inf:
        score, state = score + grammar.backoff_weight[state], int(grammar.backoff[state])
    return score + grammar.final[state]


def brute_force(
    lang: Lang, grammar: Grammar, hmm: HmmDir, scores: np.ndarray, most_words: int = 3, transition_scale: float = 1.0
) -> dict[tuple[int, ...], float]:
    """Word sequence -> best total score over a (T, P) score matrix, for all sequences of up to `most_words` words."""
    vocabulary = sorted({int(w) for w in grammar.word})
    texts = [list(t) for n in range(1, most_words + 1) for t in itertools.product(vocabulary, repeat=n)]
    graphs = compile_graphs(lang, hmm.tree, hmm.transitions, texts)
    fits = np.nonzero(graphs.min_frames <= len(scores))[0]
    batch = torch.from_numpy(scores).expand(len(fits), *scores.shape).contiguous()
    lens = torch.full((len(fits),), len(scores), dtype=torch.int64)
    trans = torch.from_numpy(hmm.transitions.log_probs()) * transition_scale
    best = viterbi(graphs.select(fits).graphs, batch, lens, trans, backend="torch").scores.tolist()
    found = {tuple(texts[i]): s + best_in_grammar(grammar, texts[i]) for i, s in zip(fits.tolist(), best)}
    silent = _silence_score(lang, hmm, scores, trans)
    return {**found, (): silent + best_in_grammar(grammar, [])} if silent > -np.inf else found


def _silence_score(lang: Lang, hmm: HmmDir, scores: np.ndarray, trans: torch.Tensor) -> float:
    """An utterance without words is one silence."""
    topo = lang.topo["SIL"]
    if lang.silence_prob == 0 or len(scores) < topo.num_states:
        return -np.inf
    window = np.zeros((topo.num_states, hmm.tree.left + 1 + hmm.tree.right), dtype=np.int64)
    window[:, hmm.tree.left] = lang.silence_id
    pdf = hmm.tree.lookup(window, np.array(topo.pdf_classes))
    ts = hmm.transitions.transition_states(window[:, hmm.tree.left], np.arange(topo.num_states), pdf)
    graph = convert.linear(
        [pdf.tolist()], [(2 * ts).tolist()], [(2 * ts + 1).tolist()], hmm.transitions.num_pdfs, hmm.transitions.num_tids
    )
    best = viterbi(graph, torch.from_numpy(scores)[None], torch.tensor([len(scores)]), trans, backend="torch")
    return float(best.scores[0]) + float(np.log(lang.silence_prob))


def best_path(
    graph: DecodingGraph, hmm: HmmDir, scores: np.ndarray, transition_scale: float = 1.0
) -> tuple[list[int], float]:
    """Word ids and total of the exact best path."""
    ours = SearchGraph(graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), transition_scale)
    search = BeamSearch(ours, Beams(1.0, 1e4, None, 0, 10**6))
    search.advance(scores)
    lattice = search.finish()  # of one path
    assert lattice.complete
    return lattice.spell(lattice.label.tolist()), float((lattice.acoustic.astype(np.float64) + lattice.graph).sum())
