"""What a process of an asynchronous training does: a server with some of the tensors, or a replica."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from pipeline.base import log
from pipeline.base.errors import PipelineError
from pipeline.nn.asynchronous import service
from pipeline.nn.asynchronous.coordinator import Coordinator
from pipeline.nn.asynchronous.job import Built, Job, trained_parameters
from pipeline.nn.asynchronous.ledger import partition
from pipeline.nn.asynchronous.options import AsyncTraining
from pipeline.nn.asynchronous.replica import Replica, make_plan
from pipeline.nn.asynchronous.service import HERE, RpcLink, ServerLostError, replica_name, server_name
from pipeline.nn.asynchronous.shard import Shard, SynchronousShard, partition_tensors

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
BEATS = 5  # signs of life in the time after which a replica is given up


@dataclass(frozen=True)
class Member:
    """A process: the number-th server or replica."""

    role: str
    number: int

    @property
    def name(self) -> str:
        """Its name among the processes."""
        return server_name(self.number) if self.role == "server" else replica_name(self.number)

    def rank(self, servers: int) -> int:
        """Servers come first."""
        return self.number if self.role == "server" else servers + self.number


def work(member: Member, job: Job, out: Path, pipe: Connection) -> None:
    """Body of a process.

    It sends ("ready",) when it has built what the job describes, receives the host and port to meet at, and ends with
    ("done", result) or ("error", name of the exception, text).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    _keep_console(out / "log" / f"{member.name}.stderr")
    log.setup()
    training = job.training
    _limit(member, training.threads)
    with log.to_file(out / "log" / f"{member.name}.log"):
        try:
            pipe.send(("done", _work(member, job, training, out, pipe)))
        except PipelineError as e:
            pipe.send(("error", type(e).__name__, str(e)))
        except (BrokenPipeError, EOFError):
            logger.warning("%s: the process that started it is gone", member.name)
        except Exception:
            logger.exception("%s: bug or broken environment", member.name)
            pipe.send(("error", "", traceback.format_exc()))
        finally:
            # Last, since it may take the process with it while calls are under way.
            service.part()


def _limit(member: Member, threads: int) -> None:
    """Threads of this process, and its GPU: replicas take turns over those of the machine."""
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)  # last: numba's call may set the number for all users of OpenMP
    if torch.cuda.is_available():
        torch.cuda.set_device(member.number % torch.cuda.device_count())


def _keep_console(path: Path) -> None:
    """Sends what C++ code writes to a file: the message layer warns of each process that leaves, in good order or
    not.
    """
    console = os.dup(2)
    with open(path, "ab") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(console, "w", buffering=1)


def _work(member: Member, job: Job, training: AsyncTraining, out: Path, pipe: Connection) -> Any:
    built = job.build()
    parameters = trained_parameters(built)
    names = partition_tensors(parameters, training.servers)
    if member.role == "server":
        mine = {name: parameters[name] for name in names[member.number]}
        HERE.shard = (
            SynchronousShard(mine, training, training.replicas)
            if training.mode == "synchronous"
            else Shard(mine, training)
        )
    pipe.send(("ready",))
    _, host, port = pipe.recv()
    service.join(member.name, member.rank(training.servers), training.servers + training.replicas, host, port)
    if member.role == "replica":
        return _replicate(member.number, built, parameters, names, training)
    if member.number:
        del built
        _idle()
        return None
    return _lead(built, training, out, names, pipe)


def _lead(
    built: Built, training: AsyncTraining, out: Path, names: Sequence[Sequence[str]], pipe: Connection
) -> dict[str, Any]:
    """The first server: coordinates until all epochs are done and the replicas have left."""
    from torch.utils.tensorboard import SummaryWriter

    others = [service.RemoteShard(number) for number in range(1, training.servers)]
    assert HERE.shard is not None
    parts = partition(built.data.lens, training.replicas, training.seed)
    lead = Coordinator(built, training, out, [HERE.shard, *others], names, make_plan(built.data.lens, parts, training))
    HERE.coordinator = lead
    lead.expect(range(training.replicas))
    HERE.opened.set()
    with SummaryWriter(str(out / "log" / "tensorboard"), purge_step=len(lead.history) + 1) as board:
        while not (lead.finished and lead.all_left):
            if pipe.poll(TICK_SECONDS):
                _, replica, why = pipe.recv()
                lead.bury(replica, why)
            _check_parent()
            lead.watch()
            for name, value in (lead.evaluate() or {}).items():
                board.add_scalar(name, value, len(lead.history))
    lead.save()
    facts = lead.facts()
    for other in others:
        other.stop()
    return {"history": lead.history, "facts": facts, "lost": sorted(set(range(training.replicas)) - lead.ledger.alive)}


def _idle() -> None:
    """Another server: all happens in calls of others."""
    while not HERE.stop.wait(TICK_SECONDS):
        _check_parent()


def _replicate(
    number: int,
    built: Built,
    parameters: dict[str, torch.nn.Parameter],
    names: Sequence[Sequence[str]],
    training: AsyncTraining,
) -> dict[str, str]:
    """A replica; returns what was wrong with single utterances, by their ids."""
    link = RpcLink(number, training.servers, training.mode == "synchronous")
    stop = threading.Event()
    pulse = threading.Thread(target=_pulse, args=(link, training.heartbeat_seconds / BEATS, stop), daemon=True)
    pulse.start()
    try:
        Replica(number, built, parameters, names, training, link).run()
        link.tell("leave")
        failures = getattr(built.objective, "failures", None)
        return {} if failures is None else {built.data.id(i): why for i, why in failures.reasons().items()}
    except ServerLostError:
        raise
    except PipelineError as e:
        link.tell("fail", str(e))
        raise
    finally:
        stop.set()
        pulse.join()


def _pulse(link: RpcLink, seconds: float, stop: threading.Event) -> None:
    """Tells the server every now and then that this replica lives, unless it has been busy with a batch for too
    long.
    """
    while not stop.wait(seconds):
        _check_parent()
        if link.worked_for() > BEATS * seconds:
            continue
        try:
            link.tell("beat")
        except ServerLostError:
            return  # the main thread meets the same and says so


def _check_parent() -> None:
    """Ends this process when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os.kill(os.getpid(), signal.SIGTERM)
