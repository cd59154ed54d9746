"""Data directories: round trip, and every check on broken input."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.artifacts.corpus import (
    Span,
    as_cut,
    audio_recording,
    iter_cuts,
    load_cuts,
    load_samples,
    save_data_dir,
    utterance,
    validate_data_dir,
)
from pipeline.artifacts.cut_checks import audio_info
from pipeline.base.errors import DataError
from pipeline.base.files import read_jsonl, write_jsonl

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


def write_audio(path: Path, seconds: float = 1.0, rate: int = RATE) -> Path:
    """A noise that FLAC cannot shrink much, so that a cut file lacks samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(-9000, 9000, round(seconds * rate)).astype(np.int16)
    soundfile.write(str(path), noise, rate, subtype="PCM_16")
    return path


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    cuts = []
    for name in ("spk1-b", "spk1-a", "spk2-a"):
        recording = audio_recording(name, write_audio(tmp_path / "audio" / f"{name}.flac"))
        words = [Span("A", 0.1, 0.2), Span("B", 0.3, 0.25)]
        cuts.append(utterance(name, recording, "A  B", name.split("-")[0], words, [Span("AX", 0.1, 0.2)]))
    save_data_dir(tmp_path / "data", cuts)
    return tmp_path / "data"


def edit(data_dir: Path, change, line: int = 1) -> None:
    """Apply ``change`` to the cut in a line of cuts.jsonl.gz."""
    cuts = list(read_jsonl(data_dir / "cuts.jsonl.gz"))
    change(cuts[line - 1])
    write_jsonl(data_dir / "cuts.jsonl.gz", cuts)


def test_round_trip_is_sorted_and_byte_equal(data_dir, tmp_path):
    cuts = load_cuts(data_dir)
    assert list(cuts.ids) == ["spk1-a", "spk1-b", "spk2-a"]
    supervision = cuts["spk1-b"].supervisions[0]
    assert (supervision.text, supervision.speaker) == ("A B", "spk1")
    assert [tuple(item)[:3] for item in supervision.alignment["word"]] == [("A", 0.1, 0.2), ("B", 0.3, 0.25)]
    save_data_dir(tmp_path / "again", cuts)
    for name in ("recordings", "supervisions", "cuts"):
        assert (tmp_path / "again" / f"{name}.jsonl.gz").read_bytes() == (data_dir / f"{name}.jsonl.gz").read_bytes()


def test_facts(data_dir):
    facts = validate_data_dir(data_dir, decode=True)
    assert facts == (3, 2, pytest.approx(3.0), RATE)


def test_lhotse_reads_the_manifests(data_dir):
    from lhotse import load_manifest

    assert len(load_manifest(data_dir / "recordings.jsonl.gz")) == 3
    assert {s.speaker for s in load_manifest(data_dir / "supervisions.jsonl.gz")} == {"spk1", "spk2"}
    assert load_manifest(data_dir / "cuts.jsonl.gz")["spk2-a"].load_audio().shape == (1, RATE)


