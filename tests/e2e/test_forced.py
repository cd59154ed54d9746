"""Forced alignment by transducers and attention, and end-to-end models as models with an HMM."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.arpa import train_unigram
from pipeline.artifacts.lang import SILENCE
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.token_lang import phone_name, token_lang, token_of_pdf
from pipeline.artifacts.tokens import BLANK_ID, TokenOptions, train_tokens
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import read_json, write_json
from pipeline.e2e.forced import attention_path, monotonic_path, transducer_path
from pipeline.e2e.scorer import export
from pipeline.tasks.align import AlignOptions, align
from pipeline.tasks.model import load_model
from tests.nn.conftest import tones  # noqa: F401
from tests.tasks.stretched import check_stretches

from .test_decode_e2e import TOKENS, encode, make

WORDS = ["AB", "CA", "BC"]


@pytest.mark.parametrize("num_frames, num_tokens", [(4, 2), (5, 0), (3, 3), (6, 4)])
def test_paths_against_enumeration(num_frames, num_tokens):
    rng = np.random.default_rng(num_frames)
    emit, stay = rng.normal(size=(num_frames, num_tokens)), rng.normal(size=(num_frames, num_tokens + 1))
    found = {}
    for frames in itertools.combinations(range(num_frames), num_tokens):
        score, u = 0.0, 0
        for t in range(num_frames):
            if t in frames:
                score, u = score + emit[t, u], u + 1
            else:
                score += stay[t, u]
        found[frames] = score
    best = max(found, key=found.get)
    score, frames = monotonic_path(emit, stay)
    assert tuple(frames) == best and score == pytest.approx(found[best])


def test_more_tokens_than_frames():
    assert monotonic_path(np.zeros((2, 3)), np.zeros((2, 4)))[0] == -np.inf


@torch.no_grad()
def test_transducer_and_attention_paths():
    model = make("transducer")
    encoded, _ = encode(model)
    tokens = TOKENS.encode("AB")
    score, frames = transducer_path(model.transducer, encoded[0], tokens)
    pred, state = model.transducer.start(1)
    total, u = 0.0, 0
    for t in range(len(encoded[0])):
        if u < len(tokens) and t == frames[u]:
            total += float(model.transducer.joint(encoded[0, t : t + 1], pred)[0, tokens[u]])
            pred, state = model.transducer.step(torch.tensor([tokens[u]]), state)
            u += 1
        total += float(model.transducer.joint(encoded[0, t : t + 1], pred)[0, BLANK_ID])
    assert u == len(tokens) and score == pytest.approx(total, abs=1e-3)
    assert transducer_path(model.transducer, encoded[0], [])[1].shape == (0,)
    model = make("attention")
    encoded, _ = encode(model)
    score, frames = attention_path(model.decoder, encoded[0], tokens)
    assert (np.diff(frames) > 0).all() and np.isfinite(score)
    assert len(attention_path(model.decoder, encoded[0], [])[1]) == 0


def test_the_lang_of_tokens():
    tokens = train_tokens([["SIL", "SILT", "#"]] * 3, TokenOptions(unit="bpe", vocab_size=11))
    lang = token_lang(["SIL", "SILT", "Ä", "SIL"], tokens)
    assert "Ä" not in lang.lexicon and set(lang.lexicon.words()) == {"SIL", "SILT"}
    assert lang.blank and all(t.num_states == 1 for t in lang.topo.phones.values())
    tree = monophone_tree(lang.phones, lang.topo)
    columns = token_of_pdf(tree, tokens)
    for phone in list(lang.phones)[1:]:
        pdf = tree.pdfs_of(lang.phones.id(phone), 0)[0]
        assert columns[pdf] == (
            BLANK_ID if phone == SILENCE else next(i for i, p in enumerate(tokens.pieces) if phone_name(p) == phone)
        )
    assert phone_name("SIL") == "SIL=" and phone_name("SIL=") == "SIL==" and phone_name("#A") == "#A="
    with pytest.raises(MismatchError, match="is no token"):
        token_of_pdf(tree, TOKENS)


def exported(tmp_path, data, head: str, name: str):
    from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
    from pipeline.e2e.model import save_end_to_end

    model = make(name, features=16)
    save_end_to_end(tmp_path / "model", model, TOKENS.id, FeatureFacts.load(data).kind, FeatLoadOptions(), [])
    TOKENS.save(tmp_path / "tokens")
    token_lang(WORDS, TOKENS).save(tmp_path / "lang")
    export(tmp_path / "model", tmp_path / "tokens", tmp_path / "lang", tmp_path / head, head)
    return tmp_path / head


@pytest.mark.parametrize("head, name", [("ctc", "ctc"), ("transducer", "transducer"), ("attention", "attention")])
def test_alignment_sets(tones, tmp_path, head, name):
    from pipeline.artifacts.corpus import iter_cuts
    from pipeline.artifacts.lang import Lang

    directory = exported(tmp_path, tones.data, head, name)
    scorer, lang = load_model(directory), Lang.load(tmp_path / "lang")
    report = align(scorer, lang, tones.data, tmp_path / "ali", AlignOptions(), "model")
    ali = AliSet.load(tmp_path / "ali")
    texts = {c["id"]: c["supervisions"][0]["text"] for _, c in iter_cuts(tones.data)}
    assert report.num_aligned == len(ali) == 24 and not report.failed
    assert ali.header.frame_shift == pytest.approx(0.03)
    for cut_id, text in texts.items():
        phones = [s.symbol for s in ali.phones(cut_id) if s.symbol != SILENCE]
        assert phones == [TOKENS.pieces[i] for i in TOKENS.encode(text)]
        words = ali.words(cut_id)
        assert [w.symbol for w in words] == text.split()
        assert all(a.end <= b.start + 1e-6 for a, b in zip(words, words[1:]))
        if head != "ctc":
            assert all(s.duration <= 0.0301 for s in ali.phones(cut_id) if s.symbol != SILENCE)


@torch.no_grad()
def test_ctc_with_lexicon_and_lm(tones, tmp_path):
    """No sentence of up to three words has a better path than the one that the search through the graph finds."""
    from pipeline.artifacts.lang import Lang
    from pipeline.feats.dataset import Dataset
    from pipeline.graph.decoding import build_decoding_graph
    from pipeline.graph.options import DecodeOptions
    from pipeline.hmm import viterbi
    from pipeline.hmm.compile import compile_graphs
    from pipeline.tasks.decode import decode

    directory = exported(tmp_path, tones.data, "ctc", "ctc")
    scorer, lang = load_model(directory), Lang.load(tmp_path / "lang")
    lm = train_unigram([["AB", "CA"], ["AB", "BC", "AB"]])
    hmm = scorer.hmm
    options = DecodeOptions(
        acoustic_scale=1.0, beam=1e3, lattice_beam=50.0, max_active=10000, lm_weights=(1.0,), word_penalties=(0.0,)
    )
    decoded = decode(scorer, build_decoding_graph(lang, lm, hmm), tones.data, options, [(1.0, 0.0)])
    assert not decoded.failed
    ids = [lang.words.id(w) for w in WORDS]
    candidates = [list(c) for n in (1, 2, 3) for c in itertools.product(ids, repeat=n)]
    data = Dataset.open(tones.data, scorer.feat_options)
    for i in (0, 7, 11):
        sentences = [decoded.found[1.0, 0.0][data.id(i)], *candidates]
        scores, lens = scorer.log_likes((batch := data.batch(np.array([i]))).feats, batch.lens)
        graphs = compile_graphs(lang, hmm.tree, hmm.transitions, sentences).graphs
        n = len(sentences)
        paths = viterbi(
            graphs,
            scores.expand(n, -1, -1).contiguous(),
            lens.expand(n).contiguous(),
            torch.zeros(hmm.transitions.num_tids),
        )
        # Training graphs have a probability for blank and for none before, between and behind tokens, decoding graphs
        # do not.
        places = [
            1 + sum(len(lang.lexicon.by_word[lang.words.name(w)][0].phones) for w in words) for words in sentences
        ]
        total = [
            float(s) + k * math.log(2) + lm.sentence_log_prob([lang.words.name(w) for w in words])
            for s, k, words in zip(paths.scores, places, sentences)
        ]
        assert sentences[0] and total[0] >= max(total) - 1e-3


@torch.no_grad()
def test_blank_penalty(tones, tmp_path):
    """It lowers the score of the blank in every frame, and nothing else; models without a blank refuse it."""
    from pipeline.feats.dataset import Dataset

    directory = exported(tmp_path, tones.data, "ctc", "ctc")
    plain, lower = load_model(directory), load_model(directory, blank_penalty=1.5)
    data = Dataset.open(tones.data, plain.feat_options)
    batch = data.batch(np.array([3]))
    feats, lens = batch.feats, batch.lens
    difference = plain.log_likes(feats, lens)[0] - lower.log_likes(feats, lens)[0]
    check_stretches(lower, feats[0], "nobody")
    blank = torch.from_numpy(plain.token_of_pdf) == BLANK_ID
    assert blank.sum() == 1
    torch.testing.assert_close(difference, torch.where(blank, 1.5, 0.0).expand_as(difference))
    write_json(tmp_path / "gmm" / "model.json", {"kind": "gmm"})
    with pytest.raises(ConfigError, match="--blank-penalty does not apply"):
        load_model(tmp_path / "gmm", blank_penalty=1.0)


def test_parts_that_are_missing(tones, tmp_path):
    with pytest.raises(ConfigError, match="has no transducer part"):
        exported(tmp_path, tones.data, "transducer", "ctc")
    with pytest.raises(ConfigError, match="export_e2e.py"):
        load_model(tmp_path / "model")
    with pytest.raises(DataError, match="export_e2e.py"):
        load_hmm(tmp_path / "model")
    directory = exported(tmp_path, tones.data, "ctc", "ctc")
    write_json(directory / "model.json", {**read_json(directory / "model.json"), "head": "transducer"})
    with pytest.raises(DataError, match="model.json: head: the model has no transducer part"):
        load_model(directory)
