"""Maximum mutual information and its kin: how probable the reference is among all word (or phone) sequences.

    F = sum_u log [ p(X_u | W_u)^k p(W_u) / sum_W p(X_u | W)^k p(W) ]          (Heigold et al. 2014; Povey 2003, chapter
    3)

    dF / d score(t, s) = k (gamma_num(t, s) - gamma_den(t, s)),    score = log p(s | x_t) - prior_scale log p(s)

Both sums run over HMM state sequences; k is the inverse of the language model's weight in decoding. Boosted MMI (Povey
et al. 2008) lowers the score of each denominator path by b per right frame; sMBR (Gibson and Hain 2006) maximises the
expected number of right frames instead.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pipeline.base.errors import DataError
from pipeline.base.files import atomic_write
from pipeline.feats.dataset import Dataset
from pipeline.graph.denominator import Competitors, References
from pipeline.hmm import full_sum
from pipeline.hmm.graph_source import GraphSource
from pipeline.nn.masks import all_finite, mask_of
from pipeline.nn.sequence import Outer
from pipeline.nn.step import NUMBER

logger = logging.getLogger(__name__)

FAILED = "failed.txt"
OF_UTTERANCE = f"{NUMBER}utterance "  # followed by the set of failures that has it, and its index

MIN_UTTERANCES = 20  # shares of failures say little before so many
ROUNDING = 0.01  # natural logs of an utterance's score, within which two computations of the same sum may differ


class Denominator(Protocol):
    """Where the competing sequences come from: ``GraphSum`` or ``LatticeSum`` of ``pipeline.graph.denominator``."""

    def __call__(
        self, scores: torch.Tensor, lens: torch.Tensor, references: References, accuracy: torch.Tensor | None = None
    ) -> Competitors:
        """Sums of a batch of (N, T, P) scores; with (N, T, P) accuracies also the expected ones and their gradient."""


@dataclass(frozen=True)
class MmiOptions:
    """What is maximised, and which frames count.

    Attributes:
        kind: "mmi", "smbr", or "realign": cross-entropy with the numerator's states, without any denominator.
        acoustic_scale: k.
        prior_scale: weight of the label prior in the scores.
        boost: b of boosted MMI, natural log per right frame; 0 for plain MMI.
        accuracy: what counts as right for boost and sMBR: the same "state" (pdf) or any state of the same "phone".
        cross_entropy: weight of the frame cross-entropy with the numerator's states that is added per frame.
        reject_below: frames are left out where the reference state's denominator occupancy is below this.
        cancel_below: frames are left out where no label's occupancies differ by this much.
        add_lost: references that are not among the denominator's paths are added to them, so that their frames are
            not rejected.
    """

    kind: str = "mmi"
    acoustic_scale: float = 0.2
    prior_scale: float = 1.0
    boost: float = 0.0
    accuracy: str = "state"
    cross_entropy: float = 0.0
    reject_below: float = 0.001
    cancel_below: float = 0.001
    add_lost: bool = True


@dataclass
class Failures:
    """What went wrong, by utterance index, when each was met last.

    Attributes:
        added: whether references that were lost have joined their denominator.
    """

    added: bool = True
    zero_numerator: set[int] = field(default_factory=set)
    empty: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    narrow: set[int] = field(default_factory=set)

    def texts(self) -> dict[str, str]:
        """Set -> reason in words; of the later sets if an utterance is in several."""
        fate = "added to the denominator" if self.added else "frames that the denominator does not know are left out"
        return {
            "missing": f"the reference is not in the lattice: {fate}",
            "narrow": f"the search lost the better scored reference (beam too narrow): {fate}",
            "empty": "empty lattice: left out",
            "zero_numerator": "the reference has no path: left out",
        }

    def reasons(self) -> dict[int, str]:
        """Utterance -> reason in words."""
        return {index: text for name, text in self.texts().items() for index in getattr(self, name)}

    def forget(self, indices: Sequence[int]) -> None:
        """Utterances are about to be met again."""
        for name in self.texts():
            getattr(self, name).difference_update(indices)

    def numbers(self, indices: Sequence[int]) -> dict[str, float]:
        """What a batch adds to the sums of an epoch, which outlive an interruption and are those of all processes."""
        return {f"{OF_UTTERANCE}{name} {i}": 1.0 for name in self.texts() for i in indices if i in getattr(self, name)}

    @classmethod
    def taken_from(cls, figures: dict[str, float], added: bool) -> Failures:
        """Takes these numbers out of an epoch's figures, and those of dev data, which nobody asks for."""
        out = cls(added)
        for number in [n for n in figures if n.startswith((OF_UTTERANCE, f"dev_{OF_UTTERANCE}"))]:
            del figures[number]
            if number.startswith(OF_UTTERANCE):
                name, index = number[len(OF_UTTERANCE) :].split()
                getattr(out, name).add(int(index))
        return out

    def write(self, path: Path, data: Dataset) -> None:
        """A line for each utterance: its id, a tab, the reason."""
        with atomic_write(path) as f:
            f.writelines(f"{data.id(index)}\t{reason}\n" for index, reason in sorted(self.reasons().items()))

    def count(self, path: Path) -> dict[str, int]:
        """How many utterances of such a file have which reason."""
        with path.open(encoding="utf-8") as f:
            found = Counter(line.rstrip("\n").split("\t")[1] for line in f)
        return {name: found[text] for name, text in self.texts().items()}

    def check(self, seen: int, max_failed: float, max_missing: float) -> None:
        """DataError with advice when too many of the utterances seen have failed."""
        if seen < MIN_UTTERANCES:
            return
        for name, limit, advice in (
            ("zero_numerator", max_failed, "references without any path: do the transcripts belong to the audio?"),
            ("empty", max_failed, "empty lattices: widen --beam (--graph-beam) or raise --max-active and --retries"),
            (
                "narrow",
                max_missing,
                "utterances whose search lost a better scored reference: widen --beam (--graph-beam) or raise "
                "--max-active (--graph-max-active)",
            ),
            (
                "missing",
                max_missing,
                "references that are not in their lattice: widen --lattice-beam, lower "
                "--acoustic-scale, or check that the graph has the words of the transcripts",
            ),
        ):
            count = len(getattr(self, name))
            if count > limit * seen:
                raise DataError(f"{count:,} of {seen:,} {advice} (allowed share: {limit:g})")


