"""Phone boundaries from posterior distributions instead of one best path, under one model or several.

Viterbi takes the most probable path, and the likelihoods of frames, which an HMM treats as independent, make it far too
sure.
Here the phone sequence of an alignment is kept, and the time of each boundary gets a distribution: with occupancies
    gamma of the
HMM-states under scaled scores, the boundary before phone k lies before frame t with probability

    F_k(t) = sum over states s of phones k, k + 1, ... of gamma_t(s)

which grows with t. Its median is the time with the smallest expected absolute error. Several models are averaged in F.

Long recordings are taken in stretches of phones, each with further phones on either side, whose outer ends stay where
the alignment has them. Neither their scores nor their distributions are ever all in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.ali import AliSet, AliWriter
from pipeline.artifacts.model_dir import load_hmm
from pipeline.base.errors import MismatchError
from pipeline.base.log import progress
from pipeline.base.option_values import Device
from pipeline.parallel.parts import Part
from pipeline.tasks.respacing import Chain, chain_of, frames_of, respaced, starts_of

if TYPE_CHECKING:
    import torch

    from pipeline.hmm import Occupancies
    from pipeline.hmm.on_demand import FrameScores

logger = logging.getLogger(__name__)

WHOLE_SECONDS = 120.0  # recordings up to this are no long ones
STRETCH_SECONDS, CONTEXT_SECONDS = 20.0, 5.0
STRETCHES_AT_ONCE, SCORED_SECONDS = 8, 200.0  # as many stretches at once as span so many seconds, or one


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BoundaryOptions:
    """How boundaries are refined."""

    acoustic_scale: float = Field(
        0.1, gt=0, description="Weight of the acoustic scores; smaller makes the distributions wider."
    )
    transition_scale: float = Field(1.0, ge=0, description="Weight of the transition log probabilities.")
    prior_scale: float | None = Field(None, ge=0, description="Weight of a network's label prior.")
    frame_shift: float = Field(0.0025, gt=0, description="Resolution of the new alignment in seconds.")
    batch_frames: int = Field(
        20_000, gt=0, description="Feature frames per batch, padding included.", json_schema_extra={"stamp": False}
    )
    device: Device = Field("cpu", description="cpu or cuda.", json_schema_extra={"stamp": False})


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Source:
    """A model, the data directory with its features, speaker transforms where it needs them, and whether it gets a
    phone for unknown speech (`tasks.unknown_speech`).
    """

    model: Path
    data: Path
    transforms: Path | None = None
    unknown_speech: bool = False


class Stretch(NamedTuple):
    """Phones first..last of a sequence, whose boundaries are asked for, among low..high, which are summed over."""

    first: int
    last: int
    low: int
    high: int


class Distribution(NamedTuple):
    """When the phones of a stretch begin.

    Attributes:
        times: (T,) centres of the model's frames in seconds.
        after: (T, last - first) F_k.
    """

    times: np.ndarray
    after: np.ndarray


def stretches(starts: np.ndarray, end: float) -> list[Stretch]:
    """How a phone sequence is divided: not at all, or every STRETCH_SECONDS where it is long.

    Args:
        starts: (K,) seconds. end: of the last phone.
    """
    if end <= WHOLE_SECONDS:
        return [Stretch(0, len(starts), 0, len(starts))]
    out = []
    for time in np.arange(0.0, end, STRETCH_SECONDS):
        first = np.searchsorted(starts, time) if time else 0  # the first phone may begin at any time
        last = np.searchsorted(starts, time + STRETCH_SECONDS)
        if first < last:
            low = np.searchsorted(starts, time - CONTEXT_SECONDS) - 1
            high = np.searchsorted(starts, time + STRETCH_SECONDS + CONTEXT_SECONDS) + 1
            out.append(Stretch(int(first), int(last), max(int(low), 0), min(int(high), len(starts))))
    return out


class Posteriors:
    """Distributions of phone boundaries under one model."""

    def __init__(self, source: Source, ali: AliSet, options: BoundaryOptions) -> None:
        """Raises:
        MismatchError: the model has other phones than the alignment.
        """
        from pipeline.artifacts.index import load_index
        from pipeline.feats.dataset import Dataset
        from pipeline.tasks.model import check_data, load_model
        from pipeline.tasks.unknown_speech import with_unknown_speech

        self.source, self.ali, self.options = source, ali, options
        self.model = load_model(source.model, options.prior_scale, source.transforms, options.device)
        if source.unknown_speech:
            self.model = with_unknown_speech(self.model)
        if list(self.model.hmm.phones) != list(ali.transitions.phones):
            raise MismatchError(f"{source.model} has other phones than the alignment {ali.directory}")
        check_data(self.model, source.data)
        self.index = load_index(source.data)
        self.data = Dataset.open(source.data, self.model.feat_options, cache_mib=0)

    def of(self, cut_ids: Sequence[str]) -> dict[str, Iterable[Distribution | None]]:
        """Cut id -> distributions of all phones, stretch by stretch, None where there is no path. Those of long
        recordings are made when they are asked for.
        """
        from pipeline.feats.dataset import plan

        out: dict[str, Iterable[Distribution | None]] = {}
        rows = self.index.positions(cut_ids)
        for some in plan(self.data.lens[rows], self.options.batch_frames, max(len(rows), 1)):
            out.update(self._batch(rows[some]))
        return out

    def _batch(self, rows: np.ndarray) -> Iterator[tuple[str, Iterable[Distribution | None]]]:
        import torch

        model, ali = self.model, self.ali
        whole: list[tuple[int, Chain, Stretch]] = []
        for n in rows.tolist():
            cut_id = self.data.id(n)
            segments = ali.phone_segments(cut_id)
            chain = chain_of(model.hmm, [p for p, _, _ in segments])
            begins = np.array([b for _, b, _ in segments]) * ali.header.frame_shift + ali.header.frame_offset
            found = stretches(begins, begins[-1] + segments[-1][2] * ali.header.frame_shift)
            if len(found) == 1:
                whole.append((n, chain, found[0]))
            else:
                yield cut_id, self._long(n, chain, found, begins)
        if not whole:
            return
        batch = self.data.batch(np.array([n for n, _, _ in whole]), self.options.device)
        with torch.no_grad():
            speakers = [self.data.speaker(n) for n, _, _ in whole]
            scores, lens = model.log_likes(batch.feats, batch.lens, speakers)
            dynamic = model.transition_scores(batch.feats, batch.lens)
        occupancies = self._occupancies([chain for _, chain, _ in whole], scores, lens, dynamic)
        for i, (n, chain, stretch) in enumerate(whole):
            yield self.data.id(n), [self._distribution(occupancies, i, chain.position, stretch, 0)]

    def _long(
        self, n: int, chain: Chain, found: Sequence[Stretch], begins: np.ndarray
    ) -> Iterator[Distribution | None]:
        """Distributions of a long recording, of which a few minutes are scored at once."""
        model = self.model
        source = model.frame_scores(self.data.flat(np.array([n])).to(self.options.device), self.data.speaker(n))
        edges = np.round((begins - model.frame_offset) / model.frame_shift).astype(np.int64).clip(0, source.num_frames)
        edges = np.append(edges, source.num_frames)
        edges[0] = 0
        spans = [(int(edges[s.low]), int(edges[s.high])) for s in found]
        at = 0
        for size in _group_sizes(spans, round(SCORED_SECONDS / model.frame_shift)):
            yield from self._some(source, chain, found[at : at + size], spans[at : at + size])
            at += size

    def _some(
        self, source: FrameScores, chain: Chain, some: Sequence[Stretch], spans: Sequence[tuple[int, int]]
    ) -> Iterator[Distribution | None]:
        """Distributions of neighbouring stretches, each with its frames (begin, end)."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        first, last = min(b for b, _ in spans), max(e for _, e in spans)
        scores, moves = source.scores(first, last), source.transitions(first, last)
        inside = [(chain.position >= s.low) & (chain.position < s.high) for s in some]
        chains = [Chain(chain.pdf[i], chain.transition_state[i], chain.position[i]) for i in inside]
        lens = torch.tensor([e - b for b, e in spans])
        parts = pad_sequence([scores[b - first : e - first] for b, e in spans], batch_first=True)
        if moves is not None:
            moves = pad_sequence([moves[b - first : e - first] for b, e in spans], batch_first=True)
        occupancies = self._occupancies(chains, parts, lens, moves)
        for i, (own, stretch, (begin, _)) in enumerate(zip(chains, some, spans)):
            yield self._distribution(occupancies, i, own.position - stretch.low, stretch, begin)

    def _occupancies(
        self,
        chains: Sequence[Chain],
        scores: torch.Tensor,
        lens: torch.Tensor,
        dynamic: torch.Tensor | None,
    ) -> Occupancies:
        import torch

        from pipeline.hmm.convert import linear
        from pipeline.hmm.full_sum import occupancies

        transitions = self.model.hmm.transitions
        graphs = linear(
            [c.pdf for c in chains],
            [2 * c.transition_state for c in chains],
            [2 * c.transition_state + 1 for c in chains],
            transitions.num_pdfs,
            transitions.num_tids,
        )
        moves = torch.from_numpy(transitions.log_probs()).to(scores.device) if dynamic is None else dynamic
        return occupancies(graphs, scores * self.options.acoustic_scale, lens, moves * self.options.transition_scale)

    def _distribution(
        self, occupancies: Occupancies, n: int, position: np.ndarray, stretch: Stretch, begin: int
    ) -> Distribution | None:
        """Args:
        position: (S,) phone of each state, from 0. begin: frame in which they begin.
        """
        if not np.isfinite(float(occupancies.scores[n])):
            return None
        gamma = occupancies.of(n).cpu().numpy()  # (T, S)
        first = np.searchsorted(position, np.arange(position[-1] + 1))
        after = np.cumsum(gamma[:, ::-1], axis=1)[:, ::-1][:, first]  # (T, K)
        centres = (begin + np.arange(len(gamma)) + 0.5) * self.model.frame_shift + self.model.frame_offset
        asked = slice(stretch.first - stretch.low, stretch.last - stretch.low)
        return Distribution(centres, np.ascontiguousarray(after[:, asked]))


