"""The criterion of end-to-end training: the decoder's loss, CTC, and auxiliary losses at layers of the encoder."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.artifacts.tokens import BLANK_ID, EOS_ID
from pipeline.e2e.auxiliary import ModelWithAuxHeads, branch_losses, smoothed_cross_entropy, sums_of
from pipeline.e2e.labels import AuxTargets
from pipeline.e2e.model import EndToEnd
from pipeline.e2e.options import TrainEndToEndOptions
from pipeline.e2e.rnnt import rnnt_loss
from pipeline.e2e.transducer import Transducer
from pipeline.feats.dataset import Batch, Dataset
from pipeline.nn.encoders import Hidden
from pipeline.nn.losses import padded
from pipeline.nn.masks import mask_of
from pipeline.nn.train import Loss

Terms = dict[str, tuple[float, torch.Tensor]]  # weight and value of each part of the objective


class EndToEndLoss:
    """L = L_decoder + w L_CTC + sum of w L_aux. Sequence losses are per token; losses of frames are per frame (as in
    Jiang et al. 2023), or weigh as much as they do beside sums over an utterance (``aux_per``; Liu et al. 2020). In
    evaluation mode there are no auxiliary losses, and the loss may be the share of wrong tokens.
    """

    def __init__(
        self, targets: Sequence[np.ndarray], options: TrainEndToEndOptions, aux: AuxTargets | None = None
    ) -> None:
        """Args:
        targets: (U_n,) token ids, by utterance index.
        aux: of training data, where auxiliary losses need them.
        """
        self.targets, self.options, self.aux = targets, options, aux
        self.unordered = np.random.default_rng(options.seed).random(len(targets)) < options.bag_share

    def __call__(self, with_heads: ModelWithAuxHeads, batch: Batch, done: float) -> Loss:
        """See ``pipeline.nn.train.Criterion``; frames are tokens, each sentence end included."""
        model = with_heads.model
        rows = [self.targets[i] for i in batch.indices]
        token_lens = torch.tensor([len(row) for row in rows], device=batch.lens.device)
        tokens = padded(rows, int(token_lens.max())).to(batch.lens.device)
        wanted = with_heads.auxiliary.layers if model.training else ()
        encoded, lens, layers = model.encode_layers(batch.feats, batch.lens, wanted)
        terms: Terms = {}
        errors = {}
        if model.ctc is not None:
            log_probs = model.ctc_log_probs(encoded)
            terms.update(self._ctc_output(model, log_probs, tokens, lens, token_lens, batch.indices))
            if not model.training:
                errors["ctc"] = greedy_errors(log_probs, lens, rows)
        if model.decoder is not None:
            log_probs = model.decoder(encoded, lens, tokens)
            terms["attention"] = 1.0, self._attention(log_probs, tokens, token_lens)
            errors["attention"] = _next_token_errors(log_probs.detach(), tokens, token_lens)
        if model.transducer is not None:
            terms.update(self._transducer(with_heads, layers, encoded, lens, tokens, token_lens))
        count = int(token_lens.sum()) + len(rows)
        if model.training:
            terms.update(self._supervision(with_heads, layers, encoded, lens, batch.indices, count))
        return self._sum(terms, errors, count, model.training)

    def _ctc_output(
        self,
        model: EndToEnd,
        log_probs: torch.Tensor,
        tokens: torch.Tensor,
        lens: torch.Tensor,
        token_lens: torch.Tensor,
        indices: np.ndarray,
    ) -> Terms:
        """CTC, and in training the bag of tokens of utterances whose order is not known, each per token and end of
        the batch.
        """
        weight = 1.0 if model.options.model == "ctc" else self.options.ctc_weight
        if not model.training or not self.options.bag_share:
            return {"ctc": (weight, _ctc(log_probs, tokens, lens, token_lens))}
        bags = torch.from_numpy(self.unordered[indices]).to(lens.device)
        sizes = token_lens + 1
        terms: Terms = {}
        if not bags.all():
            ctc = _ctc(log_probs[~bags], tokens[~bags], lens[~bags], token_lens[~bags])
            terms["ctc"] = weight, ctc * sizes[~bags].sum() / sizes.sum()
        if bags.any():
            loss = bag_losses(log_probs[bags], lens[bags], tokens[bags], token_lens[bags])
            terms["bag"] = self.options.bag_weight, loss.sum() / sizes.sum()
        return terms

    def _sum(self, terms: Terms, errors: dict[str, int], count: int, training: bool) -> Loss:
        total = functools.reduce(operator.add, (weight * value for weight, value in terms.values())) * count
        sums = {name: float(value.detach()) * count for name, (_, value) in terms.items()}
        sums.update({f"{name}_errors": float(value) for name, value in errors.items()})
        if not training and self.options.choose_by == "errors" and errors:
            sums["objective"] = float(total)
            total = torch.tensor(float(errors.get("ctc", errors.get("attention", 0))))
        return Loss(total, count, sums=sums)

    def _attention(self, log_probs: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy per token and end; smoothed in training."""
        target, mask = _with_end(tokens, token_lens), mask_of(token_lens + 1, log_probs.shape[1])
        smoothing = self.options.label_smoothing if log_probs.requires_grad else 0.0
        return smoothed_cross_entropy(log_probs[mask], target[mask], smoothing).mean()

    def _transducer(
        self,
        with_heads: ModelWithAuxHeads,
        layers: dict[int, Hidden],
        encoded: torch.Tensor,
        lens: torch.Tensor,
        tokens: torch.Tensor,
        token_lens: torch.Tensor,
    ) -> Terms:
        """RNN-T loss per token and end, that of the branches, and their divergence."""
        o, net, aux = self.options, with_heads.model.transducer, with_heads.auxiliary
        assert net is not None
        count = token_lens.sum() + len(token_lens)
        predicted = net.predict(tokens)
        if aux.simple_am is not None and aux.simple_lm is not None:
            if not encoded.requires_grad:
                loss = _one_by_one(net, encoded, predicted, lens, tokens, token_lens)
                return {"transducer": (1.0, loss.sum() / count)}
            from pipeline.e2e.pruned_rnnt import pruned_rnnt_loss

            simple, full = pruned_rnnt_loss(
                aux.simple_am(encoded),
                aux.simple_lm(predicted),
                net.from_encoder(encoded),
                net.from_predictor(predicted),
                lens,
                tokens,
                token_lens,
                lambda a, b: net.output((a + b).tanh()),
                o.prune_range,
            )
            return {"transducer": (1.0, full.sum() / count), "simple": (o.simple_weight, simple.sum() / count)}
        logits = net.logits(encoded, predicted)
        terms = {"transducer": (1.0, rnnt_loss(logits, lens, tokens, token_lens).sum() / count)}
        if layers and aux.branches:
            loss, divergence = branch_losses(
                with_heads, layers, logits, predicted, lens, tokens, token_lens, o.aux_kl_weight > 0
            )
            terms["aux_transducer"] = o.aux_transducer_weight, loss.sum() / count
            if o.aux_kl_weight:
                terms["aux_kl"] = o.aux_kl_weight, self._mean(divergence, lens * (token_lens + 1), int(count))
        return terms

    def _supervision(
        self,
        with_heads: ModelWithAuxHeads,
        layers: dict[int, Hidden],
        encoded: torch.Tensor,
        lens: torch.Tensor,
        indices: np.ndarray,
        count: int,
    ) -> Terms:
        """Losses of what reads the alignment; count: tokens and ends of the batch."""
        o, heads, targets = self.options, with_heads.auxiliary, self.aux
        if targets is None:
            return {}
        # Chance, drawn from the batch's own seed, keeps a resumed training bit-equal.
        labels, tokens = (pick := bool(torch.rand(()) < 0.5), not pick) if o.aux_alternate else (True, True)
        terms: Terms = {}
        for number, head in heads.frame.items():
            if labels:
                found = frame_losses(head, layers[int(number)].x, targets.frame[int(number)], indices, o.aux_smoothing)
                terms[f"frame_{number}"] = o.aux_weight, self._mean(*found, count)
        for number, head in heads.ctc.items():
            terms[f"states_{number}"] = (
                o.aux_ctc_weight,
                states_loss(head, layers[int(number)], targets.states, indices),
            )
        if heads.token is not None and tokens:
            found = frame_losses(heads.token, encoded, targets.token, indices, o.aux_smoothing)
            terms["tokens"] = o.aux_token_weight, self._mean(*found, count)
        return terms

    def _mean(self, sums: torch.Tensor, sizes: torch.Tensor, count: int) -> torch.Tensor:
        """A loss of frames as a part of the objective: their mean, or the sum over utterances of the mean of each, per
        token as sequence losses are.

        Args:
            sums: (N,) over the frames of an utterance. sizes: (N,) frames. count: tokens and ends of the batch.
        """
        if self.options.aux_per == "frame":
            return sums.sum() / sizes.sum().clamp(min=1)
        return (sums / sizes.clamp(min=1)).sum() / count

    def end_epoch(self, model: ModelWithAuxHeads, data: Dataset, done: float) -> None:
        """Nothing to refresh."""

    def diagnose(self, model: ModelWithAuxHeads, figures: dict[str, float], done: float) -> str | None:
        """Nothing beyond what the loop sees."""
        return None


