"""Phone boundaries from posterior distributions instead of one best path, under one model or several.

Viterbi takes the most probable path, and the likelihoods of frames, which an HMM treats as independent, make it far too
sure.
Here the phone sequence of an alignment is kept, and the time of each boundary gets a distribution: with occupancies
    gamma of the
HMM-states under scaled scores, the boundary before phone k lies before frame t with probability

    F_k(t) = sum over states s of phones k, k + 1, ... of gamma_t(s)

which grows with t. Its median is the time with the smallest expected absolute error. Several models are averaged in F.

Long recordings are taken in stretches of phones, each with further phones on either side, whose outer ends stay where
the alignment has them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.ali import AliSet, AliWriter
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.model_dir import HmmDir, load_hmm
from pipeline.base.errors import MismatchError
from pipeline.base.log import progress
from pipeline.base.option_values import Device
from pipeline.parallel.parts import Part
from pipeline.tasks.respacing import Chain, chain_of, frames_of, respaced, starts_of

if TYPE_CHECKING:
    import torch

    from pipeline.hmm import Occupancies

logger = logging.getLogger(__name__)

WHOLE_SECONDS = 120.0  # recordings up to this are no long ones
STRETCH_SECONDS, CONTEXT_SECONDS = 20.0, 5.0  # distributions are kept until a recording is done, so stretches are short
STRETCHES_AT_ONCE = 8


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
    """When the phones first..last of a sequence begin.

    Attributes:
        times: (T,) centres of the model's frames in seconds.
        after: (T, last - first) F_k.
    """

    first: int
    last: int
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

    def of(self, cut_ids: Sequence[str]) -> dict[str, list[Distribution]]:
        """Cut id -> distributions of all phones, stretch by stretch; cuts without a path are left out."""
        from pipeline.feats.dataset import plan

        out: dict[str, list[Distribution]] = {}
        rows = self.index.positions(cut_ids)
        for some in plan(self.data.lens[rows], self.options.batch_frames, max(len(rows), 1)):
            out.update(self._batch(rows[some]))
        return out

    def _batch(self, rows: np.ndarray) -> Iterator[tuple[str, list[Distribution]]]:
        import torch

        model, ali = self.model, self.ali
        batch = self.data.batch(rows, self.options.device)
        with torch.no_grad():
            speakers = [self.data.speaker(n) for n in rows.tolist()]
            scores, lens = model.log_likes(batch.feats, batch.lens, speakers)
            dynamic = model.transition_scores(batch.feats, batch.lens)
        whole: list[tuple[str, Chain, Stretch]] = []
        places: list[int] = []
        for place, n in enumerate(rows.tolist()):
            cut_id = self.data.id(n)
            segments = ali.phone_segments(cut_id)
            chain = chain_of(model.hmm, [p for p, _, _ in segments])
            begins = np.array([b for _, b, _ in segments]) * ali.header.frame_shift + ali.header.frame_offset
            found = stretches(begins, begins[-1] + segments[-1][2] * ali.header.frame_shift)
            if len(found) == 1:
                whole.append((cut_id, chain, found[0]))
                places.append(place)
                continue
            own = scores[place, : int(lens[place])], None if dynamic is None else dynamic[place]
            distributions = self._long(chain, found, begins, *own)
            if distributions:
                yield cut_id, distributions
        if not whole:
            return
        chosen = slice(None) if len(places) == len(rows) else places
        occupancies = self._occupancies([chain for _, chain, _ in whole], scores[chosen], lens[chosen], dynamic, chosen)
        for n, (cut_id, chain, stretch) in enumerate(whole):
            if np.isfinite(float(occupancies.scores[n])):
                yield cut_id, [self._distribution(occupancies, n, chain.position, stretch, 0)]

    def _long(
        self,
        chain: Chain,
        found: Sequence[Stretch],
        begins: np.ndarray,
        scores: torch.Tensor,
        dynamic: torch.Tensor | None,
    ) -> list[Distribution]:
        """Distributions of a long recording from its (T, P) scores, none if a stretch has no path."""
        import torch

        model, out = self.model, []
        edges = np.round((begins - model.frame_offset) / model.frame_shift).astype(np.int64).clip(0, len(scores))
        edges = np.append(edges, len(scores))
        edges[0] = 0
        for at in range(0, len(found), STRETCHES_AT_ONCE):
            some = found[at : at + STRETCHES_AT_ONCE]
            inside = [(chain.position >= s.low) & (chain.position < s.high) for s in some]
            chains = [Chain(chain.pdf[i], chain.transition_state[i], chain.position[i]) for i in inside]
            spans = [(int(edges[s.low]), int(edges[s.high])) for s in some]
            pad = torch.nn.utils.rnn.pad_sequence
            moves = None if dynamic is None else pad([dynamic[b:e] for b, e in spans], batch_first=True)
            lens = torch.tensor([e - b for b, e in spans])
            parts = pad([scores[b:e] for b, e in spans], batch_first=True)
            occupancies = self._occupancies(chains, parts, lens, moves, slice(None))
            for n, (own, stretch, (begin, _)) in enumerate(zip(chains, some, spans)):
                if not np.isfinite(float(occupancies.scores[n])):
                    return []
                out.append(self._distribution(occupancies, n, own.position - stretch.low, stretch, begin))
        return out

    def _occupancies(
        self,
        chains: Sequence[Chain],
        scores: torch.Tensor,
        lens: torch.Tensor,
        dynamic: torch.Tensor | None,
        chosen: slice | list[int],
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
        moves = torch.from_numpy(transitions.log_probs()).to(scores.device) if dynamic is None else dynamic[chosen]
        return occupancies(graphs, scores * self.options.acoustic_scale, lens, moves * self.options.transition_scale)

    def _distribution(
        self, occupancies: Occupancies, n: int, position: np.ndarray, stretch: Stretch, begin: int
    ) -> Distribution:
        """Args:
        position: (S,) phone of each state, from 0. begin: frame in which they begin.
        """
        gamma = occupancies.of(n).cpu().numpy()  # (T, S)
        first = np.searchsorted(position, np.arange(position[-1] + 1))
        after = np.cumsum(gamma[:, ::-1], axis=1)[:, ::-1][:, first]  # (T, K)
        centres = (begin + np.arange(len(gamma)) + 0.5) * self.model.frame_shift + self.model.frame_offset
        asked = slice(stretch.first - stretch.low, stretch.last - stretch.low)
        return Distribution(stretch.first, stretch.last, centres, np.ascontiguousarray(after[:, asked]))


def begins_of(found: Sequence[Sequence[Distribution]], grid: np.ndarray) -> np.ndarray:
    """(K,) int64 points of a grid at which the phones of a sequence begin, by the distributions of each model."""
    if len(found[0]) == 1:
        return medians([(d.times, d.after) for (d,) in found], grid)
    out = np.zeros(found[0][-1].last, dtype=np.int64)
    for parts in zip(*found):
        near = (min(d.times[0] for d in parts), max(d.times[-1] for d in parts))
        low, high = np.searchsorted(grid, near) + (-2, 2)
        low = max(int(low), 0)
        # A column of ones in front stands for what comes before the first phone that is asked for.
        columns = [(d.times, np.concatenate([np.ones((len(d.times), 1)), d.after], 1)) for d in parts]
        out[parts[0].first : parts[0].last] = low + medians(columns, grid[low : int(high)])[1:]
    out[0] = 0
    return out


def medians(distributions: Sequence[tuple[np.ndarray, np.ndarray]], grid: np.ndarray) -> np.ndarray:
    """Points of a grid next to where the averaged distributions reach one half.

    Args:
        distributions: per model (T,) times and (T, K) F_k, linear in between.
        grid: (G,) ascending times.
    Returns:
        (K,) int64 indices into the grid; 0 for the first phone.
    """
    num_phones = distributions[0][1].shape[1]
    out = np.zeros(num_phones, dtype=np.int64)
    between = (grid[:-1] + grid[1:]) / 2
    for k in range(1, num_phones):
        average = sum(np.interp(between, times, after[:, k], left=0.0, right=1.0) for times, after in distributions)
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
                complete = all(cut_id in d for d in found)
                made = _refined(ali, hmm, cut_id, [d[cut_id] for d in found] if complete else [], options)
                if made is None:
                    too_short += 1
                    continue
                kept += not complete
                writer.write(made)
    return {"utterances": count, "kept": kept, "too_short": too_short}


def _refined(
    ali: AliSet,
    hmm: HmmDir,
    cut_id: str,
    distributions: Sequence[Sequence[Distribution]],
    options: BoundaryOptions,
) -> Alignment | None:
    starts = starts_of(ali, cut_id, options.frame_shift)
    if distributions:
        grid = np.arange(frames_of(ali, cut_id, options.frame_shift) + 1) * options.frame_shift
        starts = begins_of(distributions, grid)
    return respaced(ali, hmm, cut_id, starts, options.frame_shift)