def _group_sizes(spans: Sequence[tuple[int, int]], most: int) -> Iterator[int]:
    """How many neighbouring stretches are taken at once: some, as long as they span so many frames at most."""
    begin = size = 0
    for first, last in spans:
        if size and (size == STRETCHES_AT_ONCE or last - begin > most):
            yield size
            size = 0
        if not size:
            begin = first
        size += 1
    if size:
        yield size


def begins_of(found: Sequence[Iterable[Distribution | None]], grid: np.ndarray) -> np.ndarray | None:
    """(K,) int64 points of a grid at which the phones of a sequence begin, by the distributions of each model; None
    where one of them has no path.
    """
    begins: list[np.ndarray] = []
    for parts in zip(*found):
        known = [d for d in parts if d is not None]
        if len(known) < len(parts):
            return None
        near = (min(d.times[0] for d in known), max(d.times[-1] for d in known))
        low, high = np.searchsorted(grid, near) + (-2, 2)
        low = max(int(low), 0)
        begins.append(low + medians(known, grid[low : int(high)]))
    out: np.ndarray = np.concatenate(begins)
    out[0] = 0
    return out


def medians(distributions: Sequence[Distribution], grid: np.ndarray) -> np.ndarray:
    """Points of a grid next to where the averaged distributions reach one half.

    Args:
        distributions: of the same K phones by each model, linear between its frames.
        grid: (G,) ascending times.
    Returns:
        (K,) int64 indices into the grid.
    """
    out = np.zeros(distributions[0].after.shape[1], dtype=np.int64)
    between = (grid[:-1] + grid[1:]) / 2
    for k in range(len(out)):
        average = sum(np.interp(between, d.times, d.after[:, k], left=0.0, right=1.0) for d in distributions)
        out[k] = np.searchsorted(average, 0.5 * len(distributions))
    return out


