"""Preparation of corpora from their official layouts, and what each says of broken ones."""

from __future__ import annotations

import gzip
import http.client
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.artifacts.corpus import load_cuts, validate_data_dir
from pipeline.base.errors import DataError

from .conftest import ROOT, tone, write_audio


def speakers(data_dir: Path) -> set[str]:
    return {cut.supervisions[0].speaker for cut in load_cuts(data_dir)}


# AN4


def prepare_an4(root: Path, out: Path, **options) -> dict:
    import prepare_an4 as an4

    out.mkdir(exist_ok=True)
    return an4.prepare(root, out, out, an4.An4Options(**options))


@pytest.mark.parametrize("suffix", [".flac", ".sph", ".wav", ".raw"])
def test_an4_formats(make_an4, tmp_path, suffix):
    out = tmp_path / "out"
    facts = prepare_an4(make_an4(suffix), out, folds=4)
    assert facts == {"utterances": {"train_all": 16, "test": 2, "dev": 4, "train": 12}, "words": 2}
    for part in ("train_all", "train", "dev", "test"):
        assert validate_data_dir(out / part, decode=True).sampling_rate == 16000
    cut = load_cuts(out / "train_all")["fb-an1-b"]
    assert (cut.supervisions[0].text, cut.supervisions[0].speaker) == ("A NINE", "fb")
    np.testing.assert_allclose(cut.load_audio()[0] * 32768, tone(1), atol=1)
    assert (out / "lexicon.txt").read_text() == "A AH\nA EY\nNINE N AY N\n"
    assert (out / "lm_text.txt").read_text() == "A NINE\n" * 16
    assert (out / "lm_text_train.txt").read_text() == "A NINE\n" * 12


def test_an4_raw_of_the_other_byte_order(make_an4, tmp_path):
    root = make_an4(".raw")
    for path in root.rglob("*.raw"):
        path.write_bytes(np.frombuffer(path.read_bytes(), "<i2").astype(">i2").tobytes())
    prepare_an4(root, tmp_path / "out", folds=4)
    np.testing.assert_allclose(
        load_cuts(tmp_path / "out" / "test")["mt-an0-b"].load_audio()[0] * 32768, tone(0), atol=1
    )


