"""Stamps: what is up to date, what is stale, and what an interruption at any point leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.artifacts.index import INDEX
from pipeline.base import digests, log, stamp
from pipeline.base.digests import Digests
from pipeline.base.errors import DataError, StaleError
from pipeline.base.files import write_json
from pipeline.base.lock import leftovers, lock

ROOT = Path(__file__).resolve().parents[2]


def work(data: Path, command: str = "train", **options) -> stamp.Work:
    return stamp.Work(command, options, {"data": stamp.artifact_id(data)})


def writer(text: str):
    def action(tmp: Path) -> dict:
        (tmp / "result").write_text(text)
        return {"length": len(text)}

    return action


def never(_tmp: Path) -> None:
    raise AssertionError("this action must not run")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    (path / "text").write_text("a b c")
    return path


def run(out: Path, data: Path, action, overwrite: bool = False, command: str = "train", resume=True, **options) -> bool:
    return stamp.run(out, work(data, command, **options), action, {"data": data}, overwrite, resume)


def test_made_then_up_to_date(tmp_path, data, caplog):
    out = tmp_path / "exp" / "mono"
    caplog.set_level("INFO")
    assert run(out, data, writer("one"), n=1)
    assert (out / "result").read_text() == "one"
    assert not run(out, data, never, n=1)
    assert "up to date" in caplog.text
    assert sorted(os.listdir(out)) == ["log", "result", "stamp.json"]
    assert os.listdir(out.parent) == ["mono"]  # no lock, no tmp


def test_stamp_content(tmp_path, data):
    out = tmp_path / "exp" / "mono"
    run(out, data, writer("one"), n=1)
    made = stamp.read_stamp(out)
    assert made["command"] == "train" and made["options"] == {"n": 1}
    assert made["inputs"] == {"data": {"path": "../../data", "id": stamp.artifact_id(data)}}
    assert made["facts"] == {"length": 3}
    assert made["seconds"] >= 0 and made["peak_rss_mib"] > 1
    assert made["code"]["version"]
    assert "core" in made["device"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n": 2}, r"was made with n = 1, and now n = 2; --overwrite"),
        ({"n": 1, "m": 3}, r"was made with m = \(no such option\), and now m = 3"),
        ({}, r"was made with n = 1, and now n = \(no such option\)"),
        ({"n": None}, r"was made with n = 1, and now n = null"),
        ({"n": 1, "command": "align"}, r"was made by train, not by align"),
    ],
)
def test_stale_names_the_difference(tmp_path, data, change, message):
    out = tmp_path / "mono"
    run(out, data, writer("one"), n=1)
    with pytest.raises(StaleError, match=message) as error:
        run(out, data, never, **change)
    assert str(out) in str(error.value)
    assert (out / "result").read_text() == "one"
    run(out, data, writer("two"), overwrite=True, **change)
    assert (out / "result").read_text() == "two"
    assert not run(out, data, never, **change)


def test_changed_input_is_stale(tmp_path, data):
    out = tmp_path / "mono"
    run(out, data, writer("one"), n=1)
    (data / "text").write_text("a b d")
    with pytest.raises(StaleError, match="was made from another 'data'"):
        run(out, data, never, n=1)


def test_overwrite_leaves_equal_work_alone(tmp_path, data):
    run(tmp_path / "mono", data, writer("one"), n=1)
    assert not run(tmp_path / "mono", data, never, overwrite=True, n=1)


def test_remade_by_other_code_makes_followers_stale(tmp_path, data):
    """The same options and inputs, but another result: what was made from the old result is no longer up to date."""
    mono, ali = tmp_path / "mono", tmp_path / "ali"
    run(mono, data, writer("one"), n=1)
    run(ali, mono, writer("ali"), command="align")
    shutil.rmtree(mono)
    run(mono, data, writer("one"), n=1)
    assert not run(ali, mono, never, command="align")
    shutil.rmtree(mono)
    run(mono, data, writer("mended"), n=1)
    with pytest.raises(StaleError, match="another 'data'"):
        run(ali, mono, never, command="align")


def test_times_that_were_measured_are_no_part_of_the_result(tmp_path, data):
    """Made again, an equal model has other times in its history; what was made from it is up to date all the same."""
    mono, ali = tmp_path / "mono", tmp_path / "ali"

    def training(seconds: float, loss: float):
        def action(tmp: Path) -> None:
            history = [{"loss": loss, "seconds": seconds}, {"loss": loss, "seconds": 1e-05 * seconds}]
            write_json(tmp / "model.json", history)
            rows = [{"metric": "rtf", "value": seconds, "config": {"real_time_factor": seconds}}]
            write_json(tmp / "results.json", [*rows, {"metric": "wer", "value": 3.0}])

        return action

    run(mono, data, training(1.5, 0.25))
    run(ali, mono, writer("ali"), command="align")
    shutil.rmtree(mono)
    run(mono, data, training(2, 0.25))
    assert not run(ali, mono, never, command="align")
    shutil.rmtree(mono)
    run(mono, data, training(2, 0.5))
    with pytest.raises(StaleError, match="another 'data'"):
        run(ali, mono, never, command="align")


def test_moved_tree_stays_up_to_date(tmp_path, data):
    run(tmp_path / "exp" / "mono", data, writer("one"), n=1)
    there = tmp_path / "elsewhere"
    there.mkdir()
    for name in ("data", "exp"):
        shutil.move(str(tmp_path / name), there)
    assert not run(there / "exp" / "mono", there / "data", never, n=1)


def test_foreign_directory_is_not_touched(tmp_path, data):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="no step made it"):
            run(out, data, never, overwrite=overwrite)
    assert os.listdir(out) == ["thesis.tex"]


def test_empty_directory_and_file_in_place_of_output(tmp_path, data):
    out = tmp_path / "out"
    out.mkdir()
    assert run(out, data, writer("one"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        run(tmp_path / "file", data, never, overwrite=True)


def test_failure_leaves_the_old_output(tmp_path, data):
    log.setup()  # as every command does; without it debug messages, tracebacks among them, go nowhere
    out = tmp_path / "mono"
    run(out, data, writer("one"), n=1)

    def fail(tmp: Path) -> None:
        (tmp / "result").write_text("half")
        raise ValueError("sudden")

    with pytest.raises(ValueError):
        run(out, data, fail, overwrite=True, n=2)
    assert (out / "result").read_text() == "one"
    assert not run(out, data, never, n=1)
    assert "ValueError: sudden" in (tmp_path / "mono.tmp" / "log" / "train.log").read_text()


def test_resume_only_of_the_same_work(tmp_path, data):
    out = tmp_path / "mono"
    seen = []

    def interrupted(tmp: Path) -> None:
        seen.append(sorted(p.name for p in tmp.iterdir() if p.is_file()))
        (tmp / "checkpoint").write_text("epoch 3")
        raise KeyboardInterrupt

    for options, resume in (({"n": 1}, True), ({"n": 1}, True), ({"n": 2}, True), ({"n": 2}, False)):
        with pytest.raises(KeyboardInterrupt):
            run(out, data, interrupted, resume=resume, **options)
    fresh, again = ["pending.json"], ["checkpoint", "pending.json"]
    assert seen == [fresh, again, fresh, fresh]
    assert not out.exists()


def test_files_that_a_killed_run_was_writing_are_removed(tmp_path, data):
    """kill -9 inside of atomic_write leaves its temporary file; it must not end up in the output."""
    out = tmp_path / "mono"

    def killed(tmp: Path) -> None:
        for name in (".lm.arpa.123.tmp", "parts/.a.gz.9.tmp", ".kept.tmp", "x.1.tmp"):
            (tmp / name).parent.mkdir(exist_ok=True)
            (tmp / name).write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(out, data, killed)
    assert run(out, data, writer("one"))
    left = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert {p for p in left if p.endswith(".tmp")} == {".kept.tmp", "x.1.tmp"}


def test_damaged_pending_is_discarded(tmp_path, data):
    tmp = tmp_path / "mono.tmp"
    tmp.mkdir()
    (tmp / "pending.json").write_text("{")
    (tmp / "checkpoint").write_text("of whom?")
    assert run(tmp_path / "mono", data, writer("one"))
    assert not (tmp_path / "mono" / "checkpoint").exists()


@pytest.mark.parametrize(
    "broken",
    [
        "{",
        "[]",
        '{"identity": "x"}',
        '{"identity": 3, "id": "x"}',
        '{"identity": "x", "id": "x", "inputs": {"a": null}}',
    ],
)
def test_damaged_stamp(tmp_path, data, broken):
    out = tmp_path / "mono"
    run(out, data, writer("one"))
    (out / "stamp.json").write_text(broken)
    with pytest.raises(DataError, match=r"mono/stamp\.json"):
        run(out, data, never)
    with pytest.raises(DataError, match=r"mono/stamp\.json"):
        stamp.artifact_id(out)


@pytest.mark.parametrize("at", ["rename", "sync_dir", "rmtree"])
def test_interrupted_replacement_is_completed(tmp_path, data, monkeypatch, at):
    """Stops between any two steps of the final renames; the next run must find one complete output."""
    out = tmp_path / "mono"
    run(out, data, writer("one"), n=1)
    calls = {"count": 0}

    class Killed(BaseException):
        pass

    owner = {"rename": stamp.os, "sync_dir": stamp, "rmtree": stamp.shutil}[at]
    real = getattr(owner, at)

    def dying(*args, **kwargs):
        calls["count"] += 1
        if at != "rename" or calls["count"] == 2:
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, at, dying)
        run(out, data, writer("two"), overwrite=True, n=2)
    assert not run(out, data, never, n=2)
    assert (out / "result").read_text() == "two"
    assert sorted(os.listdir(tmp_path)) == ["data", "mono"] or at != "rename"
    run(out, data, writer("three"), overwrite=True, n=3)
    assert (out / "result").read_text() == "three"
    assert sorted(os.listdir(tmp_path)) == ["data", "mono"]


@pytest.mark.parametrize("lost", [None, "result", "stamp.json"])
def test_a_copy_that_was_taken_while_the_step_ended_is_made_again(tmp_path, data, lost):
    """Files of OUT.tmp may be copied after the stamp was written and before the directory has got its name: whatever the
    copy lacks, what stands under the final name is whole.
    """
    out = tmp_path / "mono"
    run(out, data, writer("one"), n=1)
    copied_to = out.rename(tmp_path / "mono.tmp")
    if lost is not None:
        (copied_to / lost).unlink()
    assert run(out, data, never if lost is None else writer("one"), n=1) == (lost is not None)
    assert (out / "result").read_text() == "one" and sorted(os.listdir(tmp_path)) == ["data", "mono"]


def test_what_a_kill_at_the_very_end_leaves_goes_with_the_next_run(tmp_path, data, monkeypatch):
    """The output has its name, but its lock and the output before it are still there."""
    out = tmp_path / "mono"
    run(out, data, writer("one"))
    (tmp_path / "mono.lock").touch()
    (tmp_path / "mono.old").mkdir()
    assert leftovers(out) and not run(out, data, never)
    assert sorted(os.listdir(tmp_path)) == ["data", "mono"]
    (tmp_path / "mono.lock").touch()
    plain = fcntl.flock

    def replaced(*arguments):  # the process that held the lock goes, and another one makes its own
        (tmp_path / "mono.lock").rename(tmp_path / "gone")
        (tmp_path / "mono.lock").touch()
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", replaced)
        assert not run(out, data, never)
    assert sorted(os.listdir(tmp_path)) == ["data", "gone", "mono", "mono.lock"]
    (tmp_path / "gone").unlink()
    with lock(out):
        assert not run(out, data, never)  # another process, which would make it anew, is not waited for
        assert sorted(os.listdir(tmp_path)) == ["data", "mono", "mono.lock"]


SCRIPT = """
import sys, time
from pathlib import Path
from pipeline.base import stamp
data, out = Path(sys.argv[1]), Path(sys.argv[2])
def action(tmp):
    done = tmp / "epochs"
    old = done.read_text() if done.exists() else ""
    for epoch in range(len(old), 5):
        with open(tmp / "epochs.new", "w") as f:
            f.write(old + "x" * (epoch + 1 - len(old)))
        (tmp / "epochs.new").rename(done)
        print("epoch", epoch, flush=True)
        time.sleep(float(sys.argv[3]))
