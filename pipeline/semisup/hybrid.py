"""Semi-supervised training of hybrid models: labels are the tied states of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.ali import AliSet
from pipeline.artifacts.checkpoint import check_same
from pipeline.artifacts.features import FeatureFacts
from pipeline.base.errors import ConfigError, DataError
from pipeline.feats.dataset import Dataset
from pipeline.nn.hybrid import load_labelled
from pipeline.nn.labels import AlignedCuts, aligned_labels, frames_per_label
from pipeline.nn.losses import CrossEntropy
from pipeline.nn.model import AcousticModel, load_acoustic_model, save_acoustic_model
from pipeline.nn.options import TrainOptions, ViterbiOptions
from pipeline.nn.priors import label_prior
from pipeline.nn.step import Criterion, Task
from pipeline.semisup.options import SemiSupervisedOptions, Sources
from pipeline.semisup.side import Given, Label, drawn


class HybridSide:
    """See ``pipeline.semisup.side.Side``."""

    def __init__(
        self, labelled: Path, unlabelled: Path, teacher: Path, options: SemiSupervisedOptions, sources: Sources
    ) -> None:
        """Raises:
        ConfigError: no lang or alignment. MismatchError: an alignment with another tree, or other features.
        """
        if sources.lang is None or sources.ali is None:
            raise ConfigError(f"{teacher} is a hybrid model: the labelled data need --lang and --ali, with its tree")
        self.network, self.hmm, self.meta = load_acoustic_model(teacher)
        self.options, self.ali = options, sources.ali
        if self.network.transitions is not None:
            raise ConfigError(
                f"{teacher} has trained transitions; frame labels are for models of steps/train_viterbi.py"
            )
        shared = {name: getattr(options, name) for name in asdict(TrainOptions())}
        training = ViterbiOptions(**asdict(self.network.options), **shared)
        self.lang, hmm, facts, sets = load_labelled(
            labelled, sources.lang, sources.ali, training, sources.dev, sources.dev_ali, teacher
        )
        for what, mine, theirs in (("tree", self.hmm.tree, hmm.tree), ("topo", self.hmm.topo, hmm.topo)):
            check_same(what, mine.id, teacher, theirs.id, sources.ali)
        for directory in (labelled, unlabelled):
            self.meta.features.check_same(FeatureFacts.load(directory).kind, teacher, directory)
        self.num_labels = self.network.num_pdfs
        self.labelled, self.known = sets[0].data, sets[0].labels
        self.unlabelled = Dataset.open(unlabelled, self.meta.feat_options, cache_mib=options.cache_mib)
        self.room = -(-self.unlabelled.lens // self.network.options.label_factor)
        self.dev: Task[Criterion[Any]] | None = None
        if len(sets) > 1:
            self.dev = Task(sets[1].data, CrossEntropy(sets[1].labels))
        self.network.log_prior.copy_(label_prior(self.known, self.num_labels))

    def randomise(self) -> None:
        """See ``Side``."""
        old = self.network
        torch.manual_seed(self.options.seed)
        self.network = AcousticModel(self.meta.feature_dim, self.num_labels, old.options)
        for name in ("mean", "scale", "log_prior"):
            getattr(self.network, name).copy_(getattr(old, name))

    def criterion(self, targets: Sequence[np.ndarray]) -> Criterion[Any]:
        """See ``Side``."""
        return CrossEntropy(targets, self.options.label_smoothing)

    def given(self, pseudo: Path) -> Iterator[Label | None]:
        """See ``Side``: the states of an alignment, and the mean of their confidences."""
        ali, data = AliSet.load(pseudo), self.unlabelled
        ali.check_tree(self.hmm.tree, self.hmm.topo, self.hmm.directory)
        cuts, factor = AlignedCuts(ali), self.network.options.label_factor
        rate = frames_per_label(ali, self.meta.features.frame_shift, factor, pseudo, self.hmm.directory)
        present = np.flatnonzero(cuts.present(data))
        if not len(present):
            raise DataError(f"{pseudo}: aligns none of the unlabelled utterances")
        labels = aligned_labels(data.select(present), cuts, self.room[present], rate, False, pseudo)
        place = {int(i): n for n, i in enumerate(present)}
        for i in range(len(data)):
            yield (labels[place[i]], self._confidence(cuts, data.id(i))) if i in place else None

    def _confidence(self, cuts: AlignedCuts, cut_id: str) -> float:
        """Mean over the frames of an alignment, for a copy of its original's; 1 where no least one is wanted."""
        if not self.options.min_confidence:
            return 1.0
        origin = cuts.origin(cut_id)
        assert origin is not None, cut_id
        sure = cuts.ali[origin[0]].confidence
        if sure is None:
            raise ConfigError(
                f"{cuts.ali.directory}: has no confidences (--confidence of steps/align.py) for --min-confidence"
            )
        return float(sure.astype(np.float64).mean())

    def log_probs(self, network: Any, feats: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Side``."""
        found: tuple[torch.Tensor, torch.Tensor] = network(feats, lens, normalised=True)
        return found

    def label(self, network: Any, feats: torch.Tensor, lens: torch.Tensor) -> Given:
        """See ``Side``: the best state of each frame."""
        log_probs, out_lens = self.log_probs(network, feats, lens)
        labels, posteriors = (x.cpu().numpy() for x in drawn(log_probs, self.options.temperature))
        rows = [row[:length].astype(np.int32) for row, length in zip(labels, out_lens.tolist())]
        confidence = [float(row[:length].mean()) for row, length in zip(posteriors, out_lens.tolist())]
        return Given(rows, confidence, log_probs, out_lens)

    def size(self, row: np.ndarray) -> int:
        """See ``Side``: frames."""
        return len(row)

    def name_of(self, label: int) -> str:
        """See ``Side``: a tied state and a phone that has it."""
        transitions = self.hmm.transitions
        phone = int(transitions.phone[np.flatnonzero(transitions.pdf == label)[0]])
        return f"state {label} of {transitions.phones.name(phone)}"

    def save(self, out: Path, network: Any, history: list[dict[str, float]]) -> None:
        """See ``Side``."""
        save_acoustic_model(
            out,
            network.cpu(),
            self.hmm,
            self.meta.features,
            self.meta.feat_options,
            self.meta.scales,
            criterion="cross_entropy",
            lang_id=self.lang.id,
            ali=str(self.ali),
            epochs=history,
        )
