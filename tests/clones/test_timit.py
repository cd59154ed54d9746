"""TIMIT's preparation and recipe on a miniature clone, and its phone error rates."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pytest

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.base.errors import DataError
from pipeline.experiments.system_names import system_name
from tests.clones.figures import figures
from tests.clones.speech import ROOT, recipe_copy, run
from tests.clones.timit import FEW, make_timit

RECIPE = ROOT / "egs" / "timit"
NETWORK = {"layers": 2, "dim": 64, "epochs": 4}
DECODE = {"lm_weights": [2, 4], "beam": 8, "lattice_beam": 4, "max_active": 500}
SMALL = {
    "mono_own": {"num_gauss": 200, "num_iters": 8, "grow_iters": 6, "realign_iters": [1, 2, 3, 5]},
    "static_own": {"num_gauss": 200, "num_iters": 8, "grow_iters": 6, "realign_iters": [1, 2, 3, 5]},
    "nhmm_own": NETWORK,
    "phones_mono": {"num_gauss": 200, "num_iters": 8, "grow_iters": 6, "realign_iters": [1, 2, 3, 5]},
    "phones_tri": {"num_leaves": 80, "num_gauss": 200, "num_iters": 6, "grow_iters": 4, "realign_iters": [2, 4]},
    "phones_viterbi": NETWORK,
    "phones_decode_mfcc": DECODE,
    "phones_decode_fbank": DECODE,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_timit(tmp_path_factory.mktemp("timit"), FEW)


@pytest.fixture
def broken(corpus, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(corpus, tmp_path / "TIMIT"))


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "local"))
    import prepare_timit

    return prepare_timit


@pytest.fixture
def phones(monkeypatch):
    """The two programs of phone recognition."""
    for folder in (ROOT / "local", RECIPE / "local"):
        monkeypatch.syspath_prepend(str(folder))
    import make_phone_data
    import score_phones

    return make_phone_data, score_phones


def test_parts(corpus, module, phones, tmp_path):
    """Without SA sentences and without speakers that are neither dev nor core test; 48 phones, none of them q."""
    out = tmp_path / "out"
    facts = module.prepare(module.find_timit(corpus.parent), out)
    assert facts["utterances"] == {"train": 8, "dev": 8, "test": 8}
    for part in ("train", "dev", "test"):
        assert validate_data_dir(out / part).num_speakers == 1
    make = phones[0].make(out, tmp_path / "phones")
    assert make["utterances"] == facts["utterances"]
    for cut, gold in zip(load_cuts(tmp_path / "phones" / "test"), load_cuts(out / "test")):
        words = cut.supervisions[0].text.split()
        labels = [item.symbol for item in gold.supervisions[0].alignment["phone61"] if item.symbol != "q"]
        assert (
            len(words) == len(labels) and words[0] == words[-1] == "h#" and not {"q", "tcl", "bcl", "axr"} & set(words)
        )
    lexicon = [line.split() for line in (tmp_path / "phones" / "lexicon.txt").read_text().splitlines()]
    assert all(word == phone for word, phone in lexicon) and {"h#", "cl", "vcl"} <= {word for word, _ in lexicon}


def test_labels(phones, module):
    """61 labels make 48 phones and these 39; others are refused."""
    import timit_labels

    learnt = {*timit_labels.recognised_phones(sorted(timit_labels.ALL_LABELS), "")}
    assert len(timit_labels.ALL_LABELS) == 61 and len(learnt) == 48 and len(set(phones[1].fold(sorted(learnt)))) == 39
    assert phones[1].fold("ao ix cl t epi".split()) == ("aa", "ih", "h#", "t", "h#")
    with pytest.raises(DataError, match="utterance 'x': 'tt' is none of TIMIT's 61 labels"):
        timit_labels.recognised_phones(["t", "tt"], "utterance 'x'")


def alignments(ref, hyp):
    """All alignments as lists of pairs, None for a gap."""
    if not ref and not hyp:
        yield []
    if ref:
        yield from ([(ref[0], None), *rest] for rest in alignments(ref[1:], hyp))
    if hyp:
        yield from ([(None, hyp[0]), *rest] for rest in alignments(ref, hyp[1:]))
    if ref and hyp:
        yield from ([(ref[0], hyp[0]), *rest] for rest in alignments(ref[1:], hyp[1:]))


def test_errors_against_enumeration(phones):
    """The fewest errors of any alignment, where silence of the reference may go for nothing."""
    symbols = ("h#", "a", "b")
    for ref, hyp in itertools.product(itertools.product(symbols, repeat=3), itertools.product(symbols, repeat=2)):
        fewest = min(sum(r != h and (r, h) != ("h#", None) for r, h in pairs) for pairs in alignments(ref, hyp))
        found = phones[1].count(ref, hyp)
        assert (found.total, found.words) == (fewest, 3), (ref, hyp)
    exact = phones[1].count("h# a b h#".split(), "a c b a".split())
    assert (exact.ins, exact.dels, exact.subs) == (1, 0, 1)


def test_phone_error_rate(phones, tmp_path):
    from pipeline.artifacts.hyp import Hypothesis, save_hypotheses
    from pipeline.base.files import read_json

    hyps = [Hypothesis(f"u{i}", f"s{i % 2}", ("h#", "aa", "ix"), ("h#", "aa", "t")) for i in range(4)]
    save_hypotheses(tmp_path / "recogs.jsonl.gz", hyps)
    facts = phones[1].score(tmp_path / "recogs.jsonl.gz", tmp_path, "mono", "dev")
    assert facts == {name: pytest.approx(100 / 3) for name in ("per", "low", "high")}
    (row,) = read_json(tmp_path / "results.json")
    assert row["metric"] == "per" and row["counts"] == {"phones": 12, "ins": 0, "del": 0, "sub": 4}


def edit(pattern: str, change):
    def damage(root: Path) -> None:
        path = sorted(root.glob(pattern))[0]
        path.write_bytes(change(path.read_bytes()))

    return damage


def remove(pattern: str):
    def damage(root: Path) -> None:
        path = sorted(root.glob(pattern))[0]
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("TRAIN/*/*/SI510.WAV"), "SI510.PHN: no recording beside it (1 such files)"),
        (remove("TRAIN/*/*/SX10.PHN"), "no SX10.phn beside it"),
        (remove("TEST/DR1/MDAB0"), "no utterance of test, whose speakers are fixed"),
        (remove("TEST"), "which holds TRAIN/DR1/SPEAKER/*.WAV"),
        (remove("DOC"), "no timitdic.txt below it"),
        (edit("TRAIN/*/*/SX10.WAV", lambda data: data[: len(data) // 2]), "or starts after the audio's end"),
        (edit("TRAIN/*/*/SX10.WAV", lambda data: b"<html>"), "SX10.WAV"),
        (edit("TEST/*/*/SX*.PHN", lambda data: data[:-3]), ".PHN:"),
        (edit("TEST/*/*/SX*.WRD", lambda data: data.replace(b"\n", b"x\n", 1)), "is not in the dictionary of the corpus"),
    ],
    ids="audio labels speaker test dictionary cut-short no-audio label word".split(),
)  # fmt: skip
def test_broken(broken, module, tmp_path, damage, message):
    damage(broken)
    out = tmp_path / "out"
    with pytest.raises(DataError, match=re.escape(message)):
        for part in module.prepare(module.find_timit(broken), out)["utterances"]:
            validate_data_dir(out / part)


def test_wrong_root(tmp_path):
    """A folder with something else ends the recipe with 2."""
    recipe = recipe_copy("timit", tmp_path / "work", SMALL)
    said = run(recipe, "./run.sh", "--corpus-root", tmp_path, "--systems", "own", expect=2)
    assert f"not found in {tmp_path}" in said and "which holds TRAIN/DR1/SPEAKER" in said
    assert "--systems is" in run(recipe, "./run.sh", "--systems", "mine", expect=2)


@pytest.mark.clone
def test_recipe(tmp_path):
    """All stages for the system that needs no other corpus: boundaries and phone error rates."""
    recipe = recipe_copy("timit", tmp_path / "work", SMALL)
    corpus = make_timit(tmp_path / "corpus")
    run(recipe, "./run.sh", "--corpus-root", corpus, "--systems", "own")
    results = (recipe / "RESULTS.md").read_text()
    rows = figures(recipe)
    for name in ("mono_own", "refined_own", "nhmm_refined_own", "phones_mono", "phones_tri3", "phones_hybrid"):
        assert f"| {system_name(name)} " in results, name
        assert any(row[0] == name for row in rows), name
    assert "## Phone error rates" in results and "32.7" in results
    assert rows["phones_mono", "dev", "per"] < 60 and rows["mono_own", "test", "start_mae_ms"] < 120
