"""What the processes of an asynchronous training say to each other, over ``transport``."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.base.errors import ConfigError, PipelineError
from pipeline.nn.asynchronous import transport
from pipeline.nn.asynchronous.coordinator import Coordinator, Sums
from pipeline.nn.asynchronous.ledger import Item, Key, Wait
from pipeline.nn.asynchronous.shard import Gradients, Shard, SynchronousShard
from pipeline.nn.asynchronous.transport import Client, Method, SecretError, TransportError
from pipeline.nn.asynchronous.wire import Message

CALL_SECONDS = 600.0  # a call that takes longer has been lost
LOCAL = "127.0.0.1"
PEERS = re.compile(r"(server|replica)(\d+)")
SHARD_FILE = re.compile(r"shard\d+\.\d+\.safetensors")
Tensors = Sequence[torch.Tensor | None]


def server_name(number: int) -> str:
    """Name of a server process among the processes of a training."""
    return f"server{number}"


def replica_name(number: int) -> str:
    """Name of a replica among the processes of a training."""
    return f"replica{number}"


@transport.travels
class ServerLostError(PipelineError):
    """A server process does not answer any more."""


@dataclass(frozen=True)
class Access:
    """How the processes of this machine reach the servers, which run on the first one.

    Attributes:
        secret: what all processes of the training know, and nobody else.
        host: name of the first machine.
        public: whether there are other machines, so that the servers listen on all interfaces.
    """

    secret: bytes = field(repr=False)
    host: str = LOCAL
    public: bool = False

    def listen(self, number: int, port: int) -> socket.socket:
        """The port of a server: that of the first one is given, the others follow; 0: any free one."""
        mine = port + number if port else 0
        try:
            return transport.listen("" if self.public else LOCAL, mine)
        except (OSError, OverflowError) as e:
            raise ConfigError(f"--port {port}: {mine} cannot be used ({e}); --port 0 takes a free one") from None

    def connect(self, name: str, server: int, port: int, limit: int) -> Client:
        """A connection to a server; see ``Client``."""
        try:
            return Client((self.host, port), name, server_name(server), self.secret, limit)
        except SecretError as e:
            raise ConfigError(f"{e}; FULLSUM_SECRET has to be the same on all machines") from None
        except TransportError as e:
            raise ServerLostError(f"{name} does not get through to a server: {e}") from None


def size_of(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes: what a message with one tensor for each of these may have."""
    return sum(t.numel() * t.element_size() for t in tensors)


def _told(action: Callable[[Any], None]) -> Method:
    """A method that answers with nothing but the end of an action."""

    def method(values: Any, _: Tensors) -> tuple[None, Tensors]:
        action(values)
        return None, ()

    return method


def _all_of(answer: Message) -> list[torch.Tensor]:
    """The tensors of an answer that leaves none out."""
    tensors = [tensor for tensor in answer.tensors if tensor is not None]
    if len(tensors) < len(answer.tensors):
        raise PipelineError("a server has sent only some of its tensors")
    return tensors


class Service:
    """What a server process offers; the coordinator is in the first one only."""

    def __init__(self, shard: Shard, out: Path) -> None:
        """Args:
        out: directory of checkpoints.
        """
        self.shard, self.out = shard, out
        self.coordinator: Coordinator | None = None
        self.opened = threading.Event()
        self.stop = threading.Event()

    def open(self, coordinator: Coordinator) -> None:
        """From now on replicas get work."""
        self.coordinator = coordinator
        self.opened.set()

    def methods(self, peer: str) -> Mapping[str, Method]:
        """What a process may call; a replica speaks for itself only."""
        match = PEERS.fullmatch(peer)
        if match is None:
            return {}
        number = int(match[2])
        if match[1] == "server":
            return {
                "pull": self._pull,
                "facts": self._facts,
                "give_up": _told(lambda values: self.shard.give_up(int(values))),
                "leave": _told(lambda values: self.shard.leave(int(values))),
                "save": _told(lambda values: self.shard.save(self._file(values))),
                "load": _told(lambda values: self.shard.load(self._file(values))),
                "stop": _told(lambda _: self.stop.set()),
            }
        return {
            "pull": self._pull,
            "push": lambda values, tensors: (self._push(number, values, tensors), ()),
            "next": lambda values, _: (self._next(number, values), ()),
            "beat": _told(lambda _: self._lead().beat(number)),
            "leave": _told(lambda _: self._lead().leave(number)),
            "fail": _told(lambda values: self._lead().fail(str(values))),
        }

    def _lead(self) -> Coordinator:
        self.opened.wait(CALL_SECONDS)
        assert self.coordinator is not None, "this server does not coordinate, or has not begun to"
        return self.coordinator

    def _pull(self, values: Any, _: Tensors) -> tuple[int, Tensors]:
        return self.shard.pull()

    def _push(self, replica: int, values: Any, gradients: Tensors) -> int:
        rate, fetched = float(values[0]), int(values[1])
        expected = [(p.dtype, p.shape) for p in self.shard.parameters.values()]
        if len(gradients) != len(expected) or any(
            g is not None and (g.dtype, g.shape) != e for g, e in zip(gradients, expected)
        ):
            raise PipelineError(f"{replica_name(replica)} has sent gradients of another model")
        if isinstance(self.shard, SynchronousShard):
            return self.shard.submit(replica, gradients, rate, fetched).result()
        return self.shard.push(replica, gradients, rate, fetched)

    def _facts(self, values: Any, _: Tensors) -> tuple[Any, Tensors]:
        version, ages = self.shard.facts()
        return [version, list(ages.items())], ()

    def _file(self, name: Any) -> Path:
        if not isinstance(name, str) or not SHARD_FILE.fullmatch(name):
            raise PipelineError(f"{name!r} is not the name of a checkpoint")
        return self.out / name

    def _next(self, replica: int, values: Any) -> Any:
        finished, sums = values
        return encode_item(
            self._lead().next(
                replica, [Key(*key) for key in finished], {int(epoch): dict(named) for epoch, named in sums}
            )
        )


