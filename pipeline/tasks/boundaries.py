"""Phone boundaries from posterior distributions instead of one best path, under one model or several.

Viterbi takes the most probable path, and the likelihoods of frames, which an HMM treats as independent, make it far too
sure.
Here the phone sequence of an alignment is kept, and the time of each boundary gets a distribution: with occupancies
    gamma of the
HMM-states under scaled scores, the boundary before phone k lies before frame t with probability

    F_k(t) = sum over states s of phones k, k + 1, ... of gamma_t(s)

which grows with t. Its median is the time with the smallest expected absolute error. Several models are averaged in F.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from pipeline.artifacts.ali import AliSet, AliWriter
from pipeline.artifacts.ali_source import Alignment
from pipeline.artifacts.model_dir import HmmDir, load_hmm
from pipeline.artifacts.tree import BOUNDARY
from pipeline.base.errors import DataError, MismatchError
from pipeline.base.log import progress

logger = logging.getLogger(__name__)

AT_ONCE = 500  # utterances whose distributions are held in memory


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BoundaryOptions:
    """How boundaries are refined."""

    acoustic_scale: float = Field(
        0.1, gt=0, description="Weight of the acoustic scores; smaller makes the distributions wider."
    )
    transition_scale: float = Field(1.0, ge=0, description="Weight of the transition log probabilities.")
    prior_scale: float | None = Field(None, ge=0, description="Weight of a network's label prior.")
    frame_shift: float = Field(0.0025, gt=0, description="Resolution of the new alignment in seconds.")
    batch_frames: int = Field(20_000, gt=0, description="Feature frames per batch.", json_schema_extra={"stamp": False})
    device: str = Field("cpu", description="cpu or cuda.", json_schema_extra={"stamp": False})


@plain_dataclass(frozen=True)
class Source:
    """A model, the data directory with its features, and speaker transforms where it needs them."""

    model: Path
    data: Path
    transforms: Path | None = None


@plain_dataclass(frozen=True)
class Chain:
    """The HMM-states of a phone sequence, left to right.

    Attributes:
        pdf, transition_state: (S,) int.
        position: (S,) int, which phone of the sequence a state belongs to.
    """

    pdf: np.ndarray
    transition_state: np.ndarray
    position: np.ndarray


def chain_of(hmm: HmmDir, phones: Sequence[int]) -> Chain:
    """States of a phone sequence in context, by the tree of a model."""
    tree = hmm.tree
    padded = [BOUNDARY] * tree.left + list(phones) + [BOUNDARY] * tree.right
    topos = [hmm.topo[hmm.phones.name(p)].pdf_classes for p in phones]
    position = np.repeat(np.arange(len(phones)), [len(classes) for classes in topos])
    state = np.concatenate([np.arange(len(classes)) for classes in topos])
    windows = np.array([padded[i : i + tree.left + 1 + tree.right] for i in range(len(phones))])[position]
    pdf = tree.lookup(windows, np.array([c for classes in topos for c in classes]))
    return Chain(pdf, hmm.transitions.transition_states(np.array(phones)[position], state, pdf), position)


class Posteriors:
    """Distributions of phone boundaries under one model."""

    def __init__(self, source: Source, ali: AliSet, options: BoundaryOptions) -> None:
        """Raises:
        MismatchError: the model has other phones than the alignment.
        """
        from pipeline.artifacts.index import load_index
        from pipeline.feats.dataset import Dataset
        from pipeline.tasks.model import check_data, load_model

        self.source, self.ali, self.options = source, ali, options
        self.model = load_model(source.model, options.prior_scale, source.transforms, options.device)
        if list(self.model.hmm.phones) != list(ali.transitions.phones):
            raise MismatchError(f"{source.model} has other phones than the alignment {ali.directory}")
        check_data(self.model, source.data)
        self.index = load_index(source.data)
        self.data = Dataset.open(source.data, self.model.feat_options, cache_mib=0)

    def of(self, cut_ids: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Cut id -> (T,) centres of the model's frames in seconds and (T, K) F_k; cuts without a path are left out."""
        from pipeline.feats.frames import pieces

        out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        rows = self.index.positions(cut_ids)
        for some in pieces(self.data.lens[rows], self.options.batch_frames):
            out.update(self._batch(rows[some]))
        return out

    def _batch(self, rows: np.ndarray) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
        import torch

        from pipeline.hmm.convert import linear
        from pipeline.hmm.full_sum import occupancies

        model, hmm = self.model, self.model.hmm
        transitions = hmm.transitions
        cut_ids = [self.data.id(n) for n in rows.tolist()]
        chains = [chain_of(hmm, [p for p, _, _ in self.ali.phone_segments(c)]) for c in cut_ids]
        graphs = linear(
            [c.pdf for c in chains],
            [2 * c.transition_state for c in chains],
            [2 * c.transition_state + 1 for c in chains],
            transitions.num_pdfs,
            transitions.num_tids,
        )
        batch = self.data.batch(rows, self.options.device)
        with torch.no_grad():
            speakers = [self.data.speaker(n) for n in rows.tolist()]
            scores, lens_out = model.log_likes(batch.feats, batch.lens, speakers)
            dynamic = model.transition_scores(batch.feats, batch.lens)
        static = torch.from_numpy(transitions.log_probs()).to(scores.device)
        occ = occupancies(
            graphs,
            scores * self.options.acoustic_scale,
            lens_out,
            (static if dynamic is None else dynamic) * self.options.transition_scale,
        )
        for n, (cut_id, chain) in enumerate(zip(cut_ids, chains)):
            if not np.isfinite(float(occ.scores[n])):
                continue
            gamma = occ.of(n).cpu().numpy()  # (T, S)
            first = np.searchsorted(chain.position, np.arange(chain.position[-1] + 1))
            after = np.cumsum(gamma[:, ::-1], axis=1)[:, ::-1][:, first]  # (T, K)
            centres = (np.arange(len(gamma)) + 0.5) * model.frame_shift + model.frame_offset
            yield cut_id, (centres, after)


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


