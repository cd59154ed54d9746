"""Beam search with an attention decoder, CTC prefix scores and a language model, for many utterances at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, UNK_ID
from pipeline.e2e.search.ctc_prefix import PrefixScorer
from pipeline.e2e.search.fusion import TokenLm
from pipeline.e2e.search.results import NEVER, Found, Weights, best_first

AHEAD = 5  # tokens whose bonus a living hypothesis is thought capable of when it is decided whether the search may end
CANDIDATES = 2  # times the beam: tokens of a hypothesis that get a CTC score


@dataclass
class _Beams:
    """Living hypotheses of N utterances, B each, as rows n * B + b.

    Attributes:
        tokens: (R, L) so far, without the sentence begin.
        attention, lm: (R,) float64 sums of log probabilities.
        ctc: (R,) float64 CTC score of the prefix.
        total: (R,) float64; NEVER for rows that hold nothing.
    """

    tokens: torch.Tensor
    attention: torch.Tensor
    ctc: torch.Tensor
    lm: torch.Tensor
    total: torch.Tensor
    decoder_state: Any
    lm_state: Any
    ctc_state: Any  # a PrefixState, None without CTC


class AttentionSearch:
    """The search of one batch; every weight is fixed."""

    def __init__(
        self,
        decoder: Any,
        ctc_log_probs: torch.Tensor | None,
        lens: torch.Tensor,
        weights: Weights,
        beam: int,
        lm: TokenLm | None = None,
        max_length: float = 1.0,
    ) -> None:
        """Args:
        decoder: ``start(encoded, lens)`` and ``step(tokens, state)``, see ``pipeline.e2e.model.AttentionDecoder``.
        ctc_log_probs: (N, T', V); read when weights.ctc is above 0.
        lens: (N,) encoder frames.
        max_length: most tokens per encoder frame.
        """
        self.decoder, self.lm, self.weights, self.beam, self.lens = decoder, lm, weights, beam, lens
        self.scorer = None
        if weights.ctc > 0:
            assert ctc_log_probs is not None, "a weight of CTC without its scores"
            self.scorer = PrefixScorer(ctc_log_probs, lens)
        self.limits = (lens * max_length).ceil().long().clamp(min=1).tolist()

    def search(self, encoded: torch.Tensor, number: int = 1) -> list[list[Found]]:
        """The best hypotheses of each utterance.

        Args:
            encoded: (N, T', D).
            number: hypotheses wanted; the search goes on until that many have ended.
        """
        n = len(encoded)
        number = min(number, self.beam)
        beams = self._start(encoded)
        ended: list[list[Found]] = [[] for _ in range(n)]
        done = [False] * n
        for length in range(max(self.limits) + 1):
            last = torch.full((n * self.beam,), EOS_ID, device=encoded.device) if length == 0 else beams.tokens[:, -1]
            attention, beams.decoder_state = self.decoder.step(last, beams.decoder_state)
            lm = torch.zeros_like(attention)
            if self.lm is not None:
                lm, beams.lm_state = self.lm.step(last, beams.lm_state)
            attention, lm = attention.double(), lm.double()
            self._end(beams, attention[:, EOS_ID], lm[:, EOS_ID], ended, done)
            for i in range(n):
                ended[i] = best_first(ended[i], self.beam)
                done[i] = done[i] or length >= self.limits[i] or self._over(beams, i, ended[i], number)
            if all(done):
                break
            beams = self._extend(beams, attention, lm)
        return [found[:number] for found in ended]

    def _start(self, encoded: torch.Tensor) -> _Beams:
        n, device = len(encoded), encoded.device
        rows = torch.arange(n, device=device).repeat_interleave(self.beam)
        zeros = torch.zeros(n * self.beam, dtype=torch.float64, device=device)
        total = zeros.clone()
        total.view(n, self.beam)[:, 1:] = NEVER
        return _Beams(
            tokens=torch.empty((n * self.beam, 0), dtype=torch.long, device=device),
            attention=zeros,
            ctc=zeros,
            lm=zeros,
            total=total,
            decoder_state=self.decoder.start(encoded, self.lens).select(rows),
            lm_state=None if self.lm is None else self.lm.start(n * self.beam),
            ctc_state=None if self.scorer is None else self.scorer.start().select(rows),
        )

    def _model(self, attention: torch.Tensor, ctc: torch.Tensor | float) -> torch.Tensor:
        return (1.0 - self.weights.ctc) * attention + self.weights.ctc * ctc

    def _end(
        self, beams: _Beams, attention: torch.Tensor, lm: torch.Tensor, ended: list[list[Found]], done: list[bool]
    ) -> None:
        """Adds every living hypothesis with a sentence end behind it."""
        ctc = 0.0 if self.scorer is None else self.scorer.final(beams.ctc_state)
        model, lm = self._model(beams.attention + attention, ctc), beams.lm + lm
        length = beams.tokens.shape[1]
        total = model + self.weights.lm * lm + self.weights.length * length
        rows = zip(beams.tokens.tolist(), model.tolist(), lm.tolist(), total.tolist(), beams.total.tolist())
        for row, (tokens, m, n, t, alive) in enumerate(rows):
            if alive > NEVER / 2 and t > NEVER / 2 and not done[row // self.beam]:
                ended[row // self.beam].append(Found(tuple(tokens), m, n, t))

    def _over(self, beams: _Beams, utterance: int, ended: list[Found], number: int) -> bool:
        """Whether no living hypothesis can come among the best: scores only fall, but for the bonus of further
        tokens.
        """
        if len(ended) < number:
            return False
        best = float(beams.total.view(-1, self.beam)[utterance].max())
        return best + max(self.weights.length, 0.0) * AHEAD <= ended[number - 1].total

    def _extend(self, beams: _Beams, attention: torch.Tensor, lm: torch.Tensor) -> _Beams:
        """The best living hypotheses with one more token."""
        w, vocabulary = self.weights, attention.shape[1]
        step = (1.0 - w.ctc) * attention + w.lm * lm
        step[:, [BLANK_ID, EOS_ID, UNK_ID]] = NEVER
        few = vocabulary if self.scorer is None or w.ctc == 1 else min(vocabulary, max(CANDIDATES * self.beam, 20))
        candidates = step.topk(few, 1).indices  # (R, K)
        attention, lm = attention.gather(1, candidates), lm.gather(1, candidates)
        forbidden = step.gather(1, candidates) <= NEVER / 2
        ctc = torch.zeros_like(attention) if self.scorer is None else self.scorer.scores(beams.ctc_state, candidates)
        new_attention, new_lm = beams.attention[:, None] + attention, beams.lm[:, None] + lm
        total = self._model(new_attention, ctc) + w.lm * new_lm + w.length * (beams.tokens.shape[1] + 1)
        total = total.masked_fill(forbidden | (beams.total <= NEVER / 2)[:, None], NEVER).clamp(min=NEVER)
        best = total.view(-1, self.beam * few).topk(self.beam, 1)
        first = torch.arange(len(best.indices), device=total.device)[:, None] * self.beam
        flat = (best.indices + first * few).flatten()  # into (R * K)
        rows = torch.div(flat, few, rounding_mode="floor")
        labels = candidates.flatten()[flat]
        return _Beams(
            tokens=torch.cat([beams.tokens[rows], labels[:, None]], 1),
            attention=new_attention.flatten()[flat],
            ctc=ctc.flatten()[flat],
            lm=new_lm.flatten()[flat],
            total=best.values.flatten(),
            decoder_state=beams.decoder_state.select(rows),
            lm_state=None if self.lm is None else beams.lm_state.select(rows),
            ctc_state=None if self.scorer is None else self.scorer.extend(beams.ctc_state.select(rows), labels),
        )
