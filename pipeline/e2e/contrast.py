"""Masked contrastive prediction: what an encoder learns from speech without transcripts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.nn.frames import Subsample
from pipeline.nn.masks import mask_of

TEMPERATURE = 0.1  # of the cosines between predictions and frames (Baevski et al. 2020)


class Contrast(nn.Module):
    """Masked frames tell their own features from those of the other masked frames of the utterance (InfoNCE; Baevski
    et al. 2020, without their quantisation, as in Talnikar et al. 2020).

        L = - log [ exp(cos(c_t, z_t) / k) / sum_s exp(cos(c_t, z_s) / k) ]

    c_t is linear in the encoder's output at a masked frame t, z_s in the features of frame s, joined to the rate of
    the output, before they were masked; s runs over all masked frames of the utterance, of which the papers draw 100.
    """

    def __init__(self, encoder_dim: int, feature_dim: int, factor: int) -> None:
        """Args:
        factor: feature frames per frame of the encoder's output.
        """
        super().__init__()
        self.frames = Subsample(factor)
        self.context = nn.Linear(encoder_dim, encoder_dim)
        self.target = nn.Linear(self.frames.out_dim(feature_dim), encoder_dim)

    def forward(
        self, encoded: torch.Tensor, feats: torch.Tensor, lens: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Args:
            encoded: (N, T', D) from masked features. feats: (N, T, F) without masks. lens: (N,) of these.
            mask: (N, T') bool, the masked frames, one at least in each utterance.
        Returns:
            the loss summed over masked frames, and for how many of these their own features score best.
        """
        counts = mask.sum(1)
        sides = self.context(encoded[mask]), self.target(self.frames(feats, lens)[0][mask])  # (M, D)
        query, key = (
            nn.utils.rnn.pad_sequence(F.normalize(x.float(), dim=-1).split(counts.tolist()), batch_first=True)
            for x in sides
        )
        scores = query @ key.transpose(1, 2) / TEMPERATURE  # (N, K, K), K masked frames at most
        real = mask_of(counts, scores.shape[1])
        scores = scores.masked_fill(~real[:, None, :], float("-inf"))[real]
        own = torch.arange(real.shape[1], device=real.device).expand_as(real)[real]
        return F.cross_entropy(scores, own, reduction="sum"), (scores.argmax(-1) == own).sum()


def span_mask(lens: torch.Tensor, num_frames: int, share: float, size: int) -> torch.Tensor:
    """Spans of frames, which may overlap, by torch's random numbers; each utterance has one at least.

    Args:
        lens: (N,) real frames of num_frames.
        share: of the frames of a long utterance that are in a span, on average.
        size: frames of a span.
    Returns:
        (N, T) bool.
    """
    starts = torch.rand((len(lens), num_frames), device=lens.device) < 1.0 - (1.0 - share) ** (1.0 / size)
    first = (torch.rand(len(lens), device=lens.device) * lens).long().minimum(lens - 1)  # products may round up
    starts = starts.scatter(1, first[:, None], True).float()
    covered = F.max_pool1d(F.pad(starts, (size - 1, 0))[:, None], size, 1)[:, 0] > 0
    return covered & mask_of(lens, num_frames)
