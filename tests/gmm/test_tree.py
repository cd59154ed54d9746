"""Trees against a plain search over every split of every leaf, and the rules about leaves, counts and unseen phones."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.artifacts.lang import Lang, make_lang
from pipeline.artifacts.lexicon import Lexicon, Pronunciation
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import BOUNDARY, Tree, leaves, monophone_tree, questions
from pipeline.base.errors import DataError
from pipeline.gmm.cluster import Splitter, build_tree
from pipeline.gmm.options import TreeOptions
from pipeline.gmm.questions import cluster_phones, load_questions, save_questions
from pipeline.gmm.tree_stats import TreeStats, accumulate_tree, convert_tids, objective, phone_windows
from pipeline.hmm.compile import compile_graphs

LANG = make_lang(Lexicon([Pronunciation("W", tuple("abcd"))]), speech_states=2)
SIL, A, B, C, D = range(1, 6)
DIM = 2


def random_stats(seed: int, left: int = 1, right: int = 1, windows: int = 60, lang: Lang = LANG) -> TreeStats:
    """Sums of random frames; what lies around a phone moves its mean."""
    rng = np.random.default_rng(seed)
    phones = [p for p in range(1, len(lang.phones))]
    table = rng.choice([BOUNDARY, *phones], (windows, left + 1 + right))
    table[:, left] = rng.choice(phones, windows)
    table = np.unique(table, axis=0)
    pull = rng.standard_normal((left + 1 + right, len(lang.phones), DIM))
    rows, classes, sums = [], [], []
    for window in table:
        for pdf_class in lang.topo[lang.phones.name(int(window[left]))].pdf_classes:
            x = rng.standard_normal((rng.integers(1, 40), DIM)) + sum(pull[i, p] for i, p in enumerate(window))
            rows.append(window)
            classes.append(pdf_class)
            sums.append(np.concatenate([[len(x)], x.sum(0), (x * x).sum(0)]))
    return TreeStats(np.array(rows), np.array(classes), np.array(sums), left)


def some_questions(seed: int, lang: Lang = LANG) -> list[frozenset[int]]:
    rng = np.random.default_rng(seed)
    every = np.arange(len(lang.phones))
    found = {frozenset(every[rng.random(len(every)) < 0.5].tolist()) for _ in range(8)}
    return sorted((q for q in found if q), key=sorted)


def likelihood(rows: np.ndarray, stats: TreeStats) -> float:
    """Log-likelihood of the frames of some rows, from the definition of a Gaussian with floored variances."""
    n, x, xx = np.split(stats.sums[rows].sum(0), [1, 1 + DIM])
    if n[0] == 0:
        return 0.0
    spread = np.maximum(xx / n - (x / n) ** 2, 0)
    var = np.maximum(spread, 0.01)
    return float((-0.5 * n * (np.log(2 * np.pi * var) + spread / var)).sum())


def every_split(rows: np.ndarray, stats: TreeStats, asked: list[frozenset[int]], min_count: float):
    """(gain, position, question) of every split that leaves enough frames on both sides."""
    for position, question in itertools.product(range(stats.windows.shape[1]), asked):
        yes = np.array([int(stats.windows[r, position]) in question for r in rows], dtype=bool)
        counts = [stats.sums[rows[side]].sum(0)[0] for side in (yes, ~yes)]
        if min(counts) >= max(min_count, 1e-6):
            gain = likelihood(rows[yes], stats) + likelihood(rows[~yes], stats) - likelihood(rows, stats)
            yield gain, position - stats.left, question


@settings(max_examples=40)
@example(seed=229, left=0, right=0, min_count=0.0)  # no row of one of the phones
@given(
    seed=st.integers(0, 10_000),
    left=st.integers(0, 2),
    right=st.integers(0, 2),
    min_count=st.sampled_from([0.0, 30.0, 300.0]),
)
def test_the_best_split_is_that_of_a_plain_search(seed, left, right, min_count):
    stats, asked = random_stats(seed, left, right), some_questions(seed)
    splitter = Splitter(stats, asked, len(LANG.phones), min_count)
    for phone, pdf_class in ((A, 0), (B, 1), (SIL, 0)):
        rows = np.flatnonzero((stats.windows[:, left] == phone) & (stats.pdf_classes == pdf_class))
        possible = list(every_split(rows, stats, asked, min_count))
        found = splitter.best(rows)
        assert (found is None) == (not possible)
        if found is not None:
            assert found.gain == pytest.approx(max(g for g, _, _ in possible), rel=1e-6, abs=1e-6)
            yes, no = splitter.apply(rows, found)
            again = likelihood(yes, stats) + likelihood(no, stats) - likelihood(rows, stats)
            assert found.gain == pytest.approx(again, rel=1e-6, abs=1e-6)


def greedy(stats: TreeStats, asked: list[frozenset[int]], options: TreeOptions) -> list[frozenset[int]]:
    """Row sets of the leaves when the best of all splits of all leaves is made again and again."""
    centre = stats.windows[:, stats.left]
    current = []
    for name, topo in LANG.topo.phones.items():
        for pdf_class in topo.pdf_classes:
            current.append(np.flatnonzero((centre == LANG.phones.id(name)) & (stats.pdf_classes == pdf_class)))
    while len(current) < options.num_leaves:
        best = max(
            (
                (*s, i)
                for i, rows in enumerate(current)
                if len(rows) and SIL not in centre[rows]
                for s in every_split(rows, stats, asked, options.min_count)
            ),
            key=lambda s: s[0],
            default=None,
        )
        if best is None or best[0] < options.min_gain:
            break
        _, position, question, i = best
        rows = current.pop(i)
        yes = np.array([int(stats.windows[r, stats.left + position]) in question for r in rows])
        current += [rows[yes], rows[~yes]]
    return [frozenset(rows.tolist()) for rows in current if len(rows)]


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), num_leaves=st.integers(5, 40), min_count=st.sampled_from([0.0, 40.0]))
def test_the_tree_is_that_of_plain_greedy_splitting(seed, num_leaves, min_count):
    stats, asked = random_stats(seed), some_questions(seed)
    options = TreeOptions(num_leaves=num_leaves, min_count=min_count, min_gain=2.0, merge=False)
    tree, facts = build_tree(stats, asked, LANG, options)
    pdf = tree.lookup(stats.windows, stats.pdf_classes)
    ours = {frozenset(np.flatnonzero(pdf == p).tolist()) for p in range(tree.num_pdfs)} - {frozenset()}
    expected = greedy(stats, asked, options)
    # The same likelihood, and the same leaves unless two questions split alike.
    assert sum(likelihood(np.array(sorted(r)), stats) for r in ours) == pytest.approx(
        sum(likelihood(np.array(sorted(r)), stats) for r in expected), rel=1e-9
    )
    assert len(ours) == len(expected)
    assert facts["num_leaves"] <= max(num_leaves, facts["num_roots"])
    mono = sum(
        likelihood(np.flatnonzero((stats.windows[:, 1] == LANG.phones.id(n)) & (stats.pdf_classes == c)), stats)
        for n, t in LANG.topo.phones.items()
        for c in t.pdf_classes
    )
    gained = (sum(likelihood(np.array(sorted(r)), stats) for r in ours) - mono) / stats.sums[:, 0].sum()
    assert facts["gain_per_frame"] == pytest.approx(gained, rel=1e-6, abs=1e-9)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_merging_unites_the_closest_leaves_of_a_root(seed):
    stats, asked = random_stats(seed), some_questions(seed)
    options = TreeOptions(num_leaves=25, min_count=5.0, merge=False)
    apart, before = build_tree(stats, asked, LANG, options)
    tree, facts = build_tree(stats, asked, LANG, dataclasses.replace(options, merge=True))
    assert (
        tree.num_pdfs == apart.num_pdfs - facts["united"]
        and facts["gain_per_frame"] <= before["gain_per_frame"] + 1e-12
    )
    old, new = (t.lookup(stats.windows, stats.pdf_classes) for t in (apart, tree))
    for p in range(tree.num_pdfs):  # whole leaves are united, never across roots
        rows = np.flatnonzero(new == p)
        if len(rows):
            assert set(np.flatnonzero(np.isin(old, np.unique(old[rows])))) == set(rows)
            assert len({(int(stats.windows[r, 1]), int(stats.pdf_classes[r])) for r in rows}) == 1
    if before["num_leaves"] == 25:  # no pair of what is left is closer than the last split gained
        threshold = min(g for g in _gains(apart, stats))
        for root in tree.roots:
            for p, q in itertools.combinations(sorted({leaf.pdf for leaf in leaves(root.node)}), 2):
                left, right = np.flatnonzero(new == p), np.flatnonzero(new == q)
                loss = (
                    likelihood(left, stats)
                    + likelihood(right, stats)
                    - likelihood(np.concatenate([left, right]), stats)
                )
                assert loss >= threshold - 1e-6


def _gains(tree: Tree, stats: TreeStats):
    """Gain of every split in a tree."""
    pdf = tree.lookup(stats.windows, stats.pdf_classes)
    for root in tree.roots:
        for q in questions(root.node):
            yes, no = (np.flatnonzero(np.isin(pdf, [leaf.pdf for leaf in leaves(n)])) for n in (q.yes, q.no))
            yield likelihood(yes, stats) + likelihood(no, stats) - likelihood(np.concatenate([yes, no]), stats)


def test_no_split_loses_even_at_the_variance_floor():
    """Frames of hardly any variance: splits gain nothing, but never less than nothing."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        parts = [
            rng.standard_normal((n, 3)) * s + rng.standard_normal(3) * m
            for n, s, m in zip(rng.integers(1, 20, 2), rng.choice([0.0, 0.05, 0.2], 2), rng.choice([0.0, 0.05], 2))
        ]
        sums = np.array([np.concatenate([[len(x)], x.sum(0), (x * x).sum(0)]) for x in parts])
        assert objective(sums).sum() >= float(objective(sums.sum(0))) - 1e-9


