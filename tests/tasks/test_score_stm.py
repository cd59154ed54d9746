"""Scoring by sclite's rules: enumeration of all readings as an oracle, sclite itself where it is installed."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.glm import Glm
from pipeline.artifacts.hyp import Hypothesis
from pipeline.artifacts.stm import parse_text, plain_words, read_stm
from pipeline.base.errors import DataError, MismatchError
from pipeline.tasks.score import Errors
from pipeline.tasks.score_stm import (
    DELETION,
    GAP,
    INSERTION,
    OPTIONAL,
    SUBSTITUTION,
    Network,
    align,
    same,
    score_stm,
    stm_row,
    subsets,
)  # fmt: skip

GLM = """\
;; comment
* name "small.glm"
* format = 'NIST1'
UH        =>  %HESITATION / [ ] __ [ ]   ;; hesitations
UM        =>  %HESITATION / [ ] __ [ ]
[I'LL]    =>  [{ I'LL / I WILL }] / [ ] __ [ ]
ALL RIGHT =>  ALRIGHT / [ ] __ [ ]
MR        =>  MISTER / [ ] __ [ SMITH]
"""


@pytest.fixture
def glm(tmp_path: Path) -> Glm:
    (tmp_path / "small.glm").write_text(GLM)
    return Glm.load(tmp_path / "small.glm")


def readings(text: list, optional: bool = False) -> list[list[tuple[str, bool]]]:
    """All ways to read a text, as (word, whether it may be missing)."""
    found: list[list[tuple[str, bool]]] = [[]]
    for item in text:
        if isinstance(item, list):
            ways = [way for alternative in item for way in readings(alternative)]
        else:
            ways = [[(item.strip("()"), item.startswith("("))]]
        found = [before + way for before in found for way in ways]
    return found


Counts = tuple[int, int, int, int]  # right, substituted, deleted, inserted


def cheapest(ref: tuple[tuple[str, bool], ...], hyp: tuple[str, ...]) -> tuple[int, set[Counts]]:
    """The lowest cost and the counts of all alignments that have it, by the plain recursion over all of them."""
    if not ref and not hyp:
        return 0, {(0, 0, 0, 0)}
    options = []  # cost, counts that come to those of what follows, what follows
    if ref:
        word, optional = ref[0]
        options.append((OPTIONAL, (1, 0, 0, 0)) if optional else (DELETION, (0, 0, 1, 0)))
        options[-1] += (cheapest(ref[1:], hyp),)
    if hyp:
        options.append((INSERTION, (0, 0, 0, 1), cheapest(ref, hyp[1:])))
    if ref and hyp:
        right = same(word, hyp[0], optional)
        options.append((0, (1, 0, 0, 0)) if right else (SUBSTITUTION, (0, 1, 0, 0)))
        options[-1] += (cheapest(ref[1:], hyp[1:]),)
    best = min(cost + after for cost, _, (after, _) in options)
    return best, {
        tuple(a + b for a, b in zip(more, counts))
        for cost, more, (after, found) in options
        if cost + after == best
        for counts in found
    }


def all_cheapest(text: list, hyp: list[str]) -> set[Counts]:
    """The counts of all alignments with the lowest cost, over all readings of a text."""
    found = [cheapest(tuple(ref), tuple(hyp)) for ref in readings(text)]
    return set().union(*(counts for cost, counts in found if cost == min(cost for cost, _ in found)))


def counts_of(errors: Errors) -> Counts:
    return errors.words - errors.subs - errors.dels, errors.subs, errors.dels, errors.ins


def made_up(draw: random.Random, depth: int = 0) -> str:
    """A text with everything that references may have."""
    words = []
    for _ in range(draw.randint(0 if depth else 1, 3)):
        word = draw.choice("a b c ab- -b".split())
        kind = draw.random()
        if kind < 0.2 and depth < 2:
            words.append("{ " + " / ".join(made_up(draw, depth + 1) or "@" for _ in range(2)) + " }")
        else:
            words.append(f"({word})" if kind < 0.35 else word)
    return " ".join(words)


@pytest.mark.parametrize("seed", range(40))
def test_alignment_is_the_cheapest_of_all_readings(seed):
    draw = random.Random(seed)
    text = parse_text(made_up(draw), "here")
    hyp = draw.choices("a b c ab abc".split(), k=draw.randint(0, 4))
    errors, steps = align(Network.of(text), Network.of(list(hyp)))
    expected = all_cheapest(text, hyp)
    assert counts_of(errors) in expected and errors.total == min(sum(counts[1:]) for counts in expected)
    assert [h for _, h in steps if h != GAP] == hyp
    assert [r for r, _ in steps if r != GAP] in [[word for word, _ in ref] for ref in readings(text)]
    assert errors.words == sum(r != GAP for r, _ in steps)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uh i'll say  Uh uh", "%hesitation { i'll / i will } say %hesitation %hesitation"),
        ("well-known th- -ing all right", "well known th- -ing alright"),
        ("mr jones mr smith", "mr jones mister smith"),
        ("( i mean ) (well-known uh) (th-)", "(i) (mean) (well) (known) (%hesitation) (th-)"),
    ],
)
def test_global_map(glm, text, expected):
    """As csrfilt.sh -dh of SCTK 2.4.10 writes it."""
    assert glm(text) == expected


def test_parse():
    assert parse_text("a { b c / @ / { d / e } f } (g-)", "x") == ["a", [["b", "c"], [], [[["d"], ["e"]], "f"]], "(g-)"]
    assert plain_words(parse_text("{ WE'RE / WE ARE } (%HESITATION) (TH-) { @ / X }", "x")) == ["we're", "th-"]
    assert parse_text("( i mean ) so", "x") == ["(i)", "(mean)", "so"]
    wrong = (("a } b", "} without {"), ("{ a / b", "{ without }"), ("( a", "parentheses that do not match"))
    for text, message in (*wrong, ("(( a ))", "parentheses that"), ("a ) b", "parentheses that do not match")):
        with pytest.raises(DataError, match=f"ref.stm:3: {re.escape(message)}"):
            parse_text(text, "ref.stm:3")


STM = """\
;; CATEGORY
sw_1 A sw_1_A 0.0 2.0 <O,sw,F> THE (%HESITATION) CAT
sw_1 B sw_1_B 2.0 4.0 <O,sw,M> { WE'RE / WE ARE } HERE
en_2 A en_2_A 4.0 6.0 A (TH-) DOG
en_2 A en_2_A 6.0 8.0 <O,en,F> IGNORE_TIME_SEGMENT_IN_SCORING
en_2 A en_2_A 8.0 10.0 <O,en,F> TH- DOG { YES / @ } SO
"""


def hypotheses(stm: Path, *texts: str) -> list[Hypothesis]:
    lines = [line for line in read_stm(stm) if not line.ignored]
    return [Hypothesis(line.utt_id, line.speaker, (), tuple(t.split())) for line, t in zip(lines, texts, strict=True)]


@pytest.mark.parametrize(
    "words, text",
    [("<o,f0,male> so what", "so what"), ("<NA> so what", "so what"), ("<unk> so what", "<unk> so what"), ("", "")],
)
def test_labels_are_no_words(tmp_path, words, text):
    """Those of TED-LIUM 2 and 3; a word in brackets stays."""
    (tmp_path / "a.stm").write_text(f"talk 1 ann 0.0 2.0 {words}\n")
    assert [line.text for line in read_stm(tmp_path / "a.stm")] == [text]


@pytest.fixture
def stm(tmp_path: Path) -> Path:
    (tmp_path / "ref.stm").write_text(STM)
    return tmp_path / "ref.stm"


def test_scores(stm, glm):
    scored = score_stm(hypotheses(stm, "um the cat <unk>", "we are there", "a the dog", "them so"), stm, glm, {"<unk>"})
    counts = [(s.errors.words, s.errors.subs, s.errors.dels, s.errors.ins) for s in scored]
    # The hesitation in another place is inserted; a fragment is right by its beginning; no word at all is one reading.
    assert counts == [(3, 0, 0, 1), (3, 1, 0, 0), (3, 0, 0, 0), (3, 0, 1, 0)]
    row = stm_row("tri", "hub5_00", scored)
    assert row["value"] == pytest.approx(100 * 3 / 12) and row["counts"]["ins"] == 1 and row["low"] <= row["value"]
    assert "groups" not in row and row["counts"]["speakers"] < 5 and row["low"] < row["high"], "not drawn by speaker"
    many = [replace(s, line=replace(s.line, speaker=f"s{i}")) for i, s in enumerate([*scored, *scored[:2]])]
    row = stm_row("tri", "hub5_00", many)
    assert row["counts"]["speakers"] == 6 and row["groups"]["s1"] == [100.0, 3.0] and len(row["groups"]) == 6
    none = [replace(scored[0], errors=replace(scored[0].errors, words=0)), scored[1]]
    assert "low" not in stm_row("tri", "hub5_00", none), "a quarter of the draws have no word"
    parts = subsets(scored, {"swbd": "sw_", "callhome": "en_", "other": "xx"})
    assert {name: len(of) for name, of in parts.items()} == {"swbd": 2, "callhome": 2}


def test_broken(stm, glm, tmp_path):
    hyps = hypotheses(stm, "a", "b", "c", "d")
    with pytest.raises(MismatchError, match=r"ref.stm:4: utterance 'en_2_A-en_2-00004000-00006000' is not in exp/d"):
        score_stm([h for h in hyps if "en_2-00004" not in h.cut_id], stm, glm, (), "exp/d")
    with pytest.raises(MismatchError, match="no stretch for 1 utterances .*'x'"):
        score_stm([*hyps, Hypothesis("x", "s", (), ())], stm, glm)
    for text, message in (
        ("a A s 0.0 x <O,a> b", "ref.stm:1: '0.0' and 'x' are no times"),
        ("a A s 2.0 1.0 b", "ref.stm:1: 'b' spans"),
        ("a A s", "ref.stm:1: needs 'recording channel"),
        (";; nothing", "ref.stm: holds no line"),
    ):
        stm.write_text(text)
        with pytest.raises(DataError, match=message):
            score_stm(hyps, stm, glm)
    (tmp_path / "bad.glm").write_text("* name\nUH %HESITATION\n")
    with pytest.raises(DataError, match="bad.glm:2: needs 'PATTERN => "):
        Glm.load(tmp_path / "bad.glm")


def test_step(stm, tmp_path, run_script):
    from pipeline.artifacts.hyp import save_hypotheses
    from pipeline.base.files import read_json

    root = Path(__file__).resolve().parents[2]
    (tmp_path / "small.glm").write_text(GLM)
    save_hypotheses(tmp_path / "recogs.jsonl.gz", hypotheses(stm, "the cat", "we are here", "a dog", "th dog so"))
    command = [root / "steps" / "score_stm.py", "recogs.jsonl.gz", stm, "out", "--glm", "small.glm", "--id", "tri"]
    done = run_script("python", *command, "--part", "hub5", "--subsets", "swbd=sw_,callhome=en_")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "hub5 %WER 0.00 [ 0 / 12, 0 ins, 0 del, 0 sub ]"
    rows = read_json(tmp_path / "out" / "results.json")
    assert [(r["id"], r["part"], r["counts"]["words"]) for r in rows] == [
        ("tri", "hub5", 12), ("tri", "hub5_swbd", 6), ("tri", "hub5_callhome", 6),
    ]  # fmt: skip
    done = run_script("python", *command, "--subsets", "swbd", "--overwrite")
    assert done.returncode == 2 and "'swbd' is not NAME=PREFIX" in done.stderr


@pytest.mark.skipif(shutil.which("sclite") is None, reason="sclite (Debian package sctk) is not installed")
def test_counts_are_those_of_sclite(tmp_path, glm):
    draw = random.Random(5)
    stm, ctm, lines = tmp_path / "ref.stm", tmp_path / "hyp.ctm", []
    hyps = []
    for i in range(300):
        hyps.append(draw.choices("a b c ab abc".split(), k=draw.randint(1, 5)))
        lines.append(f"r A s {10 * i}.0 {10 * i + 10}.0 <O,X> {made_up(draw, 1) or 'a'}\n")
    stm.write_text("".join(lines))
    ctm.write_text(
        "".join(f"r A {10 * i + 1 + k:.2f} 0.5 {w}\n" for i, words in enumerate(hyps) for k, w in enumerate(words))
    )
    found = subprocess.run(
        ["sclite", "-r", stm, "stm", "-h", ctm, "ctm", "-F", "-D", "-o", "pralign", "stdout"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    theirs = [tuple(map(int, scores)) for scores in re.findall(r"#I\) (\d+) (\d+) (\d+) (\d+)", found)]
    assert len(theirs) == 300
    refs = [line.text for line in read_stm(stm)]
    assert [(r, h, t) for r, h, t in zip(refs, hyps, theirs) if t not in all_cheapest(parse_text(r, ""), h)] == []
    scored = score_stm(hypotheses(stm, *(" ".join(h) for h in hyps)), stm, Glm())
    other = [(s.line.text, t) for s, t in zip(scored, theirs) if counts_of(s.errors) != t]
    assert len(other) < 6, other  # of several alignments that cost the same sclite may take one with more errors
