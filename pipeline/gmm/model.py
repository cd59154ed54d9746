"""GMM model directories, and the scorer that alignment and decoding see."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.artifacts.checkpoint import load_model, load_tensors, save_model, save_tensors
from pipeline.artifacts.features import FeatLoadOptions, FeatureFacts
from pipeline.artifacts.model_dir import HmmDir, load_hmm, save_hmm
from pipeline.artifacts.model_meta import Figures, GmmMeta
from pipeline.artifacts.topo import Topo
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import Tree
from pipeline.base.errors import DataError, MismatchError
from pipeline.feats.frames import offsets_of
from pipeline.gmm.diag import DiagGmms, Evaluator
from pipeline.gmm.parallel import for_each
from pipeline.hmm.on_demand import FrameScores

if TYPE_CHECKING:
    from pipeline.gmm.on_demand import MixtureScores

FMLLR = "fmllr.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class GmmModel:
    """A trained mixture model with all that its features need.

    Args:
        gmms: the mixtures; in an adapted model they expect features with the speaker's fMLLR transform applied.
        feat_options: how features are loaded.
        facts: the features that it was trained on.
        transform: (D, F) global transform (LDA and MLLT) of the loaded features, or None.
        independent: mixtures for features without fMLLR, of an adapted model; None otherwise.
        config: options of the training. history: figures of each iteration.
    """

    gmms: DiagGmms
    feat_options: FeatLoadOptions
    facts: FeatureFacts
    transform: torch.Tensor | None = None
    independent: DiagGmms | None = None
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: Sequence[Figures] = ()

    @property
    def adapted(self) -> bool:
        """Whether the model was trained with speaker transforms."""
        return self.independent is not None

    @property
    def dim(self) -> int:
        """Dimension of the loaded features, before the global transform."""
        return self.feat_options.output_dim(self.facts.dim)

    def features(self, loaded: torch.Tensor) -> torch.Tensor:
        """(T, F) loaded features -> (T, D) features of the mixtures, speaker transforms excepted."""
        return loaded if self.transform is None else loaded @ self.transform.to(loaded).t()

    def save(self, directory: str | Path, topo: Topo, tree: Tree, transitions: TransitionModel, lang_id: str) -> None:
        """Writes a model directory; a model with numbers that make no sense is a bug and not written."""
        assert tree.num_pdfs == self.gmms.num_pdfs, (tree.num_pdfs, self.gmms.num_pdfs)
        tensors = self.gmms.validate(str(directory)).tensors()
        if self.independent is not None:
            tensors |= {f"independent.{k}": v for k, v in self.independent.validate(str(directory)).tensors().items()}
        if self.transform is not None:
            tensors["transform"] = self.transform
        save_hmm(directory, topo, tree, transitions)
        meta = GmmMeta(
            lang_id=lang_id,
            tree_id=tree.id,
            topo_id=topo.id,
            frame_shift=self.facts.frame_shift,
            frame_offset=self.facts.frame_offset - self.facts.frame_shift / 2,
            num_pdfs=tree.num_pdfs,
            num_gauss=self.gmms.num_gauss,
            adapted=self.adapted,
            features=self.facts,
            feat_options=self.feat_options,
            config=self.config,
            history=list(self.history),
        )
        save_model(directory, tensors, meta)

    @classmethod
    def load(cls, directory: str | Path) -> GmmModel:
        """Reads a model directory; DataError or MismatchError when it is broken or holds another kind of model."""
        tensors, meta = load_model(directory, GmmMeta)
        where = f"{directory}/model.safetensors"
        independent = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith("independent.")}
        return cls(
            DiagGmms.from_tensors(tensors, where),
            meta.feat_options,
            meta.features,
            tensors.get("transform"),
            DiagGmms.from_tensors(independent, where) if independent else None,
            meta.config,
            meta.history,
        )


def check_features(model: GmmModel, model_dir: str | Path, data_dir: str | Path) -> None:
    """MismatchError naming both directories unless the data has features of the model's kind."""
    facts = FeatureFacts.load(Path(data_dir))
    model.facts.kind.check_same(facts.kind, model_dir, data_dir)


def save_transforms(directory: str | Path, names: Sequence[str], transforms: np.ndarray) -> None:
    """Writes speaker transforms, (S, D, D + 1), keyed by speaker."""
    rows = torch.from_numpy(np.ascontiguousarray(transforms, dtype=np.float32))
    if not bool(torch.isfinite(rows).all()):
        raise AssertionError("a speaker transform is not finite")
    Path(directory).mkdir(parents=True, exist_ok=True)
    save_tensors(Path(directory) / FMLLR, {name: rows[i].clone() for i, name in enumerate(names)})


def load_transforms(directory: str | Path, dim: int) -> dict[str, torch.Tensor]:
    """Speaker -> (D, D + 1) transform; MismatchError when they are of another dimension."""
    transforms = load_tensors(Path(directory) / FMLLR)
    for name, matrix in transforms.items():
        if tuple(matrix.shape) != (dim, dim + 1):
            raise MismatchError(
                f"{Path(directory) / FMLLR}: transform of speaker {name!r} is {tuple(matrix.shape)}, the model "
                f"needs {(dim, dim + 1)}"
            )
        if not bool(torch.isfinite(matrix).all()):
            raise DataError(f"{Path(directory) / FMLLR}: transform of speaker {name!r} holds NaN or infinity")
    return transforms