def test_wanting_more_leaves_than_the_data_supports_is_said_and_fulfilled_as_far_as_possible(caplog):
    stats = random_stats(3, windows=20)
    with caplog.at_level("INFO", logger="pipeline.gmm.cluster"):
        tree, facts = build_tree(stats, some_questions(3), LANG, TreeOptions(num_leaves=5000, min_count=100.0))
    assert "of the 5000 leaves asked for" in caplog.text
    assert facts["num_leaves"] < 5000
    pdf = tree.lookup(stats.windows, stats.pdf_classes)
    for root in tree.roots:
        for q in questions(root.node):
            for side in (q.yes, q.no):
                assert stats.sums[np.isin(pdf, [leaf.pdf for leaf in leaves(side)]), 0].sum() >= 100.0


def test_a_phone_without_frames_keeps_one_pdf_per_state(caplog):
    stats = random_stats(1)
    seen = stats.windows[:, 1] != D
    stats = TreeStats(stats.windows[seen], stats.pdf_classes[seen], stats.sums[seen], 1)
    tree, facts = build_tree(stats, some_questions(1), LANG, TreeOptions(num_leaves=30, min_count=0.0))
    assert "no frames for 2 of 9 roots (phones d)" in caplog.text
    assert [len(tree.pdfs_of(D, c)) for c in (0, 1)] == [1, 1] and facts["roots_without_frames"] == 2
    with caplog.at_level("WARNING"):
        found = cluster_phones(stats, LANG)
    assert "no frames of the phones d" in caplog.text and all(D not in q for q in found)
    assert np.isfinite(facts["gain_per_frame"])


