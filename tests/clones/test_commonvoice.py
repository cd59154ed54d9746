"""Common Voice's preparation and recipe on a miniature clone."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.base.errors import DataError
from pipeline.base.files import read_yaml
from pipeline.corpora.options import ImportOptions
from tests.clones.commonvoice import make_language
from tests.clones.figures import figures
from tests.clones.speech import ROOT, recipe_copy, run, run_cell

RECIPE = ROOT / "egs" / "commonvoice"
FEW = {"train": (2, 3), "dev": (1, 2), "test": (1, 2)}
ENCODER = {
    "encoder": "tdnn",
    "layers": 5,
    "dim": 48,
    "dilations": [1, 2, 2],
    "dropout": 0.0,
    "strides": [2, 2],
    "epochs": 2,
}
SMALL = {
    "import": {"max_bad": 0.3},
    "fbank": {"dim": 40},
    "ce": {**ENCODER, "precision": None, "accumulate": None, "batch_frames": 1500},
    "e2e_transducer": {**ENCODER, "subsampling": None, "aux_hidden": 16},
    "decode_rnnt": {"beam": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def romanian(tmp_path_factory) -> Path:
    return make_language(tmp_path_factory.mktemp("commonvoice"), "ro", FEW, rate=16000)


@pytest.fixture
def broken(romanian, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(romanian, tmp_path / "ro"))


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE / "local"))
    import prepare_commonvoice

    return prepare_commonvoice


def prepare(module, root: Path, out: Path, max_bad: float = 0.3, language: str = "ro") -> dict:
    """What stage 0 does: the parts with conf/import.yaml, checked."""
    options = ImportOptions(**read_yaml(RECIPE / "conf" / "import.yaml"), language=language, digits=language)
    facts = module.prepare(module.find_language(language, root), out, out, replace(options, max_bad=max_bad))
    for part in module.PARTS:
        validate_data_dir(out / part)
    return facts


def test_parts(romanian, module, tmp_path):
    """Rows without words or clip are left out, marks and quotes go; the text has no sentence of dev and test."""
    out = tmp_path / "out"
    facts = prepare(module, romanian.parent, out)
    assert facts["utterances"] == {"train": 6, "dev": 2, "test": 2}
    assert facts["speakers"] == {"train": 2, "dev": 1, "test": 1}
    told = (out / "train" / "left_out.txt").read_text()
    assert "no words" in told and "no audio file common_voice_ro_2.mp3" in told
    cuts = [cut for part in module.PARTS for cut in load_cuts(out / part)]
    texts = [cut.supervisions[0].text for cut in cuts]
    assert {cut.sampling_rate for cut in cuts} == {16000} and all(re.fullmatch(r"[a-zăâîșț -]+", t) for t in texts), (
        texts
    )
    assert all(len(cut.supervisions[0].speaker) == 128 for cut in cuts)
    lines = (out / "lm_text.txt").read_text().splitlines()
    assert len(lines) > 50 and not set(lines) & {
        c.supervisions[0].text for p in ("dev", "test") for c in load_cuts(out / p)
    }
    words = [line.split()[0] for line in (out / "lexicon.txt").read_text().splitlines()]
    assert {
        word for line in [*lines, *(c.supervisions[0].text for c in load_cuts(out / "train"))] for word in line.split()
    } == set(words)


def test_turkish_case(module):
    """Turkish has small letters of its own for I and for its dotted sister."""
    options = ImportOptions(**read_yaml(RECIPE / "conf" / "import.yaml"), language="tr", digits="tr")
    assert module.TextNormaliser(options)('"IŞIK" İçin 3 gün!', "") == "ışık için üç gün"


def test_sentences_that_are_no_text(module, tmp_path, caplog):
    """Rows with control characters are left out here as in the parts; one that csv cannot read is named."""
    options = ImportOptions(**read_yaml(RECIPE / "conf" / "import.yaml"), language="ro", digits="ro")
    rows = (
        "client_id\tpath\tsentence\tlocale\nc\ta.mp3\tBun\u0103!\tro\nc\tb.mp3\tzi\x07ua\tro\nc\tc.mp3\tBun\u0103\tro\n"
    )
    (tmp_path / "validated.tsv").write_text(rows, encoding="utf-8")
    assert module.sentences(tmp_path, options) == ["bună"]
    assert "1 sentences are left out" in caplog.text and "validated.tsv:3: holds" in caplog.text
    (tmp_path / "validated.tsv").write_text(rows + f"c\td.mp3\t{'x' * 200_000}\tro\n", encoding="utf-8")
    with pytest.raises(DataError, match="validated.tsv:5: field larger than"):
        module.sentences(tmp_path, options)


def edit(name: str, old: str, new: str):
    def damage(root: Path) -> None:
        path = root / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")

    return damage


def same_speaker(root: Path) -> None:
    client = (root / "train.tsv").read_text().splitlines()[1].split("\t")[0]
    lines = (root / "test.tsv").read_text().splitlines()
    (root / "test.tsv").write_text("\n".join([lines[0], client + lines[1][128:], *lines[2:]]) + "\n")


def half_of_clips(root: Path) -> None:
    for path in sorted((root / "clips").glob("*.mp3"))[::2]:
        path.unlink()


def damaged_clips(root: Path) -> None:
    for path in sorted((root / "clips").glob("*.mp3")):
        path.write_bytes(b"<html>")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (half_of_clips, "cannot be imported, more than the allowed share of 30%"),
        (damaged_clips, "cannot be imported"),
        (same_speaker, "stands in train.tsv too; the tables are not of one release"),
        (edit("dev.tsv", "\tro\t", "\tcs\t"), "dev.tsv:2: locale 'cs', expected 'ro'"),
        (edit("test.tsv", "client_id\t", "speaker\t"), "test.tsv:1: no column 'client_id'"),
        (lambda root: (root / "dev.tsv").unlink(), "which holds train.tsv, dev.tsv, test.tsv and clips/"),
        (lambda root: shutil.rmtree(root / "clips"), "which holds train.tsv, dev.tsv, test.tsv and clips/"),
        (
            lambda root: (root / "train.tsv").write_bytes((root / "train.tsv").read_bytes()[:-700] + b"\xc8"),
            "not UTF-8",
        ),
    ],
    ids="half damaged speaker locale column table clips bytes".split(),
)
def test_broken(broken, module, tmp_path, damage, message):
    damage(broken)
    with pytest.raises(DataError, match=re.escape(message)):
        prepare(module, broken, tmp_path / "out")


def test_strict_by_default(broken, module, tmp_path):
    """One clip of eight that is missing is more than the recipe allows."""
    with pytest.raises(DataError, match="more than the allowed share of 1%"):
        prepare(module, broken, tmp_path / "out", max_bad=read_yaml(RECIPE / "conf" / "import.yaml")["max_bad"])


def test_wrong_root(tmp_path):
    """A folder with something else ends the recipe with 2."""
    recipe = recipe_copy("commonvoice", tmp_path / "work", SMALL, also=("samromur",))
    said = run(recipe, "./run.sh", "--corpus-root", tmp_path, expect=2)
    assert f"not found in {tmp_path}" in said and "clips/ of one language" in said
    assert "--language is a code" in run(recipe, "./run.sh", "--language", "../x", expect=2)


@pytest.mark.clone
def test_recipe(tmp_path):
    """Romanian: all stages; German as far as the tables need it; a cell of each table."""
    recipe = recipe_copy("commonvoice", tmp_path / "work", SMALL, also=("samromur",))
    for language in ("ro", "de"):
        corpus = make_language(tmp_path / "corpus", language).parent
    command = ("./run.sh", "--corpus-root", corpus)
    run(recipe, *command, "--ali", "both", "--e2e", "ctc")
    results = (recipe / "ro" / "RESULTS.md").read_text()
    for name in ("tri2", "hybrid_nhmm", "mmi_gmm", "e2e_ctc_nhmm"):
        assert f"| {name} " in results, name
    assert figures(recipe / "ro")["tri1", "dev", "wer"] < 60
    run(recipe, *command, "--language", "de", "--ali", "none", "--e2e", "transducer", "--stop-stage", "8")
    run_cell(recipe, "rnnt_auxiliary", auxiliary="aux_kl0.3", start="crosslingual")
    run_cell(recipe, "chenones", states="middle0.6", start="ce")
    run_cell(recipe, "languages", language="de", tasks="kl", start="random")