BROKEN = {
    "empty id": (lambda c: c.update(id=""), "utterance id '' is empty"),
    "blank in id": (lambda c: c.update(id="a b"), "utterance id 'a b' is empty or holds blanks"),
    "no recording": (lambda c: c.pop("recording"), "has no recording"),
    "no duration": (lambda c: c.pop("duration"), "lacks a start or duration"),
    "text for a number": (lambda c: c.update(duration="x"), 'field duration should be a number, and is "x"'),
    "nan duration": (lambda c: c.update(duration=[1]), r"field duration should be a number, and is \[1\]"),
    "other recording": (lambda c: c["supervisions"][0].update(recording_id="z"), "is of recording 'z', not 'spk1-b'"),
    "other length": (lambda c: c["recording"].update(num_samples=8000), "has 0.500 s of samples, and by its duration"),
    "beyond recording": (lambda c: c.update(duration=2.0), r"spans \[0.0, 2.0\] s of a recording"),
    "no sampling rate": (lambda c: c["recording"].pop("sampling_rate"), "lacks sampling_rate"),
    "two supervisions": (lambda c: c["supervisions"].append(c["supervisions"][0]), "has 2 supervisions"),
    "no supervision": (lambda c: c["supervisions"].clear(), "has 0 supervisions"),
    "other supervision": (lambda c: c["supervisions"][0].update(id="z"), "supervision has another id, 'z'"),
    "empty text": (lambda c: c["supervisions"][0].update(text=" "), "empty transcript"),
    "no text": (lambda c: c["supervisions"][0].pop("text"), "empty transcript"),
    "double blank": (lambda c: c["supervisions"][0].update(text="A  B"), "not separated by single blanks"),
    "no speaker": (lambda c: c["supervisions"][0].pop("speaker"), "speaker None is missing"),
    "blank speaker": (lambda c: c["supervisions"][0].update(speaker="a b"), "speaker 'a b' is missing or holds blanks"),
    "long supervision": (
        lambda c: c["supervisions"][0].update(duration=1.5),
        r"supervision spans \[0.0, 1.5\] s of a cut",
    ),
    "no supervision start": (lambda c: c["supervisions"][0].pop("start"), "supervision lacks a start"),
    "word outside": (lambda c: c["supervisions"][0]["alignment"]["word"][1].__setitem__(2, 2.0), "word 'B' at 0.3 s"),
    "words overlap": (lambda c: c["supervisions"][0]["alignment"]["word"][1].__setitem__(1, 0.2), "word 'B' at 0.2 s"),
    "negative phone": (
        lambda c: c["supervisions"][0]["alignment"]["phone"][0].__setitem__(2, -0.1),
        "phone 'AX' at 0.1 s",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_cut(data_dir, name):
    change, message = BROKEN[name]
    edit(data_dir, change, line=2)
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz:2: .*" + message):
        load_cuts(data_dir)
    with pytest.raises(DataError, match=message):
        list(iter_cuts(data_dir))


def test_duplicate_id_names_the_first_line(data_dir):
    cuts = list(read_jsonl(data_dir / "cuts.jsonl.gz"))
    write_jsonl(data_dir / "cuts.jsonl.gz", cuts + [cuts[1]])
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz:4: utterance id 'spk1-b' stands in line 2 already"):
        load_cuts(data_dir)


def test_other_sampling_rate_in_one_utterance(data_dir):
    edit(data_dir, lambda c: c["recording"].update(sampling_rate=8000, num_samples=8000), line=3)
    with pytest.raises(DataError, match=r":3: utterance 'spk2-a' has 8000 Hz, the others have 16000 Hz"):
        load_cuts(data_dir)


def test_many_problems_are_counted_and_the_first_20_listed(data_dir):
    cuts = [
        dict(cut, id=f"u{i}", supervisions=[])
        for i in range(25)
        for cut in [list(read_jsonl(data_dir / "cuts.jsonl.gz"))[0]]
    ]
    write_jsonl(data_dir / "cuts.jsonl.gz", cuts)
    with pytest.raises(DataError) as caught:
        load_cuts(data_dir)
    assert "25 problems" in str(caught.value) and "... and 5 more" in str(caught.value)
    assert str(caught.value).count("has 0 supervisions") == 20


@pytest.mark.parametrize(
    "content, message", [("{", r"cuts\.jsonl\.gz:1: not JSON"), ("[1]", "not a JSON object"), ("", "no utterance")]
)
def test_broken_file(data_dir, content, message):
    import gzip

    (data_dir / "cuts.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    with pytest.raises(DataError, match=message):
        load_cuts(data_dir)


def test_missing_directory(tmp_path):
    with pytest.raises(DataError, match="is not a data directory"):
        load_cuts(tmp_path / "nothing")


def audio_of(data_dir: Path, line: int = 1) -> Path:
    return Path(list(read_jsonl(data_dir / "cuts.jsonl.gz"))[line - 1]["recording"]["sources"][0]["source"])


def test_missing_audio(data_dir):
    audio_of(data_dir).unlink()
    load_cuts(data_dir)  # the manifest alone is fine
    for check in (lambda: load_cuts(data_dir, check_audio=True), lambda: validate_data_dir(data_dir)):
        with pytest.raises(DataError, match=r"cuts\.jsonl\.gz:1: .*spk1-a\.flac: no such audio file"):
            check()


def test_audio_whose_name_no_disk_can_hold():
    with pytest.raises(DataError, match="a{5000}"):
        audio_info(Path("a" * 5000))


def test_not_audio(data_dir):
    audio_of(data_dir).write_text("hello")
    with pytest.raises(DataError, match="not a readable audio file"):
        validate_data_dir(data_dir)


def test_sampling_rate_differs_from_manifest(data_dir):
    write_audio(audio_of(data_dir), rate=8000)
    with pytest.raises(DataError, match=r":1: .*sampling rate 8000 Hz, the manifest says 16000 Hz"):
        validate_data_dir(data_dir)


def test_length_differs_from_manifest(data_dir):
    write_audio(audio_of(data_dir), seconds=0.5)
    with pytest.raises(DataError, match="8000 samples, the manifest says 16000"):
        validate_data_dir(data_dir)


@pytest.mark.parametrize("decode", [False, True])
def test_truncated_flac(data_dir, decode):
    path = audio_of(data_dir)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz:1: .*truncated"):
        validate_data_dir(data_dir, decode=decode)


def test_damage_in_the_middle_needs_decoding(data_dir):
    path = audio_of(data_dir)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    validate_data_dir(data_dir)
    with pytest.raises(DataError, match="truncated or damaged"):
        validate_data_dir(data_dir, decode=True)


def test_stale_manifest_beside_the_cuts(data_dir):
    edit(data_dir, lambda c: c["supervisions"][0].update(text="C"), line=2)
    with pytest.raises(DataError, match=r"supervisions\.jsonl\.gz:2: 'spk1-b' has another text"):
        validate_data_dir(data_dir)
    (data_dir / "recordings.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"recordings\.jsonl\.gz: no such file"):
        validate_data_dir(data_dir)


def test_extra_and_missing_supervision(data_dir):
    items = list(read_jsonl(data_dir / "supervisions.jsonl.gz"))
    write_jsonl(data_dir / "supervisions.jsonl.gz", [dict(items[0], id="x"), *items[1:]])
    with pytest.raises(DataError) as caught:
        validate_data_dir(data_dir)
    assert "'x' does not occur in cuts.jsonl.gz" in str(caught.value) and "lacks 'spk1-a'" in str(caught.value)


def test_command_ends_with_2_on_broken_data(data_dir, run_script):
    good = run_script(sys.executable, ROOT / "utils" / "validate_data.py", data_dir)
    assert good.returncode == 0 and "3 utterances, 2 speakers" in good.stdout
    edit(data_dir, lambda c: c["supervisions"][0].update(text=""))
    bad = run_script(sys.executable, ROOT / "utils" / "validate_data.py", data_dir)
    assert bad.returncode == 2 and "cuts.jsonl.gz:1" in bad.stderr and "Traceback" not in bad.stderr


def channels(first: int, file_channels: int, cut_channel: object):
    """Change a cut to take a channel of a recording of some channels."""

    def change(cut: dict) -> None:
        cut["recording"]["sources"][0]["channels"] = list(range(first, first + file_channels))
        cut["recording"]["channel_ids"] = list(range(first, first + file_channels))
        cut["channel"] = cut_channel

    return change


AUDIO_KINDS = {
    "a command": (lambda c: c["recording"]["sources"][0].update(type="command", source="touch x"), "type 'command'"),
    "an address": (lambda c: c["recording"]["sources"][0].update(type="url", source="http://x/y"), "type 'url'"),
    "bytes": (lambda c: c["recording"]["sources"][0].update(type="memory", source="x"), "type 'memory'"),
    "no list": (lambda c: c["recording"].update(sources="x"), "recording.sources should be a list of objects"),
    "several channels": (channels(0, 2, [0, 1]), r"takes the channels \[0, 1\], and one has to be chosen"),
    "a channel that is not there": (channels(0, 1, 5), r"takes channel 5 of a recording that has \[0\]"),
    "no channel": (lambda c: c.pop("channel"), "takes channel None"),
    "a word for it": (channels(0, 1, "left"), "field channel should be a channel"),
    "true": (channels(0, 2, True), "field channel should be a channel"),
}


@pytest.mark.parametrize("name", AUDIO_KINDS)
def test_audio_that_no_step_takes(data_dir, name):
    """Commands and addresses would be run when audio is loaded; a channel is never chosen silently."""
    change, message = AUDIO_KINDS[name]
    edit(data_dir, change, line=2)
    with pytest.raises(DataError, match=r"cuts\.jsonl\.gz:2: utterance 'spk1-b'.*" + message):
        list(iter_cuts(data_dir))


def test_channels_of_the_file_and_of_the_manifest(data_dir):
    edit(data_dir, channels(0, 2, 1), line=2)
    with pytest.raises(DataError, match=r"1 channels, the manifest says \[0, 1\]"):
        list(iter_cuts(data_dir, check_audio=True))


@pytest.mark.parametrize("char", ["\u00a0", "\u3000", "\0", "\u200b", "\u200f", "\u00ad", "\ufeff", "e\u0301"])
def test_transcripts_with_odd_characters(data_dir, char):
    edit(data_dir, lambda c: c["supervisions"][0].update(text=f"A{char}B"), line=3)
    told = "holds U" if len(char) == 1 and not char.isspace() else "not separated by single|holds U|is not in Unicode's"
    with pytest.raises(DataError, match=rf"cuts\.jsonl\.gz:3: utterance 'spk2-a': transcript .*({told})"):
        list(iter_cuts(data_dir))


DAMAGED = {
    "zeros": (np.zeros(RATE), "FLOAT", "all samples are zero"),
    "integers as floats": (np.arange(RATE) % 9000.0, "FLOAT", "floating-point samples up to 8,999"),
    "no numbers": (np.full(RATE, np.nan), "FLOAT", "floating-point samples up to nan"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_audio(tmp_path, name):
    samples, subtype, message = DAMAGED[name]
    path = tmp_path / "a.wav"
    soundfile.write(str(path), samples, RATE, subtype=subtype)
    save_data_dir(tmp_path / "data", [utterance("a", audio_recording("a", path), "A", "s")])
    with pytest.raises(DataError, match=message):
        validate_data_dir(tmp_path / "data", decode=True)


def test_header_that_promises_more(tmp_path):
    path = write_audio(tmp_path / "a.wav")
    save_data_dir(tmp_path / "data", [utterance("a", audio_recording("a", path), "A", "s")])
    raw = bytearray(path.read_bytes())
    place = raw.index(b"data") + 4
    raw[place : place + 4] = (4 * RATE).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DataError, match="cut short: its header promises 64,000 bytes of samples, the file has 32,000"):
        validate_data_dir(tmp_path / "data")


def test_validation_loads_as_training_does(tmp_path, monkeypatch):
    """lhotse reads files named .sph by another program only."""
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "a.sph"
    soundfile.write(str(path), np.ones(RATE) / 2, RATE, format="NIST", subtype="PCM_16")
    cuts = [utterance("a", audio_recording("a", path), "A", "s")]
    save_data_dir(tmp_path / "data", cuts)
    with pytest.raises(DataError, match=r"a\.sph: cannot be loaded .*sph2pipe.*import_data.py converts it"):
        validate_data_dir(tmp_path / "data")
    with pytest.raises(DataError, match=r"utterance 'a': .*a\.sph cannot be loaded"):
        load_samples(cuts[0])


def test_as_cut_leaves_the_object_as_it_is(data_dir):
    for (_, entry), (_, again) in zip(iter_cuts(data_dir), iter_cuts(data_dir)):
        assert as_cut(entry).id == entry["id"] and entry == again


VALUES = [None, 7, -1.5, "x", [], [1], {}, {"a": 1}, True, float("nan"), float("inf"), 1e400, [[]], [None]]


def fields_of(entry, path=()):
    """Paths to all fields of a JSON object."""
    for key, value in entry.items() if isinstance(entry, dict) else enumerate(entry):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from fields_of(value, (*path, key))


def test_any_value_in_any_field(data_dir):
    """Accepted and loaded, or a DataError with file and line: never a traceback."""
    import json

    manifest = data_dir / "cuts.jsonl.gz"
    good = list(read_jsonl(manifest))
    failed, refused, tried = [], 0, 0
    for path in fields_of(good[1]):
        for value in VALUES:
            cut = json.loads(json.dumps(good[1]))
            inner = cut
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            with gzip.open(manifest, "wt") as out:
                out.writelines(json.dumps(entry) + "\n" for entry in (good[0], cut))
            tried += 1
            try:
                for _, entry in iter_cuts(data_dir, check_audio=True):
                    load_samples(as_cut(entry))
            except DataError as err:
                refused += "cuts.jsonl.gz:2" in str(err) or "spk1-b" in str(err)
            except Exception as err:
                failed.append((path, value, repr(err)[:100]))
    assert not failed, (len(failed), tried, failed[:20])
    assert refused > 0.5 * tried, (refused, tried)
