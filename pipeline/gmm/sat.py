"""Speaker-adaptive training."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.index import load_index
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import load_hmm
from pipeline.feats.dataset import Dataset
from pipeline.gmm import fmllr
from pipeline.gmm.assign import Assignment
from pipeline.gmm.blocks import Blocks
from pipeline.gmm.data import Aligned, load_aligned
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.em import update
from pipeline.gmm.frame_labels import Piece
from pipeline.gmm.model import FMLLR, GmmModel, check_features, load_transforms, save_transforms
from pipeline.gmm.mono import kept, silence_pdfs, summary
from pipeline.gmm.options import FmllrOptions, SatOptions
from pipeline.gmm.stats import accumulate_blocks
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
    def of(cls, data: Dataset, everyone: Sequence[str] | None = None) -> Speakers:
        """All transforms are the identity.

        Args:
            everyone: names, ascending; by default the speakers of the data.
        """
        names, index = fmllr.speaker_index(data, everyone)
        return cls(names, index, data, fmllr.identity(len(names), data.dim))

    def adapted(self, cache_mib: int) -> Dataset:
        """The features with the transforms applied as they stand now."""
        transforms, data, index = torch.from_numpy(self.transforms).float(), self.data, self.index

        def adapt(feats: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
            matrix = transforms[int(index[rows[0]])]  # frames are mapped utterance by utterance
            return torch.addmm(matrix[:, -1], feats, matrix[:, :-1].t())

        return data.mapped(adapt, data.dim, cache_mib)

    def estimate(self, stats: Iterable[fmllr.FmllrStats], options: FmllrOptions) -> tuple[float, float]:
        """Replaces the transforms; returns the gain in objective over no transforms, and the frames.

        Args:
            stats: of the speakers in their order, some at a time; the target are features without transforms.
        """
        found, total, frames = [], 0.0, 0.0
        for some in stats:
            transforms, gain = fmllr.estimate(some, options.fmllr_min_count, options.bias_min_count)
            found.append(transforms)
            total, frames = total + float((gain * some.beta).sum()), frames + float(some.beta.sum())
            del some  # before the next ones are taken
        self.transforms = np.concatenate(found)
        logger.info("fMLLR: %d speakers, objective gains %.4f per frame", len(self.names), total / max(frames, 1.0))
        return total, frames


class FmllrAdaptation:
    """Estimates all speaker transforms again in some iterations of training."""

    def __init__(self, speakers: Speakers, blocks: Blocks, silence: list[int], options: SatOptions) -> None:
        self.iters, self._speakers, self._blocks = options.fmllr_iters, speakers, blocks
        self._silence, self._options = silence, options

    def apply(self, gmms: DiagGmms, data: Dataset, assignment: Assignment) -> tuple[DiagGmms, Dataset]:
        """See ``pipeline.gmm.train.Adaptation``."""
        options, speakers = self._options, self._speakers
        weights = (self._silence, options.silence_weight)

        def pieces(rows: np.ndarray) -> Iterator[Piece]:
            return assignment.pieces(data, options.device, weights, speakers.data, speakers.index, rows)

        everyone = speakers.index, len(speakers.names)
        speakers.estimate(fmllr.fmllr_stats_blocks(Evaluator(gmms), self._blocks, pieces, *everyone), options.fmllr)
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
    blocks, everyone = aligned.blocks, load_index(data_dir).speaker_names
    speakers = Speakers.of(base_features(base, aligned.data, options.cache_mib), everyone)
    _first_transforms(speakers, base, aligned, model_dir, lang, options)
    data = speakers.adapted(options.cache_mib)
    tree = make_tree(aligned, data, lang, options.tree, tmp_dir, questions_file)
    silence = silence_pdfs(tree, lang)
    adaptation = FmllrAdaptation(speakers, blocks, silence, options)
    state = train_on_tree(aligned, data, lang, tree, options, tmp_dir, adaptation)
    stats = accumulate_blocks(
        Evaluator(state.gmms),
        blocks,
        lambda rows: state.assignment.pieces(state.data, options.device, target=speakers.data, rows=rows),
    )
    if blocks.others():
        return {}
    independent, _ = update(
        state.gmms,
        stats,
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

    def pieces(rows: np.ndarray) -> Iterator[Piece]:
        return aligned.pieces(speakers.data, options.device, weights, speakers.index, rows)

    evaluator, everyone = Evaluator(mixtures.to(options.device)), (speakers.index, len(speakers.names))
    speakers.estimate(fmllr.fmllr_stats_blocks(evaluator, aligned.blocks, pieces, *everyone), options.fmllr)
