"""Position prediction: another thing that an encoder learns from speech without transcripts."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.nn.masks import mask_of
from pipeline.nn.positions import sinusoids


class Position(nn.Module):
    """Each frame tells where in the utterance it is, by a softmax over the places of the utterance (MP3, Zhai et al.
    2022).

        L = - log [ exp(q_t e_t) / sum_s exp(q_t e_s) ]

    q_t is linear in the output at frame t of an encoder that knows no positions (``content_alone``), e_s are the
    sinusoids of place s. The paper has a row of weights for each of a fixed number of places; with sinusoids an
    utterance may be as long as it is.
    """

    def __init__(self, dim: int) -> None:
        """Args:
        dim: of the encoder's output, even.
        """
        super().__init__()
        self.query = nn.Linear(dim, dim)

    def forward(self, encoded: torch.Tensor, lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Args:
            encoded: (N, T, D). lens: (N,) real frames.
        Returns:
            the loss summed over the real frames, and for how many of these the most probable place is theirs.
        """
        num_frames, dim = encoded.shape[1:]
        real = mask_of(lens, num_frames)
        place = torch.arange(num_frames, device=encoded.device)
        scores = self.query(encoded).float() @ sinusoids(place, dim).T  # (N, T, T)
        scores = scores.masked_fill(~real[:, None, :], float("-inf"))[real]
        own = place.expand_as(real)[real]
        return F.cross_entropy(scores, own, reduction="sum"), (scores.argmax(-1) == own).sum()


def some_frames(lens: torch.Tensor, num_frames: int, share: float) -> torch.Tensor:
    """Frames by torch's random numbers; each utterance has one at least.

    Args:
        lens: (N,) real frames of num_frames. share: of the real frames, on average.
    Returns:
        (N, T) bool.
    """
    chance = torch.rand((len(lens), num_frames), device=lens.device).masked_fill(~mask_of(lens, num_frames), 2.0)
    return (chance < share) | (chance == chance.amin(1, keepdim=True))
