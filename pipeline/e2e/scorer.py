"""An end-to-end model as a model with an HMM: its CTC output scores frames, and its decoder aligns tokens with
frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.artifacts.checkpoint import check_same, save_model
from pipeline.artifacts.lang import Lang
from pipeline.artifacts.model_dir import HmmDir, load_hmm, save_hmm
from pipeline.artifacts.model_meta import META, EndToEndMeta, ExportedMeta, Head
from pipeline.artifacts.token_lang import token_of_pdf
from pipeline.artifacts.tokens import BLANK_ID, Tokens
from pipeline.artifacts.transitions import TransitionModel
from pipeline.artifacts.tree import monophone_tree
from pipeline.base.errors import ConfigError, DataError
from pipeline.e2e.forced import attention_path, transducer_path
from pipeline.e2e.model import EndToEnd, load_end_to_end, load_network
from pipeline.hmm.on_demand import FrameScores
from pipeline.nn.windows import encode_windows


def export(model_dir: Path, tokens_dir: Path, lang_dir: Path, out: Path, head: Head) -> None:
    """Writes a model directory that steps/align.py (and, for CTC, steps/make_graph.py and steps/decode.py) work on.

    Args:
        model_dir: an end-to-end model. tokens_dir: its tokens. lang_dir: made of them by steps/make_lang.py --tokens.
        head: which part of the model says where tokens are.
    """
    model, meta = load_end_to_end(model_dir)
    tokens, lang = Tokens.load(tokens_dir), Lang.load(lang_dir)
    check_same("tokens", meta.tokens_id, model_dir, tokens.id, tokens_dir)
    if _part(model, head) is None:
        raise ConfigError(f"{model_dir} has no {head} part")
    tree = monophone_tree(lang.phones, lang.topo)
    token_of_pdf(tree, tokens)
    save_hmm(out, lang.topo, tree, TransitionModel(tree, lang.topo))
    tokens.save(out)
    kept = {field.name: getattr(meta, field.name) for field in fields(EndToEndMeta) if field.name != "kind"}
    save_model(out, model.state_dict(), ExportedMeta(**kept, head=head, lang_id=lang.id, tree_id=tree.id))


def _part(model: EndToEnd, head: Head) -> nn.Module | None:
    return {"ctc": model.ctc, "transducer": model.transducer, "attention": model.decoder}[head]


class EndToEndScorer:
    """``pipeline.tasks.model.Model`` of an exported model: log probabilities of the CTC output.

    Attributes:
        token_of_pdf: (P,) token of each label.
    """

    acoustic_scale, transition_scale = 1.0, 0.0

    def __init__(
        self,
        model: EndToEnd,
        hmm: HmmDir,
        meta: ExportedMeta,
        columns: np.ndarray,
        device: str,
        blank_penalty: float = 0.0,
    ) -> None:
        self.model, self.device, self.blank_penalty = model.to(device), device, blank_penalty
        self.hmm, self.facts, self.feat_options = hmm, meta.features, meta.feat_options
        self.frame_shift = meta.frame_shift
        self.frame_offset = self.facts.frame_offset - self.facts.frame_shift / 2
        self.num_pdfs = len(columns)
        self.token_of_pdf = columns
        self._columns = torch.from_numpy(columns).to(device)

    @torch.no_grad()
    def log_likes(
        self, feats: torch.Tensor, lens: torch.Tensor, speakers: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T, F), (N,) -> (N, T', P) natural logs, (N,); `speakers` is not read."""
        encoded, lens = self._encode(feats, lens)
        return self._scores(encoded), lens

    def _encode(self, feats: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        subsampling = self.model.encoder.subsampling
        return encode_windows(self.model.encode, feats.to(self.device), lens.to(self.device), subsampling)

    def _scores(self, encoded: torch.Tensor) -> torch.Tensor:
        """(.., D) -> (.., P)."""
        log_probs = self.model.ctc_log_probs(encoded)
        log_probs[..., BLANK_ID] -= self.blank_penalty
        return log_probs[..., self._columns]

    @torch.no_grad()
    def frame_scores(self, feats: torch.Tensor, speaker: str) -> FrameScores:
        """See ``pipeline.tasks.model.Model``; `speaker` is not read."""
        encoded, lens = self._encode(feats[None], torch.tensor([len(feats)]))
        return FrameScores(int(lens), lambda begin, end: self._scores(encoded[0, begin:end]))

    def transition_scores(self, feats: torch.Tensor, lens: torch.Tensor) -> None:
        """CTC has none."""


class EmittingScorer(EndToEndScorer):
    """An exported transducer or attention model, which is asked where it puts its tokens."""

    def __init__(self, model: EndToEnd, hmm: HmmDir, meta: ExportedMeta, columns: np.ndarray, device: str) -> None:
        super().__init__(model, hmm, meta, columns, device)
        self.head = meta.head

    @torch.no_grad()
    def emission_frames(
        self, feats: torch.Tensor, lens: torch.Tensor, tokens: Sequence[Sequence[int]]
    ) -> tuple[list[tuple[float, np.ndarray]], list[int]]:
        """Where a transducer or an attention decoder puts the tokens of each utterance.

        Args:
            feats: (N, T, F). lens: (N,). tokens: ids by utterance.
        Returns:
            by utterance the score and the label frame of each token, and the number of label frames.
        """
        encoded, lens = self._encode(feats, lens)
        found = [self._path(encoded[i, :n], ids) for i, (n, ids) in enumerate(zip(lens.tolist(), tokens))]
        return found, lens.tolist()

    def _path(self, encoded: torch.Tensor, tokens: Sequence[int]) -> tuple[float, np.ndarray]:
        if self.head == "transducer":
            assert self.model.transducer is not None
            return transducer_path(self.model.transducer, encoded, tokens)
        assert self.model.decoder is not None
        return attention_path(self.model.decoder, encoded, tokens)


def load_scorer(directory: str | Path, device: str = "cpu", blank_penalty: float = 0.0) -> EndToEndScorer:
    """The scorer of a directory written by ``export``; see ``pipeline.tasks.model.load_model``."""
    model, meta = load_network(directory, ExportedMeta)
    hmm = load_hmm(directory)
    columns = token_of_pdf(hmm.tree, Tokens.load(directory))
    if _part(model, meta.head) is None:
        raise DataError(f"{Path(directory) / META}: head: the model has no {meta.head} part")
    if meta.head != "ctc":
        return EmittingScorer(model, hmm, meta, columns, device)
    return EndToEndScorer(model, hmm, meta, columns, device, blank_penalty)
