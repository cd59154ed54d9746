"""Where this process stands when torchrun has started one on each of several machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.nn.asynchronous.launch import Node

NOTHING = "0"  # instead of a port: the first machine has nothing to train


@dataclass
class Place:
    """A machine among others; without torchrun, the only one."""

    index: int = 0
    count: int = 1
    host: str = ""
    _store: Any | None = None

    def node(self) -> Node:
        """Meets the other machines through torchrun's store."""
        from pipeline.nn.asynchronous.launch import Node

        return Node(self.index, self.count, self.host, self._meet()) if self.count > 1 else Node()

    def dismiss(self) -> None:
        """Lets the other machines know that there is nothing to do."""
        if self.count > 1:
            self._meet().set("port", NOTHING)

    def _meet(self) -> Any:
        if self._store is None:
            import torch.distributed as dist

            self._store = next(dist.rendezvous("env://"))[0]
        return self._store


def place_of(environment: Mapping[str, str]) -> Place:
    """The place that torchrun's variables name."""
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return Place()
    if environment.get("LOCAL_WORLD_SIZE", "1") != "1":
        raise ConfigError(
            f"torchrun --nproc_per_node {environment['LOCAL_WORLD_SIZE']}: needs --nproc_per_node 1, since this step "
            f"starts the replicas of a machine itself (--replicas)"
        )
    return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]), environment.get("MASTER_ADDR", ""))
