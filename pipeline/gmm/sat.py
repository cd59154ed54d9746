"""Speaker-adaptive training, and speaker transforms for new data from a first recognition pass."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.posteriors import Posteriors
from pipeline.base.errors import DataError, MismatchError
from pipeline.feats.dataset import Dataset
from pipeline.feats.frames import offsets_of
from pipeline.gmm import fmllr
from pipeline.gmm.assign import Aligner, Assignment, boosted
from pipeline.gmm.data import Aligned, graphs_of, load_aligned
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import update
from pipeline.gmm.frame_labels import FrameLabels, Piece
from pipeline.gmm.model import FMLLR, GmmModel, check_features, load_transforms, save_transforms
from pipeline.gmm.mono import kept, silence_pdfs, summary
from pipeline.gmm.options import EstimateFmllrOptions, FmllrOptions, SatOptions
from pipeline.gmm.stats import accumulate
from pipeline.gmm.train import clean_up
from pipeline.gmm.triphone import make_tree, train_on_tree

logger = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Speakers:
    """The transforms of all speakers of a data set and the features that they apply to.

    Args:
        names: S speakers.
        index: (N,) speaker of each utterance.
        data: D features per frame, without speaker transforms.
        transforms: (S, D, D + 1) float64.
    """

    names: list[str]
    index: np.ndarray
    data: Dataset
    transforms: np.ndarray

    @classmethod
    def of(cls, data: Dataset) -> Speakers:
        """All transforms are the identity."""
        names, index = fmllr.speaker_index(data)
        return cls(names, index, data, fmllr.identity(len(names), data.dim))

    def adapted(self, cache_mib: int) -> Dataset:
        """The features with the transforms applied as they stand now."""
        transforms, data, index = torch.from_numpy(self.transforms).float(), self.data, self.index

        def adapt(feats: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
            return fmllr.apply(transforms, feats, np.repeat(index[rows], data.lens[rows]))

        return data.mapped(adapt, data.dim, cache_mib)

    def estimate(
        self, evaluator: Evaluator, pieces: Iterable[Piece], options: FmllrOptions, mixtures: DiagGmms | None = None
    ) -> float:
        """Replaces the transforms; returns the gain in objective per frame over no transforms.

        Args:
            evaluator: gives the posteriors.
            pieces: features that it scores with labels (silence weighted as wanted) and speakers; the target are
                features without transforms.
            mixtures: what the adapted features should fit, when these are not the evaluator's own.
        """
        stats = fmllr.fmllr_stats(evaluator, pieces, len(self.names), mixtures)
        self.transforms, gain = fmllr.estimate(stats, options.fmllr_min_count, options.bias_min_count)
        mean = float((gain * stats.beta).sum() / max(stats.beta.sum(), 1.0))
        logger.info("fMLLR: %d speakers, objective gains %.4f per frame", len(self.names), mean)
        return mean


class FmllrAdaptation:
    """Estimates all speaker transforms again in some iterations of training."""

    def __init__(self, speakers: Speakers, silence: list[int], options: SatOptions) -> None:
        self.iters, self._speakers, self._silence, self._options = options.fmllr_iters, speakers, silence, options

    def apply(self, gmms: DiagGmms, data: Dataset, assignment: Assignment) -> tuple[DiagGmms, Dataset]:
        """See ``pipeline.gmm.train.Adaptation``."""
        options, speakers = self._options, self._speakers
        weights = (self._silence, options.silence_weight)
        pieces = assignment.pieces(data, options.device, weights, speakers.data, speakers.index)
        speakers.estimate(Evaluator(gmms), pieces, options.fmllr)
        return gmms, speakers.adapted(options.cache_mib)

    def tensors(self) -> dict[str, torch.Tensor]:
        """See ``pipeline.gmm.train.Adaptation``."""
        return {"transforms": torch.from_numpy(self._speakers.transforms)}

    def restore(self, tensors: dict[str, torch.Tensor]) -> Dataset:
        """See ``pipeline.gmm.train.Adaptation``."""
        self._speakers.transforms = tensors["transforms"].numpy()
        return self._speakers.adapted(self._options.cache_mib)


def base_features(model: GmmModel, data: Dataset, cache_mib: int) -> Dataset:
    """Loaded features -> those of a model's mixtures, speaker transforms excepted."""
    if model.transform is None:
        return data
    return data.mapped(lambda feats, rows: model.features(feats), len(model.transform), cache_mib)


