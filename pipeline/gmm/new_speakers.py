"""Speaker transforms (fMLLR) for new data from a first recognition pass.

Speakers are independent of each other, so some at a time are read and estimated, in parts that run side by side where
asked for. Which ones go together depends on the data alone.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.hyp import load_hypotheses
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir, load_hmm
from pipeline.artifacts.posteriors import Posteriors, PosteriorSet
from pipeline.base.errors import ConfigError, DataError, MismatchError
from pipeline.base.files import read_json, write_json
from pipeline.base.log import progress_of
from pipeline.base.stamp import artifact_id
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import offsets_of
from pipeline.gmm import fmllr
from pipeline.gmm.assign import Aligner, boosted, check_failed
from pipeline.gmm.data import graphs_of
from pipeline.gmm.diag import Evaluator
from pipeline.gmm.frame_labels import FrameLabels, Piece
from pipeline.gmm.model import GmmModel, check_features, load_transforms, save_transforms
from pipeline.gmm.mono import silence_pdfs
from pipeline.gmm.options import EstimateFmllrOptions
from pipeline.gmm.sat import Speakers, base_features
from pipeline.gmm.train import clean_up
from pipeline.parallel.options import ParallelOptions
from pipeline.parallel.parts import Part, as_json, in_process
from pipeline.parallel.run import done_in_parts

logger = logging.getLogger(__name__)

TOGETHER_FRAMES = 60_000  # of speakers that are estimated together
_ESTIMATED = "estimated.json"  # of a part: what ``Estimated`` holds


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Sources:
    """What transforms are estimated from: directories; see steps/estimate_fmllr.py."""

    data: Path
    lang: Path
    model: Path
    hyp: Path
    transforms: Path | None = None


@dataclasses.dataclass(frozen=True)
class Estimated:
    """Transforms of some speakers.

    Attributes:
        transforms: speaker -> (D, D + 1) as lists.
        gain: in the objective over no transforms. frames: it is summed over.
        failed: utterances that have not been aligned, by pass.
    """

    transforms: dict[str, list[list[float]]]
    gain: float
    frames: float
    failed: list[list[str]]

    @classmethod
    def of(cls, speakers: Speakers, gain: tuple[float, float], failed: Sequence[Sequence[str]] = ()) -> Estimated:
        """What has been estimated."""
        found = dict(zip(speakers.names, speakers.transforms.tolist()))
        return cls(found, *gain, [list(names) for names in failed])


def estimate_in_parts(
    sources: Sources, options: EstimateFmllrOptions, out_dir: Path, parallel: ParallelOptions
) -> dict[str, Any]:
    """Transforms of all speakers, with the same bytes for any number of parts.

    Args:
        out_dir: gets fmllr.safetensors.
    Returns:
        facts for the stamp.
    """
    task = _task(sources, options)
    if in_process(parallel, out_dir):
        return task.finish(list(task.estimate(out_dir, Part())), out_dir)
    arguments = {"sources": as_json(sources), "options": as_json(options)}
    with done_in_parts(fmllr_part, arguments, out_dir, parallel) as parts:
        found = [Estimated(**own) for part in parts for own in read_json(part.directory / _ESTIMATED)]
        return task.finish(found, out_dir)


def fmllr_part(part: Part, out: Path, arguments: dict[str, Any]) -> None:
    """Transforms of a part of the speakers, see ``pipeline.parallel.parts.Work``."""
    task = _task(Sources(**arguments["sources"]), EstimateFmllrOptions(**arguments["options"]))
    write_json(out / _ESTIMATED, [dataclasses.asdict(own) for own in task.estimate(out, part)])


def _task(sources: Sources, options: EstimateFmllrOptions) -> _Task:
    lang, places = Lang.load(sources.lang), (sources.data, sources.model)
    if options.source == "words":
        if sources.transforms is not None:
            raise ConfigError("--transforms are those of the pass that --source posteriors comes from; words need none")
        texts = {h.cut_id: " ".join(h.hyp) for h in load_hypotheses(sources.hyp)}
        return _FromWords(*places, lang, options, texts)
    found = PosteriorSet(sources.hyp)
    check_same("tree", found.tree_id, sources.hyp, load_hmm(sources.model).tree.id, sources.model)
    used = "" if sources.transforms is None else artifact_id(sources.transforms)
    check_same("transforms", found.transforms_id, sources.hyp, used, sources.transforms or "no transforms")
    return _FromPosteriors(*places, lang, options, found, sources.transforms)


def estimate_fmllr(
    data_dir: str | Path,
    lang: Lang,
    model_dir: str | Path,
    texts: dict[str, str],
    options: EstimateFmllrOptions,
    tmp_dir: Path,
) -> dict[str, Any]:
    """Speaker transforms of new data from what a first pass recognised, cf. Kaldi decode_fmllr.sh.

    The recognised words are aligned with the speaker-independent mixtures, which also give the posteriors of the first
    estimation; each further pass aligns and estimates with the adapted mixtures on adapted features. Speakers without
    any recognised word get the identity.

    Args:
        model_dir: a model trained by train_sat; what another one gives is for transform_feats alone.
        texts: cut id -> recognised words; empty ones count as missing.
        tmp_dir: gets fmllr.safetensors.
    Returns:
        Facts for the stamp.
    """
    task = _FromWords(data_dir, model_dir, lang, options, texts)
    return task.finish(list(task.estimate(tmp_dir, Part())), tmp_dir)


def estimate_fmllr_soft(
    data_dir: str | Path,
    lang: Lang,
    model_dir: str | Path,
    found: Mapping[str, Posteriors],
    options: EstimateFmllrOptions,
    tmp_dir: Path,
    transforms: str | Path | None = None,
) -> dict[str, Any]:
    """Speaker transforms of new data from the lattices of a pass over it, cf. Kaldi decode_fmllr.sh (lattice-to-post).

    Unlike the one best path, posteriors tell which frames are in doubt. One estimation; decode with its transforms and
    estimate again for better ones.

    Args:
        model_dir: a model trained by train_sat.
        found: cut id -> posteriors of the model's pdfs; utterances without any do not count.
        tmp_dir: gets fmllr.safetensors.
        transforms: the transforms that the pass was made with; None: the first pass, by speaker-independent mixtures.
    Returns:
        Facts for the stamp.
    """
    task = _FromPosteriors(data_dir, model_dir, lang, options, found, transforms)
    return task.finish(list(task.estimate(tmp_dir, Part())), tmp_dir)


class _Task:
    """Transforms of the speakers of a data directory.

    Attributes:
        data: the utterances that tell something.
        everyone: speakers who get a transform, be it the identity.
    """

    def __init__(self, data_dir: str | Path, model_dir: str | Path, lang: Lang, options: EstimateFmllrOptions) -> None:
        self.options = options
        self.model, self.hmm = GmmModel.load(model_dir), load_hmm(model_dir)
        self.hmm.check_lang(lang, "the lang directory")
        check_features(self.model, model_dir, data_dir)
        self.data = Dataset.open(data_dir, self.model.feat_options, cache_mib=0)  # each unit keeps its own
        self.everyone = set(load_index(data_dir).speaker_names)
        self.weights = (silence_pdfs(self.hmm.tree, lang), options.silence_weight)

    def estimate(self, work: Path, part: Part) -> Iterator[Estimated]:
        """Transforms of the speakers of a part, some at a time; `work` is for files that do not stay."""
        units = list(together(self.data))
        units = units[part.of_costs([self.data.lens[rows].sum() for rows in units])]
        with progress_of(sum(map(len, units)), "speaker transforms") as done:
            for rows in units:
                yield self.of(rows, work)
                done(len(rows))

    def of(self, rows: np.ndarray, work: Path) -> Estimated:
        """Transforms of the speakers of some utterances."""
        raise NotImplementedError

    def speakers(self, rows: np.ndarray) -> Speakers:
        """They and their features, in memory where these fit, without transforms."""
        own, cache = self.data.select(rows), self.options.cache_mib
        if self.model.transform is None:
            return Speakers.of(own.mapped(lambda feats, rows: feats, own.dim, cache))
        return Speakers.of(base_features(self.model, own, cache))

    def finish(self, found: Sequence[Estimated], out_dir: Path) -> dict[str, Any]:
        """Writes the transforms, the identity for speakers without any; returns facts for the stamp."""
        frames = sum(own.frames for own in found)
        known = {name: matrix for own in found for name, matrix in own.transforms.items()}
        missing = _save(out_dir, known, self.everyone, self.model.gmms.dim)
        return {
            "speakers": len(self.everyone),
            "without_words": missing,
            "gain_per_frame": round(sum(own.gain for own in found) / max(frames, 1.0), 4),
        }


class _FromWords(_Task):
    """See ``estimate_fmllr``."""

    def __init__(
        self,
        data_dir: str | Path,
        model_dir: str | Path,
        lang: Lang,
        options: EstimateFmllrOptions,
        texts: dict[str, str],
    ) -> None:
        super().__init__(data_dir, model_dir, lang, options)
        self.lang, self.texts = lang, texts
        index = load_index(data_dir)
        unknown = [c for c in sorted(texts) if index.find(c) is None]
        if unknown:
            raise DataError(f"{data_dir}: has no utterance {unknown[0]!r}")
        keep = [n for n in range(len(self.data)) if texts.get(self.data.id(n), "").strip()]
        if not keep:
            raise DataError(f"{data_dir}: no utterance has a transcript")
        self.data = self.data.select(keep)

    def of(self, rows: np.ndarray, work: Path) -> Estimated:
        model, hmm, options = self.model, self.hmm, self.options
        speakers = self.speakers(rows)
        own = speakers.data
        graphs = graphs_of(
            own, self.lang, hmm.tree, hmm.transitions, options.cache_mib, lambda n: self.texts[own.id(n)]
        )
        aligner = Aligner(own, graphs, hmm.transitions, options.device, work)
        log_probs = torch.from_numpy(hmm.transitions.log_probs()).to(options.device)
        gain, failed = (0.0, 0.0), []
        for number in range(options.passes):
            first = model.independent if number == 0 else None
            mixtures = (first or model.gmms).to(options.device)
            aligner.data = speakers.adapted(options.cache_mib)
            found = aligner.viterbi(boosted(mixtures, self.weights[0], options.boost_silence), log_probs)
            failed.append(found.failed)
            pieces = found.pieces(aligner.data, options.device, self.weights, own, speakers.index)
            count, fits = len(speakers.names), model.gmms.to(options.device)
            gain = speakers.estimate([fmllr.fmllr_stats(Evaluator(mixtures), pieces, count, fits)], options)
            found.file.remove()
        clean_up(work)
        return Estimated.of(speakers, gain, failed)

    def finish(self, found: Sequence[Estimated], out_dir: Path) -> dict[str, Any]:
        """See ``_Task``; DataError when too many utterances have not been aligned."""
        failed: list[str] = []
        for number in range(self.options.passes):
            failed = [cut_id for own in found for cut_id in own.failed[number]]
            check_failed(failed, len(self.data), self.options.max_failed, f"pass {number + 1}")
        return {**super().finish(found, out_dir), "utterances": len(self.data), "failed": len(failed)}


class _FromPosteriors(_Task):
    """See ``estimate_fmllr_soft``."""

    def __init__(
        self,
        data_dir: str | Path,
        model_dir: str | Path,
        lang: Lang,
        options: EstimateFmllrOptions,
        found: Mapping[str, Posteriors],
        transforms: str | Path | None,
    ) -> None:
        super().__init__(data_dir, model_dir, lang, options)
        if not self.model.adapted:
            raise MismatchError(f"{model_dir} was not trained with speaker transforms")
        if not any(len(own.frame) for own in found.values()):
            raise DataError("there are no posteriors of any utterance of the data")
        self.found = found
        self.known = None if transforms is None else load_transforms(transforms, self.model.gmms.dim)

    def of(self, rows: np.ndarray, work: Path) -> Estimated:
        model, options = self.model, self.options
        speakers = self.speakers(rows)
        scored, mixtures = speakers.data, model.independent
        if self.known is not None:
            speakers.transforms = np.stack([self.known[n].double().numpy() for n in speakers.names])
            scored, mixtures = speakers.adapted(options.cache_mib), model.gmms
        assert mixtures is not None
        pieces = (
            Piece(
                scored.flat(some).to(options.device),
                _soft_labels(scored, some, self.found, self.hmm).weighted(*self.weights),
                speakers.data.flat(some).to(options.device),
                np.repeat(speakers.index[some], scored.lens[some]),
            )
            for some in scored.pieces()
        )
        evaluator = Evaluator(mixtures.to(options.device))
        stats = fmllr.fmllr_stats(evaluator, pieces, len(speakers.names), model.gmms.to(options.device))
        return Estimated.of(speakers, speakers.estimate([stats], options))

    def finish(self, found: Sequence[Estimated], out_dir: Path) -> dict[str, Any]:
        """See ``_Task``."""
        return {**super().finish(found, out_dir), "utterances": len(self.found)}


def together(data: Dataset) -> Iterator[np.ndarray]:
    """Utterances of speakers that are estimated together: neighbours by name, with TOGETHER_FRAMES frames or more, but
    for the last ones; the utterances in the order of the data.
    """
    names, index = fmllr.speaker_index(data)
    frames = np.bincount(index, weights=data.lens, minlength=len(names))
    first, total = 0, 0.0
    for speaker, own in enumerate(frames.tolist(), 1):
        total += own
        if total >= TOGETHER_FRAMES or speaker == len(names):
            yield np.flatnonzero((index >= first) & (index < speaker))
            first, total = speaker, 0.0


def _soft_labels(data: Dataset, rows: np.ndarray, found: Mapping[str, Posteriors], hmm: HmmDir) -> FrameLabels:
    """Posteriors of some utterances as labels of their frames; DataError where they do not fit the features."""
    frames, pdfs, shares = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
    num_pdfs = hmm.tree.num_pdfs
    for n, begin in zip(rows.tolist(), offsets_of(data.lens[rows]).tolist()):
        cut_id, length = data.id(n), int(data.lens[n])
        if cut_id not in found:
            continue
        own = found[cut_id]
        if own.frame.max(initial=-1) >= length or own.pdf.max(initial=-1) >= num_pdfs:
            raise DataError(
                f"posteriors of utterance {cut_id!r} reach beyond its {length} frames or the {num_pdfs} pdfs"
            )
        frames.append(own.frame + begin)
        pdfs.append(own.pdf)
        shares.append(own.share)
    return FrameLabels.from_pdfs(np.concatenate(pdfs), num_pdfs, np.concatenate(frames), np.concatenate(shares))


def _save(out_dir: Path, known: Mapping[str, Any], everyone: Iterable[str], dim: int) -> int:
    """Writes the transforms of `everyone`, the identity for those who are not among the known; returns their number."""
    names = sorted(everyone)
    missing = [n for n in names if n not in known]
    if missing:
        logger.warning(
            "nothing was recognised for %d of %d speakers (%s): they get no transform",
            len(missing),
            len(names),
            ", ".join(missing[:5]),
        )
    plain = fmllr.identity(1, dim)[0]
    save_transforms(out_dir, names, np.stack([np.array(known.get(n, plain)) for n in names]))
    return len(missing)