def test_a_phone_with_one_frame_is_not_split():
    stats = random_stats(2)
    centre = stats.windows[:, 1]
    first = np.flatnonzero((centre == C) & (stats.pdf_classes == 0))[:1]
    keep = np.sort(np.concatenate([np.flatnonzero(centre != C), first]))
    sums = stats.sums.copy()
    sums[first] = [[1, 0.5, 2.0, 0.25, 4.0]]  # one frame: no variance
    stats = TreeStats(stats.windows[keep], stats.pdf_classes[keep], sums[keep], 1)
    assert np.isfinite(objective(stats.sums)).all()
    tree, _ = build_tree(stats, cluster_phones(stats, LANG), LANG, TreeOptions(num_leaves=30, min_count=0.0))
    assert len(tree.pdfs_of(C, 0)) == 1 and tree.num_pdfs > 9


def test_silence_is_not_split_and_does_not_share():
    stats = random_stats(4)
    tree, _ = build_tree(stats, some_questions(4), LANG, TreeOptions(num_leaves=40, min_count=0.0))
    assert tree.pdfs_of(SIL, 0) == [0] and all(0 not in tree.pdfs_of(p, c) for p in (A, B, C, D) for c in (0, 1))


def test_position_variants_share_a_root_and_can_be_told_apart():
    lang = make_lang(
        Lexicon([Pronunciation("AB", ("a", "b")), Pronunciation("BA", ("b", "a"))]),
        position="word_end",
        speech_states=1,
    )
    ids = {n: lang.phones.id(n) for n in ("SIL", "a", "a_E", "b", "b_E")}
    rng = np.random.default_rng(0)
    rows, sums = [], []
    for phone in ids:
        x = rng.standard_normal((50, DIM)) + (4.0 if phone.endswith("_E") else 0.0)
        rows.append([BOUNDARY, ids[phone], BOUNDARY])
        sums.append(np.concatenate([[50], x.sum(0), (x * x).sum(0)]))
    stats = TreeStats(np.array(rows), np.zeros(5, dtype=np.int64), np.array(sums), 1)
    asked = cluster_phones(stats, lang)
    assert frozenset([ids["a_E"], ids["b_E"]]) in asked and frozenset([ids["a"], ids["a_E"]]) in asked
    whole, _ = build_tree(stats, asked, lang, TreeOptions(num_leaves=3, min_count=0.0))
    assert whole.num_pdfs == 3 and whole.pdfs_of(ids["a"], 0) == whole.pdfs_of(ids["a_E"], 0)
    split, _ = build_tree(stats, asked, lang, TreeOptions(num_leaves=5, min_count=0.0))
    assert split.pdfs_of(ids["a"], 0) != split.pdfs_of(ids["a_E"], 0)


