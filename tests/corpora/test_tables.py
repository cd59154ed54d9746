"""Tables: Common Voice, LJSpeech, Hugging Face, NeMo, anybody's."""

from __future__ import annotations

import gzip
import json

import pydantic
import pytest

from pipeline.base.errors import DataError
from pipeline.corpora.options import ImportOptions
from tests.corpora.made import Imported, audio, lines, noise


def test_common_voice(tmp_path):
    """Tabs, quotes that are text, audio in clips/, MP3; one of several tables has to be given."""
    for i in range(3):
        audio(tmp_path / "cv" / "clips" / f"common_voice_{i}.mp3", rate=48000, format="MP3", subtype="MPEG_LAYER_III")
    rows = ["client_id\tpath\tsentence\tup_votes\tage\tgender\tlocale"]
    rows += [f'c{i % 2}\tcommon_voice_{i}.mp3\tHe said "go {i}\t2\t\tfemale_feminine\ten' for i in range(3)]
    lines(tmp_path / "cv" / "train.tsv", *rows)
    lines(tmp_path / "cv" / "dev.tsv", *rows[:2])
    with pytest.raises(DataError, match="needs one table that names audio and text, has dev.tsv, train.tsv"):
        Imported(tmp_path / "cv", tmp_path / "out")
    made = Imported(tmp_path / "cv" / "train.tsv", tmp_path / "train", rate=16000, punctuation="strip")
    assert made.texts() == {f"common_voice_{i}": f"He said go {i}" for i in range(3)}
    assert made.speakers()["common_voice_2"] == "c0" and made.checked.sampling_rate == 16000
    supervision = made.cuts["common_voice_1"].supervisions[0]
    assert (supervision.gender, supervision.language) == ("female", "en")
    assert made.checked.seconds == pytest.approx(1.5, abs=0.1)


def test_ljspeech(tmp_path):
    for i in range(2):
        audio(tmp_path / "LJ" / "wavs" / f"LJ001-000{i}.wav", rate=22050)
    lines(
        tmp_path / "LJ" / "metadata.csv",
        'LJ001-0000|It is 5 "x|It is five "x',
        "LJ001-0001|in being, yes|in being, yes",
    )
    made = Imported(tmp_path / "LJ", tmp_path / "out")
    assert made.texts() == {"LJ001-0000": 'It is five "x', "LJ001-0001": "in being, yes"}
    assert made.facts["format"] == "table" and made.checked.sampling_rate == 22050
    raw = Imported(tmp_path / "LJ", tmp_path / "raw", columns=("audio=1", "text=2"))
    assert raw.texts()["LJ001-0000"] == 'It is 5 "x'


