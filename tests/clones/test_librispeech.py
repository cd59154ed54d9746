"""LibriSpeech's preparation and recipe on a miniature clone."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path

import pytest

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.base.errors import DataError
from pipeline.base.files import read_yaml
from tests.clones.figures import figures
from tests.clones.librispeech import SIZES, make_librispeech, make_resources
from tests.clones.speech import ROOT, recipe_copy, run, run_cell

FEW = dict.fromkeys(SIZES, (2, 1, 2))
PARTS = "dev_clean dev_other test_clean test_other".split()
NARROW = {"beam": 8, "lattice_beam": 4, "max_active": 500}
SMALL = {
    "decode": {**NARROW, "lm_weights": [8, 12], "word_penalties": [0.0]},
    "decode_fbank": {**NARROW, "lm_weights": [4, 8], "word_penalties": [0.0]},
    "mmi": {"graph_beam": 6.0},
    "e2e_transducer": {
        "encoder": "transformer",
        "dim": 32,
        "heads": 4,
        "vgg": [2, 2, 1],
        "vgg_channels": 4,
        "subsampling": None,
    },
    "decode_rnnt": {"beam": 3},
    "fbank": {"dim": 40},
}


def size_copy(work: Path, size: str) -> Path:
    """The folder 100h or 960h of the recipe, with small models, below a recipe of which nothing else is there."""
    folder = recipe_copy(
        f"librispeech/{size}", work, {k: v for k, v in SMALL.items() if size == "960h" or "rnnt" not in k}
    )
    shutil.copy(ROOT / "egs" / "librispeech" / "run.sh", folder.parent)
    for name in ("utils", "steps", "pipeline"):  # where run_cell looks for them from a folder one level deeper
        (work / "egs" / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_librispeech(tmp_path_factory.mktemp("librispeech"), FEW)


@pytest.fixture
def broken(corpus, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(corpus, tmp_path / "LibriSpeech"))


def prepare(monkeypatch: pytest.MonkeyPatch, root: Path, out: Path, size: str = "100h") -> dict:
    """What stage 0 does: the parts of a size, checked."""
    monkeypatch.syspath_prepend(str(ROOT / "local"))
    import prepare_librispeech as libri

    options = libri.LibriSpeechOptions(**read_yaml(ROOT / "egs" / "librispeech" / size / "conf" / "parts.yaml"))
    out.mkdir()
    facts = libri.prepare(root, out, out, options)
    for part in facts["utterances"]:
        validate_data_dir(out / part)
    return dict(facts["utterances"])


@pytest.mark.parametrize(("size", "num_train"), [("100h", 4), ("960h", 12)])
def test_sizes(corpus, tmp_path, monkeypatch, size, num_train):
    """100 has the part of that name, 960 all three."""
    found = prepare(monkeypatch, corpus, tmp_path / "out", size)
    assert found == {"train": num_train, **dict.fromkeys(PARTS, 4)}
    assert {cut.id.split("-")[0] for cut in load_cuts(tmp_path / "out" / "test_other")} == {"463", "500"}
    assert (tmp_path / "out" / "lm_text.txt").read_text().count("\n") == num_train


def test_wrong_root(tmp_path):
    """A folder with something else ends the recipe with 2."""
    folder = size_copy(tmp_path / "work", "100h")
    said = run(folder.parent, "./run.sh", "--size", "100", "--corpus-root", tmp_path, expect=2)
    assert f"not found in {tmp_path}" in said and "which holds PART/SPEAKER/CHAPTER/*.trans.txt" in said


def remove(pattern: str):
    def damage(root: Path) -> None:
        path = sorted(root.glob(pattern))[0]
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def pack(root: Path) -> None:
    shutil.rmtree(root / "test-other")
    (root.parent / "test-other.tar.gz").write_bytes(b"")


def cut_short(root: Path) -> None:
    path = sorted(root.glob("train-clean-100/*/*/*.flac"))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def more_audio(root: Path) -> None:
    path = sorted(root.glob("dev-clean/*/*/*.flac"))[0]
    shutil.copy(path, path.with_name("9-9-9999.flac"))


def other_table(root: Path) -> None:
    (root / "SPEAKERS.TXT").write_text("19 | M\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("train-clean-100/*/*/*-0001.flac"), "train-clean-100/19/1000: no audio file 19-1000-0001{.flac"),
        (remove("dev-other/*/*/*.trans.txt"), "trans.txt is missing"),
        (remove("test-clean/*"), "1 speakers of SPEAKERS.TXT have no folder, the first is"),
        (remove("dev-clean"), "has no part 'dev-clean'"),
        (pack, "has no part 'test-other'; unpack "),
        (cut_short, "19-1000-0000.flac"),
        (more_audio, "has no transcript in "),
        (other_table, "SPEAKERS.TXT:1: needs 'ID | SEX | PART | MINUTES | NAME'"),
    ],
    ids="audio transcript speaker part packed cut-short untold table".split(),
)
def test_broken(broken, tmp_path, monkeypatch, damage, message):
    damage(broken)
    with pytest.raises(DataError, match=re.escape(message)):
        prepare(monkeypatch, broken, tmp_path / "out")


def test_resources(tmp_path, monkeypatch):
    """The published lexicon and 3-gram are taken over; they are named when they are missing or incomplete."""
    monkeypatch.syspath_prepend(str(ROOT / "local"))
    import prepare_librispeech_lm as resources

    root = make_resources(tmp_path / "lm")
    arpa, lexicon = root / "3-gram.pruned.3e-7.arpa.gz", root / "librispeech-lexicon.txt"
    whole = gzip.decompress(arpa.read_bytes())

    def prepare(what: str) -> None:
        resources.prepare(what, resources.find(what, root), tmp_path / "out")

    prepare("medium")
    prepare("small")
    prepare("lexicon")
    assert (tmp_path / "out" / "lm.arpa").read_bytes() == whole
    assert (tmp_path / "out" / "lexicon.txt").read_bytes() == lexicon.read_bytes()
    for bytes_, message in (
        (gzip.compress(whole[:-20]), "so it is not complete"),
        (gzip.compress(whole)[:-40], str(arpa)),
    ):
        arpa.write_bytes(bytes_)
        with pytest.raises(DataError, match=message):
            prepare("small")
    lexicon.write_text("A\tAH0\nDOG\n")
    with pytest.raises(DataError, match="lexicon.txt:2: needs"):
        prepare("lexicon")
    lexicon.unlink()
    with pytest.raises(DataError, match="no librispeech-lexicon.txt; .* OpenSLR 11"):
        prepare("lexicon")


@pytest.mark.clone
def test_recipe(tmp_path):
    """960: all stages with the published lexicon and 3-gram, then a cell of each table; parts are tuned one by one."""
    corpus, resources = make_librispeech(tmp_path / "corpus"), make_resources(tmp_path / "lm")
    folder = size_copy(tmp_path / "work", "960h")
    run(folder.parent, "./run.sh", "--size", "960", "--corpus-root", corpus, "--lm-root", resources, "--models", "tri1 tri3", "--ali", "gmm", "--e2e", "ctc transducer")  # fmt: skip
    results = (folder / "RESULTS.md").read_text()
    for name in ("tri3", "tri3_chenone", "hybrid_gmm", "mmi_gmm", "e2e_ctc_gmm", "e2e_transducer_gmm"):
        assert f"| {name} " in results, name
    assert figures(folder)["tri1", "dev_clean", "wer"] < 60
    run_cell(folder, "transitions", transitions="linear")
    run_cell(folder, "scales")
    run_cell(folder, "rnnt_auxiliary", model="all_24")