def train_sat(
    data_dir: str | Path,
    lang: Lang,
    ali_dir: str | Path,
    model_dir: str | Path,
    options: SatOptions,
    tmp_dir: Path,
    questions_file: Path | None = None,
) -> dict[str, Any]:
    """Speaker-adaptive training (tri3), cf. Kaldi train_sat.sh.

    The first transforms come from the mixtures of `model_dir`; the tree is built on adapted features. Beside the
    adapted mixtures the model directory gets speaker-independent ones over the same tree (first pass) and the
    transforms of the training speakers.

    Args:
        ali_dir: alignment by `model_dir` (any tree over the same lang).
        model_dir: model that gives features, global transform and first mixtures.
    Returns:
        Facts for the stamp.
    """
    base, facts = GmmModel.load(model_dir), FeatureFacts.load(Path(data_dir))
    check_features(base, model_dir, data_dir)
    aligned = load_aligned(data_dir, lang, ali_dir, base.feat_options, options.cache_mib)
    speakers = Speakers.of(base_features(base, aligned.data, options.cache_mib))
    _first_transforms(speakers, base, aligned, model_dir, lang, options)
    data = speakers.adapted(options.cache_mib)
    tree = make_tree(aligned, data, lang, options.tree, tmp_dir, questions_file)
    silence = silence_pdfs(tree, lang)
    adaptation = FmllrAdaptation(speakers, silence, options)
    state = train_on_tree(aligned, data, lang, tree, options, tmp_dir, adaptation)
    pieces = state.assignment.pieces(state.data, options.device, target=speakers.data)
    independent, _ = update(
        state.gmms,
        accumulate(Evaluator(state.gmms), pieces),
        min_count=0.0,
        min_weight=0.0,
        min_var=options.min_var,
        min_trained=options.min_count,
    )
    save_transforms(tmp_dir, speakers.names, speakers.transforms)
    model = GmmModel(state.gmms, base.feat_options, facts, base.transform, independent, kept(options), state.history)
    model.save(tmp_dir, lang.topo, tree, state.transitions, lang.id)
    clean_up(tmp_dir)
    return {**summary(state, tree), "speakers": len(speakers.names)}