class AdaptedFeatures:
    """Features of a model's mixtures from loaded ones: global transform, then the speaker's.

    Args:
        transforms: speaker -> (D, D + 1); None: without.
        where: names the transforms in messages.
    """

    def __init__(self, model: GmmModel, transforms: dict[str, torch.Tensor] | None, where: str) -> None:
        self.model, self.transforms, self.where = model, transforms, where

    def of(self, loaded: torch.Tensor, speaker: str | None) -> torch.Tensor:
        """(T, D) features of the mixtures from one utterance's loaded features (T, F)."""
        feats = self.model.features(loaded)
        if self.transforms is None:
            return feats
        if speaker is None or speaker not in self.transforms:
            raise DataError(
                f"{self.where}: no transform for speaker {speaker!r} ({len(self.transforms)} speakers have one)"
            )
        matrix = self.transforms[speaker].to(feats)
        return torch.addmm(matrix[:, -1], feats, matrix[:, :-1].t())


class GmmScorer:
    """Log-likelihoods of a model directory, see pipeline.tasks.model.Model.

    An adapted model without transforms scores with its speaker-independent mixtures (the first pass).
    """

    acoustic_scale = 1.0
    transition_scale = 1.0

    def __init__(
        self,
        model: GmmModel,
        hmm: HmmDir,
        transforms: dict[str, torch.Tensor] | None = None,
        device: str = "cpu",
        where: str = "<memory>",
    ) -> None:
        self.model, self.hmm, self.transforms, self.where = model, hmm, transforms, where
        self._adapted = AdaptedFeatures(model, transforms, where)
        gmms = model.gmms if transforms is not None or model.independent is None else model.independent
        self.evaluator = Evaluator(gmms.to(device))
        self.facts = model.facts.kind
        self.feat_options = model.feat_options
        self.frame_shift = model.facts.frame_shift
        self.frame_offset = model.facts.frame_offset - model.facts.frame_shift / 2
        self.num_pdfs = gmms.num_pdfs

    def log_likes(
        self,
        feats: torch.Tensor,
        lens: torch.Tensor,
        speakers: Sequence[str] | None = None,
        pdfs: Sequence[np.ndarray] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of a padded batch.

        Args:
            feats: (N, T, F) float32.
            lens: (N,) int64.
            speakers: N names; needed with speaker transforms.
            pdfs: N arrays of the pdf-ids wanted per utterance; the others get -inf. None: all.
        Returns:
            (N, T, P) float32, zero behind each utterance's end; and lens.
        """
        if feats.shape[2] != self.model.dim:
            raise MismatchError(
                f"{self.where} expects {self.model.dim} features per frame, the data has {feats.shape[2]}"
            )
        out = feats.new_zeros((len(feats), feats.shape[1], self.num_pdfs))
        lengths = lens.tolist()

        def score(n: int) -> None:
            x = self._adapted.of(feats[n, : lengths[n]], None if speakers is None else speakers[n])
            if pdfs is None:
                self.evaluator.into(out[n, : lengths[n]], x, np.arange(self.num_pdfs))
            else:
                out[n, : lengths[n]] = float("-inf")
                out[n, : lengths[n], torch.from_numpy(pdfs[n])] = self.evaluator.log_likes(x, pdfs[n])

        for_each(score, range(len(feats)), feats.device)
        return out, lens

    def frame_scores(self, feats: torch.Tensor, speaker: str) -> FrameScores:
        """See ``pipeline.tasks.model.Model``."""
        own = self._adapted.of(feats.to(self.evaluator.matrix.device), speaker)
        return FrameScores(len(own), lambda begin, end: self.evaluator.log_likes(own[begin:end]))

    def on_demand(self, feats: Sequence[torch.Tensor], speakers: Sequence[str]) -> MixtureScores:
        """See ``pipeline.tasks.model.OnDemandModel``."""
        from pipeline.gmm.on_demand import MixtureScores

        own = [self._adapted.of(x, speaker) for x, speaker in zip(feats, speakers)]
        offsets = offsets_of(np.array([len(x) for x in own], dtype=np.int64))
        return MixtureScores(self.evaluator, torch.cat(own), offsets[:-1], np.diff(offsets))

    def transition_scores(self, feats: torch.Tensor, lens: torch.Tensor) -> None:
        """None: the transition probabilities are those of transitions.json."""
        return None


def load_scorer(model_dir: str | Path, transforms: str | Path | None = None, device: str = "cpu") -> GmmScorer:
    """Scorer of a model directory.

    Args:
        transforms: directory with the fMLLR transforms of all speakers, for an adapted model.
    """
    model = GmmModel.load(model_dir)
    hmm = load_hmm(model_dir)
    if hmm.tree.num_pdfs != model.gmms.num_pdfs:
        raise MismatchError(
            f"{model_dir}: tree.json has {hmm.tree.num_pdfs} pdfs, model.safetensors {model.gmms.num_pdfs}"
        )
    if transforms is None:
        return GmmScorer(model, hmm, None, device, str(model_dir))
    if not model.adapted:
        raise MismatchError(
            f"{model_dir} was not trained with speaker transforms, so those of {transforms} do not apply"
        )
    return GmmScorer(model, hmm, load_transforms(transforms, model.gmms.dim), device, str(model_dir))
