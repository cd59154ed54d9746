"""Long recordings through an encoder, a window at a time.

An encoder with attention needs T x T numbers, and any encoder keeps the activations of all frames, so an hour of speech
does not pass in one piece. Windows overlap, and only the middle of each is used. Encoders whose context is shorter than
the overlap (convolutions, feed-forward windows) give what they would give for the whole; recurrent and attention
encoders, which were trained on utterances of seconds, see as much as they do there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

WINDOW = 3_000  # frames of a window that are used
OVERLAP = 500  # further frames on either side
LONGEST = 6_000  # frames of an utterance that passes in one piece

Encode = Callable[[torch.Tensor, torch.Tensor], "tuple[torch.Tensor, torch.Tensor]"]


def encode_windows(
    encode: Encode, feats: torch.Tensor, lens: torch.Tensor, subsampling: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encodes a batch; utterances above LONGEST frames in windows, the others in one piece, whatever the batch holds.

    Args:
        encode: (N, T, F), (N,) -> (N, T', D), (N,) with T' = ceil(T / subsampling).
        feats: (N, T, F) float32.
        lens: (N,) int64 frames.
        subsampling: frames per frame of the output.
    Returns:
        (N, T', D) and (N,) as `encode` would return them; 0 behind the end of utterances where one is long.
    """
    if feats.shape[1] <= LONGEST:
        return encode(feats, lens)
    out, out_lens = None, torch.div(lens + subsampling - 1, subsampling, rounding_mode="floor")
    window, overlap = (n // subsampling * subsampling for n in (WINDOW, OVERLAP))
    for n, length in enumerate(lens.tolist()):
        size = window if length > LONGEST else max(length, 1)
        for begin in range(0, max(length, 1), size):
            first, last = max(0, begin - overlap), min(length, begin + size + overlap)
            piece, _ = encode(feats[n : n + 1, first:last], torch.tensor([last - first], device=lens.device))
            if out is None:
                out = piece.new_zeros((len(lens), int(out_lens.max()), piece.shape[2]))
            to, skip = begin // subsampling, (begin - first) // subsampling
            used = piece[0, skip : skip - (-size // subsampling)]
            out[n, to : to + len(used)] = used
    assert out is not None
    return out, out_lens
