"""Best paths by our search, by Kaldi's own decoders (kaldi-decoder, kaldifst) and by k2: the same words and scores."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

missing = [name for name in ("kaldi_decoder", "kaldifst") if importlib.util.find_spec(name) is None]
# In a process of its own: these packages and kaldi-hmm-gmm each bring an OpenFst, and together they can hang.
SCRIPT = """
import importlib.util, json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/benchmarks"]
import decoder, torch
import kaldifst
from pipeline.graph.beam_search import SearchGraph
from pipeline.graph.decoding import build_decoding_graph
from pipeline.graph.options import DecodeOptions
from tests.graph.cases import hmm_of, language_model, random_tree, small_lang

options = DecodeOptions(beam=1e3, lattice_beam=1e3, max_active=100_000)
for left, right in ((0, 0), (1, 0), (0, 1), (1, 1), (2, 2)):
    for order in (1, 2, 3):
        lang = small_lang(silence_prob=0.0 if order == 3 else 0.3, states=1 if order == 1 else 2)
        hmm = hmm_of(lang, random_tree(lang, left, right, seed=order), seed=order)
        graph = build_decoding_graph(lang, language_model(order), hmm)
        generator = torch.Generator().manual_seed(10 * left + right)
        scores = [2 * torch.randn(t, hmm.transitions.num_pdfs, generator=generator) for t in (1, 4, 9, 15, 30)]
        log_probs = hmm.transitions.log_probs()
        fst = kaldifst.StdConstFst(decoder.kaldi_graph(graph, log_probs, 0.7))
        ours = SearchGraph(graph, log_probs, hmm.transitions.tid_pdf(), 0.7)
        found = [decoder.our_search(ours, scores, options, True), decoder.our_search(ours, scores, options, False),
                 decoder.kaldi_search(fst, graph, scores, options), decoder.kaldi_search(fst, graph, scores, options, True)]
        if importlib.util.find_spec("k2") is not None:
            from pipeline.graph.search_k2 import graph_fsa
            found.append(decoder.k2_search(graph, graph_fsa(graph, log_probs, 0.7), scores, options, 40))
        print(json.dumps([[left, right, order], [f.words for f in found], [[t if t == t else None for t in f.totals] for f in found]]))
"""


@pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")
def test_best_paths_are_kaldi_s() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(ROOT)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 15
    spoken = 0
    for case, words, totals in rows:
        for i, total in enumerate(totals[0]):
            for other in range(1, len(words)):
                assert words[0][i] == words[other][i], (case, i)
                assert (total is None) == (totals[other][i] is None) and (
                    total is None or abs(total - totals[other][i]) < 1e-2
                ), (case, i)
            spoken += len(words[0][i])
    assert spoken > 100
