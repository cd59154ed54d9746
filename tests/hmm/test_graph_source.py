"""Training graphs by the batch: the same ones whether they are kept or compiled again."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.artifacts.lang import make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import DataError
from pipeline.hmm import graph_source
from pipeline.hmm.compile import TrainingGraphs, compile_graphs
from pipeline.hmm.graph_source import GraphSource

LANG = make_lang(
    Lexicon([Pronunciation("AB", ("A", "B")), Pronunciation("AB", ("B",)), Pronunciation("C", ("C", "A", "C"))]),
    speech_states=2,
)
TREE = monophone_tree(LANG.phones, LANG.topo)
MODEL = LANG, TREE, TransitionModel(TREE, LANG.topo)
WORDS = [[LANG.words.id(word) for word in text.split()] for text in ("AB", "C", "AB C", "C C AB", "AB AB", "C AB C")]


def same(a: TrainingGraphs, b: TrainingGraphs) -> None:
    assert len(a.graphs) == len(b.graphs)
    for name in vars(a.graphs):
        if not name.startswith("_"):
            np.testing.assert_array_equal(getattr(a.graphs, name), getattr(b.graphs, name), err_msg=name)
    np.testing.assert_array_equal(a.state_word, b.state_word)
    np.testing.assert_array_equal(a.min_frames, b.min_frames)


@pytest.fixture(params=[512, 0], ids=["kept", "compiled again"])
def source(request, monkeypatch) -> GraphSource:
    monkeypatch.setattr(graph_source, "BLOCK", 4)  # the last block is not full
    return GraphSource(*MODEL, WORDS.__getitem__, len(WORDS), cache_mib=request.param)


def test_graphs_of_a_batch_are_those_of_its_transcripts(source):
    whole = compile_graphs(*MODEL, WORDS)
    np.testing.assert_array_equal(source.min_frames, whole.min_frames)
    assert len(source) == len(WORDS) and source.num_tids == MODEL[2].num_tids
    for indices in ([3], [5, 0, 2], list(range(6))):
        same(source.of(indices), compile_graphs(*MODEL, [WORDS[i] for i in indices]))


def test_some_of_the_utterances(source):
    some = source.select(np.array([4, 1, 3]))
    assert len(some) == 3
    np.testing.assert_array_equal(some.min_frames, source.min_frames[[4, 1, 3]])
    same(some.of([2, 0]), compile_graphs(*MODEL, [WORDS[3], WORDS[4]]))
    twice = some.select(np.array([False, True, True]))
    same(twice.of([0, 1]), compile_graphs(*MODEL, [WORDS[1], WORDS[3]]))


def test_blocks_cover_all_once(source):
    rows = [block.tolist() for block, graphs in source.blocks() if len(graphs.graphs) == len(block)]
    assert rows == [[0, 1, 2, 3], [4, 5]]


def test_it_keeps_nothing_when_the_limit_is_passed():
    assert GraphSource(*MODEL, WORDS.__getitem__, len(WORDS), cache_mib=0)._whole is None
    assert GraphSource(*MODEL, WORDS.__getitem__, len(WORDS))._whole is not None


def test_errors_of_transcripts_come_when_it_is_made():
    def words(i: int) -> list[int]:
        if i == 2:
            raise DataError("data/cuts.jsonl.gz:3: no word 'D'")
        return WORDS[i]

    with pytest.raises(DataError, match="cuts.jsonl.gz:3"):
        GraphSource(*MODEL, words, len(WORDS))
