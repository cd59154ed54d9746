"""Search, tuning and reports over a scorer that is a table of random scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.artifacts.hyp import TRIED, Hypothesis, load_hypotheses, load_nbest, save_tried
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.lattice_set import LatticeSet
from pipeline.artifacts.model_dir import HmmDir
from pipeline.artifacts.posteriors import PosteriorSet
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import read_json, write_json
from pipeline.feats.dataset import Dataset
from pipeline.graph.decoding import DecodingGraph, build_decoding_graph
from pipeline.graph.determinise import word_lattice
from pipeline.graph.grammar import grammar_from_arpa
from pipeline.graph.lattice_sums import oracle_errors
from pipeline.graph.mbr import least_risk
from pipeline.graph.options import DecodeOptions, ExportLatticesOptions
from pipeline.parallel.options import ParallelOptions
from pipeline.tasks import decode, decode_parts, decoded, weights
from pipeline.tasks.ali_formats import read_ctm
from pipeline.tasks.decode_parts import Sources, decode_directory
from pipeline.tasks.lattice_export import export_lattices
from pipeline.tasks.score import Errors, count_errors, total_errors
from tests.graph.cases import brute_force, hmm_of, language_model, random_tree, small_lang
from tests.parallel.inline import content, install

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
        for module in (decode, decode_parts):
            monkeypatch.setattr(module, "references", lambda data_dir: dict.fromkeys(frames, ("s", ("A", "B"))))
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
            words = tuple(found.found[lm_weight, penalty][cut_id])
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
            words = tuple(found.found[lm_weight, penalty][cut_id])
            if len(words) <= 3:
                assert max(totals.values()) - totals[words] < 2e-3, (cut_id, lm_weight, penalty)
                compared += 1
    assert compared >= 6 and found.found != plain.found


def test_batches_do_not_change_the_result(data) -> None:
    _, hmm, graph = system()
    scorer = TableScorer(hmm)
    small = dataclasses.replace(WIDE, batch_frames=1)
    assert (
        decode.decode(scorer, graph, "data", small, [(1.0, 0.0)]).found
        == decode.decode(scorer, graph, "data", WIDE, [(1.0, 0.0)]).found
    )


def test_transition_scores_of_each_batch_equal_static_ones(data) -> None:
    _, hmm, graph = system()
    static = TableScorer(hmm)
    dynamic = TableScorer(hmm, torch.from_numpy(hmm.transitions.log_probs()))
    pairs = [(2.0, 0.0), (2.0, 1.0)]  # at LM weight 1 / acoustic scale both count the same
    assert (
        decode.decode(static, graph, "data", WIDE, pairs).found
        == decode.decode(dynamic, graph, "data", WIDE, pairs).found
    )


def test_narrow_searches_are_repeated_and_hopeless_ones_counted(data) -> None:
    _, hmm, graph = system(silence_prob=0.0)
    scorer = TableScorer(hmm)
    data({**FRAMES, "short": 1})
    narrow = dataclasses.replace(WIDE, beam=0.5, min_active=0, max_active=100, retries=10)
    found = decode.decode(scorer, graph, "data", narrow, [(2.0, 0.0)])
    assert found.failed == ["short"] and found.retried > 10 and found.found[2.0, 0.0]["short"] == []
    assert all(found.found[2.0, 0.0][c] for c in FRAMES)


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
    assert weights.read_weights(tmp_path) == (facts["lm_weight"], facts["word_penalty"])
    tried = read_json(tmp_path / "best.json")["tried"]
    assert len(tried) == 12 and min(t["wer"] for t in tried) == pytest.approx(facts["wer"], abs=1e-3)


@pytest.fixture
def directory(data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the whole step on the table's model, with a graph on disk; results by the name of the directory."""
    _, hmm, graph = system(silence_prob=0.0)
    graph.save(tmp_path / "graph")
    monkeypatch.setattr(decode_parts, "load_model", lambda *args: TableScorer(hmm))
    data({**FRAMES, "short": 1})

    def run(
        name: str, rescore_lm: Path | None = None, weights_from: Path | None = None, jobs: int = 1, **options
    ) -> Path:
        out = tmp_path / name
        out.mkdir()
        sources = Sources(tmp_path, tmp_path / "graph", tmp_path, weights_from, None, rescore_lm)
        config = dataclasses.replace(WIDE, **{"lm_weights": (0.5, 2.0), "max_failed": 0.2, **options})
        decode_directory(sources, out, config, "row", "dev", ParallelOptions(jobs=jobs))
        return out

    return run