def test_an4_folds_are_speaker_disjoint_and_cover_everyone(make_an4, tmp_path):
    root = make_an4()
    seen = []
    for fold in range(4):
        out = tmp_path / f"fold{fold}"
        prepare_an4(root, out, folds=4, dev_fold=fold)
        dev, train = speakers(out / "dev"), speakers(out / "train")
        assert not dev & train and len(dev) == 2 and {name[0] for name in dev} == {"f", "m"}
        seen += dev
    assert sorted(seen) == sorted(speakers(tmp_path / "fold0" / "train_all"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


AN4_BROKEN = {
    "unknown word": (
        "an4_train.transcription",
        "A NINE",
        "A TEN",
        r"an4_train.transcription:1: word 'TEN' is not in etc/an4.dic",
    ),
    "no utterance": (
        "an4_train.transcription",
        "(an0-fa-b)",
        "",
        r"an4_train.transcription:1: needs 'WORDS \(utterance\)'",
    ),
    "empty": ("an4_test.transcription", "NINE A (an0", "<s> (an0", r"an4_test.transcription:1: empty transcript"),
    "no transcript": ("an4_test.fileids", "cen1-mt-b", "cen9-mt-b", r"an4_test.fileids:2: 'cen9-mt-b' has no line"),
    "no phones": ("an4.dic", "A(2)                 EY", "A(2)", r"an4.dic:2: word 'A' has no phones"),
}


@pytest.mark.parametrize("name", AN4_BROKEN)
def test_an4_broken(make_an4, tmp_path, name):
    file, old, new, message = AN4_BROKEN[name]
    root = make_an4()
    edit(root / "etc" / file, old, new)
    with pytest.raises(DataError, match=message):
        prepare_an4(root, tmp_path / "out", folds=4)


def test_an4_missing_and_odd_audio(make_an4, tmp_path):
    root = make_an4(".raw")
    path = root / "wav" / "an4test_clstk" / "mt" / "an0-mt-b.raw"
    path.write_bytes(b"abc")
    with pytest.raises(DataError, match="3 bytes are no 16-bit audio"):
        prepare_an4(root, tmp_path / "out", folds=4)
    path.rename(path.with_suffix(".sph"))
    with pytest.raises(DataError, match="an0-mt-b.sph: not a readable audio file"):
        prepare_an4(root, tmp_path / "out", folds=4)
    path.with_suffix(".sph").unlink()
    with pytest.raises(DataError, match="an4_test.fileids:1: no audio file"):
        prepare_an4(root, tmp_path / "out", folds=4)


def test_an4_fold_out_of_range(make_an4, tmp_path):
    with pytest.raises(DataError, match="--dev-fold 4: there are folds 0 to 3"):
        prepare_an4(make_an4(), tmp_path / "out", folds=4, dev_fold=4)


def test_an4_command(make_an4, tmp_path, run_script):
    script = [sys.executable, ROOT / "local" / "prepare_an4.py", tmp_path / "out", "--corpus-root"]
    result = run_script(*script, make_an4().parent, "--folds", "4")  # one level above the corpus is fine
    assert result.returncode == 0, result.stderr
    assert validate_data_dir(tmp_path / "out" / "test").num_utterances == 2
    bad = run_script(*script, tmp_path / "nowhere")
    assert bad.returncode == 2 and "corpus an4 not found in" in bad.stderr and "--corpus-root" in bad.stderr


# yesno


@pytest.fixture
def yesno(tmp_path):
    root = tmp_path / "waves_yesno"
    for number in range(60):
        digits = f"{number * 4:08b}"
        write_audio(root / f"{'_'.join(digits)}.wav", number, rate=8000)
    (root / "README").write_text("hello")
    return root


def test_yesno(yesno, tmp_path):
    import prepare_yesno

    out = tmp_path / "out"
    prepare_yesno.prepare(yesno, out)
    facts = {part: validate_data_dir(out / part, decode=True) for part in ("train", "test")}
    assert (facts["train"].num_utterances, facts["test"].num_utterances, facts["test"].sampling_rate) == (31, 29, 8000)
    train, test = (sorted(load_cuts(out / part).ids) for part in ("train", "test"))
    assert train[-1] < test[0]  # the sorted listing is cut in two
    assert sum(len(cut.supervisions[0].text.split()) for cut in load_cuts(out / "test")) == 232
    assert load_cuts(out / "train")["0_0_0_0_0_1_0_0"].supervisions[0].text == "NO NO NO NO NO YES NO NO"
    assert (out / "lexicon.txt").read_text() == "NO N\nYES Y\n"


def test_yesno_broken(yesno, tmp_path):
    import prepare_yesno

    path = next(yesno.glob("1*.wav"))
    path.rename(path.with_name("1_0_x.wav"))
    with pytest.raises(DataError, match="1_0_x.wav: the name is not eight times 0 or 1"):
        prepare_yesno.prepare(yesno, tmp_path / "out")
    (yesno / "1_0_x.wav").unlink()
    with pytest.raises(DataError, match="59 .wav files instead of 60"):
        prepare_yesno.prepare(yesno, tmp_path / "out")


# LibriSpeech


@pytest.fixture
def librispeech(tmp_path):
    root = tmp_path / "LibriSpeech"
    for part, names in (("train-clean-5", ["1-2-0000", "1-2-0001", "3-4-0000"]), ("dev-clean-2", ["5-6-0000"])):
        for number, name in enumerate(names):
            chapter = root / part / name.split("-")[0] / name.split("-")[1]
            write_audio(chapter / f"{name}.flac", number)
            with open(chapter / f"{'-'.join(name.split('-')[:2])}.trans.txt", "a") as out:
                out.write(f"{name} HELLO {'WORLD ' * (number + 1)}\n".replace(" \n", "\n"))
    return root


def prepare_librispeech(root: Path, out: Path, *parts: str) -> dict:
    import prepare_librispeech as libri

    out.mkdir(exist_ok=True)
    return libri.prepare(root, out, out, libri.LibriSpeechOptions(parts=parts))


def test_librispeech_folders(librispeech, tmp_path):
    out = tmp_path / "out"
    facts = prepare_librispeech(
        librispeech, out, "train=train-clean-5", "dev=dev-clean-2", "all=dev-clean-2+train-clean-5"
    )
    assert facts == {"utterances": {"train": 3, "dev": 1, "all": 4}}
    assert validate_data_dir(out / "all", decode=True).num_speakers == 3
    assert load_cuts(out / "train")["1-2-0001"].supervisions[0].text == "HELLO WORLD WORLD"
    assert (out / "lm_text.txt").read_text().count("\n") == 3
    assert not (out / "audio").exists()


def test_librispeech_lists_opus_and_text(librispeech, tmp_path):
    flac = librispeech / "train-clean-5" / "3" / "4" / "3-4-0000.flac"
    try:
        soundfile.write(str(flac.with_suffix(".opus")), tone(0, 1.0), 16000, format="OGG", subtype="OPUS")
    except soundfile.LibsndfileError:
        pytest.skip("libsndfile without Opus")
    flac.unlink()
    (librispeech / "train.list").write_text("3-4-0000\n1-2-0001\n")
    (librispeech / "lm_text.txt.gz").write_bytes(gzip.compress(b"SOME TEXT\nMORE\n"))
    out = tmp_path / "out"
    assert prepare_librispeech(librispeech, out, "train=train.list") == {"utterances": {"train": 2}}
    assert validate_data_dir(out / "train", decode=True).num_utterances == 2
    source = load_cuts(out / "train")["3-4-0000"].recording.sources[0].source
    assert source == str((out / "audio" / "3" / "3-4-0000.flac").resolve())
    assert (out / "lm_text.txt").read_text() == "SOME TEXT\nMORE\n"


def test_librispeech_broken(librispeech, tmp_path):
    out = tmp_path / "out"
    (librispeech / "train.list").write_text("1-2-0000\n\n9-9-9999\n")
    with pytest.raises(DataError, match=r"train.list:3: utterance '9-9-9999' has no transcript"):
        prepare_librispeech(librispeech, out, "train=train.list")
    with pytest.raises(DataError, match="has no part 'train-other-500'"):
        prepare_librispeech(librispeech, out, "train=train-other-500")
    with pytest.raises(DataError, match="'train' is not PART=SOURCE"):
        prepare_librispeech(librispeech, out, "train")
    (librispeech / "dev-clean-2" / "5" / "6" / "5-6-0000.flac").unlink()
    with pytest.raises(DataError, match="no audio file 5-6-0000"):
        prepare_librispeech(librispeech, out, "dev=dev-clean-2")
    edit(librispeech / "dev-clean-2" / "5" / "6" / "5-6.trans.txt", "5-6-0000 HELLO WORLD", "5-6-0000")
    with pytest.raises(DataError, match=r"5-6.trans.txt:1: needs 'SPEAKER-CHAPTER-NUMBER WORDS'"):
        prepare_librispeech(librispeech, out, "dev=dev-clean-2")


# TIMIT

PHN = "0 1000 h#\n1000 1500 dcl\n1500 2000 d\n2000 4000 aa\n4000 4500 kcl\n4500 6000 s\n6000 6500 tcl\n6500 7000 ch\n7000 9000 h#\n"


def timit_utterance(folder: Path, name: str, upper: bool = False) -> None:
    change = str.upper if upper else str.lower
    if upper:  # as delivered: SPHERE audio in files named .WAV
        write_audio(folder / f"{name}.sph", 1)
        (folder / f"{name}.sph").rename(folder / f"{name.upper()}.WAV")
    else:
        write_audio(folder / f"{name}.flac", 1)
    (folder / change(f"{name}.phn")).write_text(PHN)
    (folder / change(f"{name}.wrd")).write_text("1000 6100 dogs\n6000 7000 chew\n")


DICTIONARY = "; comment\ndogs  /d aa1 g z/\nchew  /ch uw1/\nchew~n  /ch ux1 w/\n"


def test_timit_sample(tmp_path):
    import prepare_timit

    root, out = tmp_path / "timit_sample", tmp_path / "out"
    for speaker in ("dr1-fvmh0", "dr2-marc0"):
        timit_utterance(root / speaker, "sa1")
        timit_utterance(root / speaker, "sx12")
    (root / "timitdic.txt").write_text(DICTIONARY)
    assert prepare_timit.is_corpus(root)
    assert prepare_timit.prepare(root, out)["utterances"] == {"sample": 4}
    assert validate_data_dir(out / "sample").num_speakers == 2
    supervision = load_cuts(out / "sample")["fvmh0-sx12"].supervisions[0]
    assert supervision.text == "DOGS CHEW" and supervision.speaker == "fvmh0"
    tier = {
        name: [(i.symbol, i.start, round(i.end, 6)) for i in items] for name, items in supervision.alignment.items()
    }
    assert tier["phone"] == [
        ("d", 0.0625, 0.125),
        ("aa", 0.125, 0.25),
        ("k", 0.25, 0.28125),
        ("s", 0.28125, 0.375),
        ("ch", 0.375, 0.4375),
    ]
    assert tier["word"] == [("DOGS", 0.0625, 0.38125), ("CHEW", 0.38125, 0.4375)]  # the overlap goes to the first word
    assert [symbol for symbol, _, _ in tier["phone61"]] == "h# dcl d aa kcl s tcl ch h#".split()
    assert tier["phone61"][-1][2] == 0.5  # cut to the audio
    lexicon = (out / "lexicon.txt").read_text().splitlines()
    assert {"DOGS d aa g z", "CHEW ch uw", "CHEW ch uw w", "LIVE l ih v"} <= set(lexicon)


def test_timit_full_tree(tmp_path):
    import prepare_timit

    root, out = tmp_path / "TIMIT", tmp_path / "out"
    for part, speaker in (("TRAIN", "FCJF0"), ("TEST", "FADG0"), ("TEST", "FDHC0"), ("TEST", "MXXX0")):
        for name in ("sa1", "sx37"):
            timit_utterance(root / part / "DR1" / speaker, name, upper=True)
    (root / "DOC").mkdir()
    (root / "DOC" / "TIMITDIC.TXT").write_text(DICTIONARY)
    assert prepare_timit.is_corpus(root)
    assert prepare_timit.prepare(root, out)["utterances"] == {"train": 1, "dev": 1, "test": 1}
    assert list(load_cuts(out / "train").ids) == ["fcjf0-sx37"]
    np.testing.assert_allclose(load_cuts(out / "train")["fcjf0-sx37"].load_audio()[0] * 32768, tone(1), atol=1)
    assert list(load_cuts(out / "dev").ids) == ["fadg0-sx37"] and list(load_cuts(out / "test").ids) == ["fdhc0-sx37"]


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("sa1.phn", "0 x h#\n", r"sa1.phn:1: needs 'FIRST_SAMPLE END_SAMPLE LABEL'"),
        ("sa1.phn", "0 500 h#\n600 600 d\n", r"sa1.phn:2: 'd' ends before it starts"),
        ("sa1.wrd", "\n", "sa1.wrd: holds no label"),
        ("sa1.wrd", "0 500 cats\n", "word 'CATS' is not in the dictionary"),
        ("../timitdic.txt", "dogs\n", r"timitdic.txt:1: needs 'word  /phones/'"),
    ],
)
def test_timit_broken(tmp_path, file, content, message):
    import prepare_timit

    root = tmp_path / "timit_sample"
    timit_utterance(root / "dr1-fvmh0", "sa1")
    (root / "timitdic.txt").write_text(DICTIONARY)
    (root / "dr1-fvmh0" / file).write_text(content)
    with pytest.raises(DataError, match=message):
        prepare_timit.prepare(root, tmp_path / "out")