def _first_transforms(
    speakers: Speakers,
    base: GmmModel,
    aligned: Aligned,
    model_dir: str | Path,
    lang: Lang,
    options: SatOptions,
) -> None:
    """Transforms under the mixtures of the model that the training starts from (its own ones if it has any)."""
    hmm = load_hmm(model_dir)
    aligned.ali.check_tree(hmm.tree, hmm.topo, model_dir)
    if base.adapted and (Path(model_dir) / FMLLR).is_file():
        known = load_transforms(model_dir, base.gmms.dim)
        if set(speakers.names) <= set(known):
            speakers.transforms = np.stack([known[n].double().numpy() for n in speakers.names])
            return
    mixtures = base.independent if base.adapted else base.gmms
    assert mixtures is not None
    weights = (aligned.silence_pdfs(lang), options.silence_weight)
    pieces = aligned.pieces(speakers.data, options.device, weights, speakers.index)
    speakers.estimate(Evaluator(mixtures.to(options.device)), pieces, options.fmllr)


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
        model_dir: a model trained by train_sat.
        texts: cut id -> recognised words; empty ones count as missing.
        tmp_dir: gets fmllr.safetensors.
    Returns:
        Facts for the stamp.
    """
    model, hmm = GmmModel.load(model_dir), load_hmm(model_dir)
    hmm.check_lang(lang, "the lang directory")
    check_features(model, model_dir, data_dir)
    everyone = set(load_index(data_dir).speaker_names)
    data, said = _with_texts(Dataset.open(data_dir, model.feat_options, cache_mib=options.cache_mib), texts, data_dir)
    speakers = Speakers.of(base_features(model, data, options.cache_mib))
    graphs = graphs_of(data, lang, hmm.tree, hmm.transitions, options.cache_mib, said)
    aligner = Aligner(speakers.data, graphs, hmm.transitions, options.device, tmp_dir)
    silence = silence_pdfs(hmm.tree, lang)
    log_probs = torch.from_numpy(hmm.transitions.log_probs()).to(options.device)
    gain = 0.0
    for number in range(options.passes):
        first = model.independent if number == 0 else None
        mixtures = (first or model.gmms).to(options.device)
        aligner.data = speakers.adapted(options.cache_mib)
        assignment = aligner.viterbi(boosted(mixtures, silence, options.boost_silence), log_probs)
        assignment.check(len(data), options.max_failed, f"pass {number + 1}")
        weights = (silence, options.silence_weight)
        pieces = assignment.pieces(aligner.data, options.device, weights, speakers.data, speakers.index)
        gain = speakers.estimate(Evaluator(mixtures), pieces, options, model.gmms.to(options.device))
    clean_up(tmp_dir)
    missing = _save_known(tmp_dir, speakers, everyone)
    return {
        "speakers": len(everyone),
        "without_words": missing,
        "gain_per_frame": round(gain, 4),
        "utterances": len(data),
        "failed": len(assignment.failed),
    }


def _with_texts(data: Dataset, texts: dict[str, str], data_dir: str | Path) -> tuple[Dataset, Callable[[int], str]]:
    """The utterances for which there are words, and the words by their numbers."""
    index = load_index(data_dir)
    unknown = [c for c in sorted(texts) if index.find(c) is None]
    if unknown:
        raise DataError(f"{data_dir}: has no utterance {unknown[0]!r}")
    keep = [n for n in range(len(data)) if texts.get(data.id(n), "").strip()]
    if not keep:
        raise DataError(f"{data_dir}: no utterance has a transcript")
    chosen = data.select(keep)
    return chosen, lambda n: texts[chosen.id(n)]


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
    model, hmm = GmmModel.load(model_dir), load_hmm(model_dir)
    hmm.check_lang(lang, "the lang directory")
    check_features(model, model_dir, data_dir)
    if not model.adapted:
        raise MismatchError(f"{model_dir} was not trained with speaker transforms")
    loaded = Dataset.open(data_dir, model.feat_options, cache_mib=options.cache_mib)
    speakers = Speakers.of(base_features(model, loaded, options.cache_mib))
    scored, mixtures = speakers.data, model.independent
    if transforms is not None:
        known = load_transforms(transforms, model.gmms.dim)
        speakers.transforms = np.stack([known[n].double().numpy() for n in speakers.names])
        scored, mixtures = speakers.adapted(options.cache_mib), model.gmms
    assert mixtures is not None
    if not any(len(own.frame) for own in found.values()):
        raise DataError("there are no posteriors of any utterance of the data")
    weights = (silence_pdfs(hmm.tree, lang), options.silence_weight)
    pieces = (
        Piece(
            scored.flat(rows).to(options.device),
            _soft_labels(scored, rows, found, hmm.tree.num_pdfs).weighted(*weights),
            speakers.data.flat(rows).to(options.device),
            np.repeat(speakers.index[rows], scored.lens[rows]),
        )
        for rows in scored.pieces()
    )
    gain = speakers.estimate(Evaluator(mixtures.to(options.device)), pieces, options, model.gmms.to(options.device))
    missing = _save_known(tmp_dir, speakers, set(speakers.names))
    return {
        "speakers": len(speakers.names),
        "without_words": missing,
        "gain_per_frame": round(gain, 4),
        "utterances": len(found),
    }


def _soft_labels(data: Dataset, rows: np.ndarray, found: Mapping[str, Posteriors], num_pdfs: int) -> FrameLabels:
    """Posteriors of some utterances as labels of their frames; DataError where they do not fit the features."""
    frames, pdfs, shares = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
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


def _save_known(out_dir: Path, speakers: Speakers, everyone: set[str]) -> int:
    """Writes the transforms of `everyone`, the identity for those who are not among `speakers`; returns their
    number.
    """
    known = dict(zip(speakers.names, speakers.transforms))
    names = sorted(everyone)
    missing = [n for n in names if n not in known]
    if missing:
        logger.warning(
            "nothing was recognised for %d of %d speakers (%s): they get no transform",
            len(missing),
            len(names),
            ", ".join(missing[:5]),
        )
    plain = fmllr.identity(1, speakers.data.dim)[0]
    save_transforms(out_dir, names, np.stack([known.get(n, plain) for n in names]))
    return len(missing)
