"""Maximum-likelihood updates of mixtures: means, variances, weights, removal and splitting of Gaussians."""

from __future__ import annotations

import dataclasses
import heapq
import logging

import numpy as np
import torch

from pipeline.gmm.diag import DiagGmms
from pipeline.gmm.stats import GmmStats

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class UpdateReport:
    """What an update did besides the plain maximum-likelihood step.

    Args:
        removed: Gaussians dropped for too few frames or too little weight.
        kept: pdfs whose last Gaussian had too few frames, so that its mean and variances stayed as they were.
        unseen: those among them without any frame.
        floored: variances raised to the floor.
    """

    removed: int
    kept: int
    unseen: int
    floored: int


def update(
    gmms: DiagGmms,
    stats: GmmStats,
    min_count: float = 10.0,
    min_weight: float = 1e-5,
    min_var: float = 1e-3,
    min_trained: float = 1e-8,
) -> tuple[DiagGmms, UpdateReport]:
    """Maximum-likelihood update, cf. Kaldi MleDiagGmmUpdate.

    mean = first / occ, var = max(second / occ - mean^2, min_var), weight = occ / occ of the pdf. Gaussians below
    min_count frames or min_weight are removed; each pdf keeps at least its heaviest one, with its old mean and
    variances when that one is too light as well. A Gaussian that stays although it has hardly any frame (min_count 0)
    keeps its mean and variances.

    Args:
        gmms: the mixtures that the posteriors of `stats` come from.
        min_count: frames.
        min_var: squared feature units.
        min_trained: frames that new means and variances need.
    """
    offsets, gauss_pdf = gmms.offsets.numpy(), gmms.gauss_pdf()
    occ = stats.occ.double().numpy()
    pdf_occ = np.bincount(gauss_pdf, weights=occ, minlength=gmms.num_pdfs)
    old_weight = gmms.weights.double().cpu().numpy()
    share = np.where(pdf_occ[gauss_pdf] > 0, occ / np.maximum(pdf_occ[gauss_pdf], 1e-30), old_weight)
    keep = (occ >= min_count) & (share >= min_weight)
    enough = keep & (occ > min_trained)
    light_pdf = np.bincount(gauss_pdf, weights=enough, minlength=gmms.num_pdfs) == 0
    keep[_heaviest(share, offsets)[light_pdf]] = True
    denominator = torch.from_numpy(np.where(enough, occ, 1.0))[:, None]
    mean = stats.first / denominator
    var = stats.second / denominator - mean * mean
    floored = int((var < min_var).sum(1).numpy()[enough].sum())
    trained = torch.from_numpy(enough)[:, None]
    mean = torch.where(trained, mean, gmms.means.double().cpu())
    var = torch.where(trained, var.clamp(min=min_var), gmms.vars.double().cpu())
    kept = torch.from_numpy(np.flatnonzero(keep))
    weight = np.maximum(share[keep], 1e-10)
    total = np.bincount(gauss_pdf[keep], weights=weight, minlength=gmms.num_pdfs)
    sizes = np.bincount(gauss_pdf[keep], minlength=gmms.num_pdfs)
    new = DiagGmms(
        torch.from_numpy(weight / total[gauss_pdf[keep]]),
        mean[kept],
        var[kept],
        torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
    ).to(gmms.device)
    report = UpdateReport(int((~keep).sum()), int(light_pdf.sum()), int((pdf_occ <= 0).sum()), floored)
    return new, report


