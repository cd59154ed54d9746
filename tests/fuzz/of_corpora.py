"""Corpora as others have them, in every format of the import, and the archives of lhotse Shar."""

from __future__ import annotations

from pathlib import Path

import soundfile

from pipeline.artifacts.glm import Glm
from pipeline.artifacts.hyp import Hypothesis
from pipeline.artifacts.index import load_index
from pipeline.base.digests import Digests
from pipeline.corpora.importer import audio_identity, import_corpus
from pipeline.corpora.options import ImportOptions
from pipeline.feats.options import SharOptions
from pipeline.feats.shar import export_shar, import_shar
from pipeline.tasks.score_stm import score_stm
from tests.corpora.made import audio, lines
from tests.fuzz.formats import add
from tests.fuzz.of_artifacts import LABELS
from tests.gmm.world import World, draw, write_corpus

RATE = 8000


def sound(path: Path, **kinds: str) -> Path:
    return audio(path, 0.4, RATE, **kinds)


def make_kaldi(root: Path) -> None:
    for name in ("s1-a", "s1-b", "s2-a"):
        sound(root / "wav" / f"{name}.wav")
    lines(root / "data" / "wav.scp", *(f"{name} ../wav/{name}.wav" for name in ("s1-a", "s1-b", "s2-a")))
    lines(root / "data" / "segments", "s1-1 s1-a 0.0 0.2", "s1-2 s1-a 0.2 0.4", "s1-3 s1-b 0.0 0.4", "s2-1 s2-a 0 0.3")
    lines(root / "data" / "text", "s1-1 HELLO WORLD", "s1-2 HELLO", "s1-3 AGAIN", "s2-1 WORLD IT'S")
    lines(root / "data" / "utt2spk", "s1-1 s1", "s1-2 s1", "s1-3 s1", "s2-1 s2")
    lines(root / "data" / "spk2gender", "s1 f", "s2 m")
    lines(root / "data" / "reco2file_and_channel", "s1-a s1-a A", "s1-b s1-b A", "s2-a s2-a A")


def make_folder(root: Path) -> None:
    for name in ("a/one", "a/two", "b/one"):
        sound(root / f"{name}.wav")
        lines(root / f"{name}.txt", f"text {name[0]}")
    lines(root / "b" / "b.trans.txt", "one GO ON")


def make_audio_kinds(root: Path) -> None:
    for name, kinds in {
        "one.wav": {},
        "two.flac": {},
        "three.ogg": {"format": "OGG", "subtype": "VORBIS"},
        "four.aiff": {"format": "AIFF"},
        "five.w64": {"format": "W64"},
        "six.au": {"format": "AU"},
        "seven.wav": {"subtype": "FLOAT"},
        "eight.sph": {"format": "NIST"},
    }.items():
        if kinds.get("format", "WAV") in soundfile.available_formats():
            sound(root / name, **kinds)
            lines((root / name).with_suffix(".txt"), "text")