def test_parts_write_the_same_bytes(directory, monkeypatch):
    """A search that fails and is repeated, all that can be written, and more parts than utterances."""
    install(monkeypatch)
    found = {}
    for jobs in (1, 2, 3, 7):
        options = {"lattices": True, "posteriors": True, "confidences": True, "nbest": 3, "tried": True}
        out = directory(str(jobs), jobs=jobs, batch_frames=13, **options)
        found[jobs] = {name: text for name, text in content(out).items() if name != "results.json"}  # has times
        assert [row["value"] for row in read_json(out / "results.json") if row["metric"] != "rtf"]
    assert {"lattices/lattices.0.safetensors", "posteriors.json", "nbest.jsonl.gz", "failed.txt"} <= set(found[1])
    assert found[1]["failed.txt"].startswith(b"short\t")
    assert all(found[jobs] == found[1] for jobs in found)


def rows_of(out: Path) -> dict[str, dict]:
    return {row["metric"]: row for row in read_json(out / "results.json")}


def test_lattices_are_kept_one_by_one(directory) -> None:
    """They are those of the search: best paths under all weights, posteriors and lists come from them again; the oracle
    is the closest path.
    """
    from pipeline.graph.lattices import Lattices
    from pipeline.graph.nbest import nbest

    out = directory("out", lattices=True, nbest=4, posteriors=True, tried=True, retries=0)
    kept, graph = LatticeSet(out / "lattices"), DecodingGraph.load(out.parent / "graph")
    assert sorted(kept) == sorted([*FRAMES, "short"]) and not kept["short"].complete
    assert (kept.header.tree_id, kept.header.lang_id) == (graph.tree_id, graph.lang_id)
    assert (kept.header.frame_shift, kept.header.acoustic_scale) == (0.01, 0.5)
    found = dict(weights.load_tried(out))
    for pair, hyps in found.items():
        for hyp in hyps:
            words = Lattices([kept[hyp.cut_id]]).best_words(*pair)[0]
            assert [kept.words.name(w) for w in words] == list(hyp.hyp)
    posteriors = PosteriorSet(out)
    assert sorted(posteriors) == sorted(kept)
    for x in load_nbest(out):
        again = nbest(Lattices([kept[x.cut_id]]), 4, 2.0, WIDE.lattice_beam)[0]
        assert [a.words for a in x.alternatives] == [tuple(kept.words.name(w) for w in a.words) for a in again]
        soft = Lattices([kept[x.cut_id]]).posteriors(2.0, 0.0)[0]
        assert np.array_equal(posteriors[x.cut_id].share, soft.share)
    reference = np.array([kept.words.id("A"), kept.words.id("B")])
    closest = [2]  # of the failed one
    for cut_id in FRAMES:
        plain = kept[cut_id].spelled()
        closest.append(int(oracle_errors(plain.src, plain.dst, plain.label, reference)))
    row = rows_of(out)["oracle_wer"]
    assert row["counts"] == {"errors": sum(closest), "words": 10, "utterances": 5}
    assert row["value"] == pytest.approx(10 * sum(closest)) and row["low"] <= row["value"] <= row["high"]
    assert row["value"] <= rows_of(out)["wer"]["value"]


