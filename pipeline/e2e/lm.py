"""An LSTM language model over tokens, for shallow fusion; trained by the loop that trains everything else."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.artifacts.checkpoint import OTHER_SHAPE, TENSORS, check_same, load_model, save_model
from pipeline.artifacts.model_meta import META, LmMeta
from pipeline.artifacts.tokens import EOS_ID, Tokens
from pipeline.base.errors import DataError
from pipeline.base.records import from_json
from pipeline.e2e.search.options import NnLmOptions
from pipeline.feats.dataset import Batch, Dataset
from pipeline.feats.frames import Spans
from pipeline.nn.dropout import dropout
from pipeline.nn.labels import LabelFile
from pipeline.nn.masks import mask_of
from pipeline.nn.normalised import Network
from pipeline.nn.options import TrainOptions
from pipeline.nn.train import Loss, Task, clean_up, train

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LmState:
    """Hidden and cell values (L, N, D) of the LSTM."""

    hidden: torch.Tensor
    cell: torch.Tensor

    def select(self, rows: torch.Tensor) -> LmState:
        """The given rows in the given order; rows may be repeated or left out."""
        return LmState(self.hidden[:, rows], self.cell[:, rows])

    def cat(self, other: LmState) -> LmState:
        """Rows of both."""
        return LmState(torch.cat([self.hidden, other.hidden], 1), torch.cat([self.cell, other.cell], 1))


class NeuralLm(Network):
    """Embedding, LSTM layers, softmax; ``pipeline.e2e.search.fusion.TokenLm``."""

    def __init__(self, vocab_size: int, options: NnLmOptions) -> None:
        super().__init__()
        self.options, self.dropout = options, options.dropout
        self.embedding = nn.Embedding(vocab_size, options.dim)
        self.lstm = nn.LSTM(
            options.dim,
            options.dim,
            options.layers,
            batch_first=True,
            dropout=options.dropout if options.layers > 1 else 0.0,
        )
        self.output = nn.Linear(options.dim, vocab_size)

    def normalise(self, feats: torch.Tensor) -> torch.Tensor:
        """Token ids are left as they are."""
        return feats

    def start(self, n: int) -> LmState:
        """The state before the sentence begin."""
        zeros = self.output.weight.new_zeros((self.options.layers, n, self.options.dim))
        return LmState(zeros, zeros)

    def step(self, tokens: torch.Tensor, state: LmState) -> tuple[torch.Tensor, LmState]:
        """(N,) last tokens -> (N, V) natural-log probabilities of the next, and the new state."""
        log_probs, state = self(tokens[:, None], state)
        return log_probs[:, 0], state

    def forward(self, tokens: torch.Tensor, state: LmState) -> tuple[torch.Tensor, LmState]:
        """(N, U) -> (N, U, V) natural-log probabilities of what follows each token, and the state behind the last."""
        embedded = dropout(self.embedding(tokens), self.dropout, self.training)
        out, (hidden, cell) = self.lstm(embedded, (state.hidden, state.cell))
        out = self.output(dropout(out, self.dropout, self.training))
        return torch.log_softmax(out, -1), LmState(hidden, cell)


class NextToken:
    """Cross-entropy of the next token; a criterion of ``pipeline.nn.train`` whose frames are tokens."""

    def __call__(self, model: NeuralLm, batch: Batch, done: float) -> Loss:
        """See ``pipeline.nn.train.Criterion``."""
        targets = batch.feats[:, :, 0].long()  # (N, U), each ends with <sos/eos>
        log_probs, _ = model(F.pad(targets[:, :-1], (1, 0), value=EOS_ID), model.start(len(targets)))
        mask = mask_of(batch.lens, targets.shape[1])
        picked = log_probs.gather(2, targets[:, :, None])[:, :, 0][mask]
        return Loss(-picked.sum(), len(picked))

    def end_epoch(self, model: NeuralLm, data: Dataset, done: float) -> None:
        """Nothing to refresh."""

    def diagnose(self, model: NeuralLm, figures: dict[str, float], done: float) -> str | None:
        """No trouble of its own."""
        return None


class Sentences:
    """Sentences as utterances whose only feature is the token id; each ends with ``<sos/eos>``. Their tokens stand in
    a temporary file.

    Attributes:
        data: the data set.
        num_words: words and sentence ends.
    """

    dim = 1

    def __init__(self, sentences: Iterable[Sequence[str]], tokens: Tokens, directory: Path) -> None:
        """Args:
        directory: for the temporary file.
        """
        self.num_words = 0
        self._rows = LabelFile.of(directory, (self._encoded(words, tokens) for words in sentences))
        self.lens = self._rows.lens
        self.data = Dataset(self, self)

    def _encoded(self, words: Sequence[str], tokens: Tokens) -> np.ndarray:
        self.num_words += len(words) + 1
        return np.array([*tokens.encode(" ".join(words)), EOS_ID], dtype=np.int32)

    def flat(self, rows: np.ndarray) -> torch.Tensor:
        """See ``pipeline.feats.frames.Frames``."""
        return torch.cat(self.each(rows)) if len(rows) else torch.zeros((0, 1))

    def each(self, rows: np.ndarray) -> list[torch.Tensor]:
        """See ``pipeline.feats.frames.Frames``."""
        return [torch.from_numpy(self._rows[i]).float()[:, None] for i in rows.tolist()]

    def spans(self, spans: Spans) -> list[torch.Tensor]:
        """See ``pipeline.feats.frames.Frames``."""
        return spans.of(self.each(spans.rows), np.arange(len(spans.rows)))

    def id(self, i: int) -> str:
        """See ``pipeline.feats.dataset.Names``."""
        return str(i)

    def speaker_of(self, i: int) -> str:
        """See ``pipeline.feats.dataset.Names``."""
        return ""

    def text(self, i: int) -> str:
        """See ``pipeline.feats.dataset.Names``."""
        raise AssertionError("sentences are tokens")

    def where(self, i: int) -> str:
        """See ``pipeline.feats.dataset.Names``."""
        return f"sentence {i + 1}"


def train_nn_lm(
    sentences: Iterable[Sequence[str]],
    tokens: Tokens,
    options: NnLmOptions,
    out: Path,
    dev: Iterable[Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Trains a language model and writes its directory.

    Args:
        dev: sentences by whose loss the best epochs are chosen.
    Returns:
        facts for the stamp, with perplexities per token and per word (sentence ends are events).
    """
    torch.manual_seed(options.seed)
    model = NeuralLm(len(tokens), options)
    loop = TrainOptions(
        cmvn="none",
        epochs=options.epochs,
        batch_frames=options.batch_tokens,
        max_batch=options.max_batch,
        optimizer="adam",
        learning_rate=options.learning_rate,
        weight_decay=0.0,
        clip=1.0,
        time_masks=0,
        feature_masks=0,
        average=options.average,
        seed=options.seed,
        device=options.device,
    )
    data = Sentences(sentences, tokens, out).data
    held_out = None if dev is None else Sentences(dev, tokens, out)
    dev_task = None if held_out is None else Task(held_out.data, NextToken())
    history = train(model, Task(data, NextToken()), dev_task, loop, out)
    save_model(
        out,
        model.state_dict(),
        LmMeta(
            vocab_size=len(tokens),
            tokens_id=tokens.id,
            config={"dim": options.dim, "layers": options.layers, "dropout": options.dropout},
            epochs=history,
        ),
    )
    clean_up(out)
    facts = {
        "sentences": len(data),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": history[-1]["loss"],
    }
    if held_out is not None:
        facts.update(perplexity(model.cpu(), held_out))
        logger.info("perplexity %.2f per token, %.2f per word", facts["token_perplexity"], facts["perplexity"])
    return facts


@torch.no_grad()
def perplexity(model: NeuralLm, sentences: Sentences) -> dict[str, float]:
    """Perplexity per token and per word of a text; sentence ends are events of both."""
    total, events = 0.0, 0
    for batch in sentences.data.batches(10_000, 256):
        loss = NextToken()(model, batch, 1.0)
        total, events = total + float(loss.total), events + loss.frames
    return {"token_perplexity": math.exp(total / events), "perplexity": math.exp(total / sentences.num_words)}


def load_nn_lm(directory: str | Path, tokens: Tokens, tokens_dir: str | Path) -> NeuralLm:
    """Rebuilds a language model; MismatchError when it was trained for other tokens."""
    tensors, meta = load_model(directory, LmMeta)
    where = Path(directory) / META
    check_same("tokens", meta.tokens_id, directory, tokens.id, tokens_dir)
    options = from_json(NnLmOptions, meta.config, where, "config.")
    try:
        model = NeuralLm(meta.vocab_size, options)
        model.load_state_dict(tensors)
    except OTHER_SHAPE as e:
        raise DataError(f"{where}: does not describe the network of {TENSORS} ({e})") from None
    return model.eval()