work = stamp.Work("train", {"n": 1}, {"data": stamp.artifact_id(data)})
print(stamp.run(out, work, action, {"data": data}))
"""


def start(data: Path, out: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, str(data), str(out), str(pause)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)


def test_kill_and_rerun_gives_the_undisturbed_result(tmp_path, data):
    calm = start(data, tmp_path / "calm", 0.0)
    assert calm.communicate()[0].endswith("True\n")
    killed = start(data, tmp_path / "mono", 30)
    assert killed.stdout.readline() == "epoch 0\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert not (tmp_path / "mono").exists()
    again = start(data, tmp_path / "mono", 0.0)
    assert again.communicate()[0].startswith("epoch 1\n")  # went on, did not start anew
    assert (tmp_path / "mono" / "epochs").read_bytes() == (tmp_path / "calm" / "epochs").read_bytes()
    assert stamp.read_stamp(tmp_path / "mono")["id"] == stamp.read_stamp(tmp_path / "calm")["id"]


def test_two_runs_at_once(tmp_path, data):
    """The second waits for the first and then has nothing to do."""
    out, log = tmp_path / "mono", []

    def slow(tmp: Path) -> None:
        log.append("begin")
        time.sleep(0.3)
        (tmp / "result").write_text("one")
        log.append("end")

    threads = [threading.Thread(target=run, args=(out, data, slow)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == ["begin", "end"]
    assert sorted(os.listdir(tmp_path)) == ["data", "mono"]


def test_ids_of_plain_inputs(tmp_path, data):
    file = tmp_path / "lm.arpa"
    file.write_text("x")
    before = stamp.artifact_id(file), stamp.artifact_id(data)
    (data / "log").mkdir()
    (data / "log" / "prepare.log").write_text("now")
    (data / ".text.3.tmp").write_text("half")
    assert (stamp.artifact_id(file), stamp.artifact_id(data)) == before
    file.write_text("y")
    (data / "text").rename(data / "transcripts")
    after = stamp.artifact_id(file), stamp.artifact_id(data)
    assert after[0] != before[0] and after[1] != before[1]


def grow(path: Path, at: int) -> None:
    """A file of 210 MiB, nearly all of it a hole, with one byte that is not 0."""
    with open(path, "wb") as file:
        file.truncate(210 << 20)
        file.seek(at)
        file.write(b"1")


def test_one_byte_of_a_big_directory(tmp_path, data):
    """In an input, and in the output of a step whose code has changed."""
    grow(data / "big", 5)
    before = stamp.artifact_id(data)
    grow(data / "big", 6)
    assert stamp.artifact_id(data) != before
    ids = []
    for at in (5, 6, 5):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        stamp.run(tmp_path / "out", stamp.Work("train", {}, {}), lambda tmp, at=at: grow(tmp / "big", at), {})
        ids.append(stamp.artifact_id(tmp_path / "out"))
    assert ids[0] == ids[2] != ids[1]


def test_what_readers_put_beside_is_no_content(data):
    before = stamp.artifact_id(data)
    (data / INDEX).write_bytes(b"an index of the manifest")
    assert stamp.artifact_id(data) == before


def test_small_inputs_take_no_lock(tmp_path, data):
    """Whether an output is up to date is told at once, even while another process works on it."""
    out = tmp_path / "out"
    run(out, data, writer("one"))
    known = stamp.digests_of(out)
    task = stamp.Work("train", {}, {"data": stamp.artifact_id(data, known)})
    with lock(out):
        assert known.num_read and not stamp.run(out, task, never, {"data": data}, digests=known)


def with_source(out: Path, data: Path, content: str, action, overwrite: bool = False) -> bool:
    inputs = {"data": stamp.artifact_id(data)}
    return stamp.run(out, stamp.Work("feats", {}, inputs, {"audio": content}), action, {"data": data}, overwrite)


def test_other_content_behind_an_input(tmp_path, data):
    out, ali = tmp_path / "feats", tmp_path / "ali"
    assert with_source(out, data, "one", writer("one"))
    assert not with_source(out, data, "one", never)
    run(ali, out, writer("ali"), command="align")
    with pytest.raises(StaleError, match="was made from another 'audio' than there is now; --overwrite"):
        with_source(out, data, "two", never)
    with_source(out, data, "two", writer("one"), overwrite=True)
    assert not run(ali, out, never, command="align")  # other audio, the same features
    with_source(out, data, "three", writer("three"), overwrite=True)
    with pytest.raises(StaleError, match="another 'data'"):
        run(ali, out, never, command="align")


def test_stamp_of_an_older_version(tmp_path, data):
    """It is stale once where it says too little, tells why, and what was made from it stays up to date."""
    out, ali = tmp_path / "feats", tmp_path / "ali"
    run(out, data, writer("one"), command="feats")
    made = json.loads((out / "stamp.json").read_text())
    del made["sources"]
    (out / "stamp.json").write_text(json.dumps(made))
    run(ali, out, writer("ali"), command="align")
    assert not run(out, data, never, command="feats")
    with pytest.raises(StaleError, match="when stamps did not tell the content of 'audio' yet"):
        with_source(out, data, "one", never)
    with_source(out, data, "one", writer("one"), overwrite=True)
    assert not run(ali, out, never, command="align")
    (out / "stamp.json").write_text(json.dumps(made))
    (data / "text").write_text("d e f")
    with pytest.raises(StaleError, match="another 'data' than there is now .or it has more than 200 MiB"):
        run(out, data, never, command="feats")


def test_digests_are_kept_with_the_output(tmp_path, data, monkeypatch):
    """Inputs are read once: not again when up to date, interrupted or stale; again, once, after a copy."""
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    monkeypatch.setattr(digests, "KEEP_FROM", 0)
    out = tmp_path / "out"

    def step(data: Path, out: Path, action, overwrite: bool = False, **options) -> int:
        """Number of files that had to be read."""
        known = stamp.digests_of(out)
        task = stamp.Work("train", options, {"data": stamp.artifact_id(data, known)})
        try:
            stamp.run(out, task, action, {"data": data}, overwrite, digests=known)
        except (KeyboardInterrupt, StaleError):
            pass
        return known.num_read

    def interrupted(_tmp: Path) -> None:
        raise KeyboardInterrupt

    assert step(data, out, interrupted) == 1
    assert step(data, out, writer("one")) == 0
    assert (out / "result").read_text() == "one"
    assert step(data, out, never) == 0
    assert step(data, out, never, n=2) == 0
    assert step(data, out, writer("two"), overwrite=True, n=2) == 0
    shutil.copytree(tmp_path / "data", tmp_path / "copy" / "data")
    shutil.copytree(out, tmp_path / "copy" / "out")
    assert [step(tmp_path / "copy" / "data", tmp_path / "copy" / "out", never, n=2) for _ in range(2)] == [1, 0]
    assert stamp.artifact_id(tmp_path / "copy" / "out") == stamp.artifact_id(out)


def test_missing_and_unfinished_inputs(tmp_path):
    with pytest.raises(DataError, match="no such file or directory"):
        stamp.artifact_id(tmp_path / "mono")
    (tmp_path / "mono.tmp").mkdir()
    with pytest.raises(DataError, match="was interrupted"):
        stamp.artifact_id(tmp_path / "mono")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty directory"):
        stamp.artifact_id(tmp_path / "empty")


def test_what_is_no_artifact_is_refused_before_it_is_read(tmp_path):
    """Digests of the whole disk would take hours."""
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "file").write_text("x")
    for name, mark in (("tokens", "tokens.json"), ("data", "cuts.jsonl.gz or shar.json")):
        digests = Digests()
        with pytest.raises(DataError, match=f"large: has neither stamp.json nor {mark}, so it is no {name} directory"):
            stamp.artifact_id(tmp_path / "large", digests, name)
        assert digests.num_read == 0
    with pytest.raises(DataError, match="/: is the whole file system"):
        stamp.artifact_id("/", Digests(), "source")
    (tmp_path / "large" / "tokens.json").write_text("{}")
    assert stamp.artifact_id(tmp_path / "large", Digests(), "tokens") == stamp.artifact_id(tmp_path / "large")


def test_identity_depends_on_everything_and_not_on_order():
    base = stamp.Work("a", {"x": 1, "y": [1, 2]}, {"data": "1"})
    assert base.identity == stamp.Work("a", {"y": [1, 2], "x": 1}, {"data": "1"}).identity
    others = [
        stamp.Work("b", base.options, base.inputs),
        stamp.Work("a", {"x": 1, "y": [2, 1]}, base.inputs),
        stamp.Work("a", base.options, {"data": "2"}),
        stamp.Work("a", base.options, {"date": "1"}),
    ]
    assert len({w.identity for w in [base, *others]}) == 5


def test_stamp_is_json_without_absolute_paths(tmp_path, data):
    out = tmp_path / "mono"
    run(out, data, writer("one"), n=1)
    text = (out / "stamp.json").read_text()
    assert json.loads(text)["inputs"]["data"]["path"] == "../data"
    assert str(tmp_path) not in text


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of its own whose package is the one that code_version asks about."""
    for name in ("pipeline/a.py", "steps/b.py", "utils/c.sh", "local/d.py", "egs/x/local/e/f.py", "egs/x/conf/g.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "egs/x/RESULTS.md").write_text("1")

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True, text=True
        )

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    monkeypatch.setattr(stamp.pipeline, "__file__", str(tmp_path / "pipeline" / "__init__.py"))
    return tmp_path, git("rev-parse", "--short=12", "HEAD").stdout.strip()


@pytest.mark.parametrize(
    "name, edited",
    [
        (None, False),
        ("pipeline/a.py", True),
        ("steps/b.py", True),
        ("utils/c.sh", True),
        ("local/d.py", True),
        ("egs/x/local/e/f.py", True),
        ("egs/x/conf/g.yaml", False),
        ("egs/x/RESULTS.md", False),
        ("pipeline/new.py", False),
    ],
)
def test_revision_says_whether_code_was_edited(checkout, name, edited):
    root, head = checkout
    if name is not None:
        (root / name).write_text("22")
    assert stamp.code_version.__wrapped__()["revision"] == head + "+" * edited