def test_timit_without_labels(tmp_path):
    import prepare_timit

    root = tmp_path / "timit_sample"
    timit_utterance(root / "dr1-fvmh0", "sa1")
    (root / "dr1-fvmh0" / "sa1.wrd").unlink()
    with pytest.raises(DataError, match="no sa1.wrd beside it"):
        prepare_timit.prepare(root, tmp_path / "out")


# Samromur

HEADING = "id\tspeaker_id\tfilename\tsentence\tsentence_norm\tstatus\n"


@pytest.fixture
def samromur(tmp_path):
    root = tmp_path / "samromur"
    rows = []
    for number, part in enumerate(("train", "train", "dev", "test")):
        write_audio(root / "audio" / part / f"00{number}" / f"{number}.flac", number)
        rows.append(f"{number:07d}\t00{number}\t{number}.flac\tÞað er.\tþað  er\t{part}\n")
    (root / "metadata.tsv").write_text(HEADING + "".join(rows))
    return root


def test_samromur(samromur, tmp_path):
    import prepare_samromur

    facts = prepare_samromur.prepare(samromur, tmp_path / "out")
    assert facts == {"utterances": {"train": 2, "dev": 1, "test": 1}, "words": 2}
    assert load_cuts(tmp_path / "out" / "dev")["002-0000002"].supervisions[0].text == "það er"
    assert (tmp_path / "out" / "lm_text.txt").read_text() == "það er\n" * 2
    (samromur / "text_corpus").write_text("annað\nþað er\n")  # what dev and test say is kept from the language model
    prepare_samromur.prepare(samromur, tmp_path / "out2")
    assert (tmp_path / "out2" / "lm_text.txt").read_text() == "annað\n"
    assert (tmp_path / "out2" / "lexicon.txt").read_text() == "annað a n n a ð\ner e r\nþað þ a ð\n"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("sentence_norm", "norm", r"metadata.tsv:1: no column 'sentence_norm'"),
        ("\ttest\n", "\teval\n", r"metadata.tsv:5: status 'eval' is none of"),
        ("0.flac\t", "9.flac\t", r"metadata.tsv:2: no audio file"),
        ("Það er.\t", "", r"metadata.tsv:2: 5 columns, the heading has 6"),
        ("\tdev\n", "\ttest\n", "no audio file"),
    ],
)
def test_samromur_broken(samromur, tmp_path, old, new, message):
    import prepare_samromur

    edit(samromur / "metadata.tsv", old, new)
    with pytest.raises(DataError, match=message):
        prepare_samromur.prepare(samromur, tmp_path / "out")