@pytest.mark.parametrize("mbr", [False, True])
def test_confidences_and_words_of_least_risk(directory, mbr: bool) -> None:
    """The words are the best path's or those of least risk; recogs and CTM say how probable each is. Lattices that were
    not asked for are gone again.
    """
    flat = dict(lm_weights=(9.0,), word_penalties=(-2.0,))  # many paths are nearly as good as the best
    plain = directory("plain", **flat)
    out = directory("out", **flat, **({"mbr": True} if mbr else {"confidences": True}))
    kept = LatticeSet(directory("kept", **flat, lattices=True) / "lattices")
    assert not (out / "lattices").exists() and "oracle_wer" in rows_of(out) and "oracle_wer" not in rows_of(plain)
    pair = weights.read_weights(out)
    assert pair == weights.read_weights(plain)
    hyps, best, ctm = load_hypotheses(out), load_hypotheses(plain), read_ctm(out / "words.ctm")
    for hyp, other in zip(hyps, best):
        given = None if mbr else [kept.words.id(w) for w in other.hyp]
        heard, _ = least_risk(word_lattice(kept[hyp.cut_id], *pair), *pair, 0.01, given)
        assert hyp.hyp == (other.hyp if not mbr else tuple(kept.words.name(h.word) for h in heard))
        assert hyp.confidence == pytest.approx([h.confidence for h in heard], abs=1e-4)
        segments = ctm.get(hyp.cut_id, [])
        assert [s.symbol for s in segments] == list(hyp.hyp)
        assert [s.confidence for s in segments] == pytest.approx(hyp.confidence, abs=1e-4)
        assert all(0.0 <= s.start <= s.end <= 0.01 * FRAMES[hyp.cut_id] + 1e-6 for s in segments)
    assert sum(len(h.hyp) for h in hyps) > 6 and hyps[0].cut_id == "short" and hyps[0].confidence == ()
    assert any(c < 0.999 for h in hyps for c in h.confidence)
    if mbr:
        assert [h.hyp for h in hyps] != [h.hyp for h in best], "nothing that the test could tell"


def test_what_does_not_go_together(directory, tmp_path: Path) -> None:
    for option in ("mbr", "confidences"):
        with pytest.raises(ConfigError, match=f"--{option} and --rescore-lm do not go together"):
            directory(option, rescore_lm=tmp_path / "lm", **{option: True})


def test_exports(directory, tmp_path: Path) -> None:
    """Every utterance that has a lattice, in Kaldi's order; HTK's with the weights that were chosen."""
    out = directory("out", lattices=True)
    kaldi, htk = tmp_path / "kaldi", tmp_path / "htk"
    for directory_, kind in ((kaldi, "kaldi"), (htk, "htk")):
        directory_.mkdir()
        facts = export_lattices(out, directory_, ExportLatticesOptions(format=kind))
        assert facts == {"lattices": 5, "empty": 0}, "the failed search has left a partial lattice"
    ids = [block.split("\n")[0] for block in (kaldi / "lat.txt").read_text().split("\n\n")[:-1]]
    assert ids == sorted([*FRAMES, "short"]) and (kaldi / "words.txt").is_file()
    assert sorted(p.stem for p in htk.iterdir()) == ids
    head = (htk / "u1.slf").read_text()
    assert f"lmscale={weights.read_weights(out)[0]:g}\t" in head and "W=A" in head
    with pytest.raises(DataError, match="holds no lattices"):
        export_lattices(tmp_path, kaldi, ExportLatticesOptions())


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
        folds.append({w: list(found.hypotheses(w, list(lang.words))) for w in found.found})
    together = weights.pooled([tmp_path / "0", tmp_path / "1"])
    assert together == {w: folds[0][w] + folds[1][w] for w in folds[0]}
    (tmp_path / "all").mkdir()
    hyps, facts = weights.choose_and_write(together, tmp_path / "all")
    assert [h.cut_id for h in hyps] == ["u1", "u2", "v1", "v2"]
    assert weights.read_weights(tmp_path / "all") == (facts["lm_weight"], facts["word_penalty"])
    with pytest.raises(DataError, match="utterance 'u1' is in"):
        weights.pooled([tmp_path / "0", tmp_path / "0"])
    save_tried(tmp_path / "1" / TRIED, {(1.0, 1.0): folds[1][options.lm_weights[0], options.word_penalties[0]]})
    with pytest.raises(DataError, match="tried different weights"):
        weights.pooled([tmp_path / "0", tmp_path / "1"])