def make_textgrid(root: Path) -> None:
    sound(root / "anna" / "one.wav")
    lines(
        root / "anna" / "one.TextGrid",
        *LABELS["anna/one.TextGrid"]
        .replace("xmax = 1\n", "xmax = 0.4\n")
        .replace("0.5", "0.3")
        .replace('"words"', '"anna"')
        .replace('"phones"', '"ben"')
        .splitlines(),
    )


ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" FORMAT="3.0" VERSION="3.0">
<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds"><MEDIA_DESCRIPTOR MEDIA_URL="file:///x/talk.wav" MIME_TYPE="audio/x-wav"/></HEADER>
<TIME_ORDER><TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="300"/></TIME_ORDER>
<TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="anna" PARTICIPANT="anna">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2"><ANNOTATION_VALUE>hello &amp; you</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
</TIER></ANNOTATION_DOCUMENT>
"""
TIMED = {
    "elan": {"talk.eaf": ELAN},
    "subtitles": {
        "talk.srt": "1\n00:00:00,000 --> 00:00:00,200\nHello <i>there</i>\n\n2\n00:00:00,200 --> 00:00:00,400\nYou\n",
        "other.vtt": "WEBVTT\n\n00:00.000 --> 00:00.200\n<v Anna>Hello\n\n00:00.200 --> 00:00.390\nYou\n",
    },
    "stm": {"talk.stm": ";; x\ntalk A anna 0.0 0.2 <o,f0,female> Hello there\ntalk A ben 0.2 0.4 {a / b} (uh) You\n"},
    "ctm": {"talk.ctm": "talk 1 0.0 0.1 hello 0.99\ntalk 1 0.12 0.1 world\ntalk 1 0.3 0.1 again\n"},
    "table": {
        "list.csv": 'audio,text,speaker,start,end\ntalk.wav,hello,s,0.0,0.2\ntalk.wav,"a, b",s,0.2,0.4\n',
    },
    "table.jsonl": {
        "list.jsonl": '{"audio": "talk.wav", "text": "hello", "duration": 0.2}\n{"audio": "talk.wav", "text": "x", "start": 0.1}\n'
    },
    "manifests": {
        "cuts.jsonl": '{"id": "c", "start": 0, "duration": 0.4, "channel": 0, "type": "MonoCut", "supervisions": [{"id": "u", '
        '"recording_id": "r", "start": 0.0, "duration": 0.3, "text": "HI", "speaker": "s", "alignment": {"word": '
        '[["HI", 0.0, 0.2, null]]}}], "recording": {"id": "r", "sources": [{"type": "file", "channels": [0], "source": '
        '"talk.wav"}], "sampling_rate": 8000, "num_samples": 3200, "duration": 0.4}}\n'
    },
    "manifest pairs": {
        "recordings.jsonl": '{"id": "r", "sources": [{"type": "file", "channels": [0], "source": "talk.wav"}], '
        '"sampling_rate": 8000, "num_samples": 3200, "duration": 0.4}\n',
        "supervisions.jsonl": '{"id": "u", "recording_id": "r", "start": 0.0, "duration": 0.3, "channel": 0, "text": "HI", '
        '"speaker": "s"}\n',
    },
}


def make_timed(name: str, root: Path) -> None:
    for other in ("talk", "other"):
        sound(root / f"{other}.wav")
    for file, text in TIMED[name].items():
        (root / file).write_text(text, encoding="utf-8")


def read_corpus(root: Path, out: Path, folder: str = ".") -> None:
    """Imports a corpus twice: strictly, and with everything that may be left out left out."""
    options = ImportOptions(max_bad=0.99, case="lower", punctuation="strip", num_jobs=1)
    audio_identity(root / folder, None, options, Digests())
    import_corpus(root / folder, None, out, out, options)
    load_index(out)


def make_scoring(root: Path) -> None:
    lines(
        root / "ref.stm",
        ";; x",
        "r A s 0.0 1.0 <o> { we're / we are } (%hes) it-",
        "r A s 1.0 2.0 IGNORE_TIME_SEGMENT_IN_SCORING",
    )
    lines(root / "en.glm", ";; x", "* y", "[gonna] => [going to] / [ ] __ [ ]", "ok => okay / [ ] __ [ ] ;; z")


def read_scoring(root: Path, out: Path) -> None:
    score_stm(
        [Hypothesis("s-r-00000000-00001000", "s", (), ("we", "are", "ok"))], root / "ref.stm", Glm.load(root / "en.glm")
    )


def make_shar(root: Path) -> None:
    write_corpus(root / "data", draw(World.make(), 3, 1))
    (root / "shar").mkdir()
    export_shar(root / "data", root / "shar", SharOptions(shard_size=2))


def read_shar(root: Path, out: Path) -> None:
    import_shar(root / "shar", out, out)


add("kaldi", make_kaldi, "data/*", lambda root, out: read_corpus(root, out, "data"))
add("folder", make_folder, "*/*.txt", read_corpus)
add("recordings", make_audio_kinds, "*.wav *.flac *.ogg *.aiff *.w64 *.au *.sph", read_corpus)
add("textgrid", make_textgrid, "*/*.TextGrid", read_corpus)
for kind, held in TIMED.items():
    add(kind, lambda root, kind=kind: make_timed(kind, root), " ".join(held), read_corpus)
add("scoring", make_scoring, "*", read_scoring)
add("shar", make_shar, "shar/* shar/shar/*", read_shar)
