"""k2 as a backend of the HMM engine, the reference in its tests; and conversion between `Graphs` and k2 automata.

k2 knows emissions only. Scores of transitions that depend on time fit in all the same: the emission is put on the arc
that leaves the state, so that each pair (pdf, transition-id) becomes a column of scores. These have 32 bits in k2,
whatever comes; its sums have 64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import k2
import numpy as np
import torch

from pipeline.base.errors import DataError
from pipeline.hmm.convert import from_arcs
from pipeline.hmm.graphs import NEG_INF, Graphs
from pipeline.hmm.paths import BestPaths
from pipeline.hmm.posteriors import along_paths

SEARCHES = False  # searches exactly, over all scores
KEEP_ALL = 1e30  # an output beam that prunes nothing


@dataclasses.dataclass
class _Arcs:
    """Arcs of a k2 automaton batch, each array (A',), sorted by graph and source.

    `state` is the graph state that emits on the arc (-1 on final arcs), `arc` the graph arc that it takes (-1: none),
    both counted over the batch.
    """

    graph: np.ndarray
    src: np.ndarray
    dst: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    state: np.ndarray
    arc: np.ndarray

    @staticmethod
    def of(*parts: tuple) -> _Arcs:
        """Join parts, each a tuple of the fields (scalars stand for equal values)."""
        broad = [np.broadcast_arrays(*part) for part in parts]
        columns = [np.concatenate([part[i] for part in broad]) for i in range(7)]
        order = np.lexsort((columns[3].astype(np.uint32), columns[1], columns[0]))  # k2 sorts -1 last
        return _Arcs(*(c[order] for c in columns))


class _View:
    """Arrays of a batch with states counted over the batch."""

    def __init__(self, graphs: Graphs) -> None:
        g = graphs.numpy()
        sizes = np.diff(g["state_splits"])
        self.pdf, self.start, self.final = g["state_pdf"], g["start_weight"], g["final_weight"]
        self.graph = np.repeat(np.arange(len(graphs)), sizes)
        first = g["state_splits"][:-1][self.graph]
        self.dst = np.repeat(np.arange(graphs.num_states), np.diff(g["arc_splits"]))
        self.src = g["arc_src"] + first[self.dst]
        self.weight, self.tid = g["arc_weight"], g["arc_tid"]
        self.arc = np.arange(graphs.num_arcs)
        self.node = np.arange(graphs.num_states) - first + 1
        self.last = sizes[self.graph] + 1
        self.starts, self.finals = np.flatnonzero(self.start > NEG_INF), np.flatnonzero(self.final > NEG_INF)


def _entering(graphs: Graphs, offset: int) -> _Arcs:
    """States 1 + s between a start state 0 and the final state; an arc emits the pdf of the state it enters."""
    v = _View(graphs)
    s, f = v.starts, v.finals
    return _Arcs.of(
        (v.graph[s], 0, v.node[s], v.pdf[s] + offset, v.start[s], s, -1),
        (v.graph[v.dst], v.node[v.src], v.node[v.dst], v.pdf[v.dst] + offset, v.weight, v.dst, v.arc),
        (v.graph[f], v.node[f], v.last[f], -1, v.final[f], -1, -1),
    )


def _leaving(graphs: Graphs, column: np.ndarray, last_column: np.ndarray) -> _Arcs:
    """As `_entering`, but an arc emits `column` (A,), that of the state it leaves and its own transition-id.

    `last_column` (S,) is what a state emits at the last frame, on an arc to an extra state before the final one.
    The arcs that leave start states are repeated from state 0.
    """
    v = _View(graphs)
    f = v.finals
    a = np.flatnonzero(v.start[v.src] > NEG_INF)
    only = f[v.start[f] > NEG_INF]
    ends = np.unique(f[np.unique(v.graph[f], return_index=True)[1]])
    return _Arcs.of(
        (v.graph[v.src[a]], 0, v.node[v.dst[a]], column[a], v.weight[a] + v.start[v.src[a]], v.src[a], a),
        (v.graph[v.src], v.node[v.src], v.node[v.dst], column, v.weight, v.src, v.arc),
        (v.graph[f], v.node[f], v.last[f], last_column[f], v.final[f], f, -1),
        (v.graph[only], 0, v.last[only], last_column[only], v.start[only] + v.final[only], only, -1),
        (v.graph[ends], v.last[ends], v.last[ends] + 1, -1, 0.0, -1, -1),
    )


def _fsa(arcs: _Arcs, num_graphs: int) -> k2.Fsa:
    """A k2 FsaVec with the attributes `hmm_state` and `hmm_arc`."""
    table = np.stack([arcs.src, arcs.dst, arcs.label, arcs.weight.astype(np.float32).view(np.int32)], axis=1)
    table = torch.from_numpy(np.ascontiguousarray(table.astype(np.int32)))
    bounds = np.searchsorted(arcs.graph, np.arange(num_graphs + 1))
    parts = [k2.Fsa(table[bounds[n] : bounds[n + 1]]) for n in range(num_graphs)]
    fsa = k2.create_fsa_vec(parts)
    fsa.hmm_state = torch.from_numpy(arcs.state.astype(np.int32))
    fsa.hmm_arc = torch.from_numpy(arcs.arc.astype(np.int32))
    return fsa


def to_k2(graphs: Graphs, offset: int = 1) -> k2.Fsa:
    """The graphs as a k2 FsaVec that emits on arcs.

    Args:
        graphs: N graphs.
        offset: label = pdf-id + offset; 1 leaves label 0 to epsilon or the CTC blank.
    Returns:
        Arc-sorted FsaVec with the int32 attributes `hmm_arc` (-1: start and final arcs), `hmm_state` (-1: final
        arcs), both counted over the batch, and `hmm_tid`.
    """
    fsa = _fsa(_entering(graphs, offset), len(graphs))
    tid = torch.cat([graphs.arc_tid.cpu(), torch.tensor([-1], dtype=torch.int32)])
    fsa.hmm_tid = tid[fsa.hmm_arc.long()]
    return fsa


def from_k2(fsa: k2.Fsa, offset: int = 1, num_pdfs: int | None = None, num_tids: int | None = None) -> Graphs:
    """An epsilon-free k2 Fsa or FsaVec as `Graphs`.

    Args:
        fsa: label = pdf-id + offset; an int32 attribute `hmm_tid`, if there is one, names transition-ids.
        offset: see above; a label below it is a DataError.
        num_pdfs, num_tids: default to one more than the largest id of the batch.
    Returns:
        One graph per automaton, states in the order of the automaton's.
    """
    if len(fsa.shape) == 2:
        fsa = k2.create_fsa_vec([fsa])
    arcs = fsa.arcs.values().cpu().long()
    scores = fsa.scores.detach().cpu().numpy()
    tids = fsa.hmm_tid.cpu().numpy() if hasattr(fsa, "hmm_tid") else np.full(len(arcs), -1)
    bounds = fsa.arcs.row_splits(2).cpu()[fsa.arcs.row_splits(1).cpu().long()].tolist()
    table = arcs.numpy()
    emitting = table[:, 2] >= 0
    if (table[emitting, 2] < offset).any():
        raise DataError(f"automaton: label {int(table[emitting, 2].min())} stands for no pdf-id (offset {offset})")
    num_pdfs = int(table[:, 2].max()) + 1 - offset if num_pdfs is None else num_pdfs
    num_tids = int(tids.max()) + 1 if num_tids is None else num_tids
    graphs = []
    for begin, end in zip(bounds[:-1], bounds[1:]):
        rows, emits = table[begin:end], emitting[begin:end]
        weight, tid = scores[begin:end], tids[begin:end]
        finals: dict[int, float] = {}
        for (src, *_), score in zip(rows[~emits].tolist(), weight[~emits].tolist()):
            finals[src] = score if src not in finals else float(np.logaddexp(finals[src], score))
        graphs.append(
            from_arcs(
                rows[emits, 0], rows[emits, 1], rows[emits, 2] - offset, tid[emits], weight[emits], [(0, 0.0)],
                sorted(finals.items()), num_pdfs, num_tids,
            )
        )  # fmt: skip
    return Graphs.cat(graphs)


@dataclasses.dataclass
class _Lattice:
    """All paths of the utterances that have frames: utterance i of `fsa` and `graphs` is utterance kept[i] of the
    call.
    """

    fsa: k2.Fsa
    graphs: Graphs
    kept: torch.Tensor
    timed: bool


def _scored(fsa: k2.Fsa, graphs: Graphs, transitions: torch.Tensor) -> None:
    """Add static transition scores to an automaton, with their gradient."""
    device = transitions.device
    tid = torch.cat([graphs.arc_tid, torch.tensor([-1], dtype=torch.int32)]).to(device)[fsa.hmm_arc.long()].long()
    added = transitions[tid.clamp(min=0)]
    fsa.scores = fsa.scores.detach() + torch.where(tid >= 0, added, torch.zeros_like(added))


def _columns(graphs: Graphs, emissions: torch.Tensor, transitions: torch.Tensor) -> tuple:
    """Columns of (pdf, transition-id) pairs: of each arc, of each state at the last frame, and their scores."""
    v = _View(graphs)
    width = transitions.shape[-1] + 1
    keys = np.concatenate([v.pdf[v.src] * width + v.tid + 1, v.pdf * width])
    unique, column = np.unique(keys, return_inverse=True)
    unique, column = torch.from_numpy(unique).long().to(emissions.device), column.reshape(-1)
    # The arc that leaves frame t is scored by the transitions into frame t + 1; column 0 is "no transition-id".
    ahead = torch.nn.functional.pad(transitions[:, 1:], (1, 0, 0, 1))
    pdf = torch.div(unique, width, rounding_mode="floor")
    scores = emissions[:, :, pdf] + ahead[:, :, unique % width]
    return column[: graphs.num_arcs], column[graphs.num_arcs :], scores


def _clean(values: torch.Tensor) -> torch.Tensor:
    """As k2 takes them, in float32; NaN and +inf count as impossible."""
    return torch.where(values < float("inf"), values, torch.full_like(values, NEG_INF)).float()


def _lattice(
    graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
) -> _Lattice | None:
    """Every path of every utterance with its score; None if no utterance has a frame."""
    lengths = lengths.cpu().long()
    kept = torch.argsort(lengths, descending=True)[: int((lengths > 0).sum())]  # k2 wants the longest first
    if len(kept) == 0:
        return None
    graphs, scores = graphs.to("cpu")[kept], _clean(emissions)
    transitions = None if transitions is None else _clean(transitions)
    timed = False
    if transitions is not None and transitions.dim() == 3 and transitions.shape[-1] > 0:
        timed = True
        column, last_column, scores = _columns(graphs, scores, transitions)
        fsa = _fsa(_leaving(graphs, column, last_column), len(graphs)).to(emissions.device)
    else:
        fsa = _fsa(_entering(graphs, 0), len(graphs)).to(emissions.device)
        if transitions is not None and transitions.shape[-1] > 0:
            _scored(fsa, graphs, transitions)
    segments = torch.stack([kept, torch.zeros_like(kept), lengths[kept]], dim=1).to(torch.int32)
    dense = k2.DenseFsaVec(scores, segments)
    fsa = k2.intersect_dense(fsa, dense, KEEP_ALL, frame_idx_name="frame")
    return _Lattice(fsa, graphs, kept, timed)


def _dtype(emissions: torch.Tensor) -> torch.dtype:
    """Of results."""
    return torch.float64 if emissions.dtype == torch.float64 else torch.float32


def _totals(lattice: _Lattice | None, emissions: torch.Tensor, log_semiring: bool) -> torch.Tensor:
    """Scores (N,) in the order of the call, -inf without a path."""
    totals = torch.full(emissions.shape[:1], NEG_INF, dtype=_dtype(emissions), device=emissions.device)
    if lattice is None:
        return totals
    found = lattice.fsa.get_tot_scores(log_semiring=log_semiring, use_double_scores=True).to(totals.dtype)
    has_path = torch.isfinite(found.detach())
    # Only utterances with a path enter the graph of autograd: k2's gradient of -inf is NaN.
    return totals.index_put((lattice.kept.to(found.device)[has_path],), found[has_path])


def full_sum(
    graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
) -> torch.Tensor:
    """Scores (N,), differentiable through k2."""
    return _totals(_lattice(graphs, emissions, lengths, transitions), emissions, True)


def _cells(fsa: k2.Fsa) -> tuple:
    """Of each emitting arc: its index, utterance (as in the lattice), frame, state and graph arc (-1: none)."""
    index = torch.nonzero(fsa.labels >= 0).squeeze(1)
    shape = fsa.arcs.shape()
    utterance = shape.row_ids(1).long()[shape.row_ids(2).long()[index]]
    return tuple(x.cpu().long() for x in (index, utterance, fsa.frame[index], fsa.hmm_state[index], fsa.hmm_arc[index]))


def _arc_shift(lattice: _Lattice, graphs: Graphs) -> torch.Tensor:
    """What turns the lattice's count of graph arcs into the call's, by utterance of the lattice."""
    here = lattice.graphs.arc_splits.long()[lattice.graphs.state_splits.long()[:-1]]
    there = graphs.arc_splits.long()[graphs.state_splits.long()[:-1]]
    return there[lattice.kept] - here


def occupancies(
    graphs: Graphs, emissions: torch.Tensor, lengths: torch.Tensor, transitions: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores (N,), state occupancies (sum of T_n S_n,) frame by frame of each graph, expected counts of arcs (A,)."""
    graphs = graphs.to("cpu")
    lattice = _lattice(graphs, emissions, lengths, transitions)
    scores = _totals(lattice, emissions, True)
    sizes = (graphs.state_splits[1:] - graphs.state_splits[:-1]).long()
    cells = torch.cat([sizes.new_zeros(1), torch.cumsum(sizes * lengths.cpu(), 0)])
    state, arc = (torch.zeros(n, dtype=_dtype(emissions)) for n in (int(cells[-1]), graphs.num_arcs))
    if lattice is not None:
        posterior = lattice.fsa.get_arc_post(use_double_scores=True, log_semiring=True).exp().to(state.dtype).cpu()
        index, n, frame, node, taken = _cells(lattice.fsa)
        local = node - lattice.graphs.state_splits.long()[n]
        called = lattice.kept[n]
        state.index_add_(0, cells[called] + frame * sizes[called] + local, posterior[index])
        has = taken >= 0
        arc.index_add_(0, (taken + _arc_shift(lattice, graphs)[n])[has], posterior[index][has])
    return scores, state.to(emissions.device), arc.to(emissions.device)


path_posteriors = along_paths(occupancies)


def viterbi(
    graphs: Graphs,
    emissions: torch.Tensor,
    lengths: torch.Tensor,
    transitions: torch.Tensor | None,
    beams: Sequence[float] = (),
) -> BestPaths:
    """Best paths by an exact search, whatever the beams."""
    graphs = graphs.to("cpu")
    lattice = _lattice(graphs, emissions, lengths, transitions)
    scores = _totals(lattice, emissions, False)
    states = torch.full(emissions.shape[:2], -1, dtype=torch.long)
    arcs = torch.full((len(graphs), emissions.shape[1] + 1), -1, dtype=torch.long)
    if lattice is not None:
        best = k2.shortest_path(lattice.fsa, use_double_scores=True)
        _, n, frame, node, taken = _cells(best)
        states[lattice.kept[n], frame] = node - lattice.graphs.state_splits.long()[n]
        taken = torch.where(taken >= 0, taken + _arc_shift(lattice, graphs)[n], taken)
        arcs[lattice.kept[n], frame + int(lattice.timed)] = taken
    found = (scores.to(emissions.device), states.to(emissions.device), arcs[:, :-1].to(emissions.device))
    return BestPaths.named(graphs, *found, lengths)