def refine(
    ali: AliSet,
    sources: Sequence[Source],
    out_dir: str | Path,
    options: BoundaryOptions,
    producer: str,
    part: Part = Part(),
) -> dict[str, int]:
    """Writes the alignment again with refined boundaries, at the resolution of the options.

    Phones and words stay; the states of a phone share its time equally. Utterances for which a model has no path keep
    their boundaries; those that are too short for the new resolution are left out.

    Args:
        ali: gives the phone sequences; its tree becomes that of the result.
        sources: models over the same phones; each may have features of its own.
        producer: for the header.
        part: which of the batches; they are the same for any number of parts.
    Returns:
        Counts for the stamp.
    """
    from pipeline.feats.frames import pieces

    models = [Posteriors(source, ali, options) for source in sources]
    hmm = load_hmm(ali.directory)
    header = replace(ali.header, frame_shift=options.frame_shift, frame_offset=0.0, producer=producer)
    cut_ids, kept, count, too_short = list(ali), 0, 0, 0
    lens = models[0].data.lens[models[0].index.positions(cut_ids)]
    batches = list(pieces(lens, options.batch_frames))
    batches = batches[part.of_costs([lens[rows].sum() for rows in batches])]
    with AliWriter(out_dir, header, hmm.tree, hmm.topo, hmm.transitions, ali.word_symbols) as writer:
        for rows in progress(batches, desc="boundaries"):
            some = [cut_ids[n] for n in rows.tolist()]
            count += len(some)
            found = [model.of(some) for model in models]
            for cut_id in some:
                grid = np.arange(frames_of(ali, cut_id, options.frame_shift) + 1) * options.frame_shift
                starts = begins_of([of_model[cut_id] for of_model in found], grid)
                old = starts_of(ali, cut_id, options.frame_shift) if starts is None else starts
                made = respaced(ali, hmm, cut_id, old, options.frame_shift)
                if made is None:
                    too_short += 1
                    continue
                kept += starts is None
                writer.write(made)
    return {"utterances": count, "kept": kept, "too_short": too_short}
