"""Steps that torchrun may start several times, as processes that train together; imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.base import cli


def run_step(
    processes: cli.Processes,
    device: str,
    out: Path,
    inputs: Mapping[str, str | os.PathLike[str] | None],
    options: Any,
    action: Callable[[Path], dict[str, Any]],
    overwrite: bool,
    command: str,
) -> None:
    """As ``cli.run_step``, for a step that several processes may make together.

    Args:
        device: as for the training; processes on "cpu" meet by gloo, others by NCCL.
        action: is called in all of them with the directory of the first one, which alone writes what stays.
    """
    if processes.rank:
        from pipeline.nn.distributed import follow

        with cli.main_guard():
            follow(action, device)
        return

    def led(tmp: Path) -> dict[str, Any]:
        if processes.size > 1:
            from pipeline.nn.distributed import lead

            lead(tmp, device)
        return action(tmp)

    ran = cli.run_step(out, inputs, options, led, overwrite=overwrite, command=command)
    if not ran and processes.size > 1:
        from pipeline.nn.distributed import lead

        lead(None, device)
