"""How tests start processes of torchrun: at a port of their own, since --standalone of torch 1.13 has one for all."""

from __future__ import annotations

import socket
import sys


def torchrun(processes: int, restarts: int = 0) -> list[str]:
    """The beginning of a command line."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc_per_node", str(processes)]
    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{port}", "--rdzv_id", str(port)]
    return [*command, *meeting, "--max_restarts", str(restarts)]
