"""Starts the processes of an asynchronous training on one machine or on several, and watches over them."""

from __future__ import annotations

import logging
import multiprocessing
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from pipeline.base import errors, log
from pipeline.base.errors import ConfigError, PipelineError
from pipeline.base.limits import how_ended
from pipeline.nn.asynchronous.job import Job
from pipeline.nn.asynchronous.nodes import NOTHING
from pipeline.nn.asynchronous.options import AsyncTraining
from pipeline.nn.asynchronous.service import LOCAL, Access, ServerLostError
from pipeline.nn.asynchronous.worker import Member, work
from pipeline.nn.step import DivergenceError

logger = logging.getLogger(__name__)

END_SECONDS = 20.0  # for processes to end by themselves
_ERRORS = {
    c.__name__: c
    for c in (PipelineError, errors.DataError, errors.MismatchError, ConfigError, DivergenceError, ServerLostError)
}


class Store(Protocol):
    """The key-value store of torch.distributed."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...


@dataclass(frozen=True)
class Node:
    """This machine among those of a training; the servers run on the first one, replicas on all.

    Attributes:
        host: name under which the others reach the first machine.
        store: shared by the machines; None for a single one.
        secret: shared by the machines, but not through the store, which anybody who reaches it can read.
    """

    index: int = 0
    count: int = 1
    host: str = LOCAL
    store: Store | None = None
    secret: bytes = field(default=b"", repr=False)

    def access(self) -> Access:
        """How processes of this machine reach the servers; a single machine makes up a secret each time."""
        secret = self.secret if self.count > 1 else secrets.token_bytes(32)
        assert secret, "several machines need a secret"
        return Access(secret, self.host if self.index else LOCAL, self.count > 1)

    def members(self, training: AsyncTraining) -> list[Member]:
        """The processes of this machine."""
        if self.count > training.replicas:
            raise ConfigError(
                f"--replicas {training.replicas} on {self.count} machines: each machine needs one at least"
            )
        servers = [Member("server", k, k) for k in range(training.servers)] if self.index == 0 else []
        mine = range(self.index, training.replicas, self.count)
        return servers + [Member("replica", number, place) for place, number in enumerate(mine)]

    def agree(self, training: AsyncTraining, ports: Sequence[int] = ()) -> list[int]:
        """The ports of the servers, none if the first machine has nothing to do; ConfigError when the machines were
        given different options.

        Args:
            ports: on the first machine.
        """
        if self.store is None:
            return list(ports)
        setting = repr(training)
        if self.index == 0:
            self.store.set("setting", setting)
            self.store.set("ports", " ".join(map(str, ports)))
            return list(ports)
        found = self.store.get("ports").decode()
        if found == NOTHING:
            return []
        if self.store.get("setting").decode() != setting:
            raise ConfigError(
                f"machine {self.index} was started with other options than machine 0: {setting} against "
                f"{self.store.get('setting').decode()}"
            )
        return [int(port) for port in found.split()]


def run_processes(job: Job, out: Path, node: Node = Node()) -> dict[str, Any] | None:
    """Runs a training to its end.

    A lost replica is reported, the others go on. When a server is lost, all begin anew from its checkpoint, up to
    `max_restarts` times; with several machines that is left to their launcher.

    Args:
        out: directory for checkpoints and logs.
    Returns:
        {"history": figures of each epoch, "facts": figures of the training, "lost": replicas that were given up} on the
        first machine, else None.
    """
    restarts = job.training.max_restarts if node.count == 1 else 0
    for attempt in range(restarts + 1):
        try:
            with _Fleet(job, out, node) as fleet:
                return fleet.run()
        except ServerLostError as e:
            if attempt == restarts:
                raise
            logger.warning("%s; starting again from the last checkpoint (%d of %d)", e, attempt + 1, restarts)
    raise AssertionError("unreachable")


@dataclass
class _Process:
    member: Member
    process: Any
    pipe: Connection
    result: Any = None
    done: bool = False
    error: PipelineError | None = None


@dataclass
class _Fleet:
    """The processes of this machine in one attempt."""

    job: Job
    out: Path
    node: Node
    members: list[_Process] = field(default_factory=list)

    def __enter__(self) -> _Fleet:
        # A server of forks imports everything once instead of once per process.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([work.__module__])
        access = self.node.access()
        try:
            for member in self.node.members(self.job.training):
                here, there = context.Pipe()
                # Arguments, and with them the secret, reach a process through a pipe that only it has.
                process = context.Process(
                    target=work,
                    args=(member, self.job, self.out, there, access, log.settings()),
                    name=member.name,
                    daemon=True,
                )
                process.start()
                there.close()
                self.members.append(_Process(member, process, here))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for member in self.members:
            if member.process.is_alive():
                member.process.terminate()
        for member in self.members:
            member.process.join(END_SECONDS)
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
            member.pipe.close()

    def run(self) -> dict[str, Any] | None:
        waiting = {m.member.name for m in self.members}
        ports: dict[int, int] = {}
        while waiting:
            for member, message in self._messages():
                if message[0] == "ready":
                    waiting.discard(member.member.name)
                    if member.member.role == "server":
                        ports[member.member.number] = message[1]
            for member in self.members:
                if not member.process.is_alive() and not member.done:
                    raise member.error or PipelineError(
                        f"{member.member.name} {how_ended(member.process.exitcode)}, before the training had begun; "
                        f"see {self.out / 'log'}"
                    )
        agreed = self.node.agree(self.job.training, [ports[number] for number in sorted(ports)])
        if not agreed:
            return None
        for member in self.members:
            member.pipe.send(agreed)
        return self._watch()

    def _watch(self) -> dict[str, Any] | None:
        told: set[str] = set()
        while True:
            self._messages()
            servers = [m for m in self.members if m.member.role == "server"]
            dead = [m for m in servers if not m.done and not m.process.is_alive()]
            for member in sorted(dead, key=lambda m: m.error is not None):  # one that was killed is the cause of errors
                raise member.error or ServerLostError(
                    f"{member.member.name} is lost: it {how_ended(member.process.exitcode)}"
                )
            if servers and servers[0].done:
                self._let_end(servers[0].result["lost"])
                self._messages()
                return servers[0].result
            lost = [m for m in self.members if m.member.role == "replica" and not m.done and not m.process.is_alive()]
            for member in lost:
                if member.member.name not in told:
                    told.add(member.member.name)
                    self._report(member, servers)
            replicas = [m for m in self.members if m.member.role == "replica"]
            if not servers and all(m.done or m in lost for m in replicas):
                if len(lost) == len(replicas):
                    raise lost[0].error or PipelineError("no replica of this machine is left")
                return None

    def _report(self, member: _Process, servers: list[_Process]) -> None:
        """Tells the server of a lost replica; a server that was lost before is the cause and is met next."""
        if isinstance(member.error, ServerLostError):
            if not servers:
                raise member.error
            time.sleep(0.5)
            if not all(s.process.is_alive() for s in servers):
                return
        why = str(member.error) if member.error else f"it {how_ended(member.process.exitcode)}"
        if not servers:
            logger.warning("%s is lost: %s", member.member.name, why)
            return
        try:
            servers[0].pipe.send(("lost", member.member.number, why))
        except OSError:
            logger.debug("server0 has ended before it could be told of %s", member.member.name)

    def _let_end(self, lost: Sequence[int]) -> None:
        """Waits for the processes, except for replicas that were given up: they may hang."""
        until = time.monotonic() + END_SECONDS
        for member in self.members:
            if member.member.role == "server" or member.member.number not in lost:
                member.process.join(max(until - time.monotonic(), 0.0))

    def _messages(self) -> list[tuple[_Process, tuple]]:
        """What the processes have sent, after waiting for it or for the end of one of them for a moment."""
        alive = [m for m in self.members if m.process.is_alive()]
        wait([*(m.process.sentinel for m in alive), *(m.pipe for m in alive)], timeout=1.0)
        found = []
        for member in self.members:
            try:
                while member.pipe.poll():
                    message = member.pipe.recv()
                    found.append((member, message))
                    if message[0] == "done":
                        member.done, member.result = True, message[1]
                    elif message[0] == "error":
                        kind = _ERRORS.get(message[1])
                        text = message[2] if kind else f"{member.member.name} has failed:\n{message[2]}"
                        member.error = (kind or PipelineError)(text)
            except (EOFError, OSError):
                continue
        return found