def test_files_of_one_name_in_several_folders(tmp_path):
    """Without a column of ids the folders belong to the id, where the names alone would be the same."""
    top = tmp_path / "c"
    for folder in ("ann", "bob"):
        audio(top / folder / "001.wav", rate=16000, seconds=2.0)
    lines(top / "t.csv", "audio,text", "ann/001.wav,one", "bob/001.wav,two")
    made = Imported(top / "t.csv", tmp_path / "out")
    assert made.texts() == {"ann-001": "one", "bob-001": "two"}
    lines(
        top / "s.csv",
        "audio,start,end,text",
        *(f"{who}/001.wav,{a},{a + 1},{who}" for who in ("ann", "bob") for a in (0, 1)),
    )
    cut = Imported(top / "s.csv", tmp_path / "segments")
    assert cut.texts() == {f"{who}-001-{a:08d}": who for who in ("ann", "bob") for a in (0, 1000)}
    lines(top / "gap.csv", "audio,text", "ann/001.wav,one", ",none", "bob/001.wav,two")
    assert Imported(top / "gap.csv", tmp_path / "gap", max_bad=0.5).texts() == made.texts()
    lines(top / "one.csv", "audio,text", "ann/001.wav,one")
    assert Imported(top / "one.csv", tmp_path / "one").texts() == {"001": "one"}
    lines(top / "whole.csv", "audio,text", *(f"{top / who / '001.wav'},{who}" for who in ("ann", "bob")))
    assert Imported(top / "whole.csv", tmp_path / "whole").texts() == {"ann-001": "ann", "bob-001": "bob"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_hugging_face(tmp_path, kind):
    """Commas, quoted fields with line ends, a byte order mark; the same as JSON."""
    for i in range(2):
        audio(tmp_path / "hf" / "data" / f"{i}.wav")
    rows = [{"file_name": f"data/{i}.wav", "transcription": f'hello, "{i}"\nworld', "speaker_id": i} for i in range(2)]
    if kind == "csv":
        text = "file_name,transcription,speaker_id\n"
        text += "".join(f'data/{i}.wav,"hello, ""{i}""\nworld",{i}\n' for i in range(2))
        (tmp_path / "hf" / "metadata.csv").write_text("\ufeff" + text, encoding="utf-8")
    elif kind == "jsonl":
        lines(tmp_path / "hf" / "metadata.jsonl", *map(json.dumps, rows))
    else:
        lines(tmp_path / "hf" / "metadata.json", json.dumps(rows, indent=1))
    made = Imported(tmp_path / "hf", tmp_path / "out")
    assert made.texts() == {"0": 'hello, "0" world', "1": 'hello, "1" world'} and made.speakers() == {
        "0": "0",
        "1": "1",
    }


def test_nemo(tmp_path):
    """Offsets and durations of parts of a recording."""
    path = audio(tmp_path / "a.wav", seconds=2.0)
    rows = [
        {"audio_filepath": str(path), "duration": 0.5, "offset": 0.25, "text": "one"},
        {"audio_filepath": "a.wav", "duration": 1.0, "offset": 1.0, "text": "two"},
    ]
    lines(tmp_path / "manifest.json", *map(json.dumps, rows))
    made = Imported(tmp_path / "manifest.json", tmp_path / "out")
    assert made.spans() == {"a-00000250": (0.25, 0.75), "a-00001000": (1.0, 2.0)}
    assert (made.samples("a-00001000") == noise("a.wav", 2.0)[16000:]).all()


def test_named_columns(tmp_path):
    audio(tmp_path / "deep" / "down" / "x1.flac", seconds=2.0, channels=2)
    lines(tmp_path / "my.csv", "Datei;Wer;Was;von;bis;Kanal", "x1;anna;grüß gott;0,5;1;1", "x1;ben;hallo;0.5;1.5;0")
    columns = ("audio=Datei", "text=Was", "speaker=Wer", "start=von", "end=bis", "channel=Kanal")
    with pytest.raises(DataError, match=r"my.csv:1: no column for audio in 'Datei'.*--columns audio=NAME"):
        Imported(tmp_path / "my.csv", tmp_path / "none", format="table")
    made = Imported(tmp_path / "my.csv", tmp_path / "out", format="table", columns=columns, max_bad=0.5)
    assert made.texts() == {"x1-00000500": "hallo"} and made.speakers() == {"x1-00000500": "ben"}
    assert made.left_out["x1"] == ("row of a table", f"{tmp_path}/my.csv:2: '0,5' is no time in seconds")
    with pytest.raises(DataError, match="no column 'was'"):
        Imported(tmp_path / "my.csv", tmp_path / "no", format="table", columns=("text=was",))


def test_no_heading_by_number(tmp_path):
    audio(tmp_path / "a.wav")
    lines(tmp_path / "list.txt", "a.wav\tspk\t\thello world", "b.wav\tspk\t\tgone", "c.wav\tx")
    made = Imported(
        tmp_path / "list.txt", tmp_path / "out", format="table", columns=("audio=1", "text=4", "speaker=2"), max_bad=0.9
    )
    assert made.texts() == {"a": "hello world"} and made.speakers() == {"a": "spk"}
    assert made.left_out["b"][0] == "no audio" and "list.txt:2" in made.left_out["b"][1]
    assert made.left_out["c.wav"][0] == "number of columns"


@pytest.mark.parametrize(
    "text, told",
    [
        ('audio,text\na.wav,"never ends\n', "unexpected end of data"),
        ('audio,text\na.wav,"x"y\n', "expected after"),
        ("audio,text\na.wav,caf\xe9\n", "not UTF-8; --encoding"),
        ("audio,text\n,hello\n", "list.csv:2: names no audio file"),
        ("audio,text,start,end\na.wav,hello,0.4,0.3\n", "spans [0.4, 0.3] s"),
        ("audio,text,start\na.wav,hello,nan\n", "'nan' is no time"),
        ("audio,text,channel\na.wav,hello,left\n", "channel 'left' is no number"),
        ("audio,text,channel\na.wav,hello,1\n", "has no channel 1, but 1"),
        ("audio,text\na.wav,\n", "has no words"),
        ("audio,text\na.wav,x\na.wav,y\n", "utterance 'a' came before"),
        ("", "no column for audio"),
    ],
)
def test_broken_tables(tmp_path, text, told):
    audio(tmp_path / "a.wav")
    (tmp_path / "list.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as err:
        Imported(tmp_path / "list.csv", tmp_path / "out", format="table")
    assert told in str(err.value)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_columns_that_are_not_there(tmp_path, kind):
    audio(tmp_path / "a.wav")
    lines(tmp_path / f"list.{kind}", "a.wav,hello" if kind == "csv" else '{"audio": "a.wav", "text": "hello"}')
    with pytest.raises(DataError, match=r"list\.\w+:1: --columns text=3, of 2 columns"):
        Imported(tmp_path / f"list.{kind}", tmp_path / "out", format="table", columns=("audio=1", "text=3"))


def test_json_in_another_encoding(tmp_path):
    audio(tmp_path / "a.wav")
    (tmp_path / "list.jsonl").write_bytes('{"audio": "a.wav", "text": "café"}\n'.encode("latin-1"))
    made = Imported(tmp_path / "list.jsonl", tmp_path / "out", format="table", encoding="latin-1")
    assert made.texts() == {"a": "café"}


@pytest.mark.parametrize("kind", ["jsonl.gz", "json.gz"])
@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:30] + bytes([b[30] ^ 255, b[31] ^ 255]) + b[32:]])
def test_damaged_gzip(tmp_path, kind, damage):
    row = json.dumps({"audio": "a.wav", "text": "x"})
    text = "\n".join([row] * 99) if kind == "jsonl.gz" else f"[{','.join([row] * 99)}]"
    (tmp_path / f"list.{kind}").write_bytes(damage(gzip.compress(text.encode(), mtime=0)))
    with pytest.raises(DataError, match=r"list\.\w+\.gz|no format"):
        Imported(tmp_path / f"list.{kind}", tmp_path / "auto")
    with pytest.raises(DataError, match=r"list\.\w+\.gz"):
        Imported(tmp_path / f"list.{kind}", tmp_path / "out", format="table")


def test_values_that_are_no_texts(tmp_path):
    audio(tmp_path / "a.wav")
    rows = [{"audio": "a.wav", "text": value} for value in ("fine", None, [1], {"a": 1}, 7, True)]
    rows = [{**row, "id": f"u{i}"} for i, row in enumerate(rows)]
    lines(tmp_path / "list.jsonl", *map(json.dumps, rows))
    made = Imported(tmp_path / "list.jsonl", tmp_path / "out", max_bad=0.9)
    assert made.texts() == {"u0": "fine", "u4": "7", "u5": "True"} and made.facts["left_out"]["row of a table"] == 2


@pytest.mark.parametrize("options", [{"columns": ("word=x",)}, {"columns": ("text=",)}, {"delimiter": "ab"}])
def test_bad_options(options):
    with pytest.raises(pydantic.ValidationError):
        ImportOptions(**options)
