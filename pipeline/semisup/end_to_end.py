"""Semi-supervised training of end-to-end models: labels are tokens, found by a search."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.features import FeatureFacts
from pipeline.artifacts.hyp import load_hypotheses
from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, UNK_ID, Tokens
from pipeline.base.errors import ConfigError
from pipeline.e2e.auxiliary import Auxiliary, ModelWithAuxHeads
from pipeline.e2e.criterion import EndToEndLoss
from pipeline.e2e.model import EndToEnd, load_end_to_end, save_end_to_end
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.e2e.search.options import SearchOptions
from pipeline.e2e.search.results import NEVER, Weights
from pipeline.e2e.training import learnable, short_enough
from pipeline.feats.dataset import Dataset
from pipeline.nn.options import TrainOptions
from pipeline.nn.step import Criterion, Task, pick_device
from pipeline.semisup.options import SemiSupervisedOptions, Sources
from pipeline.semisup.side import Given, Label, drawn
from pipeline.tasks.decode_e2e import PLAIN, check_inputs, choose_method, load_lm, search
from pipeline.tasks.untranscribed import check_heard, mean_confidence

logger = logging.getLogger(__name__)

SEVERAL = ("transducer_greedy", "transducer_beam")  # searches that find up to max_symbols tokens at a frame


class EndToEndSide:
    """See ``pipeline.semisup.side.Side``."""

    def __init__(
        self, labelled: Path, unlabelled: Path, teacher: Path, options: SemiSupervisedOptions, sources: Sources
    ) -> None:
        """Raises:
        ConfigError: options that do not go with the model, or no tokens. MismatchError: a model of other tokens or
            features.
        """
        if sources.tokens is None:
            raise ConfigError(f"{teacher} is an end-to-end model: --tokens has to say which tokens it writes")
        model, self.meta = load_end_to_end(teacher)
        self.options, self.tokens = options, Tokens.load(sources.tokens)
        for directory in filter(None, (labelled, unlabelled, sources.dev)):
            check_inputs(self.meta, teacher, self.tokens, sources.tokens, directory)
        self.training = _training_options(model, options)
        self.network = self._with_heads(model)
        self.num_labels = len(self.tokens)
        facts = FeatureFacts.load(labelled)

        def load(directory: Path) -> tuple[Dataset, Sequence[np.ndarray]]:
            assert sources.tokens is not None
            return learnable(directory, self.tokens, sources.tokens, facts, self.training)

        self.labelled, self.known = load(labelled)
        self.unlabelled = short_enough(unlabelled, facts.frame_shift, self.training)
        self.frames = -(-self.unlabelled.lens // model.options.label_factor)  # (N,) of the encoder's output
        self.dev: Task[Criterion[Any]] | None = None
        if sources.dev is not None:
            data, rows = load(sources.dev)
            self.dev = Task(data, EndToEndLoss(rows, self.training))
        self._prepare_search(model, sources)
        self.room = self.frames * (self.search.max_symbols if self.method in SEVERAL else 1)

    def _prepare_search(self, model: EndToEnd, sources: Sources) -> None:
        o, self._lm = self.options, None
        if (o.soft_share or o.temperature) and model.ctc is None:
            raise ConfigError("--soft-share and --temperature need posteriors of frames: a model with a CTC output")
        method = o.method
        if method is None and sources.lm is None:
            if model.ctc is not None:
                method = "ctc_greedy"
            elif model.decoder is None:
                method = "transducer_greedy"
        searching: dict[str, Any] = {"method": method, "beam": o.beam}  # mypy sees no defaults of fields
        self.search = SearchOptions(**searching)
        self.method = choose_method(model, self.search)
        if o.temperature and self.method != "ctc_greedy":
            raise ConfigError(f"--temperature draws labels of frames; --method {self.method} searches")
        self.weights = Weights()
        if self.method not in PLAIN:
            lm = 0.0 if sources.lm is None else o.lm_weight
            ctc = 0.3 if self.method == "attention" and model.ctc is not None else 0.0
            self.weights = Weights(ctc=ctc, lm=lm, length=o.length_bonus)
        elif sources.lm is not None:
            raise ConfigError(f"--method {self.method} takes no language model")
        if sources.lm is not None:
            assert sources.tokens is not None
            self._lm = load_lm(sources.lm, self.tokens, sources.tokens, pick_device(o.device))

    def _with_heads(self, model: EndToEnd) -> ModelWithAuxHeads:
        return ModelWithAuxHeads(model, Auxiliary(model, 0, 0, self.training))

    def randomise(self) -> None:
        """See ``Side``."""
        old = self.network.model
        torch.manual_seed(self.options.seed)
        new = EndToEnd(self.meta.feature_dim, self.meta.vocab_size, old.options)
        new.mean.copy_(old.mean)
        new.scale.copy_(old.scale)
        self.network = self._with_heads(new)

    def criterion(self, targets: Sequence[np.ndarray]) -> Criterion[Any]:
        """See ``Side``."""
        return EndToEndLoss(targets, self.training)

    def given(self, pseudo: Path) -> Iterator[Label | None]:
        """See ``Side``: the tokens of recognised words, and the mean of their confidences."""
        heard = {hyp.cut_id: hyp for hyp in load_hypotheses(pseudo)}
        check_heard(self.unlabelled, heard, pseudo)
        unknown: list[str] = []  # ids
        too_long: list[str] = []
        for i in range(len(self.unlabelled)):
            hyp = heard.get(self.unlabelled.id(i))
            if hyp is None:
                yield None
                continue
            row = np.array(self.tokens.encode(" ".join(hyp.hyp)), dtype=np.int64)
            # CTC writes a token a frame, and a blank between equal ones; other models may write more.
            least = len(row) + (row[1:] == row[:-1]).sum() if self.training.ctc else 0
            if UNK_ID in row:
                unknown.append(hyp.cut_id)
                yield None
            elif least > self.frames[i]:
                too_long.append(hyp.cut_id)
                yield None
            else:
                yield row, mean_confidence(hyp, self.options.min_confidence, pseudo) if hyp.hyp else 0.0
        for ids, what in (
            (unknown, "words that the tokens cannot spell"),
            (too_long, "more tokens than CTC has frames for"),
        ):
            if ids:
                logger.warning("%s: %d utterances have %s, the first: %r", pseudo, len(ids), what, ids[0])

    def log_probs(self, network: Any, feats: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``Side``: of the CTC output."""
        encoded, out_lens = network.model.encode(feats, lens, normalised=True)
        return network.model.ctc_log_probs(encoded), out_lens

    def label(self, network: Any, feats: torch.Tensor, lens: torch.Tensor) -> Given:
        """See ``Side``."""
        encoded, out_lens = network.model.encode(feats, lens, normalised=True)
        log_probs = None if network.model.ctc is None else network.model.ctc_log_probs(encoded)
        if self.method == "ctc_greedy":
            assert log_probs is not None
            return Given(*best_tokens(log_probs, out_lens, self.options.temperature), log_probs, out_lens)
        found = search(network.model, encoded, out_lens, self.search, self.method, self.weights, self._lm)
        best = [hyps[0] if hyps else None for hyps in found]
        rows = [np.array([] if f is None else f.tokens, dtype=np.int64) for f in best]
        confidence = [0.0 if f is None else float(np.exp(min(f.model, 0.0) / (len(f.tokens) + 1))) for f in best]
        return Given(rows, confidence, log_probs, out_lens)

    def size(self, row: np.ndarray) -> int:
        """See ``Side``: tokens and the sentence end."""
        return len(row) + 1

    def name_of(self, label: int) -> str:
        """See ``Side``."""
        return self.tokens.pieces[label]

    def save(self, out: Path, network: Any, history: list[dict[str, float]]) -> None:
        """See ``Side``."""
        save_end_to_end(
            out, network.model.cpu(), self.tokens.id, self.meta.features, self.meta.feat_options, history, self.meta.ali
        )


