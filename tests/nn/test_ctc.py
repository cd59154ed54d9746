"""CTC as a neural HMM of one state per phone with a blank: against torch's loss, and through alignment and decoding
graphs.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.lang import Lang, make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError
from pipeline.graph.grammar import Grammar
from pipeline.graph.phone_graph import NO_PHONE, build_phone_graph
from pipeline.hmm import full_sum
from pipeline.hmm.compile import compile_graphs
from pipeline.nn.model import load_scorer
from pipeline.nn.nhmm import train_nhmm
from pipeline.nn.options import NhmmOptions
from pipeline.tasks.align import AlignOptions, align

LEXICON = Lexicon([Pronunciation("A", ("a",)), Pronunciation("AB", ("a", "b")), Pronunciation("BBA", ("b", "b", "a"))])
CTC = dict(transitions="fixed", label_scale=1.0, transition_scale=0.0, prior="none")


def ctc_lang(lexicon: Lexicon = LEXICON) -> Lang:
    return make_lang(lexicon, speech_states=1, blank=True)


@pytest.mark.parametrize("text", ["A", "A A", "AB AB", "BBA", "BBA A A", "A BBA AB"])
def test_loss_is_torch_s(text):
    lang = ctc_lang()
    tree = monophone_tree(lang.phones, lang.topo)
    hmm = TransitionModel(tree, lang.topo)
    pdf_of = {hmm.phones.name(int(p)): int(q) for p, q in zip(hmm.phone, hmm.pdf)}
    labels = [pdf_of[p] for w in text.split() for e in LEXICON.by_word[w] for p in e.phones]
    torch.manual_seed(0)
    log_probs = torch.randn(1, 14, tree.num_pdfs).log_softmax(-1).requires_grad_()
    graphs = compile_graphs(lang, tree, hmm, [lang.word_ids(text, "test")])
    ours = -full_sum(graphs.graphs, log_probs, torch.tensor([14])) - (len(labels) + 1) * math.log(2)
    ours.sum().backward()
    gradient, log_probs.grad = log_probs.grad.clone(), None
    theirs = torch.nn.functional.ctc_loss(
        log_probs.transpose(0, 1),
        torch.tensor([labels]),
        torch.tensor([14]),
        torch.tensor([len(labels)]),
        blank=pdf_of["SIL"],
        reduction="sum",
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-4)
    theirs.backward()
    # torch's gradient is meant for what precedes a log-softmax: occupancies are subtracted from probabilities there
    assert torch.allclose(gradient, log_probs.grad - log_probs.detach().exp(), atol=1e-4)
    doubled = sum(a == b for a, b in zip(labels, labels[1:]))
    assert graphs.min_frames.tolist() == [len(labels) + doubled]


def test_decoding_graph_has_blanks_inside_words():
    """All phone sequences of one word up to a length: blanks are optional at every boundary."""
    lang = ctc_lang()
    word = lang.words.id("AB")
    one = Grammar(
        start=0,
        src=np.array([0]),
        dst=np.array([1]),
        word=np.array([word]),
        weight=np.array([0.0]),
        final=np.array([-np.inf, 0.0]),
        backoff=np.array([-1, -1]),
        backoff_weight=np.array([0.0, 0.0]),
    )
    graph = build_phone_graph(lang, one)
    found, stack = {}, [(graph.start, (), 0.0)]
    while stack:
        state, phones, weight = stack.pop()
        if state == graph.final:
            found[phones] = weight
        for a in np.flatnonzero(graph.src == state):
            more = () if graph.phone[a] == NO_PHONE else (lang.phones.name(int(graph.phone[a])),)
            stack.append((int(graph.dst[a]), phones + more, weight + graph.lex[a]))
    texts = {
        tuple(x for x in ("SIL" * s, "a", "SIL" * m, "b", "SIL" * e) if x)
        for s in (0, 1)
        for m in (0, 1)
        for e in (0, 1)
    }
    assert set(found) == texts and all(w == pytest.approx(3 * math.log(0.5)) for w in found.values())


def test_blank_survives_saving_and_changes_the_id(tmp_path):
    ctc_lang().save(tmp_path / "ctc")
    assert Lang.load(tmp_path / "ctc").blank
    plain = make_lang(LEXICON, speech_states=1)
    assert plain.id != ctc_lang().id and not plain.blank
    with pytest.raises(DataError, match="blank needs a silence_prob"):
        make_lang(LEXICON, blank=True, silence_prob=0.0)


def test_from_audio_to_alignment(tones, tmp_path):
    """Phones are spikes inside their words, though not always inside their own spans; the blank has most of the
    time.
    """
    lang_dir = tmp_path / "lang"
    ctc_lang(Lang.load(tones.lang).lexicon).save(lang_dir)
    options = NhmmOptions(
        encoder="tdnn",
        layers=2,
        dim=24,
        dilations=(1,),
        batch_frames=400,
        time_masks=0,
        feature_masks=0,
        device="cpu",
        epochs=10,
        learning_rate=5e-3,
        **CTC,
    )
    facts = train_nhmm(tones.data, lang_dir, tmp_path / "m", options)
    assert np.isfinite(facts["silence_forward"])
    report = align(
        load_scorer(tmp_path / "m"),
        Lang.load(lang_dir),
        tones.data,
        tmp_path / "ali",
        AlignOptions(),
        "m",
    )
    assert not report.failed
    ali = AliSet.load(tmp_path / "ali")
    inside = []
    for cut_id, gold in tones.times.items():
        phones = [p for p in ali.phones(cut_id) if p.symbol != "SIL"]
        assert [p.symbol for p in phones] == [g[0] for g in gold]
        words = [(first[1], last[2]) for first, last in zip(gold[::2], gold[1::2]) for _ in range(2)]
        inside += [start - 0.02 <= p.start <= end + 0.02 for p, (start, end) in zip(phones, words)]
    assert np.mean(inside) > 0.75 and ali.silence_share() > 0.85


def test_ctc_without_blank_between_words_only_differs():
    plain = dataclasses.replace(ctc_lang(), blank=False)
    tree = monophone_tree(plain.phones, plain.topo)
    hmm = TransitionModel(tree, plain.topo)
    sizes = [
        len(compile_graphs(lang, tree, hmm, [lang.word_ids("AB", "t")]).state_word) for lang in (plain, ctc_lang())
    ]
    assert sizes == [4, 5]