def test_each_position_in_the_word_is_asked_for():
    lang = make_lang(
        Lexicon([Pronunciation("ABA", ("a", "b", "a")), Pronunciation("A", ("a",))]), position="full", speech_states=1
    )
    ids = {n: lang.phones.id(n) for n in ("a_B", "b_I", "a_E", "a_S")}
    rng = np.random.default_rng(0)
    rows, sums = [], []
    for phone in [SIL, *ids.values()]:
        x = rng.standard_normal((20, DIM))
        rows.append([BOUNDARY, phone, BOUNDARY])
        sums.append(np.concatenate([[20], x.sum(0), (x * x).sum(0)]))
    asked = cluster_phones(TreeStats(np.array(rows), np.zeros(len(rows), dtype=np.int64), np.array(sums), 1), lang)
    assert {frozenset([i]) for i in ids.values()} <= set(asked)
    assert frozenset([ids["a_B"], ids["a_E"], ids["a_S"]]) in asked


def test_questions_are_the_clusters_of_similar_phones():
    """Two pairs of phones with nearly equal Gaussians: the pairs become questions, mixed pairs do not."""
    rng = np.random.default_rng(0)
    rows, sums = [], []
    for phone, mean in ((SIL, -20.0), (A, 0.0), (B, 0.1), (C, 10.0), (D, 10.1)):
        x = rng.standard_normal((200, DIM)) + mean
        rows.append([BOUNDARY, phone, BOUNDARY])
        sums.append(np.concatenate([[200], x.sum(0), (x * x).sum(0)]))
    found = cluster_phones(TreeStats(np.array(rows), np.zeros(5, dtype=np.int64), np.array(sums), 1), LANG)
    assert {frozenset([A, B]), frozenset([C, D])} <= set(found)
    assert frozenset([A, C]) not in found and frozenset([B, D]) not in found
    assert frozenset([SIL, BOUNDARY]) in found and {frozenset([p]) for p in (A, B, C, D)} <= set(found)
    assert len(found) == len(set(found)) and frozenset([A, B, C, D, SIL]) not in found


def test_questions_from_a_file(tmp_path):
    asked = [frozenset([A, B]), frozenset([SIL, BOUNDARY])]
    save_questions(tmp_path / "q.txt", asked, LANG.phones)
    assert load_questions(tmp_path / "q.txt", LANG.phones) == asked