def best_tokens(
    log_probs: torch.Tensor, lens: torch.Tensor, temperature: float = 0.0
) -> tuple[list[np.ndarray], list[float]]:
    """Labels of frames (the best, or drawn ones) without repetitions and blanks, and the mean posterior of the rest.

    Args:
        log_probs: (N, T, V) natural logs. lens: (N,).
    Returns:
        (U_n,) int64 tokens, and a confidence, of each utterance; 0 where there are none.
    """
    scores = log_probs.clone()
    scores[:, :, [EOS_ID, UNK_ID]] = NEVER
    labels, posteriors = (x.cpu().numpy() for x in drawn(scores, temperature))
    rows, confidences = [], []
    for label, posterior, length in zip(labels, posteriors, lens.tolist()):
        starts = np.flatnonzero(np.diff(label[:length], prepend=-1))
        best = np.maximum.reduceat(posterior[:length], starts)
        spoken = label[starts] != BLANK_ID
        rows.append(label[starts][spoken].astype(np.int64))
        confidences.append(float(best[spoken].mean()) if spoken.any() else 0.0)
    return rows, confidences


def _training_options(model: EndToEnd, options: SemiSupervisedOptions) -> TrainEndToEndOptions:
    """What the losses read: the shape of the model, and this training."""
    shared = {name: getattr(options, name) for name in asdict(TrainOptions())}
    own = {name: getattr(options, name) for name in ("ctc_weight", "label_smoothing", "choose_by", "max_seconds")}
    return TrainEndToEndOptions(**asdict(model.options), **shared, **own)
