"""Whether a model scores a long utterance a stretch at a time as it does in one piece."""

from __future__ import annotations

import itertools

import torch

from pipeline.tasks.model import Model


def check_stretches(model: Model, feats: torch.Tensor, speaker: str, size: int = 7) -> None:
    """Compares both ways.

    Args:
        feats: (T, F) loaded features of an utterance.
        size: frames of a stretch.
    """
    batch, lens = feats[None], torch.tensor([len(feats)])
    scores, out_lens = model.log_likes(batch, lens, [speaker])
    dynamic = model.transition_scores(batch, lens)
    own = model.frame_scores(feats, speaker)
    assert own.num_frames == int(out_lens) > size
    bounds = [*range(0, own.num_frames, size), own.num_frames]
    parts = [own.scores(b, e) for b, e in itertools.pairwise(bounds)]
    # Matrix products of other sizes round differently.
    torch.testing.assert_close(torch.cat(parts), scores[0], rtol=1e-5, atol=1e-4)
    moves = [own.transitions(b, e) for b, e in itertools.pairwise(bounds)]
    if dynamic is None:
        assert moves == [None] * len(parts)
    else:
        torch.testing.assert_close(torch.cat(moves), dynamic[0], rtol=1e-5, atol=1e-5)
