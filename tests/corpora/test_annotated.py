"""Long recordings with TextGrids, ELAN's files and subtitles."""

from __future__ import annotations

from pathlib import Path

import pytest
from praatio import textgrid

from pipeline.base.errors import DataError
from pipeline.corpora.elan import parse_elan
from pipeline.corpora.options import ImportOptions
from pipeline.corpora.subtitles import parse_subtitles
from pipeline.corpora.textgrid import interval_tiers, parse_textgrid
from tests.corpora.made import Imported, audio, lines, noise

# Tier -> intervals; the labels have what TextGrids are read wrongly by.
TIERS = {
    "Mary": [(0.5, 1.25, "hello world"), (2.0, 2.5, 'he said "item [2]:" = 5')],
    "Jöhn": [(1.0, 2.25, "grüß\ngott"), (3.0, 3.5, "intervals [1]: xmin = 3"), (3.5, 4.0, "12")],
}


def write_textgrid(path: Path, form: str = "long_textgrid", encoding: str = "utf-8", tiers=TIERS, end: float = 4.0):
    """By praatio, so that two programs agree on the format."""
    grid = textgrid.Textgrid(0.0, end)
    for name, intervals in tiers.items():
        grid.addTier(textgrid.IntervalTier(name, intervals, 0.0, end))
    grid.addTier(textgrid.PointTier("events", [(0.7, "bang"), (0.9, '"')], 0.0, end))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(str(path), format=form, includeBlankSpaces=True)
    if encoding != "utf-8":
        path.write_bytes(path.read_text(encoding="utf-8").replace("\n", "\r\n").encode(encoding))
    return path


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_textgrids(tmp_path, form, encoding):
    """Tiers are speakers, intervals are utterances, and their audio is that part of the recording."""
    long = audio(tmp_path / "corpus" / "talk.wav", seconds=4.0)
    write_textgrid(tmp_path / "corpus" / "talk.TextGrid", form, encoding)
    made = Imported(tmp_path / "corpus", tmp_path / "out")
    assert made.texts() == {
        "Mary-talk-00000500-00001250": "hello world",
        "Mary-talk-00002000-00002500": 'he said "item [2]:" = 5',
        "Jöhn-talk-00001000-00002250": "grüß gott",
        "Jöhn-talk-00003000-00003500": "intervals [1]: xmin = 3",
        "Jöhn-talk-00003500-00004000": "12",
    }
    assert set(made.speakers().values()) == {"Mary", "Jöhn"}
    assert made.spans()["Jöhn-talk-00001000-00002250"] == (1.0, 2.25)
    assert (made.samples("Mary-talk-00000500-00001250") == noise("talk.wav", 4.0)[8000:20000]).all()
    assert {cut.recording.id for cut in made.cuts.values()} == {"talk"} and made.facts["recordings"] == 1
    assert made.cuts["Jöhn-talk-00003500-00004000"].recording.sources[0].source == str(long)


def test_tiers_that_are_chosen(tmp_path):
    audio(tmp_path / "a.wav", seconds=4.0)
    path = write_textgrid(tmp_path / "a.TextGrid")
    made = Imported(path, tmp_path / "out", tiers=("Mary",))
    assert set(made.speakers().values()) == {"Mary"} and len(made.cuts) == 2
    with pytest.raises(DataError, match="has no tier 'Bob', but 'Mary', 'Jöhn'"):
        Imported(path, tmp_path / "none", tiers=("Bob",))
    words = {"Mary - words": TIERS["Mary"], "Mary - phones": [(0.5, 0.6, "h")]}
    write_textgrid(path, tiers=words)
    with pytest.raises(DataError, match="'Mary - words', 'Mary - phones' look like an alignment; --tiers"):
        Imported(path, tmp_path / "ali")
    assert len(Imported(path, tmp_path / "words", tiers=("Mary - words",)).cuts) == 2


def test_one_tier_called_after_its_content(tmp_path):
    """Then the folder is the speaker, or the file."""
    for name in ("s1/a", "s1/b", "c"):
        audio(tmp_path / "corpus" / f"{name}.wav", seconds=4.0)
        write_textgrid(tmp_path / "corpus" / f"{name}.TextGrid", tiers={"utterances": TIERS["Mary"]})
    made = Imported(tmp_path / "corpus", tmp_path / "out")
    assert {cut_id[:-18]: speaker for cut_id, speaker in made.speakers().items()} == {
        "s1-a": "s1", "s1-b": "s1", "c": "c",
    }  # fmt: skip


