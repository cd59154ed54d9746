"""Where this process stands when torchrun has started one on each of several machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.base.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.nn.asynchronous.launch import Node

NOTHING = "0"  # instead of ports: the first machine has nothing to train
SECRET = "FULLSUM_SECRET"
SECRET_CHARACTERS = 32  # at least


@dataclass
class Place:
    """A machine among others; without torchrun, the only one."""

    index: int = 0
    count: int = 1
    host: str = ""
    secret: str = field(default="", repr=False)
    _store: Any | None = None

    def node(self) -> Node:
        """Meets the other machines through torchrun's store."""
        from pipeline.nn.asynchronous.launch import Node

        if self.count == 1:
            return Node()
        if len(self.secret) < SECRET_CHARACTERS:
            raise ConfigError(
                f"a training on several machines needs a secret of {SECRET_CHARACTERS} characters or more in the "
                f"variable {SECRET}, the same on all of them; this prints one: "
                f"python3 -c 'import secrets; print(secrets.token_hex(32))'"
            )
        return Node(self.index, self.count, self.host, self._meet(), self.secret.encode())

    def dismiss(self) -> None:
        """Lets the other machines know that there is nothing to do."""
        if self.count > 1:
            self._meet().set("ports", NOTHING)

    def _meet(self) -> Any:
        if self._store is None:
            import torch.distributed as dist

            self._store = next(dist.rendezvous("env://"))[0]
        return self._store


def place_of(environment: Mapping[str, str]) -> Place:
    """The place that torchrun's variables name, and the secret that the user has set for a training on several
    machines."""
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return Place()
    if environment.get("LOCAL_WORLD_SIZE", "1") != "1":
        raise ConfigError(
            f"torchrun --nproc_per_node {environment['LOCAL_WORLD_SIZE']}: needs --nproc_per_node 1, since this step "
            f"starts the replicas of a machine itself (--replicas)"
        )
    return Place(
        int(environment["RANK"]),
        int(environment["WORLD_SIZE"]),
        environment.get("MASTER_ADDR", ""),
        environment.get(SECRET, ""),
    )