def frame_losses(
    head: nn.Module, x: torch.Tensor, labels: Sequence[np.ndarray], indices: np.ndarray, smoothing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smoothed cross-entropy of labelled frames.

    Args:
        head: from (M, D) to (M, C). It sees the labelled frames only, which costs less than masking its output.
        x: (N, T, D). labels: by utterance, (T_n,) or soft ones, (T_n, C); or empty ones. indices: (N,) utterances.
    Returns:
        (N,) sums over the labelled frames of each utterance, and (N,) how many these are.
    """
    rows = [labels[i] for i in indices]
    place = np.concatenate([n * x.shape[1] + np.arange(len(row)) for n, row in enumerate(rows)])
    joined = np.concatenate(rows)
    targets = torch.from_numpy(joined if joined.ndim > 1 else joined.astype(np.int64)).to(x.device)
    frames = x.flatten(0, 1).index_select(0, torch.from_numpy(place.astype(np.int64)).to(x.device))
    sizes = [len(row) for row in rows]
    return sums_of(smoothed_cross_entropy(head(frames), targets, smoothing), sizes), torch.tensor(sizes).to(x.device)


def states_loss(head: nn.Module, hidden: Hidden, states: Sequence[np.ndarray], indices: np.ndarray) -> torch.Tensor:
    """Mean CTC loss per state and end of the utterances that have states (no states would teach blanks); 0 without any.

    Args:
        head: from (..., D) to (..., C). states: by utterance, (U'_n,), or empty ones. indices: (N,) utterances.
    """
    rows = [states[i] for i in indices]
    known = [n for n, row in enumerate(rows) if len(row)]
    if not known:
        return hidden.x.new_zeros(())
    device = hidden.x.device
    row_lens = torch.tensor([len(rows[n]) for n in known], device=device)
    targets = padded([rows[n] for n in known], int(row_lens.max())).to(device)
    pick = torch.tensor(known, device=device)
    x, lens = hidden.x.index_select(0, pick), hidden.lens.index_select(0, pick.to(hidden.lens.device))
    return _ctc(head(x).log_softmax(-1), targets, lens, row_lens)


def _one_by_one(
    net: Transducer,
    encoded: torch.Tensor,
    predicted: torch.Tensor,
    lens: torch.Tensor,
    tokens: torch.Tensor,
    token_lens: torch.Tensor,
) -> torch.Tensor:
    """(N,) RNN-T losses over full lattices, of which memory holds one at a time: batches for pruned ones are larger
    than full ones would allow.

    Args:
        encoded: (N, T, D). predicted: (N, U + 1, E). lens, token_lens: (N,). tokens: (N, U).
    """
    losses = []
    for n, (length, size) in enumerate(zip(lens.tolist(), token_lens.tolist())):
        own = slice(n, n + 1)
        logits = net.logits(encoded[own, :length], predicted[own, : size + 1])
        losses.append(rnnt_loss(logits, lens[own], tokens[own, :size], token_lens[own]))
    return torch.cat(losses)


def _ctc(log_probs: torch.Tensor, tokens: torch.Tensor, lens: torch.Tensor, token_lens: torch.Tensor) -> torch.Tensor:
    """CTC loss per token and end; utterances too short for their tokens count 0."""
    loss = F.ctc_loss(log_probs.transpose(0, 1).float(), tokens, lens, token_lens, BLANK_ID, "sum", zero_infinity=True)
    return loss / (token_lens.sum() + len(token_lens))


def bag_losses(
    log_probs: torch.Tensor, lens: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy between the tokens of an utterance, in any order, and what its frames say together (Pratap et al.
    2021).

        L = - sum_v n_v log r_v,    r_v = sum_t p_t(v) / sum_{w not blank} sum_t p_t(w)

    n_v counts token v. Blanks are not asked for: they decide how much a frame counts.

    Args:
        log_probs: (N, T, V) natural logs. lens: (N,). tokens: (N, U). token_lens: (N,).
    Returns:
        (N,) nats.
    """
    hidden = ~mask_of(lens, log_probs.shape[1])[:, :, None]
    together = log_probs.float().masked_fill(hidden, float("-inf")).logsumexp(1)  # (N, V)
    said = together.index_fill(1, torch.tensor([BLANK_ID], device=lens.device), float("-inf")).log_softmax(1)
    return -(said.gather(1, tokens).masked_fill(~mask_of(token_lens, tokens.shape[1]), 0.0)).sum(1)


def _with_end(tokens: torch.Tensor, token_lens: torch.Tensor) -> torch.Tensor:
    """(N, U + 1): the tokens and <sos/eos> behind each row's last one."""
    return F.pad(tokens, (0, 1)).scatter(1, token_lens[:, None], EOS_ID)


def _next_token_errors(log_probs: torch.Tensor, tokens: torch.Tensor, token_lens: torch.Tensor) -> int:
    """How many tokens are not the most probable ones, given the right ones before them."""
    wrong = log_probs.argmax(-1) != _with_end(tokens, token_lens)
    return int((wrong & mask_of(token_lens + 1, log_probs.shape[1])).sum())


def greedy_errors(log_probs: torch.Tensor, lens: torch.Tensor, rows: Sequence[np.ndarray]) -> int:
    """Edit distance between the tokens and greedy CTC: the best label of each frame, repetitions and blanks removed."""
    from kaldialign import edit_distance

    total = 0
    for best, length, row in zip(log_probs.detach().argmax(-1).cpu(), lens.tolist(), rows):
        found = torch.unique_consecutive(best[:length])
        total += edit_distance(row.tolist(), found[found != BLANK_ID].tolist())["total"]
    return total