def test_chosen_weights_have_fewest_errors_then_least_penalty_then_the_middle() -> None:
    def errors(n: int) -> Errors:
        return Errors(10, 0, 0, n)

    table = {(float(w), p): errors(2) for w in (6, 7, 8, 9, 10) for p in (0.0, 1.0)}
    assert weights.choose_weights(table) == (8.0, 0.0)
    assert weights.choose_weights({**table, (10.0, 1.0): errors(1)}) == (10.0, 1.0)


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "best.json", {"lm_weight": "x", "word_penalty": 0})
    with pytest.raises(DataError, match="names no weights"):
        weights.read_weights(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        weights.read_weights(tmp_path / "none")


def test_graph_of_another_tree_is_refused() -> None:
    lang, hmm, graph = system()
    with pytest.raises(MismatchError, match="graph_dir and memory"):
        decode.check_graph(graph, "graph_dir", hmm_of(lang, random_tree(lang, 0, 0)))


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ({(5.0, 0.0): 9, (6.0, 0.0): 8, (7.0, 0.0): 7}, ["the best LM weight, 7, is the greatest one tried"]),
        ({(5.0, 0.0): 7, (6.0, 0.0): 8, (7.0, 0.0): 9}, ["the best LM weight, 5, is the least one tried"]),
        ({(5.0, 0.0): 8, (6.0, 0.0): 7, (7.0, 0.0): 9}, []),
        ({(5.0, 0.0): 8, (6.0, 0.0): 7, (7.0, 0.0): 7}, []),  # no better than the next one
        ({(5.0, 0.0): 8, (7.0, 0.0): 7}, []),  # two values are no range
        (
            {(w, p): round(10 + p + abs(w - 6)) for w in (5.0, 6.0, 7.0) for p in (-1.0, 0.0, 1.0)},
            ["the best word penalty, -1, is the least one tried"],
        ),
    ],
)
def test_best_weights_at_the_edge_of_the_range(errors, told, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(
        "pipeline.tasks.decoded.tally", lambda found: {w: Errors(100, int(h[0].hyp[0]), 0, 0) for w, h in found.items()}
    )
    found = {w: [Hypothesis("u", "s", ("A",), (str(n),))] for w, n in errors.items()}
    weights.choose_and_write(found, tmp_path)
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warned) == len(told) and all(t in w for t, w in zip(told, warned)), warned


def test_errors_of_all_weights_are_those_of_each_alone():
    texts = [("A", "B"), ("B",), (), ("A", "B", "C")]
    found = {
        (float(w), 0.0): [Hypothesis(f"u{i}", "s", ("A", "B"), texts[(i * w) % 4]) for i in range(7)] for w in range(5)
    }
    assert decoded.tally(found) == {w: total_errors(count_errors(hyps)) for w, hyps in found.items()}


def test_errors_of_spooled_results_are_counted_once_for_each_text():
    """Whether texts are told apart by themselves or by what they are made of."""
    refs = {"b": ("s", ("x", "y")), "a": ("s", ("x",)), "c": ("t", ())}
    said = {
        0: {"a": [1], "b": [], "c": [2]},
        1: {"a": [1], "b": [1, 2, 2], "c": [2]},
        2: {"a": [2, 1], "b": [1, 2], "c": []},
    }
    asked = []

    def words(weight: int, cut_id: str) -> tuple[str, ...]:
        asked.append(cut_id)
        return tuple("-xy"[i] for i in said[weight][cut_id])

    def hypotheses(w: int, own: dict) -> decoded.Hypotheses:
        return decoded.Hypotheses(own, lambda c: words(w, c), lambda c: tuple(said[w][c]))

    expected = {w: total_errors(count_errors(list(hypotheses(w, refs)))) for w in said}
    assert expected[1] == Errors(3, 2, 0, 0) and [h.cut_id for h in hypotheses(0, refs)] == ["a", "b", "c"]
    asked.clear()
    assert decoded.tally({w: hypotheses(w, refs) for w in said}) == expected
    assert sorted(asked) == ["a", "a", "b", "b", "b", "c", "c"]
    assert decoded.tally({w: hypotheses(w, dict(refs)) for w in said}) == expected  # as any iterables
    assert decoded.tally({}) == {}
