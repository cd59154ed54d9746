"""Transducer search: greedy, and beam search frame by frame (time-synchronous), for many utterances at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID, UNK_ID
from pipeline.e2e.search.fusion import TokenLm
from pipeline.e2e.search.results import NEVER, Found, Weights, best_first


@dataclass
class _Hyp:
    """A hypothesis of an utterance.

    Attributes:
        model: log of the summed probability of its paths so far. lm, ilm: log probabilities of its tokens.
        row: its row in the pool. parent, token: where a hypothesis that has no row yet comes from.
    """

    utterance: int
    tokens: tuple[int, ...]
    model: float
    lm: float
    ilm: float
    row: int = -1
    parent: int = -1

    def total(self, w: Weights) -> float:
        """The score by which hypotheses are ranked."""
        return self.model + w.lm * self.lm - w.ilm * self.ilm + w.length * len(self.tokens)


@dataclass
class _Pool:
    """Network outputs of all hypotheses of a frame, by row: predictions (R, Dp), states, and what each next token
    costs.
    """

    pred: torch.Tensor
    state: Any
    lm: torch.Tensor | None
    lm_state: Any
    ilm: torch.Tensor | None

    def select(self, rows: list[int]) -> _Pool:
        """Some rows."""
        index = torch.tensor(rows, device=self.pred.device)
        return _Pool(
            self.pred[index],
            self.state.select(index),
            None if self.lm is None else self.lm[index],
            None if self.lm is None else self.lm_state.select(index),
            None if self.ilm is None else self.ilm[index],
        )

    def cat(self, other: _Pool) -> _Pool:
        """Rows of both."""
        lm = None if self.lm is None or other.lm is None else torch.cat([self.lm, other.lm])
        ilm = None if self.ilm is None or other.ilm is None else torch.cat([self.ilm, other.ilm])
        return _Pool(
            torch.cat([self.pred, other.pred]),
            self.state.cat(other.state),
            lm,
            None if lm is None else self.lm_state.cat(other.lm_state),
            ilm,
        )


class TransducerSearch:
    """The search of one model; every weight is fixed."""

    def __init__(
        self,
        transducer: Any,
        weights: Weights = Weights(),
        beam: int = 4,
        max_symbols: int = 4,
        one_symbol: bool = False,
        lm: TokenLm | None = None,
    ) -> None:
        """Args:
        transducer: ``start(n)``, ``step(tokens, state)`` and ``joint(encoded, pred)``, see ``pipeline.e2e.transducer``.
        max_symbols: most tokens at a frame.
        one_symbol: a token uses its frame up, so that there is no blank behind it: faster, and other than in training.
        """
        self.transducer, self.weights, self.beam, self.lm = transducer, weights, beam, lm
        self.max_symbols, self.one_symbol = max_symbols, one_symbol

    def search(self, encoded: torch.Tensor, lens: torch.Tensor, number: int = 1) -> list[list[Found]]:
        """The best hypotheses of each utterance.

        Args:
            encoded: (N, T', D). lens: (N,) frames.
            number: hypotheses wanted, at most the beam.
        """
        n, device = len(encoded), encoded.device
        self._nothing = torch.zeros_like(encoded[:1, 0])
        pred, state = self.transducer.start(n)
        sentence = torch.full((n,), EOS_ID, device=device)
        pool = self._pool(pred, state, sentence, None if self.lm is None else self.lm.start(n))
        beams = [[_Hyp(i, (), 0.0, 0.0, 0.0, row=i)] for i in range(n)]
        lengths = lens.tolist()
        for t in range(max(lengths)):
            active = [i for i in range(n) if t < lengths[i]]
            finished, pool = self._frame([h for i in active for h in beams[i]], pool, encoded[:, t])
            for i in active:
                beams[i] = self._best(finished[i].values())
            kept = [h for i in active for h in beams[i] if t + 1 < lengths[i]]
            if kept:
                pool = pool.select([h.row for h in kept])
            for row, hyp in enumerate(kept):
                hyp.row = row
        ends = self._ends(beams, device)
        return [
            best_first(
                [
                    Found(h.tokens, h.model, h.lm + end, h.total(self.weights) + self.weights.lm * end)
                    for h, end in zip(beams[i], ends[i])
                ],
                number,
            )
            for i in range(n)
        ]

    def _best(self, hyps: Iterable[_Hyp]) -> list[_Hyp]:
        return sorted(hyps, key=lambda h: (-h.total(self.weights), h.tokens))[: self.beam]

    def _frame(self, hyps: list[_Hyp], pool: _Pool, frame: torch.Tensor) -> tuple[dict[int, dict[tuple, _Hyp]], _Pool]:
        """All hypotheses that leave a frame.

        Args:
            hyps: those that enter it. frame: (N, D).
        Returns:
            utterance -> tokens -> hypothesis, whose rows are those of the returned pool.
        """
        finished: dict[int, dict[tuple, _Hyp]] = {h.utterance: {} for h in hyps}
        for symbols in range(self.max_symbols + 1):
            rows = torch.tensor([h.row for h in hyps], device=frame.device)
            at = torch.tensor([h.utterance for h in hyps], device=frame.device)
            log_probs = self.transducer.joint(frame[at], pool.pred[rows]).double()
            for hyp, blank in zip(hyps, log_probs[:, BLANK_ID].tolist()):
                _merge(
                    finished[hyp.utterance],
                    _Hyp(hyp.utterance, hyp.tokens, hyp.model + blank, hyp.lm, hyp.ilm, hyp.row),
                )
            if symbols == self.max_symbols:
                break
            new = self._expand(hyps, log_probs, pool, rows, finished)
            if not new:
                break
            first = len(pool.pred)
            pool = pool.cat(self._step(new, pool))
            for i, hyp in enumerate(new):
                hyp.row = first + i
            if self.one_symbol:
                for hyp in new:
                    _merge(finished[hyp.utterance], hyp)
                break
            hyps = new
        return finished, pool

    def _expand(
        self,
        hyps: list[_Hyp],
        log_probs: torch.Tensor,
        pool: _Pool,
        rows: torch.Tensor,
        finished: dict[int, dict[tuple, _Hyp]],
    ) -> list[_Hyp]:
        """The best hypotheses with one more token, without those that the beam of the frame has left behind already."""
        w, few = self.weights, min(self.beam, log_probs.shape[1])
        scores = log_probs.clone()
        if pool.lm is not None:
            scores += w.lm * pool.lm[rows].double()
        if pool.ilm is not None:
            scores -= w.ilm * pool.ilm[rows].double()
        scores[:, [BLANK_ID, EOS_ID, UNK_ID]] = NEVER
        best = scores.topk(few, 1).indices
        parts = [None if x is None else x[rows].gather(1, best).tolist() for x in (pool.lm, pool.ilm)]
        found: dict[int, list[_Hyp]] = {u: [] for u in finished}
        for k, (hyp, tokens, probs) in enumerate(zip(hyps, best.tolist(), log_probs.gather(1, best).tolist())):
            for j, (token, prob) in enumerate(zip(tokens, probs)):
                if token not in (BLANK_ID, EOS_ID, UNK_ID):
                    lm, ilm = (0.0 if p is None else p[k][j] for p in parts)
                    found[hyp.utterance].append(
                        _Hyp(
                            hyp.utterance,
                            (*hyp.tokens, token),
                            hyp.model + prob,
                            hyp.lm + lm,
                            hyp.ilm + ilm,
                            parent=hyp.row,
                        )
                    )
        out = []
        for utterance, new in found.items():
            others = sorted((h.total(w) for h in finished[utterance].values()), reverse=True)
            worst = NEVER
            if (
                len(others) >= self.beam and not w.ilm
            ):  # what further tokens at this frame may still gain is their bonus
                worst = others[self.beam - 1] - max(w.length, 0.0) * self.max_symbols
            out += [h for h in self._best(new) if h.total(w) > worst]
        return out

    def _step(self, new: list[_Hyp], pool: _Pool) -> _Pool:
        """Network outputs of hypotheses behind their last token."""
        parents = torch.tensor([h.parent for h in new], device=pool.pred.device)
        tokens = torch.tensor([h.tokens[-1] for h in new], device=pool.pred.device)
        pred, state = self.transducer.step(tokens, pool.state.select(parents))
        return self._pool(pred, state, tokens, None if self.lm is None else pool.lm_state.select(parents))

    def _pool(self, pred: torch.Tensor, state: Any, tokens: torch.Tensor, lm_state: Any) -> _Pool:
        lm, ilm = None, None
        if self.lm is not None:
            lm, lm_state = self.lm.step(tokens, lm_state)
        if self.weights.ilm:
            # The predictor's own language model: the joint network without an encoder, blank left out.
            ilm = self.transducer.joint(self._nothing.expand(len(pred), -1), pred).clone()
            ilm[:, BLANK_ID] = NEVER
            ilm = ilm.log_softmax(1)
        return _Pool(pred, state, lm, lm_state, ilm)

    def _ends(self, beams: list[list[_Hyp]], device: torch.device) -> list[list[float]]:
        """The language model's log probability of the sentence end behind each hypothesis."""
        if self.lm is None:
            return [[0.0] * len(beam) for beam in beams]
        hyps = [h for beam in beams for h in beam]
        state = self.lm.start(len(hyps))
        ends = [0.0] * len(hyps)
        for u in range(max(len(h.tokens) for h in hyps) + 1):
            tokens = [EOS_ID if u == 0 else h.tokens[min(u, len(h.tokens)) - 1] if h.tokens else EOS_ID for h in hyps]
            log_probs, state = self.lm.step(torch.tensor(tokens, device=device), state)
            ends = [p if len(h.tokens) == u else e for h, p, e in zip(hyps, log_probs[:, EOS_ID].tolist(), ends)]
        values = iter(ends)
        return [[next(values) for _ in beam] for beam in beams]


def _merge(hyps: dict[tuple, _Hyp], hyp: _Hyp) -> None:
    """Adds a hypothesis; paths with the same tokens are summed."""
    same = hyps.get(hyp.tokens)
    if same is None:
        hyps[hyp.tokens] = hyp
    else:
        same.model = float(np.logaddexp(same.model, hyp.model))


def greedy(transducer: Any, encoded: torch.Tensor, lens: torch.Tensor, max_symbols: int = 4) -> list[list[Found]]:
    """The best token or blank at each step; behind `max_symbols` tokens at a frame comes the next one.

    Returns:
        one hypothesis per utterance; its score is that of the single path.
    """
    n = len(encoded)
    pred, state = transducer.start(n)
    tokens: list[list[int]] = [[] for _ in range(n)]
    totals = torch.zeros(n, dtype=torch.float64, device=encoded.device)
    for t in range(int(lens.max())):
        open_ = t < lens
        for _ in range(max_symbols):
            log_probs = transducer.joint(encoded[:, t], pred)
            log_probs[:, [EOS_ID, UNK_ID]] = NEVER
            best, labels = log_probs.max(1)
            totals += torch.where(open_, best, torch.zeros_like(best))
            open_ = open_ & (labels != BLANK_ID)
            if not bool(open_.any()):
                break
            rows = torch.nonzero(open_).flatten()
            for row in rows.tolist():
                tokens[row].append(int(labels[row]))
            new_pred, new_state = transducer.step(labels[rows], state.select(rows))
            place = torch.arange(n, device=encoded.device)
            place[rows] = n + torch.arange(len(rows), device=encoded.device)
            pred, state = torch.cat([pred, new_pred])[place], state.cat(new_state).select(place)
    return [[Found(tuple(x), float(total), 0.0, float(total))] for x, total in zip(tokens, totals)]
