"""What steps write for each other beside models: manifests, langs, alignments, lattices, texts."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.ali import AliHeader, AliSet, AliWriter
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.arpa import Arpa, read_sentences
from pipeline.artifacts.audio_id import audio_id
from pipeline.artifacts.corpus import (
    Span,
    as_cut,
    audio_recording,
    iter_cuts,
    save_data_dir,
    utterance,
    validate_data_dir,
)
from pipeline.artifacts.features import FeatLoadOptions
from pipeline.artifacts.hyp import (
    Alternative,
    Hypothesis,
    NBest,
    load_hypotheses,
    load_nbest,
    load_tried,
    save_hypotheses,
    save_nbest,
    save_tried,
)
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang, make_lang
from pipeline.artifacts.lattice_set import LatticeSet, LatticeWriter
from pipeline.artifacts.lattice_text import write_slf
from pipeline.artifacts.lexicon import grapheme_lexicon
from pipeline.artifacts.lexicon_formats import read_lexicon, read_words
from pipeline.artifacts.posteriors import Posteriors, PosteriorSet, PosteriorWriter
from pipeline.artifacts.symbols import SymbolTable
from pipeline.artifacts.tokens import TokenOptions, Tokens, train_tokens
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base import stamp
from pipeline.base.digests import Digests
from pipeline.base.errors import StaleError, naming
from pipeline.feats.dataset import Dataset
from pipeline.graph.grammar import grammar_from_arpa
from pipeline.graph.lattices import Lattices
from pipeline.hmm.compile import compile_graphs
from pipeline.hmm.viterbi import viterbi
from pipeline.tasks.ali_formats import timed_cuts, write_ctm, write_textgrids
from pipeline.tasks.score import error_report, wer_row
from pipeline.tasks.tiers import GoldTiers, LabelTiers
from pipeline.tasks.weights import read_weights
from tests.artifacts.test_lattice import FACTS, example
from tests.corpora.made import audio, lines
from tests.fuzz.formats import add
from tests.gmm.world import World, draw, make_world_lang, write_corpus
from tests.graph.cases import language_model, random_tree, small_lang

SENTENCES = "A B\nB A C\nC C D\n<unk> D\nÜ’S IT'S\n"


def make_data(root: Path) -> None:
    cuts = []
    for name in ("s1-a", "s1-b", "s2-a"):
        recording = audio_recording(name, audio(root / "audio" / f"{name}.wav", 0.2))
        words, phones = [Span("A", 0.02, 0.05), Span("B", 0.07, 0.05)], [Span("AX", 0.02, 0.1)]
        cuts.append(utterance(name, recording, "A B", name[:2], words, phones))
    save_data_dir(root, cuts)


def read_data(root: Path, out: Path) -> None:
    validate_data_dir(root, decode=True)
    index = load_index(root)
    (root / "index.safetensors").unlink(missing_ok=True)
    for i in range(len(index)):
        assert index.id(i) and index.text(i) and index.speaker_of(i)
    save_data_dir(out, (as_cut(entry) for _, entry in iter_cuts(root)))
    assert len(dict(GoldTiers(root)))


def read_data_alone(root: Path, out: Path) -> None:
    """As steps do that look at cuts.jsonl.gz alone."""
    audio_id(root, Digests())
    load_index(root)
    (root / "index.safetensors").unlink(missing_ok=True)


def read_index(root: Path, out: Path) -> None:
    index = load_index(root)
    assert index.ids() == ["s1-a", "s1-b", "s2-a"] and index.text(2) == "A B"


def make_index(root: Path) -> None:
    make_data(root)
    load_index(root)


def make_feats(root: Path) -> None:
    write_corpus(root / "feats", draw(World.make(), 4, 1))


def read_feats(root: Path, out: Path) -> None:
    data = Dataset.open(root / "feats", FeatLoadOptions(deltas=1))
    (root / "feats" / "index.safetensors").unlink(missing_ok=True)
    data.flat(np.arange(len(data)))
    for batch in data.batches(1000, 2):
        assert batch.num_frames


def read_lang(root: Path, out: Path) -> None:
    lang = Lang.load(root)
    bare, lexicon = Lang.load_without_words(root)
    for word in lexicon:
        lexicon[word]
    lang.save(out)
    tree = monophone_tree(lang.phones, lang.topo)
    ids = lang.word_ids("A B D", "text")
    compile_graphs(lang, tree, TransitionModel(tree, lang.topo), [ids])
    bare.with_lexicon(lang.base_lexicon(), root)


def make_ali(root: Path) -> None:
    lang = make_world_lang()
    tree = random_tree(lang, 1, 0)
    transitions = TransitionModel(tree, lang.topo)
    graphs = compile_graphs(lang, tree, transitions, [lang.word_ids("AD B", "t")] * 3)
    scores = torch.randn((3, 30, tree.num_pdfs), generator=torch.Generator().manual_seed(1))
    best = viterbi(graphs.graphs, scores, torch.tensor([30, 25, 20]), torch.from_numpy(transitions.log_probs()))
    header = AliHeader(lang.topo.id, tree.id, lang.id, 0.01, 0.0, "exp/mono")
    with AliWriter(root, header, tree, lang.topo, transitions, lang.words, shard_size=2) as writer:
        for i, tids in enumerate(best.tids):
            ids = tids[tids >= 0].numpy().astype(np.int32)
            words = np.array([[lang.words.id("AD"), 2], [lang.words.id("B"), 12]], dtype=np.int32)
            writer.write(Alignment(f"u{i}", ids, -1.5, words, np.full(len(ids), 0.5, dtype=np.float16)))


def read_ali(root: Path, out: Path) -> None:
    ali = AliSet.load(root)
    for cut_id in ali:
        ali.pdf_ids(cut_id, 3), ali.num_frames(cut_id), ali.words(cut_id)
    cuts = list(timed_cuts(ali))
    write_ctm(out / "phones.ctm", cuts, "phones")
    write_textgrids(out / "grids", cuts)


def make_lattices(root: Path) -> None:
    with LatticeWriter(root, FACTS, SymbolTable(("A", "B")), shard_bytes=300) as writer:
        for name in ("a", "b", "c"):
            writer.write(name, example())


def read_lattices(root: Path, out: Path) -> None:
    lattices = LatticeSet(root)
    write_slf(out, lattices.items(), list(lattices.words), 0.01, 10.0, 0.0)
    for lattice in lattices.values():
        found = Lattices([lattice])
        found.best_words(10.0, 0.0), found.posteriors(10.0, 0.0)


def make_posteriors(root: Path) -> None:
    ints = np.array([0, 0, 1, 2], dtype=np.int32)
    with PosteriorWriter(root, "tree") as writer:
        for name in ("a", "b"):
            writer.write(name, Posteriors(ints, ints[::-1].copy(), np.array([0.5, 0.5, 1, 1], dtype=np.float32)))


def read_posteriors(root: Path, out: Path) -> None:
    for found in PosteriorSet(root).values():
        assert np.isfinite(found.share).all()


def make_tokens(root: Path) -> None:
    sentences = [s.split() for s in ("THE LONG HOUSE", "FIVE ONE EIGHT TWO SIX", "IT'S THE SIX LONG HOUSES", "ONE")]
    for unit, size in (("char", 50), ("bpe", 45)):
        train_tokens(sentences, TokenOptions(unit=unit, vocab_size=size)).save(root / unit)


def read_tokens(root: Path, out: Path) -> None:
    for unit in ("char", "bpe"):
        tokens = Tokens.load(root / unit)
        tokens.decode(tokens.encode("THE HOUSE"))


def read_arpa(root: Path, out: Path) -> None:
    arpa = Arpa.load(root / "lm.arpa")
    grammar_from_arpa(arpa, small_lang().words)
    arpa.perplexity([["A", "B", "X"]])
    arpa.save(out / "lm.arpa")


LEXICONS = {
    "kaldi.txt": "A a\nB b c\nC c d e\nC x y\n",
    "kaldi_probs.txt": "A 1.0 a\nB 0.5 b c\nB 1.0 c\n",
    "mfa.dict": "a\t0.99\t0.1\t1.2\t0.8\ta b\nb\t0.5\t0.1\t1.2\t0.8\tc\n",
    "cmu.dict": ";;; comment\nABOUT AH0 B AW1 T\nABOUT(2) AH B AW T # odd\nA AH0\n",
    "table.tsv": "word\tipa\nhouse\th aʊ s\nmouse\tm aʊ s\n",
    "words.txt": "house\nmäuse\nit's\n",
}


def make_lexicons(root: Path) -> None:
    for name, text in LEXICONS.items():
        (root / name).write_text(text, encoding="utf-8")


def read_lexicons(root: Path, out: Path) -> None:
    for name in LEXICONS:
        words, lexicon = read_words(root / name), None
        if name != "words.txt":
            lexicon = read_lexicon(root / name, stress=False)
        with naming(root / name):  # as the step has it
            made = make_lang(grapheme_lexicon(words)) if lexicon is None else make_lang(lexicon, position="full")
        made.save(out / name)
        Lang.load(out / name)  # what was made of it can be read again


def make_texts(root: Path) -> None:
    (root / "text.txt").write_text(SENTENCES, encoding="utf-8")


def read_texts(root: Path, out: Path) -> None:
    sentences = list(read_sentences(root / "text.txt"))
    with naming(root / "text.txt"):  # as the steps have it
        train_tokens(sentences, TokenOptions(unit="char")).save(out)
        make_lang(grapheme_lexicon(sorted({w for s in sentences for w in s if w != "<unk>"}))).save(out / "lang")
    Tokens.load(out)
    Lang.load(out / "lang")


def make_hyps(root: Path) -> None:
    hyps = [Hypothesis("a", "s", ("A", "B"), ("A",), (0.5,)), Hypothesis("b", "s", ("B",), ())]
    save_hypotheses(root / "recogs.jsonl.gz", hyps)
    save_nbest(root / "nbest.jsonl.gz", [NBest("a", "s", ("A",), (Alternative(("A",), -1.0, -2.0, -1.0),))])
    save_tried(root / "tried.jsonl.gz", {(10.0, 0.0): hyps, (11.0, 0.0): hyps})
    (root / "best.json").write_text('{"lm_weight": 10.0, "word_penalty": 0.5}\n')


def read_hyps(root: Path, out: Path) -> None:
    hyps = load_hypotheses(root)
    wer_row("x", "test", hyps)
    assert list(error_report(hyps))
    load_nbest(root), load_tried(root), read_weights(root)


LABELS = {
    "anna/one.TextGrid": (
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 1\ntiers? <exists>\nsize = 2\nitem []:\n'
        '    item [1]:\n        class = "IntervalTier"\n        name = "words"\n        xmin = 0\n        xmax = 1\n'
        "        intervals: size = 2\n        intervals [1]:\n            xmin = 0\n            xmax = 0.5\n"
        '            text = "AD"\n        intervals [2]:\n            xmin = 0.5\n            xmax = 1\n            text = ""\n'
        '    item [2]:\n        class = "IntervalTier"\n        name = "phones"\n        xmin = 0\n        xmax = 1\n'
        "        intervals: size = 2\n        intervals [1]:\n            xmin = 0\n            xmax = 0.2\n"
        '            text = "a"\n        intervals [2]:\n            xmin = 0.2\n            xmax = 1\n            text = "d"\n'
    ),
    "ctm/words.ctm": "u 1 0.1 0.2 A 0.9\nu 1 0.3 0.2 B\n",
    "ctm/phones.ctm": "u 1 0.1 0.2 a_S\nu 1 0.3 0.2 b_S\n",
    "timit/x.phn": "0 100 h#\n100 220 ih\n220 400 z\n",
}


def make_labels(root: Path) -> None:
    for name, text in LABELS.items():
        lines(root / name, *text.splitlines())


def read_labels(root: Path, out: Path) -> None:
    for folder in ("anna", "ctm", "timit"):
        for tier in LabelTiers(root / folder, 16000).values():
            assert all(s.duration >= 0 for s in (*tier.phones, *tier.words))


def make_stamps(root: Path) -> None:
    lines(root / "source.txt", "x")
    work = stamp.Work("step", {"width": 1}, {"in": stamp.artifact_id(root / "source.txt")})
    stamp.run(root / "out", work, lambda tmp: {"n": 1}, {"in": root / "source.txt"}, digests=Digests())
    # An interrupted run, and digests that it kept.
    lines(root / "half.tmp" / "pending.json", '{"identity": "x", "command": "step", "options": {}, "inputs": {}}')
    lines(root / "half.tmp" / "digests.tsv", f"{'0' * 64}\t1,2,3,4\t/nowhere/x")


def read_stamps(root: Path, out: Path) -> None:
    work = stamp.Work("step", {"width": 1}, {"in": stamp.artifact_id(root / "source.txt")})
    stamp.artifact_id(root / "out")
    Digests(root / "half.tmp" / "digests.tsv").of([root / "source.txt"])
    for wanted in (work, stamp.Work("step", {"width": 2}, {"in": "x"}), stamp.Work("step", {"width": 1}, {"in": "x"})):
        with contextlib.suppress(StaleError):
            stamp.run(root / "out", wanted, lambda tmp: None, {"in": root / "source.txt"})
    shutil.copytree(root / "half.tmp", out / "half.tmp")
    stamp.run(out / "half", work, lambda tmp: {"n": 1}, {"in": root / "source.txt"})


add("data", make_data, "*.jsonl.gz", read_data)
add("cuts", make_data, "cuts.jsonl.gz", read_data_alone)
add("index", make_index, "index.safetensors", read_index)
add("audio", make_data, "audio/s1-a.wav", read_data)
add("features", make_feats, "feats/*.json feats/feats.bin feats/cuts.jsonl.gz", read_feats)
add("lang", lambda root: small_lang(position="word_end").save(root), "*", read_lang)
add("alignments", make_ali, "*", read_ali)
add("lattices", make_lattices, "*", read_lattices)
add("posteriors", make_posteriors, "*", read_posteriors)
add("tokens", make_tokens, "*/*", read_tokens)
add("arpa", lambda root: language_model(2).save(root / "lm.arpa"), "*", read_arpa)
add("lexicons", make_lexicons, "*", read_lexicons)
add("text", make_texts, "*", read_texts)
add("recognised", make_hyps, "*", read_hyps)
add("labels", make_labels, "*/*", read_labels)
add("stamps", make_stamps, "out/stamp.json half.tmp/*", read_stamps)
