"""Asynchronous training in processes: equal to the plain loop with one replica, and what is left when processes are
killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "nn"))

from async_job import TRAINING, SignJob

from pipeline.base.errors import ConfigError, DataError
from pipeline.nn.asynchronous.coordinator import STATE
from pipeline.nn.asynchronous.launch import Node, _Fleet, run_processes
from pipeline.nn.asynchronous.service import ServerLostError
from pipeline.nn.asynchronous.train import clean_up, train_async
from pipeline.nn.train import train


def run(out: Path, trouble: str = "", **options):
    job = SignJob(dataclasses.replace(TRAINING, **options), trouble, out / "happened" if trouble else None)
    out.mkdir(parents=True, exist_ok=True)
    return train_async(job, out)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The ordinary training."""
    built = SignJob().build()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    history = train(built.model, built.task, built.dev, TRAINING, tmp_path_factory.mktemp("plain"))
    torch.set_num_threads(threads)
    return built.model.state_dict(), history


def same(state: dict, other: dict) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in state.items())


def test_one_replica_is_the_plain_training(plain, tmp_path):
    """Bit for bit, with the parameters of the model in two servers."""
    trained = run(tmp_path, servers=2)
    assert same(trained.built.model.state_dict(), plain[0])
    for mine, other in zip(trained.history, plain[1]):
        assert {k: mine[k] for k in other if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}
    assert trained.facts["staleness_max"] == 0 and trained.facts["replicas_lost"] == 0
    clean_up(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log"]


def test_killed_replica_is_replaced_by_the_others(tmp_path):
    """Its batches are finished by the others; nothing is done twice or left out."""
    trained = run(tmp_path, "kill_replica", replicas=3)
    assert (tmp_path / "happened").exists() and trained.facts["replicas_lost"] == 1
    assert trained.facts["reassigned_batches"] > 0 and len(trained.history) == TRAINING.epochs
    assert trained.history[-1]["dev_loss"] < trained.history[0]["dev_loss"]
    log = (tmp_path / "log" / "server0.log").read_text()
    assert "it was killed (SIGKILL" in log and "go to the 2 others" in log


def test_hanging_replica_is_given_up(tmp_path):
    """Its process lives, so that only the missing signs of life tell; the synchronous others must not wait for ever."""
    trained = run(tmp_path, "hang", replicas=2, mode="synchronous", heartbeat_seconds=3.0)
    assert trained.facts["replicas_lost"] == 1


def test_replica_that_comes_back_after_it_was_given_up(tmp_path):
    """Its gradient is refused and it ends; the training does not."""
    trained = run(tmp_path, "return", replicas=2, epochs=20, heartbeat_seconds=3.0)
    assert trained.facts["replicas_lost"] == 1 and len(trained.history) == 20
    logs = [(tmp_path / "log" / f"replica{k}.log").read_text() for k in range(2)]
    assert sum("has been given up by the server" in log for log in logs) == 1


def test_killed_server_resumes_bit_for_bit(plain, tmp_path):
    """Killed in the evaluation of an epoch: what follows is made again from the checkpoint of that epoch."""
    trained = run(tmp_path, "kill_server", checkpoint_seconds=0.0)
    assert (tmp_path / "happened").exists()
    assert same(trained.built.model.state_dict(), plain[0])


def test_killed_shard_resumes_bit_for_bit(plain, tmp_path, caplog):
    """The second server, which only holds tensors, is killed as soon as there is a checkpoint."""

    def kill() -> None:
        while not (tmp_path / STATE).exists():
            time.sleep(0.002)
        os.kill(next(p.pid for p in multiprocessing.active_children() if p.name == "server1"), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    trained = run(tmp_path, servers=2, checkpoint_seconds=0.0)
    assert (
        "server1 is lost: it was killed (SIGKILL; the machine may have been short of memory); starting again from the last checkpoint"
        in caplog.text
    )
    assert same(trained.built.model.state_dict(), plain[0])


def test_server_that_is_lost_each_time_ends_the_training(tmp_path):
    with pytest.raises(ServerLostError, match="server0 is lost"):
        run(tmp_path, "kill_server", max_restarts=0)


def test_synchronous_replicas_are_reproducible(tmp_path):
    first, again = (run(tmp_path / name, replicas=2, mode="synchronous") for name in "ab")
    assert same(first.built.model.state_dict(), again.built.model.state_dict())
    assert first.facts["staleness_max"] == 0 and first.facts["updates"] < 3 * TRAINING.epochs * 2


@pytest.mark.parametrize("shuffle", ["none", "on_the_fly", "full"])
def test_frames_of_two_replicas(shuffle, tmp_path):
    trained = run(
        tmp_path,
        replicas=2,
        shuffle=shuffle,
        frame_batch=8,
        epochs=12,
        learning_rate=0.01,
        time_masks=0,
        feature_masks=0,
    )
    assert trained.history[-1]["dev_accuracy"] > 0.85
    assert all("loss" in figures for figures in trained.history)


def test_errors_name_their_cause(tmp_path):
    with pytest.raises(DataError, match="feats.txt:3"):
        run(tmp_path, "bad_data")
    with pytest.raises(ConfigError, match="13.*only 12 utterances"):
        run(tmp_path, replicas=13)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="--port"):
            run(tmp_path, port=taken.getsockname()[1])


def marked(mark: str) -> list[int]:
    """Processes with a variable of this value in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if f"ASYNC_TEST={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def test_nothing_is_left_of_a_killed_training(tmp_path):
    """kill -9 of the process that was started: servers and replicas notice and end; the same call goes on
    afterwards.
    """
    script = (
        f"import sys, dataclasses; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'nn')!r}]\n"
        f"import test_async, pathlib\ntest_async.run(pathlib.Path({str(tmp_path)!r}), 'hang', replicas=2)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "ASYNC_TEST": str(tmp_path)}, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while not (tmp_path / "happened").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert len(marked(str(tmp_path))) >= 4
    process.kill()
    process.wait()
    while marked(str(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not marked(str(tmp_path))
    assert run(tmp_path, "hang", replicas=2).facts["replicas_lost"] == 0


def free_ports(count: int) -> int:
    """The first of several free ports."""
    for _ in range(100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for k in range(1, count):
                stack.enter_context(socket.create_server(("127.0.0.1", first + k)))
            return first
    raise AssertionError("no free ports")


def test_given_ports_are_used_again_after_a_restart(plain, tmp_path, caplog):
    """Two servers, of which the first is killed: both are at once back at the ports that they had."""
    port = free_ports(2)
    trained = run(tmp_path, "kill_server", servers=2, checkpoint_seconds=0.0, port=port)
    assert "server0 is lost: it was killed" in caplog.text and same(trained.built.model.state_dict(), plain[0])
    with socket.create_server(("127.0.0.1", port + 1)), pytest.raises(ConfigError, match=f"--port {port}: {port + 1}"):
        run(tmp_path / "again", servers=2, port=port)


def test_secret_is_seen_nowhere(tmp_path, monkeypatch):
    """Neither in the arguments nor in the environment of a process, nor in what is written."""
    secret = os.urandom(16).hex()[:32].encode()
    monkeypatch.setattr("secrets.token_bytes", lambda count: secret)
    with _Fleet(SignJob(TRAINING), tmp_path, Node()) as fleet:
        (tmp_path / "log").mkdir()
        while not all(m.pipe.poll() for m in fleet.members):  # until they have their arguments
            time.sleep(0.05)
        for member in fleet.members:
            for what in ("cmdline", "environ"):
                assert secret not in Path(f"/proc/{member.process.pid}/{what}").read_bytes()
    run(tmp_path, epochs=1)
    assert all(secret not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("other", [b"", b"x"])
def test_two_machines(other, tmp_path):
    """Both are this one. With another secret the second one is refused, and the first one does without its replica."""
    secret, store = b"s" * 32, torch.distributed.HashStore()
    training = dataclasses.replace(TRAINING, replicas=2, servers=2, heartbeat_seconds=4.0 if other else 20.0)
    for name in ("a", "b"):
        (tmp_path / name / "log").mkdir(parents=True)
    errors = []

    def second() -> None:
        try:
            run_processes(SignJob(training), tmp_path / "b", Node(1, 2, "127.0.0.1", store, secret + other))
        except ConfigError as e:
            errors.append(str(e))

    thread = threading.Thread(target=second)
    thread.start()
    found = run_processes(SignJob(training), tmp_path / "a", Node(0, 2, "127.0.0.1", store, secret))
    thread.join(60)
    assert not thread.is_alive() and len(found["history"]) == TRAINING.epochs
    assert found["lost"] == ([1] if other else []) and len(errors) == bool(other)
    assert all("does not accept the secret" in e and "FULLSUM_SECRET" in e for e in errors)