def _heaviest(weight: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """(P,) index of the first Gaussian of largest weight in each pdf."""
    return np.array([b + int(np.argmax(weight[b:e])) for b, e in zip(offsets[:-1], offsets[1:])])


def split_targets(occ: np.ndarray, num_gauss: int, power: float, split_count: float) -> np.ndarray:
    """Gaussians that each pdf should have, cf. Kaldi GetSplitTargets.

    Starting from one per pdf, each further Gaussian goes to the pdf with the largest occ^power per Gaussian, as long
    as the pdf has split_count frames for each.

    Args:
        occ: (P,) frames of each pdf.
        num_gauss: wanted sum; less when there are not enough frames.
    Returns:
        (P,) int64.
    """
    targets = np.ones(len(occ), dtype=np.int64)
    strength = np.maximum(occ, 0.0) ** power
    queue = [(-float(s), p) for p, s in enumerate(strength)]
    heapq.heapify(queue)
    missing = num_gauss - len(occ)
    while missing > 0 and queue:
        _, pdf = heapq.heappop(queue)
        if occ[pdf] < split_count * (targets[pdf] + 1):
            continue
        targets[pdf] += 1
        missing -= 1
        heapq.heappush(queue, (-float(strength[pdf] / targets[pdf]), pdf))
    return targets


def grow(
    gmms: DiagGmms,
    occ: np.ndarray,
    num_gauss: int,
    power: float = 0.25,
    split_count: float = 20.0,
    perturb: float = 0.01,
    seed: int = 1,
) -> DiagGmms:
    """Splits Gaussians until each pdf has its share of `num_gauss`; no pdf loses any.

    The heaviest Gaussian of a pdf is split first: both halves get half its weight and its variances, and means that
    lie perturb * standard deviation * normal noise on either side of the old one.

    Args:
        occ: (P,) frames of each pdf.
        seed: equal seeds give equal noise.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = split_targets(occ, num_gauss, power, split_count)
    parts = []
    device, gmms = gmms.device, gmms.to("cpu")
    for pdf, (begin, end) in enumerate(zip(gmms.offsets[:-1].tolist(), gmms.offsets[1:].tolist())):
        part = (gmms.weights[begin:end], gmms.means[begin:end], gmms.vars[begin:end])
        extra = int(targets[pdf]) - (end - begin)
        parts.append(_split(*part, extra, perturb, generator) if extra > 0 else part)
    offsets = torch.tensor([0, *np.cumsum([len(p[0]) for p in parts]).tolist()])
    weights, means, variances = (torch.cat(tensors) for tensors in zip(*parts))
    return DiagGmms(weights, means, variances, offsets).to(device)


def _split(
    weights: torch.Tensor,
    means: torch.Tensor,
    var: torch.Tensor,
    extra: int,
    perturb: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    size, dim = len(weights), means.shape[1]
    weights = torch.cat([weights, weights.new_zeros(extra)])
    means = torch.cat([means, means.new_zeros(extra, dim)])
    var = torch.cat([var, var.new_ones(extra, dim)])
    for new in range(size, size + extra):
        old = int(weights[:new].argmax())
        noise = torch.randn(dim, generator=generator) * var[old].sqrt() * perturb
        weights[old] /= 2
        weights[new] = weights[old]
        var[new] = var[old]
        means[new] = means[old] - noise
        means[old] = means[old] + noise
    return weights, means, var


def global_gaussian(moments: tuple[torch.Tensor, torch.Tensor], num_pdfs: int, min_var: float) -> DiagGmms:
    """The flat start: every pdf is one Gaussian with mean and variances of all frames.

    Args:
        moments: (F,) float64 mean and variances, see ``Dataset.moments``.
    """
    mean, var = moments[0], moments[1].clamp(min=min_var)
    return DiagGmms(
        torch.ones(num_pdfs), mean.expand(num_pdfs, -1), var.expand(num_pdfs, -1), torch.arange(num_pdfs + 1)
    )


def single_gaussians(start: DiagGmms, stats: GmmStats, min_var: float) -> DiagGmms:
    """One Gaussian per pdf from labelled frames, cf. Kaldi gmm-init-model.

    Args:
        start: P single Gaussians, which stay for pdfs without a frame.
        stats: of these.
    """
    gmms, report = update(start, stats, min_count=2.0, min_weight=0.0, min_var=min_var)
    if report.kept:
        logger.info(
            "%d of %d pdfs have fewer than 2 frames and start from the Gaussian of all frames",
            report.kept,
            gmms.num_pdfs,
        )
    return gmms
