"""lhotse manifests as lhotse itself and others write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.supervision import AlignmentItem

from pipeline.artifacts.corpus import save_data_dir
from pipeline.base.errors import DataError
from tests.corpora.made import Imported, audio, lines, noise


def manifests(folder: Path, channels: int = 1) -> tuple[RecordingSet, SupervisionSet]:
    """Two recordings with three supervisions, one of which has times of words."""
    recordings = [
        Recording.from_file(audio(folder / "wav" / f"{name}.wav", seconds=3.0, channels=channels), recording_id=name)
        for name in ("rec-1", "rec-2")
    ]
    words = {"word": [AlignmentItem("HELLO", 0.5, 0.5), AlignmentItem("WORLD", 1.0, 0.25)]}
    supervisions = [
        SupervisionSegment("utt-1", "rec-1", 0.5, 0.75, text="HELLO WORLD", speaker="anna", gender="female", alignment=words),
        SupervisionSegment("utt-2", "rec-1", 1.5, 1.0, text="AGAIN", speaker="ben", language="English"),
        SupervisionSegment("utt-3", "rec-2", 0.0, 3.0, text="ALL OF IT"),
    ]  # fmt: skip
    return RecordingSet.from_recordings(recordings), SupervisionSet.from_segments(supervisions)


def check(made: Imported) -> None:
    assert made.texts() == {"utt-1": "HELLO WORLD", "utt-2": "AGAIN", "utt-3": "ALL OF IT"}
    assert made.speakers() == {"utt-1": "anna", "utt-2": "ben", "utt-3": "utt-3"}
    assert made.spans() == {"utt-1": (0.5, 1.25), "utt-2": (1.5, 2.5), "utt-3": (0.0, 3.0)}
    assert (made.samples("utt-2") == noise("rec-1.wav", 3.0)[24000:40000]).all()
    supervision = made.cuts["utt-1"].supervisions[0]
    assert [(w.symbol, w.start, w.duration) for w in supervision.alignment["word"]] == [
        ("HELLO", 0.0, 0.5), ("WORLD", 0.5, 0.25),
    ]  # fmt: skip
    assert supervision.gender == "female" and made.cuts["utt-2"].supervisions[0].language == "English"
    assert made.facts["recordings"] == 2


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl"])
@pytest.mark.parametrize("names", ["{}", "corpus_{}_train"])
def test_recordings_and_supervisions(tmp_path, suffix, names):
    recordings, supervisions = manifests(tmp_path)
    recordings.to_file(tmp_path / (names.format("recordings") + suffix))
    supervisions.to_file(tmp_path / (names.format("supervisions") + suffix))
    check(Imported(tmp_path, tmp_path / "out"))
    check(Imported(tmp_path / (names.format("supervisions") + suffix), tmp_path / "file"))


@pytest.mark.parametrize("shape", ["from_manifests", "whole", "single", "json"])
def test_cuts(tmp_path, shape):
    """Several supervisions per cut, one per cut with another id, a list in one JSON file."""
    recordings, supervisions = manifests(tmp_path)
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
    if shape == "single":
        cuts = cuts.trim_to_supervisions(keep_overlapping=False).map(lambda cut: cut.with_id(f"cut-{cut.id}"))
    path = tmp_path / ("cuts.json" if shape == "json" else "cuts.jsonl.gz")
    cuts.to_file(path)
    check(Imported(path if shape != "whole" else tmp_path, tmp_path / "out"))


def test_rounded_durations(tmp_path):
    """`lhotse kaldi import` rounds durations to milliseconds: no harm where the cut lies in the file."""
    path = tmp_path / "wav" / "a.wav"
    audio(path, seconds=1.00006)
    recording = Recording.from_file(path, recording_id="a").to_dict()
    recording |= {"duration": 1.0, "num_samples": 16000}
    segment = {"id": "a", "recording_id": "a", "start": 0.0, "duration": 1.0, "channel": 0, "text": "X", "speaker": "s"}
    lines(tmp_path / "recordings.jsonl", json.dumps(recording))
    lines(tmp_path / "supervisions.jsonl", json.dumps(segment))
    assert Imported(tmp_path, tmp_path / "short").spans() == {"a": (0.0, 1.0)}
    recording |= {"duration": 1.001, "num_samples": 16016}
    lines(tmp_path / "recordings.jsonl", json.dumps(recording))
    lines(tmp_path / "supervisions.jsonl", json.dumps({**segment, "duration": 1.001}))
    assert Imported(tmp_path, tmp_path / "long").spans()["a"] == (0.0, pytest.approx(1.00006, abs=1e-4))


def test_relative_paths(tmp_path):
    recordings, supervisions = manifests(tmp_path)
    entries = [
        {**r.to_dict(), "sources": [{"type": "file", "channels": [0], "source": f"wav/{r.id}.wav"}]} for r in recordings
    ]
    lines(tmp_path / "manifests" / "recordings.jsonl", *map(json.dumps, entries))
    supervisions.to_file(tmp_path / "manifests" / "supervisions.jsonl")
    check(Imported(tmp_path / "manifests", tmp_path / "out"))
    (tmp_path / "wav").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="no audio file wav/rec-1.wav below"):
        Imported(tmp_path / "manifests", tmp_path / "lost")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "moved").rename(tmp_path / "elsewhere" / "wav")
    check(Imported(tmp_path / "manifests", tmp_path / "root", root=tmp_path / "elsewhere"))


def test_one_channel_of_a_stereo_file(tmp_path):
    recordings, supervisions = manifests(tmp_path, channels=2)
    both = noise("rec-1.wav", 3.0, channels=2)
    of_second = [{**s.to_dict(), "channel": 1} for s in supervisions]
    recordings.to_file(tmp_path / "recordings.jsonl")
    lines(tmp_path / "supervisions.jsonl", *map(json.dumps, of_second))
    made = Imported(tmp_path, tmp_path / "out")
    assert (made.samples("utt-2") == both[24000:40000, 1]).all() and made.cuts["utt-2"].channel == 0
    cuts = CutSet.from_manifests(recordings=recordings, supervisions=SupervisionSet.from_dicts(of_second))
    cuts.to_file(tmp_path / "cuts.jsonl")
    made = Imported(tmp_path / "cuts.jsonl", tmp_path / "cuts")
    assert (made.samples("utt-2") == both[24000:40000, 1]).all()
    neither = [{**s, "channel": [0, 1]} for s in of_second]
    lines(tmp_path / "supervisions.jsonl", *map(json.dumps, neither))
    (tmp_path / "cuts.jsonl").unlink()
    with pytest.raises(DataError, match="several channels: 3"):
        Imported(tmp_path, tmp_path / "refused")
    beyond = [{**s, "channel": 5} for s in of_second]
    lines(tmp_path / "supervisions.jsonl", *map(json.dumps, beyond))
    with pytest.raises(DataError, match="recording 'rec-1' has no channel 5"):
        Imported(tmp_path, tmp_path / "none")


def test_a_file_for_each_channel(tmp_path):
    names = [audio(tmp_path / f"{side}.wav", seconds=1.0) for side in "lr"]
    sources = [{"type": "file", "channels": [i], "source": str(path)} for i, path in enumerate(names)]
    recording = {
        "id": "r", "sources": sources, "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0, "channel_ids": [0, 1],
    }  # fmt: skip
    segment = {"id": "u", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 1, "text": "X"}
    lines(tmp_path / "recordings.jsonl", json.dumps(recording))
    lines(tmp_path / "supervisions.jsonl", json.dumps(segment))
    assert (Imported(tmp_path, tmp_path / "out").samples("u") == noise("r.wav", 1.0)).all()


def test_our_own_directories(tmp_path):
    """What an import has made goes in again, and gives the same."""
    recordings, supervisions = manifests(tmp_path)
    recordings.to_file(tmp_path / "recordings.jsonl.gz")
    supervisions.to_file(tmp_path / "supervisions.jsonl.gz")
    made = Imported(tmp_path, tmp_path / "out")
    check(Imported(made.dir, tmp_path / "again"))
    for name in ("cuts", "supervisions", "recordings"):
        first, second = (d / f"{name}.jsonl.gz" for d in (made.dir, tmp_path / "again"))
        assert first.read_bytes() == second.read_bytes()
    assert save_data_dir(tmp_path / "third", made.cuts.values()) == 3


SUPERVISION = {
    "id": "u", "recording_id": "r", "start": 0.0, "duration": 1.0, "channel": 0, "text": "X", "speaker": "s",
    "language": "l", "gender": "f", "alignment": {"word": [["X", 0.0, 0.5, None]]},
}  # fmt: skip
CUT = {"id": "c", "start": 0.0, "duration": 1.0, "channel": 0, "type": "MonoCut"}
VALUES = [None, 7, -1.5, "x", [], [1], {}, {"a": 1}, True, float("nan"), float("inf"), 10**400]


def places(entry, path=()):
    """Paths to all fields of a JSON object."""
    for key, value in entry.items() if isinstance(entry, dict) else enumerate(entry):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def replaced(entry, path, value):
    entry = json.loads(json.dumps(entry))
    inner = entry
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return entry


def test_any_value_in_any_field(tmp_path):
    """Every field replaced by every kind of value: imported, left out with file and line, or exit 2; no traceback."""
    recording = Recording.from_file(audio(tmp_path / "r.wav", seconds=1.0), recording_id="r").to_dict()
    cut = {**CUT, "recording": recording, "supervisions": [SUPERVISION]}
    good = replaced(replaced(cut, ("id",), "good"), ("supervisions", 0, "id"), "good")
    bad = [replaced(cut, path, value) for path in places(cut) for value in VALUES]
    bad = [{**entry, "number": i} for i, entry in enumerate(bad)]
    refused = 0
    for number, entry in enumerate(bad):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        lines(tmp_path / "corpus" / "cuts.jsonl", json.dumps(good), json.dumps(entry))
        made = Imported(tmp_path / "corpus", tmp_path / f"out{number}", max_bad=0.5)
        assert "good" in made.cuts
        for kind, reason in made.left_out.values():
            refused += 1
            assert "cuts.jsonl:2" in reason or kind in ("several channels", "no such channel"), (entry, reason)
    assert refused > len(bad) / 2


def test_utterances_with_bad_times_count_once(tmp_path):
    """Whether words or phones or both are outside; a tier that is right stays."""
    recording = Recording.from_file(audio(tmp_path / "r.wav", seconds=1.0), recording_id="r").to_dict()
    good, bad = [["a", 0.1, 0.2]], [["a", 0.9, 0.9]]
    rows = [
        {**CUT, "id": name, "recording": recording,
         "supervisions": [{**SUPERVISION, "id": name, "alignment": {"word": word, "phone": phone}}]}
        for name, word, phone in (("none", good, good), ("one", good, bad), ("both", bad, bad))
    ]  # fmt: skip
    lines(tmp_path / "corpus" / "cuts.jsonl", *map(json.dumps, rows))
    made = Imported(tmp_path / "corpus", tmp_path / "out")
    assert made.facts["bad_times"] == 2
    tiers = {name: sorted(cut.supervisions[0].alignment or {}) for name, cut in made.cuts.items()}
    assert tiers == {"none": ["phone", "word"], "one": ["word"], "both": []}


BROKEN = {
    "command": (lambda c: c["recording"]["sources"][0].update(type="command", source="cat x"), "is of type 'command'"),
    "url": (lambda c: c["recording"]["sources"][0].update(type="url", source="http://x/y.wav"), "is of type 'url'"),
    "memory": (lambda c: c["recording"]["sources"][0].update(type="memory"), "is of type 'memory'"),
    "transforms": (lambda c: c["recording"].update(transforms=[{"name": "Speed"}]), "has transforms"),
    "mixed": (lambda c: c.update(type="MixedCut"), "a MixedCut, whose audio lhotse computes"),
    "padding": (lambda c: c.update(type="PaddingCut"), "a PaddingCut"),
    "no supervision": (lambda c: c.update(supervisions=[]), "cut 'c' has no supervision"),
    "chopped": (lambda c: c["supervisions"][0].update(start=-0.3), "the cut has only a part"),
    "other length": (lambda c: c["recording"].update(num_samples=20000), "16,000 samples, the manifest says 20,000"),
    "other rate": (lambda c: c["recording"].update(sampling_rate=8000), "16000 Hz, the manifest says 8000"),
    "outside": (lambda c: c.update(start=1.1), "of a recording of 1.000 s"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_cuts(tmp_path, name):
    change, told = BROKEN[name]
    recording = Recording.from_file(audio(tmp_path / "r.wav", seconds=1.0), recording_id="r").to_dict()
    cut = json.loads(json.dumps({**CUT, "recording": recording, "supervisions": [SUPERVISION]}))
    change(cut)
    lines(tmp_path / "cuts.jsonl", json.dumps(cut))
    with pytest.raises(DataError) as err:
        Imported(tmp_path / "cuts.jsonl", tmp_path / "out")
    assert told in str(err.value) and "cuts.jsonl:1" in str(err.value)


def test_lines_that_are_no_objects(tmp_path):
    recordings, supervisions = manifests(tmp_path)
    CutSet.from_manifests(recordings=recordings, supervisions=supervisions).to_file(tmp_path / "cuts.jsonl")
    with open(tmp_path / "cuts.jsonl", "a", encoding="utf-8") as file:
        file.write('[1]\n{"id": \n\n' + "[" * 100_000 + "\n")
    made = Imported(tmp_path / "cuts.jsonl", tmp_path / "out", max_bad=0.5)
    reasons = [reason for _, reason in made.left_out.values()]
    assert [reason.split(": ")[1][:14] for reason in reasons] == ["not a JSON obj", "not JSON", "JSON that is n"] or (
        len(reasons) == 3 and all("not JSON" in r or "JSON" in r for r in reasons)
    )


def test_which_manifest(tmp_path):
    recordings, supervisions = manifests(tmp_path)
    for part in ("dev", "test"):
        recordings.to_file(tmp_path / f"recordings_{part}.jsonl")
        supervisions.to_file(tmp_path / f"supervisions_{part}.jsonl")
    with pytest.raises(
        DataError, match="holds 2 manifests of one kind, supervisions_dev.jsonl, supervisions_test.jsonl"
    ):
        Imported(tmp_path, tmp_path / "out")
    check(Imported(tmp_path / "supervisions_dev.jsonl", tmp_path / "dev"))
    with pytest.raises(DataError, match="recordings alone"):
        Imported(tmp_path / "recordings_dev.jsonl", tmp_path / "rec")
