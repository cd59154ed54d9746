"""Names of the engine's backends and the choice between them; none is imported before it is used."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Protocol, cast

import torch

from pipeline.base.errors import ConfigError
from pipeline.hmm.graphs import Graphs
from pipeline.hmm.on_demand import OnDemand
from pipeline.hmm.paths import BestPaths

MODULES = {
    "numba": "pipeline.hmm.numba_backend",
    "torch": "pipeline.hmm.torch_backend",
    "triton": "pipeline.hmm.triton_backend",
    "k2": "pipeline.graph.hmm_k2",
}
NEEDS = {"numba": "numba", "torch": "torch", "triton": "triton", "k2": "k2"}


class Engine(Protocol):
    """What the module of a backend offers; arguments are as for the functions of ``pipeline.hmm``, and checked there.

    Attributes:
        SEARCHES: `viterbi` and `path_posteriors` take scores on demand, and `viterbi` keeps to the beams; where not, it
            searches exactly.
    """

    SEARCHES: bool

    def full_sum(
        self, graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
    ) -> torch.Tensor:
        """Scores (N,), differentiable in emissions and transitions."""

    def occupancies(
        self, graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scores (N,), state occupancies (sum of T_n S_n,) frame by frame, expected counts of arcs (A,)."""

    def path_posteriors(
        self,
        graphs: Graphs,
        emissions: torch.Tensor | OnDemand,
        lengths: torch.Tensor,
        transitions: torch.Tensor | None,
        pdfs: torch.Tensor,
    ) -> torch.Tensor:
        """(N, T) float32 posteriors of the pdfs (N, T), 0 where these are -1."""

    def viterbi(
        self,
        graphs: Graphs,
        emissions: torch.Tensor | OnDemand,
        lengths: torch.Tensor,
        transitions: torch.Tensor | None,
        beams: Sequence[float],
    ) -> BestPaths:
        """Best paths, without confidence."""


def available(backend: str) -> bool:
    """Whether the library that the backend needs is installed."""
    assert backend in MODULES, (backend, sorted(MODULES))
    return all(importlib.util.find_spec(name) is not None for name in (NEEDS[backend], MODULES[backend]))


def load(backend: str, emissions: torch.Tensor | OnDemand) -> Engine:
    """The module of a backend.

    Args:
        backend: a key of MODULES, or "auto": numba on the CPU, Triton on CUDA, plain torch where these lack.
        emissions: decide by their device.
    Raises:
        ConfigError: the backend's library is missing.
    """
    return _module(backend, emissions.device.type)


@functools.cache
def _module(backend: str, device: str) -> Engine:
    if backend == "auto":
        fast = {"cuda": "triton", "cpu": "numba"}.get(device, "torch")
        backend = fast if available(fast) else "torch"
    if not available(backend):
        raise ConfigError(f"backend {backend!r} needs the package {NEEDS[backend]}, which is not installed here")
    return cast(Engine, importlib.import_module(MODULES[backend]))
