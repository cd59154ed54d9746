"""Trained models and what belongs to them: mixtures, networks, graphs, checkpoints, packed models."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from pipeline.artifacts.checkpoint import save_model
from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.model_meta import LmMeta, Scales
from pipeline.artifacts.tokens import TokenOptions, train_tokens
from pipeline.artifacts.transitions import TransitionModel
from pipeline.base.errors import naming
from pipeline.e2e.lm import NeuralLm, load_nn_lm
from pipeline.e2e.model import EndToEnd, load_end_to_end, save_end_to_end
from pipeline.e2e.options import EndToEndOptions
from pipeline.e2e.search.options import NnLmOptions
from pipeline.g2p.joint_units import G2p
from pipeline.gmm.diag import DiagGmms
from pipeline.gmm.model import GmmModel, load_transforms, save_transforms
from pipeline.gmm.questions import load_questions
from pipeline.graph.beam_search import Beams, BeamSearch, SearchGraph
from pipeline.graph.decoding import DecodingGraph, build_decoding_graph
from pipeline.hmm.compile import compile_graphs
from pipeline.hmm.viterbi import viterbi
from pipeline.nn.model import AcousticModel, save_acoustic_model
from pipeline.nn.options import EncoderOptions
from pipeline.nn.train_state import TrainState, load_state, save_state
from pipeline.tasks.aligner import Aligner
from pipeline.tasks.model import load_model
from pipeline.tasks.packed import Card, pack, read_card
from tests.corpora.made import lines
from tests.fuzz.formats import add
from tests.gmm.world import DIM, SHIFT, make_world_lang
from tests.graph.cases import hmm_of, language_model, random_tree, small_lang

LANG = make_world_lang()
TREE = random_tree(LANG, 1, 0)
FACTS = FeatureFacts("mfcc", DIM, SHIFT, 0.025, SHIFT / 2, 8000, 4, 200, {})
OPTIONS = FeatLoadOptions(cmvn="none")
SMALL = EncoderOptions(encoder="tdnn", dim=4, layers=1)
TOKENS = train_tokens([["THE", "HOUSE"]], TokenOptions(unit="char"))


def make_gmm(root: Path) -> None:
    rng, count = np.random.default_rng(1), 2 * TREE.num_pdfs
    gmms = DiagGmms(
        torch.full((count,), 0.5),
        torch.from_numpy(rng.normal(size=(count, DIM))),
        torch.ones((count, DIM)),
        torch.arange(0, count + 1, 2),
    )
    GmmModel(gmms, OPTIONS, FACTS).save(root, LANG.topo, TREE, TransitionModel(TREE, LANG.topo), LANG.id)


def read_model(root: Path, out: Path) -> None:
    """Loads a model and aligns with it."""
    model = load_model(root)
    model.hmm.check_lang(LANG, "lang")
    feats, lens = torch.randn((2, 20, DIM), generator=torch.Generator().manual_seed(1)), torch.tensor([20, 14])
    scores, lens = model.log_likes(feats, lens, ["s", "s"])
    graphs = compile_graphs(LANG, model.hmm.tree, model.hmm.transitions, [LANG.word_ids("A", "t")] * 2).graphs
    viterbi(graphs, scores, lens, torch.from_numpy(model.hmm.transitions.log_probs()))


def make_network(root: Path) -> None:
    torch.manual_seed(1)
    hmm = HmmDir(root, LANG.phones, LANG.topo, TREE, TransitionModel(TREE, LANG.topo))
    model = AcousticModel(DIM, TREE.num_pdfs, SMALL)
    save_acoustic_model(root, model, hmm, FACTS.kind, OPTIONS, Scales(), criterion="ce", lang_id=LANG.id, epochs=[])


def make_e2e(root: Path) -> None:
    torch.manual_seed(1)
    shape = dict(encoder="blstm", layers=1, dim=4, embedding_dim=3, decoder_dim=4, joint_dim=3)
    model = EndToEnd(DIM, len(TOKENS), EndToEndOptions(model="transducer", **shape))
    save_end_to_end(root / "model", model, TOKENS.id, FACTS.kind, OPTIONS, [])
    options = NnLmOptions(dim=4, layers=1)
    lm = NeuralLm(len(TOKENS), options)
    names = ("dim", "layers", "dropout")
    config = {name: value for name, value in asdict(options).items() if name in names}
    save_model(
        root / "lm", lm.state_dict(), LmMeta(vocab_size=len(TOKENS), tokens_id=TOKENS.id, config=config, epochs=[])
    )


def read_e2e(root: Path, out: Path) -> None:
    model, _ = load_end_to_end(root / "model")
    model.encode(torch.zeros((1, 9, model.feature_dim)), torch.tensor([9]))
    load_nn_lm(root / "lm", TOKENS, "tokens")


def make_graph(root: Path) -> None:
    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, 1, 0))
    build_decoding_graph(lang, language_model(2), hmm).save(root)


def read_graph(root: Path, out: Path) -> None:
    graph = DecodingGraph.load(root)
    lang = small_lang()
    hmm = hmm_of(lang, random_tree(lang, 1, 0))
    if (graph.num_pdfs, graph.num_tids) != (hmm.transitions.num_pdfs, hmm.transitions.num_tids):
        return  # belongs to another model, which steps refuse
    scores = np.random.default_rng(1).normal(size=(12, graph.num_pdfs)).astype(np.float32)
    ours = SearchGraph(graph, hmm.transitions.log_probs(), hmm.transitions.tid_pdf(), 1.0)
    search = BeamSearch(ours, Beams(1.0, 20.0, None, 6.0, 500))
    search.advance(scores)
    lattice = search.finish()
    lattice.spell(lattice.label.tolist())


def make_checkpoint(root: Path) -> None:
    torch.manual_seed(1)
    model = AcousticModel(DIM, 5, SMALL)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn((1, 9, DIM)), torch.tensor([9]))[0].sum().backward()
    optimizer.step()
    save_state(root, TrainState(1, 2, history=[{"loss": 1.0}]), model, optimizer)


def read_checkpoint(root: Path, out: Path) -> None:
    model = AcousticModel(DIM, 5, SMALL)
    optimizer = torch.optim.Adam(model.parameters())
    state = load_state(root, model, optimizer)
    assert state is not None
    model(torch.randn((1, 9, DIM)), torch.tensor([9]))[0].sum().backward()
    optimizer.step()
    save_state(out, state, model, optimizer)


def make_others(root: Path) -> None:
    save_transforms(root / "fmllr", ["s1", "s2"], np.zeros((2, DIM, DIM + 1)))
    G2p([("a", ("AX",)), ("b", ("B", "X"))], [[1, 2], [2, 1, 1]], 2).save(root / "g2p")
    lines(root / "questions" / "questions.txt", "a b", "c <eps>", "SIL")


def read_others(root: Path, out: Path) -> None:
    load_transforms(root / "fmllr", DIM)
    G2p.load(root / "g2p").pronounce("ab")
    load_questions(root / "questions" / "questions.txt", LANG.phones)


def make_packed(root: Path) -> None:
    make_gmm(root / "model")
    LANG.save(root / "lang")
    pack(root / "model", root / "lang", root / "small.fsm", Card("small", align={"beam": 200.0}))


def read_packed(root: Path, out: Path) -> None:
    read_card(root / "small.fsm")
    aligner = Aligner.load(root / "small.fsm", out)
    aligner.options()
    with naming(root / "small.fsm"):  # messages of a loaded model have the name on its card
        aligner.pronounce(["A", "B"])
    Lang.load(out / "lang")


add("mixtures", make_gmm, "*", read_model)
add("network", make_network, "*", read_model)
add("end-to-end", make_e2e, "*/*", read_e2e)
add("graph", make_graph, "*", read_graph)
add("checkpoint", make_checkpoint, "*", read_checkpoint)
add("model parts", make_others, "*/*", read_others)
add("packed", make_packed, "small.fsm", read_packed)