# Where corpora are looked for


def has_mark(path: Path) -> bool:
    return (path / "mark").is_file()


def make_marked(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "mark").touch()
    return path


def test_corpus_root_order(tmp_path):
    from corpus_root import find_corpus

    shared, download = tmp_path / "shared", tmp_path / "download"
    places = dict(shared=shared, download_dir=download)
    with pytest.raises(
        DataError, match=r"corpus x not found in .*shared/x, .*download/x: name its folder with --corpus-root"
    ):
        find_corpus("x", None, has_mark, **places)
    in_download = make_marked(download / "x" / "deeper")
    assert find_corpus("x", None, has_mark, **places) == in_download
    in_shared = make_marked(shared / "x")
    assert find_corpus("x", None, has_mark, **places) == in_shared
    given = make_marked(tmp_path / "given")
    assert find_corpus("x", given, has_mark, **places) == given
    with pytest.raises(
        DataError, match="not found in .*nothing: name its folder"
    ):  # a wrong folder is not replaced by another
        find_corpus("x", tmp_path / "nothing", has_mark, **places)


def archive(folder: Path, target: Path) -> str:
    with tarfile.open(target, "w:gz") as tar:
        tar.add(folder, arcname="corpus")
    return target.as_uri()


def test_corpus_download(tmp_path):
    from corpus_root import find_corpus

    places = dict(shared=tmp_path / "shared", download_dir=tmp_path / "download")
    url = archive(make_marked(tmp_path / "source"), tmp_path / "source.tar.gz")
    found = find_corpus("x", None, has_mark, url, **places)
    assert found == tmp_path / "download" / "x" / "corpus" and has_mark(found)
    (tmp_path / "source.tar.gz").unlink()
    assert find_corpus("x", None, has_mark, url, **places) == found  # not fetched twice


