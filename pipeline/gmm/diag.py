"""Mixtures of diagonal-covariance Gaussians for all pdfs at once, in a handful of packed tensors.

log p(x | p) = log sum_g w_g exp( -1/2 [ F log 2 pi + sum_f log v_gf + (x_f - m_gf)^2 / v_gf ] ), which is linear in
[x, x^2] for each Gaussian; so all Gaussians of a block of frames cost one matrix product.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.base.errors import DataError

# Scores of Gaussians computed at once: they should stay in the processor's cache.
CELLS = 250_000


@dataclasses.dataclass(frozen=True, eq=False)
class DiagGmms:
    """The mixtures of P pdfs; the Gaussians of a pdf lie side by side.

    Args:
        weights: (G,) float32, mixture weights; they sum to 1 over each pdf.
        means: (G, F) float32.
        vars: (G, F) float32, positive.
        offsets: (P + 1,) int64; the Gaussians of pdf p are offsets[p]:offsets[p + 1], at least one each.
    """

    weights: torch.Tensor
    means: torch.Tensor
    vars: torch.Tensor
    offsets: torch.Tensor

    def __post_init__(self) -> None:
        for name in ("weights", "means", "vars"):
            object.__setattr__(self, name, getattr(self, name).to(torch.float32).contiguous())
        object.__setattr__(self, "offsets", self.offsets.to("cpu", torch.int64))
        assert self.means.shape == self.vars.shape and len(self.means) == len(self.weights), (
            self.means.shape,
            self.vars.shape,
        )
        assert int(self.offsets[0]) == 0 and int(self.offsets[-1]) == len(self.weights), self.offsets

    @property
    def num_pdfs(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_gauss(self) -> int:
        return len(self.weights)

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @property
    def device(self) -> torch.device:
        return self.means.device

    def sizes(self) -> np.ndarray:
        """(P,) int64 Gaussians of each pdf."""
        return np.diff(self.offsets.numpy())

    def gauss_pdf(self) -> np.ndarray:
        """(G,) int64, the pdf of each Gaussian."""
        return np.repeat(np.arange(self.num_pdfs), self.sizes())

    def to(self, device: str | torch.device) -> DiagGmms:
        """The same mixtures with their parameters on `device`."""
        return DiagGmms(self.weights.to(device), self.means.to(device), self.vars.to(device), self.offsets)

    def validate(self, where: str) -> DiagGmms:
        """Returns self; DataError when a pdf has no Gaussian or a parameter is not a number in its range."""
        if (self.sizes() < 1).any():
            raise DataError(f"{where}: pdf {int(np.argmin(self.sizes()))} has no Gaussian")
        for name in ("weights", "means", "vars"):
            if not bool(torch.isfinite(getattr(self, name)).all()):
                raise DataError(f"{where}: {name} hold NaN or infinity")
        if not (bool((self.vars > 0).all()) and bool((self.weights > 0).all())):
            raise DataError(f"{where}: a variance or weight is not positive")
        total = torch.zeros(self.num_pdfs, dtype=torch.float64)
        total.index_add_(0, torch.from_numpy(self.gauss_pdf()), self.weights.double().cpu())
        worst = int((total - 1).abs().argmax())
        if abs(float(total[worst]) - 1) > 1e-3:
            raise DataError(f"{where}: the weights of pdf {worst} sum to {float(total[worst]):.5f}, not 1")
        return self

    def tensors(self) -> dict[str, torch.Tensor]:
        """What a model file holds; `from_tensors` reads it."""
        return {"weights": self.weights, "means": self.means, "vars": self.vars, "offsets": self.offsets}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], where: str) -> DiagGmms:
        """The mixtures of a model file; DataError when it is not one or its numbers make no sense."""
        try:
            weights, means, var, offsets = (tensors[k] for k in ("weights", "means", "vars", "offsets"))
        except KeyError as e:
            raise DataError(f"{where}: not a GMM (tensor {e} is missing)") from None
        fits = means.dim() == 2 and means.shape == var.shape and weights.shape == means.shape[:1] and len(offsets) > 1
        if not fits or int(offsets[0]) != 0 or int(offsets[-1]) != len(weights):
            raise DataError(f"{where}: not a GMM (the shapes of its tensors do not fit together)")
        return cls(weights, means, var, offsets).validate(where)


class Evaluator:
    """Log-likelihoods under one set of mixtures; holds the matrix that [x, x^2] is multiplied with."""

    def __init__(self, gmms: DiagGmms) -> None:
        self.gmms = gmms
        var, mean = gmms.vars.double(), gmms.means.double()
        const = gmms.weights.double().log() - 0.5 * (gmms.dim * math.log(2 * math.pi) + var.log().sum(1))
        self.const = (const - 0.5 * (mean * mean / var).sum(1)).float()  # (G,)
        self.matrix = torch.cat([mean / var, -0.5 / var], dim=1).float()  # (G, 2F)
        self._offsets, self._sizes = gmms.offsets.numpy(), gmms.sizes()

    def log_likes(self, feats: torch.Tensor, pdfs: Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """Mixture log-likelihoods.

        Args:
            feats: (T, F) float32.
            pdfs: the pdf-ids wanted; None: all.
        Returns:
            (T, P') float32 natural logs, columns in the order of `pdfs`.
        """
        picked = np.arange(self.gmms.num_pdfs) if pdfs is None else np.asarray(pdfs, dtype=np.int64)
        out = torch.empty((len(feats), len(picked)), dtype=torch.float32, device=feats.device)
        self.into(out, feats, picked)
        return out

    def into(self, out: torch.Tensor, feats: torch.Tensor, pdfs: np.ndarray) -> None:
        """Writes the log-likelihoods of (T, F) features for (P',) pdf-ids into `out` (T, P')."""
        sizes, first = self._sizes[pdfs], self._offsets[pdfs]
        splits = np.concatenate([[0], np.cumsum(sizes)])
        gauss = torch.from_numpy(np.arange(splits[-1]) + np.repeat(first - splits[:-1], sizes)).to(self.matrix.device)
        matrix, const = self.matrix[gauss], self.const[gauss][:, None]
        block = max(64, CELLS // max(len(gauss), 1))
        for begin in range(0, len(feats), block):
            x = feats[begin : begin + block]
            # A frame so far out that its square overflows stays comparable.
            scores = torch.addmm(const, matrix, torch.cat([x, x * x], dim=1).t()).clamp_(min=-1e30)  # (G', T)
            _log_sum(scores, splits, out[begin : begin + block])

    def posteriors(self, pdf: int, feats: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posteriors (n, g) of one pdf's Gaussians and log-likelihoods (n,) of the pdf for (n, F) features."""
        span = slice(int(self._offsets[pdf]), int(self._offsets[pdf + 1]))
        stacked = torch.cat([feats, feats * feats], dim=1)
        scores = torch.addmm(self.const[span], stacked, self.matrix[span].t())
        log_like = torch.logsumexp(scores, dim=1) if scores.shape[1] > 1 else scores[:, 0]
        return (scores - log_like[:, None]).exp_(), log_like


def _log_sum(scores: torch.Tensor, splits: np.ndarray, out: torch.Tensor) -> None:
    """out[t, p] = log of the summed exponentials of rows splits[p]:splits[p + 1] of (G, T) scores."""
    if scores.device.type == "cpu":
        from pipeline.gmm.kernel import log_sum

        log_sum(scores.numpy(), splits, out.numpy())
        return
    sizes = np.diff(splits)
    padded = torch.from_numpy(np.minimum(splits[:-1, None] + np.arange(sizes.max()), splits[1:, None] - 1)).to(
        scores.device
    )
    inside = torch.from_numpy(np.arange(sizes.max()) < sizes[:, None]).to(scores.device)  # (P, largest)
    terms = scores[padded].masked_fill(~inside[:, :, None], float("-inf"))  # (P, largest, T)
    out.copy_(torch.logsumexp(terms, dim=1).t())
