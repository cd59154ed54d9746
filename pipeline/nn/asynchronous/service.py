"""Calls between the processes of an asynchronous training, over torch.distributed.rpc.

A server process keeps its state in this module, where the calls of others find it. All processes of a training trust
each
other: the messages of torch.distributed.rpc are Python objects, so its port belongs into a private network.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.distributed import rpc

from pipeline.base.errors import PipelineError
from pipeline.nn.asynchronous.coordinator import Coordinator, Sums
from pipeline.nn.asynchronous.ledger import Item, Wait
from pipeline.nn.asynchronous.shard import Gradients, Shard, SynchronousShard

CALL_SECONDS = 600.0  # a call that takes longer has been lost


@dataclass
class Server:
    """What a server process offers; the coordinator is in the first one only."""

    shard: Shard | None = None
    coordinator: Coordinator | None = None
    opened: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)


HERE = Server()


def server_name(number: int) -> str:
    """Name of a server process among the processes of a training."""
    return f"server{number}"


def replica_name(number: int) -> str:
    """Name of a replica among the processes of a training."""
    return f"replica{number}"


class ServerLostError(PipelineError):
    """A server process does not answer any more."""


def join(name: str, rank: int, world: int, host: str, port: int) -> None:
    """Enters the group; returns when all have entered it."""
    # Sockets only: TensorPipe's shared memory waits by spinning, which takes a core from the replicas.
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=min(16 + world, 128),
        rpc_timeout=CALL_SECONDS,
        init_method=f"tcp://{host}:{port}",
        _transports=["uv"],
    )
    try:
        rpc.init_rpc(name, rank=rank, world_size=world, rpc_backend_options=options)
    except RuntimeError as e:
        raise ServerLostError(f"{name} cannot meet the others at {host}:{port}: {e}") from None


def part() -> None:
    """Leaves the group, if it has been entered, without waiting for the others, of whom some may be dead."""
    if rpc.api._is_current_rpc_agent_set():
        rpc.shutdown(graceful=False)


def _pull() -> tuple[int, list[torch.Tensor]]:
    return HERE.shard.pull()


def _push(replica: int, gradients: list[torch.Tensor | None], rate: float, fetched: int) -> int:
    return HERE.shard.push(replica, gradients, rate, fetched)


@rpc.functions.async_execution
def _submit(replica: int, gradients: list[torch.Tensor | None], rate: float, fetched: int) -> Any:
    shard = HERE.shard
    assert isinstance(shard, SynchronousShard)
    return shard.submit(replica, gradients, rate, fetched)


def _shard_call(name: str, *args: Any) -> Any:
    return getattr(HERE.shard, name)(*args)


def _coordinator_call(name: str, *args: Any) -> Any:
    HERE.opened.wait(CALL_SECONDS)
    return getattr(HERE.coordinator, name)(*args)


def _stop() -> None:
    HERE.stop.set()


class RemoteShard:
    """A shard in another server process; see ``coordinator.ShardHandle``."""

    def __init__(self, number: int) -> None:
        self.name = server_name(number)

    def _call(self, name: str, *args: Any) -> Any:
        return rpc.rpc_sync(self.name, _shard_call, (name, *args))

    def pull(self) -> tuple[int, list[torch.Tensor]]:
        """See ``Shard.pull``; likewise the others."""
        return self._call("pull")

    def bury(self, replica: int) -> None:
        self._call("bury", replica)

    def leave(self, replica: int) -> None:
        self._call("leave", replica)

    def save(self, path: Path) -> None:
        self._call("save", path)

    def load(self, path: Path) -> None:
        self._call("load", path)

    def facts(self) -> tuple[int, dict[int, int]]:
        return self._call("facts")

    def stop(self) -> None:
        """Lets the process end, perhaps before it can answer."""
        with contextlib.suppress(RuntimeError):
            rpc.rpc_sync(self.name, _stop)


class Link(Protocol):
    """What a replica sees of the servers."""

    def pull(self) -> list[tuple[int, list[torch.Tensor]]]:
        """Version and tensors of each shard."""

    def push(self, gradients: Sequence[Gradients], rate: float, fetched: Sequence[int]) -> list[int]:
        """Sends the gradients of each shard, with the versions they were computed with; returns their staleness."""

    def next(self, finished: Sequence[tuple[int, int, int]], sums: Sums) -> Item | Wait | None:
        """See ``Coordinator.next``."""


class RpcLink:
    """Servers in other processes; one that does not answer is a ServerLostError."""

    def __init__(self, replica: int, shards: int, synchronous: bool) -> None:
        self.replica, self.names = replica, [server_name(k) for k in range(shards)]
        self._send = _submit if synchronous else _push
        self._working_since: float | None = None  # None while waiting for a server

    def worked_for(self) -> float:
        """Seconds since the last answer of a server, 0 while one is being waited for."""
        since = self._working_since
        return 0.0 if since is None else time.monotonic() - since

    def pull(self) -> list[tuple[int, list[torch.Tensor]]]:
        """See ``Link``; all shards at once."""
        return self._wait(rpc.rpc_async(name, _pull) for name in self.names)

    def push(self, gradients: Sequence[Gradients], rate: float, fetched: Sequence[int]) -> list[int]:
        """See ``Link``; returns when all shards have taken them."""
        # A synchronous round takes as long as the slowest replica, which heartbeats watch over.
        return self._wait(
            rpc.rpc_async(name, self._send, (self.replica, list(grads), rate, version), timeout=0)
            for name, grads, version in zip(self.names, gradients, fetched)
        )

    def next(self, finished: Sequence[tuple[int, int, int]], sums: Sums) -> Item | Wait | None:
        """See ``Link``."""
        return self._wait(
            [rpc.rpc_async(self.names[0], _coordinator_call, ("next", self.replica, list(finished), sums))]
        )[0]

    def tell(self, what: str, *args: Any) -> None:
        """Calls "beat", "leave" (both for this replica) or "fail" of the coordinator."""
        try:
            rpc.rpc_sync(self.names[0], _coordinator_call, (what, *(args or (self.replica,))))
        except RuntimeError as e:
            raise ServerLostError(f"a server does not answer: {e}") from None

    def _wait(self, calls: Iterable[torch.futures.Future[Any]]) -> list[Any]:
        self._working_since = None
        try:
            return [call.wait() for call in list(calls)]
        except RuntimeError as e:
            raise ServerLostError(f"a server does not answer: {e}") from None
        finally:
            self._working_since = time.monotonic()
