"""Names of the engine's backends and the choice between them; none is imported before it is used."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

import torch

from pipeline.base.errors import ConfigError
from pipeline.hmm.on_demand import OnDemand

MODULES = {
    "numba": "pipeline.hmm.numba_backend",
    "torch": "pipeline.hmm.torch_backend",
    "triton": "pipeline.hmm.triton_backend",
    "k2": "pipeline.graph.hmm_k2",
}
NEEDS = {"numba": "numba", "torch": "torch", "triton": "triton", "k2": "k2"}


def available(backend: str) -> bool:
    """Whether the library that the backend needs is installed."""
    assert backend in MODULES, (backend, sorted(MODULES))
    return all(importlib.util.find_spec(name) is not None for name in (NEEDS[backend], MODULES[backend]))


def load(backend: str, emissions: torch.Tensor | OnDemand) -> ModuleType:
    """The module of a backend.

    Args:
        backend: a key of MODULES, or "auto": numba on the CPU, Triton on CUDA, plain torch where these lack.
        emissions: decide by their device.
    Raises:
        ConfigError: the backend's library is missing.
    """
    return _module(backend, emissions.device.type)


@functools.cache
def _module(backend: str, device: str) -> ModuleType:
    if backend == "auto":
        fast = {"cuda": "triton", "cpu": "numba"}.get(device, "torch")
        backend = fast if available(fast) else "torch"
    if not available(backend):
        raise ConfigError(f"backend {backend!r} needs the package {NEEDS[backend]}, which is not installed here")
    return importlib.import_module(MODULES[backend])