def encode_item(got: Item | Wait | None) -> Any:
    """Work, as JSON holds it."""
    if isinstance(got, Item):
        return {**vars(got), "key": list(got.key)}
    return "none" if got is None else "wait"


def decode_item(value: Any) -> Item | Wait | None:
    """What ``encode_item`` has encoded."""
    if isinstance(value, dict):
        return Item(**{**value, "key": Key(*value["key"])})
    return {"none": None, "wait": Wait()}[value]


class RemoteShard:
    """A shard in another server process; see ``coordinator.ShardHandle``."""

    def __init__(self, access: Access, number: int, port: int, parameters: Sequence[torch.Tensor]) -> None:
        """Args:
        parameters: those of the shard.
        """
        self._client = access.connect(server_name(0), number, port, size_of(parameters))

    def _call(self, name: str, values: Any = None) -> Message:
        try:
            return self._client.call(name, values, seconds=CALL_SECONDS)
        except TransportError as e:
            raise ServerLostError(f"a server does not answer: {e}") from None

    def pull(self) -> tuple[int, list[torch.Tensor]]:
        """See ``Shard.pull``; likewise the others."""
        answer = self._call("pull")
        return answer.values, _all_of(answer)

    def give_up(self, replica: int) -> None:
        self._call("give_up", replica)

    def leave(self, replica: int) -> None:
        self._call("leave", replica)

    def save(self, path: Path) -> None:
        self._call("save", path.name)

    def load(self, path: Path) -> None:
        self._call("load", path.name)

    def facts(self) -> tuple[int, dict[int, int]]:
        version, ages = self._call("facts").values
        return version, dict(ages)

    def stop(self) -> None:
        """Lets the process end."""
        self._call("stop")


class Link(Protocol):
    """What a replica sees of the servers."""

    def pull(self) -> list[tuple[int, list[torch.Tensor]]]:
        """Version and tensors of each shard."""

    def push(self, gradients: Sequence[Gradients], rate: float, fetched: Sequence[int]) -> list[int]:
        """Sends the gradients of each shard, with the versions they were computed with; returns their staleness."""

    def next(self, finished: Sequence[Key], sums: Sums) -> Item | Wait | None:
        """See ``Coordinator.next``."""


class RemoteLink:
    """Servers in other processes; one that does not answer is a ServerLostError.

    Signs of life have a connection of their own, since the others may be waiting for the end of a synchronous round.
    """

    def __init__(
        self, access: Access, replica: int, ports: Sequence[int], shards: Sequence[Sequence[torch.Tensor]]
    ) -> None:
        """Args:
        ports: of the servers.
        shards: parameters of each server.
        """
        name = replica_name(replica)
        self._clients = [
            access.connect(name, server, port, size_of(parameters))
            for server, (port, parameters) in enumerate(zip(ports, shards))
        ]
        self._pulse = access.connect(name, 0, ports[0], 0)
        self._working_since: float | None = None  # None while waiting for a server

    def worked_for(self) -> float:
        """Seconds since the last answer of a server, 0 while one is being waited for."""
        since = self._working_since
        return 0.0 if since is None else time.monotonic() - since

    def pull(self) -> list[tuple[int, list[torch.Tensor]]]:
        """See ``Link``; all shards at once."""
        answers = self._call_all("pull", [(None, ()) for _ in self._clients], CALL_SECONDS)
        return [(answer.values, _all_of(answer)) for answer in answers]

    def push(self, gradients: Sequence[Gradients], rate: float, fetched: Sequence[int]) -> list[int]:
        """See ``Link``; returns when all shards have taken them."""
        # A synchronous round takes as long as the slowest replica, which heartbeats watch over.
        calls = [([rate, version], grads) for grads, version in zip(gradients, fetched)]
        return [answer.values for answer in self._call_all("push", calls, None)]

    def next(self, finished: Sequence[Key], sums: Sums) -> Item | Wait | None:
        """See ``Link``."""
        return decode_item(
            self._call_all("next", [([[list(key) for key in finished], list(sums.items())], ())], CALL_SECONDS)[
                0
            ].values
        )

    def beat(self) -> None:
        """A sign of life; may be called while another thread waits for an answer."""
        self._tell(self._pulse, "beat")

    def leave(self) -> None:
        """There is no more work, and this replica ends."""
        self._tell(self._clients[0], "leave")

    def fail(self, why: str) -> None:
        """The training cannot go on."""
        self._tell(self._clients[0], "fail", why)

    def shut(self) -> None:
        """Ends all connections, also for a thread that waits for an answer."""
        for client in (*self._clients, self._pulse):
            client.shut()

    def _tell(self, client: Client, what: str, values: Any = None) -> None:
        try:
            client.call(what, values, seconds=CALL_SECONDS)
        except TransportError as e:
            raise ServerLostError(f"a server does not answer: {e}") from None

    def _call_all(self, name: str, calls: Sequence[tuple[Any, Tensors]], seconds: float | None) -> list[Message]:
        """Calls the first servers, with values and tensors for each of them, at the same time."""
        clients = self._clients[: len(calls)]
        self._working_since = None
        try:
            for client, (values, tensors) in zip(clients, calls):
                client.send(name, values, tensors)
            return [client.collect(seconds) for client in clients]
        except TransportError as e:
            raise ServerLostError(f"a server does not answer: {e}") from None
        finally:
            self._working_since = time.monotonic()
            for client in clients:
                if client.waiting:  # another one has failed: of this one nobody will hear the answer
                    client.close()