def separate(starts: np.ndarray, shortest: np.ndarray, length: int) -> np.ndarray:
    """Moves starts as little as needed so that each phone gets at least `shortest` (K,) frames of `length` in all."""
    if shortest.sum() > length:
        raise DataError(f"{length} frames are too few for {len(starts)} phones that need {int(shortest.sum())}")
    room = np.cumsum(shortest) - shortest  # frames that the phones before need
    forward = np.maximum.accumulate(starts - room)
    behind = length - shortest.sum()
    return np.minimum(forward, behind).clip(min=0) + room


def refine(
    ali: AliSet, sources: Sequence[Source], out_dir: str | Path, options: BoundaryOptions, producer: str
) -> dict[str, int]:
    """Writes the alignment again with refined boundaries, at the resolution of the options.

    Phones and words stay; the states of a phone share its time equally. Utterances for which a model has no path keep
    their boundaries.

    Args:
        ali: gives the phone sequences; its tree becomes that of the result.
        sources: models over the same phones; each may have features of its own.
        producer: for the header.
    Returns:
        Counts for the stamp.
    """
    models = [Posteriors(source, ali, options) for source in sources]
    hmm = load_hmm(ali.directory)
    header = replace(ali.header, frame_shift=options.frame_shift, frame_offset=0.0, producer=producer)
    cut_ids, kept = list(ali), 0
    with AliWriter(out_dir, header, hmm.tree, hmm.topo, hmm.transitions, ali.word_symbols) as writer:
        for begin in progress(range(0, len(cut_ids), AT_ONCE), desc="boundaries"):
            some = cut_ids[begin : begin + AT_ONCE]
            found = [model.of(some) for model in models]
            for cut_id in some:
                complete = all(cut_id in d for d in found)
                kept += not complete
                writer.write(_refined(ali, hmm, cut_id, [d[cut_id] for d in found] if complete else [], options))
    logger.info("%d utterances refined, %d kept as they were", len(ali) - kept, kept)
    return {"utterances": len(ali), "kept": kept}


def _refined(
    ali: AliSet,
    hmm: HmmDir,
    cut_id: str,
    distributions: Sequence[tuple[np.ndarray, np.ndarray]],
    options: BoundaryOptions,
) -> Alignment:
    segments, old = ali.phone_segments(cut_id), ali[cut_id]
    shift, offset = ali.header.frame_shift, ali.header.frame_offset
    length = round((len(old.transition_ids) * shift + offset) / options.frame_shift)
    if distributions:
        starts = medians(distributions, np.arange(length + 1) * options.frame_shift)
    else:
        starts = np.round(
            np.array([b * shift + offset for _, b, _ in segments]).clip(min=0) / options.frame_shift
        ).astype(np.int64)
        starts[0] = 0
    chain = chain_of(hmm, [p for p, _, _ in segments])
    num_states = np.bincount(chain.position)
    starts = separate(starts, num_states, length)
    frames = np.diff(np.append(starts, length))
    # State i of n gets the frames from i * f // n to (i + 1) * f // n of a phone with f frames.
    i = np.arange(len(chain.pdf)) - np.repeat(np.cumsum(num_states) - num_states, num_states)
    f, n = frames[chain.position], num_states[chain.position]
    spans = (i + 1) * f // n - i * f // n
    tids = np.repeat(2 * chain.transition_state, spans)
    tids[np.cumsum(spans) - 1] += 1
    words = old.words.copy()
    words[:, 1] = starts[np.searchsorted([b for _, b, _ in segments], old.words[:, 1])]
    confidence = None
    if old.confidence is not None:  # a phone keeps that of its frames, on the mean
        means = [old.confidence[b : b + n].astype(np.float64).mean() for _, b, n in segments]
        confidence = np.repeat(means, frames).astype(np.float16)
    return Alignment(cut_id, tids.astype(np.int32), old.log_like, words, confidence)