@pytest.mark.parametrize(
    "text, message",
    [
        ("a b\nx\n", r"q\.txt:2: phone 'x' is not in phones\.txt"),
        ("a a\n", "q.txt:1: a phone stands twice"),
        ("a b\nc\nb a\n", "q.txt:3: same question as line 1"),
        ("a\n\nb\n", "q.txt:2: empty line"),
        ("", "holds no question"),
    ],
)
def test_broken_question_files_are_refused(tmp_path, text, message):
    (tmp_path / "q.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        load_questions(tmp_path / "q.txt", LANG.phones)


def aligned(texts: list[list[str]], seed: int = 0):
    """Random alignments under a monophone tree: (transitions, tids, offsets, phones of each utterance's frames)."""
    rng = np.random.default_rng(seed)
    tree = monophone_tree(LANG.phones, LANG.topo)
    transitions = TransitionModel(tree, LANG.topo)
    tids, offsets, spelled = [], [0], []
    for phones in texts:
        states = []
        for i, name in enumerate(phones):
            for state in range(LANG.topo[name].num_states):
                pdf = tree.pdfs_of(LANG.phones.id(name), state)
                ts = int(
                    transitions.transition_states(np.array([LANG.phones.id(name)]), np.array([state]), np.array(pdf))[0]
                )
                loops = int(rng.integers(0, 3))
                tids += [2 * ts] * loops + [2 * ts + 1]
                states += [(i, state)] * (loops + 1)
        spelled.append((phones, states))
        offsets.append(len(tids))
    return transitions, np.array(tids, dtype=np.int32), np.array(offsets), spelled


TEXTS = [["SIL", "a", "b", "b", "SIL"], ["c"], ["a", "a", "d", "SIL", "a"], ["SIL"]]


@pytest.mark.parametrize("left, right", [(0, 0), (1, 1), (2, 1), (0, 2), (2, 2)])
def test_windows_are_read_off_the_alignment(left, right):
    """Also where a phone follows itself and where an utterance without alignment lies in between."""
    transitions, tids, offsets, spelled = aligned(TEXTS)
    tids[offsets[1] : offsets[2]] = -1
    windows, instance = phone_windows(tids, offsets, transitions, left, right)
    for n, (phones, states) in enumerate(spelled):
        padded = [BOUNDARY] * left + [LANG.phones.id(p) for p in phones] + [BOUNDARY] * right
        for t, (i, _) in enumerate(states):
            row = instance[offsets[n] + t]
            if n == 1:
                assert row == -1
            else:
                assert windows[row].tolist() == padded[i : i + left + 1 + right]


def test_statistics_are_sums_over_the_frames():
    import torch

    transitions, tids, offsets, spelled = aligned(TEXTS * 5)
    feats = torch.randn(len(tids), DIM)
    whole = [(feats, tids, np.diff(offsets))]
    stats = accumulate_tree(whole, transitions, LANG.topo, 1, 1)
    cut = offsets[4]
    pieces = [(feats[:cut], tids[:cut], np.diff(offsets[:5])), (feats[cut:], tids[cut:], np.diff(offsets[4:]))]
    same = accumulate_tree(pieces, transitions, LANG.topo, 1, 1)
    assert all(np.array_equal(getattr(stats, k), getattr(same, k)) for k in ("windows", "pdf_classes", "sums"))
    expected: dict[tuple, list[np.ndarray]] = {}
    for n, (phones, states) in enumerate(spelled):
        padded = [BOUNDARY, *(LANG.phones.id(p) for p in phones), BOUNDARY]
        for t, (i, state) in enumerate(states):
            expected.setdefault((*padded[i : i + 3], state), []).append(feats[offsets[n] + t].double().numpy())
    assert len(stats.sums) == len(expected)
    for window, pdf_class, sums in zip(stats.windows.tolist(), stats.pdf_classes.tolist(), stats.sums):
        x = np.array(expected[(*window, pdf_class)])
        assert np.allclose(sums, np.concatenate([[len(x)], x.sum(0), (x * x).sum(0)]))


def test_converted_alignments_are_paths_of_the_new_tree():
    transitions, tids, offsets, spelled = aligned(TEXTS)
    tids[offsets[1] : offsets[2]] = -1
    tree, _ = build_tree(
        random_stats(7), some_questions(7), LANG, TreeOptions(num_leaves=30, min_count=0.0, merge=False)
    )
    new = TransitionModel(tree, LANG.topo)
    out = convert_tids(tids, offsets, transitions, new, LANG.topo, tree)
    used = tids >= 0
    assert (out[~used] == -1).all() and (out[used] % 2 == tids[used] % 2).all()
    assert (new.phone[out[used] // 2] == transitions.phone[tids[used] // 2]).all()
    assert (new.state[out[used] // 2] == transitions.state[tids[used] // 2]).all()
    for n, (phones, states) in enumerate(spelled):
        padded = [BOUNDARY, *(LANG.phones.id(p) for p in phones), BOUNDARY]
        for t, (i, state) in enumerate(states):
            if n != 1:
                expected = tree.lookup(np.array([padded[i : i + 3]]), np.array([state]))[0]
                assert new.tid_pdf()[out[offsets[n] + t]] == expected


def test_a_window_that_training_never_saw_has_a_pdf():
    stats = random_stats(5, windows=10)
    tree, _ = build_tree(stats, some_questions(5), LANG, TreeOptions(num_leaves=30, min_count=0.0))
    every = np.array([[l, c, r] for l in range(6) for c in range(1, 6) for r in range(6)])
    pdf = tree.lookup(every, np.zeros(len(every), dtype=np.int64))
    assert pdf.min() >= 0 and pdf.max() < tree.num_pdfs
    compile_graphs(LANG, tree, TransitionModel(tree, LANG.topo), [[1], [1, 1]]).graphs.validate()


def test_a_split_whose_leaves_are_united_again_disappears():
    stats = random_stats(6)
    tree, facts = build_tree(stats, some_questions(6), LANG, TreeOptions(num_leaves=40, min_count=0.0))
    assert facts["united"] > 0 and all(q.yes != q.no for root in tree.roots for q in questions(root.node))
    assert facts["frames"] == pytest.approx(stats.sums[:, 0].sum())
    assert sum(facts["frames_per_pdf"]) == pytest.approx(facts["frames"])