class SequenceObjective:
    """An ``OuterGradient`` of the MMI family.

    Attributes:
        failures: found so far by this process.
        on_epoch: called after each epoch with the failures of all processes in it.
    """

    def __init__(
        self,
        graphs: GraphSource,
        transitions: torch.Tensor,
        denominator: Denominator | None,
        log_prior: torch.Tensor,
        criterion: MmiOptions,
        *,
        words: Sequence[Sequence[int]] | None = None,
        lm_scores: np.ndarray | None = None,
        alignment: Sequence[np.ndarray] | None = None,
        tolerance: int = 0,
        same: torch.Tensor | None = None,
        ignore: Sequence[int] = (),
        max_failed: float = 0.05,
        max_missing: float = 0.5,
    ) -> None:
        """Args:
        graphs: transcript graphs by utterance index.
        transitions: (n_tid,) natural-log transition scores, with their scale, as in the denominator.
        denominator: None for "realign".
        log_prior: (P,) natural logs.
        words: word ids of the transcripts, to look them up in lattices.
        lm_scores: (M,) natural-log language model scores of the references; None: 0, F lacks a constant then.
        alignment: (T_n,) pdf-ids per utterance; the numerator may use only labels that it has within `tolerance`
            frames.
        same: (P, P) bool, labels that count as the same for the accuracy; None: only themselves.
        ignore: labels (of silence) whose frames are left out of the update.
        max_failed: share of utterances without lattice or numerator above which a DataError is raised.
        max_missing: the same for references that are not in their lattice.
        """
        assert (denominator is None) == (criterion.kind == "realign"), criterion
        self.graphs, self.transitions, self.denominator, self.log_prior = graphs, transitions, denominator, log_prior
        self.criterion, self.words, self.lm_scores, self.alignment, self.tolerance = (
            criterion,
            words,
            lm_scores,
            alignment,
            tolerance,
        )
        self.same, self.ignore = same, torch.tensor(sorted(ignore), dtype=torch.int64)
        self.max_failed, self.max_missing = max_failed, max_missing
        self.on_epoch: Callable[[Failures], None] | None = None
        self.failures, self._seen = Failures(criterion.add_lost), np.zeros(len(graphs), dtype=bool)

    @torch.no_grad()
    def outer(self, log_posteriors: torch.Tensor, lens: torch.Tensor, indices: np.ndarray) -> Outer:
        """See ``pipeline.nn.sequence.OuterGradient``."""
        c, mask = self.criterion, mask_of(lens, log_posteriors.shape[1])
        if not all_finite(log_posteriors, mask):  # the network's failure, not that of the references
            return Outer(torch.zeros_like(log_posteriors), float("nan"), int(mask.sum()))
        scores = self._scores(log_posteriors)
        log_num, numerator = self._numerator(scores, lens, indices)
        failed = ~torch.isfinite(log_num)
        self.failures.forget(indices.tolist())
        self.failures.zero_numerator.update(int(i) for i in indices[failed.numpy()])
        reference = numerator.argmax(2)  # (N, T)
        rejected = torch.zeros_like(mask)
        if self.denominator is None:
            gradient, value = self._cross_entropy(log_posteriors, numerator, mask)
            objective = value
        else:
            gradient, objective, found = self._against(scores, lens, indices, log_num, numerator, reference)
            failed = failed | ~torch.isfinite(found.log_z)
            rejected = (found.occupancy.gather(2, reference[:, :, None])[:, :, 0] < c.reject_below) & mask
            if c.cross_entropy:
                gradient = gradient + c.cross_entropy * self._cross_entropy(log_posteriors, numerator, mask)[0]
        self._seen[indices] = True
        self.failures.check(int(self._seen.sum()), self.max_failed, self.max_missing)
        used = mask & ~failed.to(mask.device)[:, None]
        rejected &= used
        cancelled = used & ~rejected & (gradient.abs().amax(2) < c.cancel_below * c.acoustic_scale)
        ignored = torch.isin(reference, self.ignore.to(reference.device))
        keep = used & ~rejected & ~cancelled & ~ignored
        right = float((log_posteriors.argmax(2) == reference)[used].sum())
        return Outer(
            gradient * keep[:, :, None],
            float(objective[~failed].sum()),
            int(used.sum()),
            int(cancelled.sum()),
            int(rejected.sum()),
            failed.nonzero()[:, 0].tolist(),
            {"accuracy": right, **self.failures.numbers(indices.tolist())},
        )

    @torch.no_grad()
    def references(self, log_posteriors: torch.Tensor, lens: torch.Tensor, indices: np.ndarray) -> list[np.ndarray]:
        """(T_n,) int64, the state of each frame that the numerator knows best; no frame for utterances without a
        numerator.
        """
        scores = self._scores(log_posteriors)
        log_num, numerator = self._numerator(scores, lens, indices)
        states = numerator.argmax(2).cpu().numpy()
        return [
            states[row, : int(lens[row]) if bool(torch.isfinite(log_num[row])) else 0] for row in range(len(indices))
        ]

    def diagnose(self, figures: dict[str, float]) -> str | None:
        """An epoch in which hardly any frame is left to learn from; takes the failures out of its figures."""
        found = Failures.taken_from(figures, self.failures.added)
        if self.on_epoch is not None:
            self.on_epoch(found)
        gone = figures.get("rejected", 0.0)
        if gone > 0.5:
            return (
                f"{gone:.0%} of the frames are rejected: the denominator hardly knows the reference. Usual cures: "
                f"a lower "
                f"--learning-rate, a wider --lattice-beam, a lower --acoustic-scale"
            )
        return None

    def _scores(self, log_posteriors: torch.Tensor) -> torch.Tensor:
        """(N, T, P) scaled pseudo log-likelihoods."""
        c = self.criterion
        return c.acoustic_scale * (log_posteriors - c.prior_scale * self.log_prior.to(log_posteriors.device))

    def _numerator(
        self, scores: torch.Tensor, lens: torch.Tensor, indices: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) float64 log sums with the language model's score, (N, T, P) occupancies."""
        graphs = self.graphs.of(indices).graphs
        if self.alignment is not None:
            scores = scores.masked_fill(~self._allowed(scores, lens, indices), -np.inf)
        leaf = scores.detach().cpu().requires_grad_(True)
        with torch.enable_grad():
            log_z = full_sum(graphs, leaf, lens.cpu(), self.transitions)
            occupancy = torch.autograd.grad(log_z.sum(), leaf)[0]
        log_z = log_z.detach().double()
        if self.lm_scores is not None:
            log_z = log_z + torch.from_numpy(self.lm_scores[indices])
        return log_z, occupancy.to(scores.device)

    def _allowed(self, scores: torch.Tensor, lens: torch.Tensor, indices: np.ndarray) -> torch.Tensor:
        """(N, T, P) bool, labels that the alignment has close by."""
        assert self.alignment is not None
        out = torch.zeros(scores.shape, dtype=torch.bool)
        for row, index in enumerate(indices):
            labels = torch.from_numpy(np.asarray(self.alignment[index], dtype=np.int64))
            length = int(lens[row])
            assert len(labels) == length, (len(labels), length)
            for shift in range(-self.tolerance, self.tolerance + 1):
                at = torch.arange(length).clamp(0, length - 1)
                out[row, at, labels[(at + shift).clamp(0, length - 1)]] = True
        return out.to(scores.device)

    def _cross_entropy(
        self, log_posteriors: torch.Tensor, numerator: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient (N, T, P) and value (N,) of the cross-entropy with the numerator's best states."""
        best = torch.zeros_like(numerator).scatter_(2, numerator.argmax(2, keepdim=True), 1.0)
        value = log_posteriors.gather(2, numerator.argmax(2, keepdim=True))[:, :, 0].masked_fill(~mask, 0.0)
        return (best - log_posteriors.exp()) * mask[:, :, None], value.double().sum(1).cpu()

    def _against(
        self,
        scores: torch.Tensor,
        lens: torch.Tensor,
        indices: np.ndarray,
        log_num: torch.Tensor,
        numerator: torch.Tensor,
        reference: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, Competitors]:
        """Gradient (N, T, P), value (N,) and the competitors, among which the reference always is with ``add_lost``."""
        c, denominator = self.criterion, self.denominator
        assert denominator is not None
        accuracy = None
        if c.boost or c.kind == "smbr":
            accuracy = self._accuracy(reference, scores.shape[2])
            if c.boost:
                scores = scores - c.boost * accuracy
        words = None if self.words is None else [self.words[i] for i in indices]
        found = denominator(scores, lens, words, accuracy if c.kind == "smbr" else None)
        found = self._with_reference(found, lens, indices, log_num, numerator, accuracy)
        if c.kind == "smbr":
            assert found.gradient is not None and found.accuracy is not None
            return c.acoustic_scale * found.gradient, found.accuracy, found
        return c.acoustic_scale * (numerator - found.occupancy), log_num - found.log_z, found

    def _accuracy(self, reference: torch.Tensor, num_pdfs: int) -> torch.Tensor:
        """(N, T, P) float32, 1 for labels that are right."""
        if self.same is None:
            return torch.nn.functional.one_hot(reference, num_pdfs).to(torch.float32)
        return self.same.to(reference.device)[reference].to(torch.float32)

    def _with_reference(
        self,
        found: Competitors,
        lens: torch.Tensor,
        indices: np.ndarray,
        log_num: torch.Tensor,
        numerator: torch.Tensor,
        accuracy: torch.Tensor | None,
    ) -> Competitors:
        """Finds the denominators that lack the numerator, and adds it to them if wanted; a path more, so log Z,
        occupancies and accuracies are mixed.
        """
        boosted = log_num
        if self.criterion.boost:
            assert accuracy is not None
            boosted = log_num - self.criterion.boost * (numerator * accuracy).sum((1, 2)).double().cpu()
        empty = ~torch.isfinite(found.log_z)
        self.failures.empty.update(int(i) for i in indices[empty.numpy()])
        # A sum cannot be less than one of its terms: then the search has lost the reference, whether it was looked up
        # or not.
        lost = (boosted > found.log_z + ROUNDING).numpy() & (self.lm_scores is not None)
        lacking = np.union1d(found.missing, np.flatnonzero(lost)).astype(np.int64)
        for row in lacking.tolist():
            if not torch.isfinite(boosted[row]) or empty[row]:
                continue
            (self.failures.narrow if lost[row] else self.failures.missing).add(int(indices[row]))
            if self.criterion.add_lost:
                found.add(row, boosted[row], numerator[row], accuracy)
        return found
