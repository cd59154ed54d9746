"""What a process of an asynchronous training does: a server with some of the tensors, or a replica."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
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
from pipeline.nn.asynchronous.coordinator import Coordinator
from pipeline.nn.asynchronous.job import Built, Job, trained_parameters
from pipeline.nn.asynchronous.ledger import partition
from pipeline.nn.asynchronous.options import AsyncTraining
from pipeline.nn.asynchronous.replica import GivenUpError, Replica, make_plan
from pipeline.nn.asynchronous.service import (
    Access,
    RemoteLink,
    RemoteShard,
    ServerLostError,
    Service,
    replica_name,
    server_name,
    size_of,
)
from pipeline.nn.asynchronous.shard import Shard, SynchronousShard, partition_tensors
from pipeline.nn.asynchronous.transport import Server
from pipeline.nn.mmi import FAILED, SequenceObjective
from pipeline.nn.tracking import tracked

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.1
BEATS = 5  # signs of life in the time after which a replica is given up


@dataclass(frozen=True)
class Member:
    """A process: the number-th server or replica.

    Attributes:
        place: its number among those of its role on its machine.
    """

    role: str
    number: int
    place: int

    @property
    def name(self) -> str:
        """Its name among the processes."""
        return server_name(self.number) if self.role == "server" else replica_name(self.number)


def work(member: Member, job: Job, out: Path, pipe: Connection, access: Access, console: log.Settings) -> None:
    """Body of a process, whose log is set up as `console` says.

    It sends ("ready", its port if it is a server) when it has built what the job describes, receives the ports of the
    servers, and ends with ("done", result) or ("error", name of the exception, text).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    log.setup(*console)
    training = job.training
    _limit(member, training.threads)
    with log.to_file(out / "log" / f"{member.name}.log"):
        try:
            run = _serve if member.role == "server" else _replicate
            pipe.send(("done", run(member, job, out, pipe, access)))
        except PipelineError as e:
            pipe.send(("error", type(e).__name__, str(e)))
        except (BrokenPipeError, EOFError):
            logger.warning("%s: the process that started it is gone", member.name)
        except Exception:
            logger.exception("%s: bug or broken environment", member.name)
            pipe.send(("error", "", traceback.format_exc()))


def _limit(member: Member, threads: int) -> None:
    """Threads of this process, and its GPU: replicas take turns over those of the machine."""
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)  # last: numba's call may set the number for all users of OpenMP
    if torch.cuda.is_available():
        torch.cuda.set_device(member.place % torch.cuda.device_count())


def _serve(member: Member, job: Job, out: Path, pipe: Connection, access: Access) -> dict[str, Any] | None:
    """A server; the first one returns the result of the training."""
    training, number = job.training, member.number
    listener = access.listen(number, training.port)  # first, since a port that is taken should be known soon
    built = job.build()
    parameters = trained_parameters(built)
    names = partition_tensors(parameters, training.servers)
    mine = {name: parameters[name] for name in names[number]}
    synchronous = training.mode == "synchronous"
    shard = SynchronousShard(mine, training, training.replicas) if synchronous else Shard(mine, training)
    service = Service(shard, out)
    server = Server(listener, member.name, access.secret, service.methods, size_of(list(mine.values())))
    pipe.send(("ready", listener.getsockname()[1]))
    ports = pipe.recv()
    result = None
    if number == 0:
        others = [
            RemoteShard(access, k, ports[k], [parameters[name] for name in names[k]])
            for k in range(1, training.servers)
        ]
        result = _lead(built, training, out, names, pipe, service, others)
    else:
        del built
        while not service.stop.wait(TICK_SECONDS):  # all happens in calls of others
            _check_parent()
    server.close()
    return result


def _lead(
    built: Built,
    training: AsyncTraining,
    out: Path,
    names: Sequence[Sequence[str]],
    pipe: Connection,
    service: Service,
    others: Sequence[RemoteShard],
) -> dict[str, Any]:
    """The first server: coordinates until all epochs are done and the replicas have left."""
    parts = partition(built.data.lens, training.replicas, training.seed)
    plan = make_plan(built.data.lens, parts, training)
    if isinstance(built.objective, SequenceObjective):
        built.objective.on_epoch = lambda failures: failures.write(out / FAILED, built.data)
    lead = Coordinator(built, training, out, [service.shard, *others], names, plan)
    lead.expect(range(training.replicas))
    service.open(lead)
    with (
        tracked(out, len(lead.history), training.tracker) as put,
        log.Meter("epochs", training.epochs, len(lead.history)) as meter,
    ):
        while not (lead.finished and lead.all_left):
            if pipe.poll(TICK_SECONDS):
                _, replica, why = pipe.recv()
                lead.give_up(replica, why)
            _check_parent()
            lead.watch()
            figures = lead.evaluate()
            if figures is not None:
                put(figures, len(lead.history))
            meter.at(len(lead.history))
    lead.save()
    facts = lead.facts()
    for other in others:
        other.stop()
    return {"history": lead.history, "facts": facts, "lost": sorted(set(range(training.replicas)) - lead.ledger.alive)}


def _replicate(member: Member, job: Job, out: Path, pipe: Connection, access: Access) -> None:
    """A replica."""
    training, built = job.training, job.build()
    parameters = trained_parameters(built)
    names = partition_tensors(parameters, training.servers)
    pipe.send(("ready", None))
    ports = pipe.recv()
    link = RemoteLink(access, member.number, ports, [[parameters[name] for name in shard] for shard in names])
    stop = threading.Event()
    pulse = threading.Thread(target=_pulse, args=(link, training.heartbeat_seconds / BEATS, stop), daemon=True)
    pulse.start()
    try:
        try:
            Replica(member.number, built, parameters, names, training, link).run()
        except GivenUpError as e:  # the training goes on without it
            logger.warning("%s", e)
        link.leave()
    except ServerLostError:
        raise
    except PipelineError as e:
        link.fail(str(e))
        raise
    finally:
        stop.set()
        link.shut()
        pulse.join()


def _pulse(link: RemoteLink, seconds: float, stop: threading.Event) -> None:
    """Tells the server every now and then that this replica lives, unless it has been busy with a batch for too
    long.
    """
    while not stop.wait(seconds):
        _check_parent()
        if link.worked_for() > BEATS * seconds:
            continue
        try:
            link.beat()
        except ServerLostError:
            return  # the main thread meets the same and says so


def _check_parent() -> None:
    """Ends this process when the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os.kill(os.getpid(), signal.SIGTERM)
