"""A batch of epsilon-free HMM graphs in node-emitting form, the only graph type that the engine reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.base.errors import ConfigError, DataError

NEG_INF = float("-inf")
Indices = slice | Sequence[int] | torch.Tensor | NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Graphs:
    """N graphs side by side, each a set of emitting states joined by arcs.

    Being in state s at frame t scores emissions[t, state_pdf[s]]. An arc taken into frame t >= 1 adds
    transitions[t, arc_tid] + arc_weight; the state of frame 0 adds its start weight, the state of the last frame its
    final weight (DESIGN.md section 6). States are numbered from 0 within each graph; the arcs of a graph lie side by
    side, grouped by the state that they enter. A numbering in time order keeps the engine's active band narrow, and
    arcs from s, s - 1 and s - 2 into s take its vectorised path; any other graph works as well.

    Args:
        state_pdf: (S,) int32, pdf-id of each state.
        state_splits: (N + 1,) int32, states of graph n are state_splits[n]:state_splits[n + 1].
        arc_splits: (S + 1,) int32, arcs into state s (counted over the batch) are arc_splits[s]:arc_splits[s + 1].
        arc_src: (A,) int32, state left by the arc, numbered within the graph.
        arc_tid: (A,) int32, column of `transitions` that scores the arc; -1 for none.
        arc_weight: (A,) float32, fixed natural-log weight.
        start_weight: (S,) float32, natural-log weight of starting here; -inf where no path starts.
        final_weight: (S,) float32, natural-log weight of ending here; -inf where no path ends.
        final_tid: (S,) int32, transition-id named (not scored) for the last frame; -1 for none.
        num_pdfs: pdf-ids lie below this.
        num_tids: transition columns lie below this.
    """

    state_pdf: torch.Tensor
    state_splits: torch.Tensor
    arc_splits: torch.Tensor
    arc_src: torch.Tensor
    arc_tid: torch.Tensor
    arc_weight: torch.Tensor
    start_weight: torch.Tensor
    final_weight: torch.Tensor
    final_tid: torch.Tensor
    num_pdfs: int
    num_tids: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name in ("num_pdfs", "num_tids"):
                continue
            dtype = torch.float32 if field.name.endswith("_weight") else torch.int32
            value = torch.as_tensor(getattr(self, field.name)).to(dtype).contiguous()
            object.__setattr__(self, field.name, value)
        object.__setattr__(self, "num_pdfs", int(self.num_pdfs))
        object.__setattr__(self, "num_tids", int(self.num_tids))
        assert len(self.state_splits) >= 1 and len(self.arc_splits) == self.num_states + 1, self
        for name in ("start_weight", "final_weight", "final_tid"):
            assert getattr(self, name).shape == self.state_pdf.shape, (name, getattr(self, name).shape)
        for name in ("arc_tid", "arc_weight"):
            assert getattr(self, name).shape == self.arc_src.shape, (name, getattr(self, name).shape)

    def __len__(self) -> int:
        return self.state_splits.shape[0] - 1

    @property
    def num_states(self) -> int:
        """States of the whole batch."""
        return self.state_pdf.shape[0]

    @property
    def num_arcs(self) -> int:
        """Arcs of the whole batch."""
        return self.arc_src.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.state_pdf.device

    def to(self, device: str | torch.device) -> Graphs:
        """The same graphs with their tensors on `device`."""
        if torch.device(device) == self.device:
            return self
        held = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in held.items()}
        return Graphs(**moved)

    def numpy(self) -> dict[str, NDArray[Any]]:
        """Every tensor as a numpy array, by field name (views where the graphs are on the CPU)."""
        return {
            f.name: getattr(self, f.name).cpu().numpy()
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), torch.Tensor)
        }

    def arc_dst(self) -> torch.Tensor:
        """(A,) int64, the state that each arc enters, counted over the batch."""
        counts = (self.arc_splits[1:] - self.arc_splits[:-1]).long()
        return torch.repeat_interleave(torch.arange(self.num_states, device=self.device), counts)

    def state_graph(self) -> torch.Tensor:
        """(S,) int64, the graph that each state belongs to."""
        counts = (self.state_splits[1:] - self.state_splits[:-1]).long()
        return torch.repeat_interleave(torch.arange(len(self), device=self.device), counts)

    def validate(self, where: str = "graphs") -> Graphs:
        """Check every index and weight.

        Args:
            where: names the graphs in the error.
        Returns:
            self, so that a constructor can end with it.
        Raises:
            DataError: an index out of range, a NaN or +inf weight, or a graph without a state, a start or a final.
        """
        g = self.numpy()
        for name, of in (("state_splits", self.num_states), ("arc_splits", self.num_arcs)):
            splits = g[name]
            if splits[0] != 0 or splits[-1] != of or (np.diff(splits) < 0).any():
                raise DataError(f"{where}: {name} must rise from 0 to {of}")
        for name, low, high in (
            ("state_pdf", 0, self.num_pdfs),
            ("arc_tid", -1, self.num_tids),
            ("final_tid", -1, 1 << 31),
        ):
            values = g[name]
            if len(values) and (values.min() < low or values.max() >= high):
                raise DataError(f"{where}: {name} holds {values.min()}..{values.max()}, outside {low}..{high - 1}")
        sizes = np.diff(g["state_splits"])
        if (sizes == 0).any():
            raise DataError(f"{where}: graph {int(np.argmin(sizes))} has no state")
        graph = np.repeat(np.arange(len(self)), sizes)
        arc_graph = np.repeat(graph, np.diff(g["arc_splits"]))
        if ((g["arc_src"] < 0) | (g["arc_src"] >= sizes[arc_graph])).any():
            raise DataError(f"{where}: an arc leaves a state outside its graph")
        for name in ("arc_weight", "start_weight", "final_weight"):
            if np.isnan(g[name]).any() or (g[name] == np.inf).any():
                raise DataError(f"{where}: {name} holds NaN or +inf")
        for name in ("start_weight", "final_weight"):
            has = np.bincount(graph, weights=g[name] > NEG_INF, minlength=len(self))
            if (has == 0).any():
                raise DataError(f"{where}: graph {int(np.argmin(has))} has no {name.split('_')[0]} state")
        return self

    def __getitem__(self, indices: int | Indices) -> Graphs:
        """The graphs of the given indices, in that order (an int gives a batch of one)."""
        if isinstance(indices, slice):
            indices = range(*indices.indices(len(self)))
        picked = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        picked = np.where(picked < 0, picked + len(self), picked)
        assert ((picked >= 0) & (picked < len(self))).all(), (indices, len(self))
        g = self.numpy()
        states, state_splits = _ranges(g["state_splits"], picked)
        arc_bounds = g["arc_splits"][g["state_splits"]]
        arcs, _ = _ranges(arc_bounds, picked)
        in_degree = np.diff(g["arc_splits"])[states]
        return Graphs(
            state_splits=torch.from_numpy(bounds(np.diff(state_splits))),
            arc_splits=torch.from_numpy(bounds(in_degree)),
            **{k: torch.from_numpy(g[k][states]) for k in ("state_pdf", "start_weight", "final_weight", "final_tid")},
            **{k: torch.from_numpy(g[k][arcs]) for k in ("arc_src", "arc_tid", "arc_weight")},
            num_pdfs=self.num_pdfs,
            num_tids=self.num_tids,
        ).to(self.device)

    @staticmethod
    def cat(parts: Sequence[Graphs]) -> Graphs:
        """Join batches that count the same pdfs and transition-ids."""
        assert parts, "nothing to join"
        for name in ("num_pdfs", "num_tids"):
            if len({getattr(p, name) for p in parts}) > 1:
                raise DataError(f"graphs to join differ in {name}: {sorted({getattr(p, name) for p in parts})}")
        arrays = [p.numpy() for p in parts]
        joined = {k: np.concatenate([a[k] for a in arrays]) for k in arrays[0] if not k.endswith("_splits")}
        for k in ("state_splits", "arc_splits"):
            sizes = np.concatenate([np.diff(a[k]) for a in arrays])
            joined[k] = bounds(sizes)
        return Graphs(
            **{k: torch.from_numpy(v) for k, v in joined.items()},
            num_pdfs=parts[0].num_pdfs,
            num_tids=parts[0].num_tids,
        )


def _ranges(splits: NDArray[Any], picked: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Concatenated indices splits[i]:splits[i + 1] of the picked i, and the splits of the result."""
    sizes = np.diff(splits)[picked].astype(np.int64)
    out = np.concatenate([[0], np.cumsum(sizes)])
    return np.arange(out[-1]) + np.repeat(splits[picked].astype(np.int64) - out[:-1], sizes), out


def bounds(sizes: NDArray[Any]) -> NDArray[Any]:
    """(N,) sizes -> (N + 1,) int32 splits; ConfigError where states or arcs are more than int32 can count."""
    out = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    if out[-1] > np.iinfo(np.int32).max:
        raise ConfigError(f"a batch of graphs has {out[-1]:,} states or arcs, more than 2^31 - 1; take smaller batches")
    return out.astype(np.int32)