@pytest.mark.parametrize("damage", ["missing", "truncated", "bytes", "broken off", "outside", "other"])
def test_corpus_download_fails(tmp_path, damage, monkeypatch):
    from corpus_root import find_corpus

    places = dict(shared=tmp_path / "shared", download_dir=tmp_path / "download")
    source = make_marked(tmp_path / "source")
    (source / "noise").write_bytes(np.random.default_rng(0).bytes(50000))
    target = tmp_path / "source.tar.gz"
    if damage == "other":
        (source / "mark").unlink()
    url = archive(source, target)
    if damage == "missing":
        target.unlink()
    if damage == "truncated":
        target.write_bytes(target.read_bytes()[:20000])
    if damage == "bytes":
        raw = target.read_bytes()
        target.write_bytes(raw[:20000] + b"\xff" * 1000 + raw[21000:])
    if damage == "broken off":

        def broken_off(*_, **__):
            raise http.client.IncompleteRead(b"", 1000)

        monkeypatch.setattr("urllib.request.urlopen", broken_off)
    if damage == "outside":
        with tarfile.open(target, "w:gz") as tar:
            tar.add(source / "mark", arcname="../../mark")
    message = "does not hold the corpus x" if damage == "other" else "corpus x: download of .* failed"
    with pytest.raises(DataError, match=message):
        find_corpus("x", None, has_mark, url, **places)
    assert not (tmp_path / "download" / "x").exists() and not (tmp_path / "download" / "x.partial").exists()
    (tmp_path / "download" / "x" / "half").mkdir(parents=True)
    with pytest.raises(DataError, match="download/x: is not the corpus x, or not all of it; remove it"):
        find_corpus("x", None, has_mark, url, **places)


# tiny


def test_tiny_command(tmp_path, run_script):
    step = [sys.executable, ROOT / "egs" / "tiny" / "local" / "prepare.py", tmp_path / "out"]
    size = ["--num-train", "12", "--num-dev", "6", "--num-test", "6", "--num-lm-sentences", "5"]
    first = run_script(*step, *size)
    assert first.returncode == 0, first.stderr
    assert validate_data_dir(tmp_path / "out" / "test").num_speakers == 6
    again = run_script(*step, *size)
    assert again.returncode == 0 and "up to date" in again.stderr
    assert run_script(*step, *size, "--seed", "2").returncode == 2