@pytest.mark.parametrize("cut", range(0, 100, 7))
def test_cut_textgrids(tmp_path, cut):
    """A TextGrid that ends early is refused wherever it ends, if that is not in the last label's white space."""
    whole = write_textgrid(tmp_path / "a.TextGrid", "short_textgrid").read_text(encoding="utf-8").rstrip()
    path = tmp_path / "b.TextGrid"
    path.write_text(whole[: len(whole) * cut // 100], encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.TextGrid"):
        parse_textgrid(path, ImportOptions())


BAD_GRIDS = {
    "hello": "not a TextGrid",
    'File type = "ooTextFile"\nObject class = "Pitch 1"\n': "an object of Praat, but not a TextGrid",
    'ooTextFile\n"ooTextFile"\n"TextGrid"\n0\n"x"': ":5: .x. where the TextGrid should have a number",
    '"ooTextFile"\n"TextGrid"\n0\n1\n<exists>\n1\n7': ":7: 7 where the TextGrid should have a text",
}


@pytest.mark.parametrize("text", BAD_GRIDS)
def test_no_textgrids(text):
    with pytest.raises(DataError, match=BAD_GRIDS[text]):
        interval_tiers(text, Path("x.TextGrid"))
    binary = b"ooBinaryFile\x08TextGrid\0"
    assert binary  # refused by name in test_bad_files


def test_bad_files(tmp_path):
    """A bad file among good ones is left out as one problem; intervals outside the audio are told one by one."""
    for name in ("good", "binary", "empty", "short", "lost"):
        write_textgrid(tmp_path / "corpus" / f"{name}.TextGrid")
        audio(tmp_path / "corpus" / f"{name}.wav", seconds=4.0 if name != "short" else 1.5)
    (tmp_path / "corpus" / "binary.TextGrid").write_bytes(b"ooBinaryFile\x08TextGrid\0\0")
    write_textgrid(tmp_path / "corpus" / "empty.TextGrid", tiers={"Mary": [(0.0, 1.0, " ")]})
    (tmp_path / "corpus" / "lost.wav").unlink()
    made = Imported(tmp_path / "corpus", tmp_path / "out", max_bad=0.9)
    assert len(made.cuts) == 6 and "Mary-short-00000500-00001250" in made.cuts
    assert made.left_out["binary"][0] == "annotations that cannot be read" and "binary" in made.left_out["binary"][1]
    assert "no utterance" in made.left_out["empty"][1]
    assert made.facts["left_out"]["no audio"] == 5 and made.facts["left_out"]["outside the recording"] == 4
    assert "short.TextGrid:" in made.left_out["Mary-short-00002000-00002500"][1]


EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" FORMAT="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/recordings/my%20talk.wav" MIME_TYPE="audio/x-wav" RELATIVE_MEDIA_URL="./my%20talk.wav"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="500"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="1250"/>
    <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="2000"/><TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="2750"/>
    <TIME_SLOT TIME_SLOT_ID="ts5"/>
  </TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="utt" PARTICIPANT="Mary" TIER_ID="M-utt">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>tom &amp; jerry</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="utt" TIER_ID="Bob">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
      <ANNOTATION_VALUE>yes</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="gloss" PARENT_REF="M-utt" TIER_ID="M-gloss">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1">
      <ANNOTATION_VALUE>a gloss</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""


def test_elan(tmp_path):
    audio(tmp_path / "corpus" / "my talk.wav", seconds=4.0)
    lines(tmp_path / "corpus" / "session 1.eaf", EAF)
    made = Imported(tmp_path / "corpus", tmp_path / "out")
    assert made.texts() == {
        "Mary-session_1-00000500-00001250": "tom & jerry", "Bob-session_1-00002000-00002750": "yes",
    }  # fmt: skip
    assert made.speakers()["Mary-session_1-00000500-00001250"] == "Mary"
    assert made.spans()["Bob-session_1-00002000-00002750"] == (2.0, 2.75)
    late = EAF.replace('MIME_TYPE="audio/x-wav"', 'TIME_ORIGIN="250" MIME_TYPE="audio/x-wav"')
    lines(tmp_path / "corpus" / "session 1.eaf", late)
    assert (0.75, 1.5) in Imported(tmp_path / "corpus", tmp_path / "late").spans().values()


@pytest.mark.parametrize("name, start", [("my talk.wav", 0.75), ("film.wav", 2.5), ("session 1.wav", 0.75)])
def test_elan_of_several_media(tmp_path, name, start):
    """Times count from the origin of the file that is taken; of a file that no descriptor names, from the first one's."""
    audio(tmp_path / "corpus" / name, seconds=6.0)
    film = '<MEDIA_DESCRIPTOR MEDIA_URL="file:///film.wav" TIME_ORIGIN="2000"/>\n  </HEADER>'
    text = EAF.replace('MIME_TYPE="audio/x-wav"', 'TIME_ORIGIN="250"').replace("</HEADER>", film)
    lines(tmp_path / "corpus" / "session 1.eaf", text)
    assert Imported(tmp_path / "corpus", tmp_path / "out").spans()[
        f"Mary-session_1-{round(1000 * start):08d}-{round(1000 * start) + 750:08d}"
    ] == (start, start + 0.75)


@pytest.mark.parametrize("suffix, text", [
    (".TextGrid", '"ooTextFile" "TextGrid" 0 4 <exists> 1 "IntervalTier" "x" 0 4 2 0 1 "good" {} 1e308 "far"'),
    (".ctm", "a 1 0 0.5 good\na 1 {} 1 far"),
    (".stm", "a 1 x 0 1 good\na 1 x {} 1e308 far"),
    (".csv", "audio,text,start,end\na.wav,good,0,1\na.wav,far,{},1e308"),
])  # fmt: skip
def test_times_beyond_all_recordings(tmp_path, suffix, text):
    """Their milliseconds are no number any more."""
    audio(tmp_path / "a.wav", seconds=4.0)
    lines(tmp_path / f"a{suffix}", text.format("1e307"))
    made = Imported(tmp_path / f"a{suffix}", tmp_path / "out", max_bad=0.5)
    assert list(made.texts().values()) == ["good"] and len(made.left_out) == 1


BAD_EAF = {
    "entities": (lambda t: t.replace("?>\n", '?>\n<!DOCTYPE x [<!ENTITY a "b">]>\n', 1), ":2: a document type with entities"),
    "external": (lambda t: t.replace("?>\n", '?>\n<!DOCTYPE x SYSTEM "file:///etc/passwd">\n', 1), ":2: a document type"),
    "cut": (lambda t: t[:900], "not XML"),
    "encoding": (lambda t: t.replace("UTF-8", "UTZ-8", 1), "a.eaf:1: unknown encoding: UTZ-8"),
    "other": (lambda t: "<html></html>", "not a file of ELAN"),
    "slot": (lambda t: t.replace("REF2=\"ts4\"", "REF2=\"ts5\""), "time slot without a time, ts3 or ts5"),
    "attribute": (lambda t: t.replace("TIER_ID=\"Bob\"", ""), "lacks the attribute 'TIER_ID'"),
    "time": (lambda t: t.replace("\"500\"", "\"soon\""), "not a time"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_EAF)
def test_bad_elan(tmp_path, name):
    change, told = BAD_EAF[name]
    path = lines(tmp_path / "a.eaf", change(EAF))
    with pytest.raises(DataError, match=told):
        parse_elan(path, ImportOptions())


SRT = """1
00:00:00,500 --> 00:00:01,250
<i>Hello</i> world
{\\an8}again

2
00:00:02,000 --> 00:00:02,750 X1:100
Tom &amp; Jerry

3
00:00:03,000 --> 00:00:03,500

"""
VTT = """WEBVTT - title

NOTE a note

STYLE
::cue { color: red }

intro
00:00.500 --> 00:01.250 align:start
<v Mary>Hello <c.red>world</c>

01:00:02.000 --> 01:00:02.750
<v.loud Bob Smith>a < b
"""


def test_subtitles(tmp_path):
    audio(tmp_path / "corpus" / "film.wav", seconds=4.0)
    lines(tmp_path / "corpus" / "film.en.srt", SRT.replace("\n", "\r\n"))
    made = Imported(tmp_path / "corpus", tmp_path / "out")
    assert made.texts() == {
        "film.en-00000500-00001250": "Hello world again", "film.en-00002000-00002750": "Tom & Jerry",
    }  # fmt: skip
    assert set(made.speakers().values()) == {"film.en"}
    spans = parse_subtitles(lines(tmp_path / "a.vtt", VTT), ImportOptions()).spans
    assert [(s.start, s.end, " ".join(s.text.split()), s.speaker) for s in spans] == [
        (0.5, 1.25, "Hello world", "Mary"), (3602.0, 3602.75, "a < b", "Bob Smith"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="a.srt:2: not the times of a cue: '00:00 --> soon'"):
        parse_subtitles(lines(tmp_path / "a.srt", "1", "00:00 --> soon"), ImportOptions())


def test_ambiguous_folder(tmp_path):
    audio(tmp_path / "corpus" / "a.wav", seconds=4.0)
    write_textgrid(tmp_path / "corpus" / "a.TextGrid")
    lines(tmp_path / "corpus" / "a.lab", "hello")
    with pytest.raises(DataError, match=r"could be textgrid \(.*\) and folder \(.*\); --format NAME says which"):
        Imported(tmp_path / "corpus", tmp_path / "out")
    assert Imported(tmp_path / "corpus", tmp_path / "lab", format="folder").texts() == {"a": "hello"}
