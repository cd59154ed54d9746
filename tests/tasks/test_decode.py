"""Search, tuning and reports over a scorer that is a table of random scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.hyp import TRIED, load_hypotheses, save_tried
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.files import read_json, write_json
from pipeline.feats.dataset import Dataset
from pipeline.graph.decoding import DecodingGraph, build_decoding_graph
from pipeline.graph.grammar import grammar_from_arpa
from pipeline.graph.options import DecodeOptions
from pipeline.tasks.score import Errors
from tests.graph.cases import brute_force, hmm_of, language_model, random_tree, small_lang

decode = pytest.importorskip("pipeline.tasks.decode")
WIDE = DecodeOptions(
    acoustic_scale=0.5,
    beam=1e4,
    lattice_beam=1e4,
    max_active=10_000,
    lm_weights=(0.5, 1.0, 2.0, 5.0),
    word_penalties=(-1.0, 0.0, 2.0),
)
FRAMES = {"u1": 7, "u2": 5, "u3": 6, "u4": 7}


class TableScorer:
    """Feature 0 of a frame is its row in a table of scores."""

    feat_options, frame_shift, frame_offset, acoustic_scale, transition_scale = None, 0.01, 0.0, 1.0, 0.7

    def __init__(self, hmm: HmmDir, transitions: torch.Tensor | None = None, seed: int = 0) -> None:
        self.hmm, self.transitions, num_pdfs = hmm, transitions, hmm.transitions.num_pdfs
        self.table = torch.from_numpy(3 * np.random.default_rng(seed).standard_normal((64, num_pdfs))).float()

    def log_likes(
        self, feats: torch.Tensor, lens: torch.Tensor, speakers: list | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.table[feats[:, :, 0].long()], lens

    def transition_scores(self, feats: torch.Tensor, lens: torch.Tensor) -> torch.Tensor | None:
        return None if self.transitions is None else self.transitions.expand(*feats.shape[:2], -1)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch):
    """Installs data whose utterance i has as frames rows 10 i, 10 i + 1, ... of the table."""

    def install(frames: dict[str, int] = FRAMES) -> None:
        feats = [10.0 * i + torch.arange(n).float()[:, None] for i, n in enumerate(frames.values())]
        monkeypatch.setattr(Dataset, "open", lambda *args, **kwargs: Dataset.of(feats, list(frames)))
        monkeypatch.setattr(decode, "references", lambda data_dir: dict.fromkeys(frames, ("s", ("A", "B"))))
        monkeypatch.setattr(decode, "check_data", lambda model, data_dir: None)

    install()
    return install


def system(left: int = 1, right: int = 1, silence_prob: float = 0.3) -> tuple[Lang, HmmDir, DecodingGraph]:
    lang = small_lang(silence_prob)
    hmm = hmm_of(lang, random_tree(lang, left, right))
    return lang, hmm, build_decoding_graph(lang, language_model(2), hmm)


def all_weights(options: DecodeOptions) -> list[tuple[float, float]]:
    return [(w, p) for w in options.lm_weights for p in options.word_penalties]


def test_every_pair_of_weights_gives_its_own_best_path(data) -> None:
    lang, hmm, graph = system()
    grammar, scorer = grammar_from_arpa(language_model(2), lang.words), TableScorer(hmm)
    found = decode.decode(scorer, graph, "data", WIDE, all_weights(WIDE))
    compared, distinct = 0, set()
    for i, (cut_id, frames) in enumerate(FRAMES.items()):
        scores = scorer.table[10 * i : 10 * i + frames].numpy()
        for lm_weight, penalty in all_weights(WIDE):
            expected = brute_force(lang, grammar, hmm, scores / np.float32(lm_weight), 3, transition_scale=0.7)
            totals = {text: s - penalty * len(text) for text, s in expected.items()}
            words = tuple(found.texts[lm_weight, penalty][cut_id])
            if len(words) <= 3:  # brute force goes no further
                assert max(totals.values()) - totals[words] < 2e-3, (cut_id, lm_weight, penalty)
                compared, distinct = compared + 1, distinct | {words}
    assert compared >= 40 and len(distinct) >= 4 and not found.failed
    assert found.audio_seconds == pytest.approx(0.25) and found.real_time_factor > 0


def test_another_language_model_has_the_last_word(data) -> None:
    """A unigram graph makes the lattices, a bigram replaces its scores: best of all texts under the bigram."""
    from pipeline.graph.lm_lattice import LatticeRescorer

    lang = small_lang(0.3)
    hmm = hmm_of(lang, random_tree(lang, 1, 1))
    one, two = language_model(1), language_model(2)
    graph, grammar = build_decoding_graph(lang, one, hmm), grammar_from_arpa(one, lang.words)
    scorer, pairs = TableScorer(hmm), [(0.5, 0.0), (2.0, 0.5), (5.0, -1.0)]
    found = decode.decode(scorer, graph, "data", WIDE, pairs, LatticeRescorer(two, lang.words))
    plain = decode.decode(scorer, graph, "data", WIDE, pairs)
    compared = 0
    for i, (cut_id, frames) in enumerate(FRAMES.items()):
        for lm_weight, penalty in pairs:
            expected = brute_force(
                lang, grammar, hmm, scorer.table[10 * i : 10 * i + frames].numpy() / np.float32(lm_weight), 3, 0.7
            )
            names = {text: [lang.words.name(w) for w in text] for text in expected}
            totals = {
                t: s + two.sentence_log_prob(names[t]) - one.sentence_log_prob(names[t]) - penalty * len(t)
                for t, s in expected.items()
            }
            words = tuple(found.texts[lm_weight, penalty][cut_id])
            if len(words) <= 3:
                assert max(totals.values()) - totals[words] < 2e-3, (cut_id, lm_weight, penalty)
                compared += 1
    assert compared >= 6 and found.texts != plain.texts


def test_batches_do_not_change_the_result(data) -> None:
    _, hmm, graph = system()
    scorer = TableScorer(hmm)
    small = dataclasses.replace(WIDE, batch_frames=1)
    assert (
        decode.decode(scorer, graph, "data", small, [(1.0, 0.0)]).texts
        == decode.decode(scorer, graph, "data", WIDE, [(1.0, 0.0)]).texts
    )


def test_transition_scores_of_each_batch_equal_static_ones(data) -> None:
    _, hmm, graph = system()
    static = TableScorer(hmm)
    dynamic = TableScorer(hmm, torch.from_numpy(hmm.transitions.log_probs()))
    pairs = [(2.0, 0.0), (2.0, 1.0)]  # at LM weight 1 / acoustic scale both count the same
    assert (
        decode.decode(static, graph, "data", WIDE, pairs).texts
        == decode.decode(dynamic, graph, "data", WIDE, pairs).texts
    )


def test_k2_s_search_recognises_the_same(data) -> None:
    """With lists, posteriors and another language model, static and input-dependent transitions, failures counted."""
    pytest.importorskip("k2")
    from pipeline.graph.lm_lattice import LatticeRescorer

    lang, hmm, graph = system(silence_prob=0.0)
    data({**FRAMES, "short": 1})
    more, rescorer = dict(nbest=5, posteriors=True), LatticeRescorer(language_model(3), lang.words)
    for transitions in (None, torch.from_numpy(hmm.transitions.log_probs())):
        scorer = TableScorer(hmm, transitions)
        for second in (None, rescorer):
            ours, theirs = (
                decode.decode(scorer, graph, "data", dataclasses.replace(WIDE, search=s, **more), [(2.0, 0.5)], second)
                for s in ("ours", "k2")
            )
            assert ours.texts == theirs.texts and ours.failed == theirs.failed == ["short"]
            for c in FRAMES:
                assert [a.words for a in ours.alternatives[c]] == [a.words for a in theirs.alternatives[c]]
                for a, b in zip(ours.alternatives[c], theirs.alternatives[c]):
                    assert (a.acoustic, a.graph, a.lm) == pytest.approx((b.acoustic, b.graph, b.lm), abs=5e-3)
                one, other = ours.occupancies[c], theirs.occupancies[c]
                assert one.frame.tolist() == other.frame.tolist() and one.pdf.tolist() == other.pdf.tolist()
                assert one.share == pytest.approx(other.share, abs=1e-3)


def test_narrow_searches_are_repeated_and_hopeless_ones_counted(data) -> None:
    _, hmm, graph = system(silence_prob=0.0)
    scorer = TableScorer(hmm)
    data({**FRAMES, "short": 1})
    narrow = dataclasses.replace(WIDE, beam=0.5, min_active=0, max_active=100, retries=10)
    found = decode.decode(scorer, graph, "data", narrow, [(2.0, 0.0)])
    assert found.failed == ["short"] and found.retried > 10 and found.texts[2.0, 0.0]["short"] == []
    assert all(found.texts[2.0, 0.0][c] for c in FRAMES)


def test_report_writes_everything_and_fails_above_the_share(data, tmp_path: Path) -> None:
    lang, hmm, graph = system(silence_prob=0.0)
    scorer = TableScorer(hmm)
    data({**FRAMES, "short": 1})
    found = decode.decode(scorer, graph, "data", WIDE, all_weights(WIDE))
    with pytest.raises(DataError, match="1 of 5 utterances have no lattice"):
        decode.report(found, list(lang.words), tmp_path, WIDE)
    hyps, facts = decode.report(found, list(lang.words), tmp_path, dataclasses.replace(WIDE, max_failed=0.2))
    assert load_hypotheses(tmp_path) == hyps and facts["failed"] == 1
    assert (tmp_path / "wer.txt").read_text().startswith(f"%WER {facts['wer']:.2f} [ ")
    assert (tmp_path / "failed.txt").read_text().startswith("short\t")
    assert decode.read_weights(tmp_path) == (facts["lm_weight"], facts["word_penalty"])
    tried = read_json(tmp_path / "best.json")["tried"]
    assert len(tried) == 12 and min(t["wer"] for t in tried) == pytest.approx(facts["wer"], abs=1e-3)


def test_pooled_folds_are_one_development_set(data, tmp_path: Path) -> None:
    """Folds decoded apart and pooled choose the weights that decoding them together chooses, and none of the folds'
    own.
    """
    lang, hmm, graph = system(silence_prob=0.0)
    scorer, options = TableScorer(hmm), dataclasses.replace(WIDE, tried=True)
    folds = []
    for name, frames in (("0", {"u1": 7, "u2": 5}), ("1", {"v1": 6, "v2": 9})):
        data(frames)
        found = decode.decode(scorer, graph, "data", options, all_weights(options))
        (tmp_path / name).mkdir()
        decode.report(found, list(lang.words), tmp_path / name, options)
        folds.append({w: list(found.hypotheses(w, list(lang.words))) for w in found.texts})
    together = decode.pooled([tmp_path / "0", tmp_path / "1"])
    assert together == {w: folds[0][w] + folds[1][w] for w in folds[0]}
    (tmp_path / "all").mkdir()
    hyps, facts = decode.choose_and_write(together, tmp_path / "all")
    assert [h.cut_id for h in hyps] == ["u1", "u2", "v1", "v2"]
    assert decode.read_weights(tmp_path / "all") == (facts["lm_weight"], facts["word_penalty"])
    with pytest.raises(DataError, match="utterance 'u1' is in"):
        decode.pooled([tmp_path / "0", tmp_path / "0"])
    save_tried(tmp_path / "1" / TRIED, {(1.0, 1.0): folds[1][options.lm_weights[0], options.word_penalties[0]]})
    with pytest.raises(DataError, match="tried different weights"):
        decode.pooled([tmp_path / "0", tmp_path / "1"])


def test_chosen_weights_have_fewest_errors_then_least_penalty_then_the_middle() -> None:
    def errors(n: int) -> Errors:
        return Errors(10, 0, 0, n)

    table = {(float(w), p): errors(2) for w in (6, 7, 8, 9, 10) for p in (0.0, 1.0)}
    assert decode.choose_weights(table) == (8.0, 0.0)
    assert decode.choose_weights({**table, (10.0, 1.0): errors(1)}) == (10.0, 1.0)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "best.json", {"lm_weight": "x", "word_penalty": 0})
    with pytest.raises(DataError, match="names no weights"):
        decode.read_weights(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        decode.read_weights(tmp_path / "none")


def test_graph_of_another_tree_is_refused() -> None:
    lang, hmm, graph = system()
    with pytest.raises(MismatchError, match="graph_dir and memory"):
        decode.check_graph(graph, "graph_dir", hmm_of(lang, random_tree(lang, 0, 0)))
