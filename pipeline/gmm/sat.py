"""Speaker-adaptive training, and speaker transforms for new data from a first recognition pass."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.artifacts.occupancies import Occupancies
from pipeline.base.errors import DataError, MismatchError
from pipeline.gmm import fmllr
from pipeline.gmm.assign import Aligner, Assignment, boosted
from pipeline.gmm.data import load_corpus
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import update
from pipeline.gmm.model import FMLLR, GmmModel, check_features, load_transforms, save_transforms
from pipeline.gmm.mono import meta, silence_pdfs, summary
from pipeline.gmm.options import EstimateFmllrOptions, FmllrOptions, SatOptions
from pipeline.gmm.stats import FrameLabels, accumulate
from pipeline.gmm.triphone import load_aligned, make_tree, train_on_tree

if TYPE_CHECKING:
    from pipeline.feats.load import PackedFeats

logger = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Speakers:
    """The transforms of all speakers of a corpus and the features that they apply to.

    Args:
        names: S speakers.
        index: (sum of T,) speaker of each frame.
        feats: (sum of T, D) float32 features without speaker transforms.
        transforms: (S, D, D + 1) float64.
    """

    names: list[str]
    index: np.ndarray
    feats: torch.Tensor
    transforms: np.ndarray

    @classmethod
    def of(cls, speakers: tuple[str, ...], offsets: np.ndarray, feats: torch.Tensor) -> Speakers:
        """All transforms are the identity."""
        names, index = fmllr.speaker_index(speakers, offsets)
        return cls(names, index, feats, fmllr.identity(len(names), feats.shape[1]))

    def adapted(self) -> torch.Tensor:
        """(sum of T, D) features with the transforms applied."""
        return fmllr.apply(torch.from_numpy(self.transforms).float(), self.feats, self.index)

    def estimate(
        self,
        evaluator: Evaluator,
        scored: torch.Tensor,
        labels: FrameLabels,
        options: FmllrOptions,
        mixtures: DiagGmms | None = None,
    ) -> float:
        """Replaces the transforms; returns the gain in objective per frame over no transforms.

        Args:
            evaluator: gives the posteriors.
            scored: (sum of T, D) features that it scores.
            labels: frames by pdf-id, silence weighted as wanted.
            mixtures: what the adapted features should fit, when these are not the evaluator's own.
        """
        stats = fmllr.fmllr_stats(evaluator, scored, labels, self.index, len(self.names), self.feats, mixtures)
        self.transforms, gain = fmllr.estimate(stats, options.fmllr_min_count, options.bias_min_count)
        mean = float((gain * stats.beta).sum() / max(stats.beta.sum(), 1.0))
        logger.info("fMLLR: %d speakers, objective gains %.4f per frame", len(self.names), mean)
        return mean


class FmllrAdaptation:
    """Estimates all speaker transforms again in some iterations of training."""

    def __init__(self, speakers: Speakers, silence: list[int], options: SatOptions) -> None:
        self.iters, self._speakers, self._silence, self._options = options.fmllr_iters, speakers, silence, options

    def apply(self, gmms: DiagGmms, feats: torch.Tensor, assignment: Assignment) -> tuple[DiagGmms, torch.Tensor]:
        labels = assignment.labels.weighted(self._silence, self._options.silence_weight)
        self._speakers.estimate(Evaluator(gmms), feats, labels, self._options.fmllr)
        return gmms, self._speakers.adapted()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"transforms": torch.from_numpy(self._speakers.transforms)}

    def restore(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        self._speakers.transforms = tensors["transforms"].numpy()
        return self._speakers.adapted()


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
    base = GmmModel.load(model_dir)
    check_features(base, model_dir, data_dir)
    aligned = load_aligned(data_dir, lang, ali_dir, base.feat_options, options.device)
    corpus = aligned.corpus
    speakers = Speakers.of(corpus.speakers, corpus.offsets, base.features(corpus.feats))
    _first_transforms(speakers, base, aligned, model_dir, lang, options)
    feats = speakers.adapted()
    tree = make_tree(aligned, feats, lang, options.tree, tmp_dir, questions_file)
    silence = silence_pdfs(tree, lang)
    state = train_on_tree(aligned, feats, lang, tree, options, tmp_dir, FmllrAdaptation(speakers, silence, options))
    stats = accumulate(Evaluator(state.gmms), state.feats, state.assignment.labels, speakers.feats)
    independent, _ = update(
        state.gmms, stats, min_count=0.0, min_weight=0.0, min_var=options.min_var, min_trained=options.min_count
    )
    save_transforms(tmp_dir, speakers.names, speakers.transforms)
    model = GmmModel(state.gmms, base.feat_options, corpus.facts, base.transform, independent, meta(options, state))
    model.save(tmp_dir, lang.topo, tree, state.transitions, lang.id)
    return {**summary(state, tree), "speakers": len(speakers.names)}


def _first_transforms(
    speakers: Speakers, base: GmmModel, aligned, model_dir: str | Path, lang: Lang, options: SatOptions
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
    labels = aligned.labels().weighted(aligned.silence_pdfs(lang), options.silence_weight)
    speakers.estimate(Evaluator(mixtures.to(options.device)), speakers.feats, labels, options.fmllr)


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
    spoken = {c: t for c, t in texts.items() if t.strip()}
    everyone = load_speakers(data_dir)
    corpus = load_corpus(data_dir, lang, model.feat_options, options.device, spoken)
    speakers = Speakers.of(corpus.speakers, corpus.offsets, model.features(corpus.feats))
    data = corpus.train_set(lang, hmm.tree, hmm.transitions, speakers.feats)
    aligner = Aligner(data, hmm.tree.num_pdfs, hmm.transitions.tid_pdf())
    silence = silence_pdfs(hmm.tree, lang)
    log_probs = torch.from_numpy(hmm.transitions.log_probs()).to(options.device)
    gain = 0.0
    for number in range(options.passes):
        mixtures = (model.independent if model.adapted and number == 0 else model.gmms).to(options.device)
        scored = speakers.adapted()
        aligner.data = data.with_feats(scored)
        assignment = aligner.viterbi(boosted(mixtures, silence, options.boost_silence), log_probs)
        assignment.check(len(data), options.max_failed, f"pass {number + 1}")
        labels = assignment.labels.weighted(silence, options.silence_weight)
        gain = speakers.estimate(Evaluator(mixtures), scored, labels, options, model.gmms.to(options.device))
    missing = _save_known(tmp_dir, speakers, everyone)
    return {
        "speakers": len(everyone),
        "without_words": missing,
        "gain_per_frame": round(gain, 4),
        "utterances": len(data),
        "failed": len(assignment.failed),
    }


def estimate_fmllr_soft(
    data_dir: str | Path,
    lang: Lang,
    model_dir: str | Path,
    found: dict[str, Occupancies],
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
    from pipeline.feats.load import load_packed

    model, hmm = GmmModel.load(model_dir), load_hmm(model_dir)
    hmm.check_lang(lang, "the lang directory")
    check_features(model, model_dir, data_dir)
    if not model.adapted:
        raise MismatchError(f"{model_dir} was not trained with speaker transforms")
    packed = load_packed(data_dir, model.feat_options)
    labels = _soft_labels(packed, found, hmm.tree.num_pdfs).weighted(
        silence_pdfs(hmm.tree, lang), options.silence_weight
    )
    speakers = Speakers.of(packed.speakers, packed.offsets.numpy(), model.features(packed.feats.to(options.device)))
    scored, mixtures = speakers.feats, model.independent
    if transforms is not None:
        known = load_transforms(transforms, model.gmms.dim)
        speakers.transforms = np.stack([known[n].double().numpy() for n in speakers.names])
        scored, mixtures = speakers.adapted(), model.gmms
    gain = speakers.estimate(
        Evaluator(mixtures.to(options.device)), scored, labels, options, model.gmms.to(options.device)
    )
    missing = _save_known(tmp_dir, speakers, set(speakers.names))
    return {
        "speakers": len(speakers.names),
        "without_words": missing,
        "gain_per_frame": round(gain, 4),
        "utterances": len(found),
    }


def _soft_labels(packed: PackedFeats, found: dict[str, Occupancies], num_pdfs: int) -> FrameLabels:
    """Occupancies of single utterances as labels of all frames; DataError where they do not fit the features."""
    lens, frames, pdfs, shares = packed.lengths().tolist(), [], [], []
    for n, cut_id in enumerate(packed.cut_ids):
        if cut_id not in found:
            continue
        own = found[cut_id]
        if own.frame.max(initial=-1) >= lens[n] or own.pdf.max(initial=-1) >= num_pdfs:
            raise DataError(
                f"posteriors of utterance {cut_id!r} reach beyond its {lens[n]} frames or the {num_pdfs} pdfs"
            )
        frames.append(own.frame + int(packed.offsets[n]))
        pdfs.append(own.pdf)
        shares.append(own.share)
    if not sum(map(len, frames)):
        raise DataError("there are no posteriors of any utterance of the data")
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
    plain = fmllr.identity(1, speakers.feats.shape[1])[0]
    save_transforms(out_dir, names, np.stack([known.get(n, plain) for n in names]))
    return len(missing)


def load_speakers(data_dir: str | Path) -> set[str]:
    """All speakers of a data directory."""
    from pipeline.artifacts.corpus import iter_cuts

    return {cut["supervisions"][0]["speaker"] for _, cut in iter_cuts(Path(data_dir))}
