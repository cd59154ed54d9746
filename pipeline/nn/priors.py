"""Label priors: how often each label is expected, whatever the audio says (Mann et al. 2023 and the authors'
experiments).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.nn.distributed import World

if TYPE_CHECKING:
    from pipeline.feats.dataset import Batch
    from pipeline.hmm import Graphs
    from pipeline.nn.model import AcousticModel

logger = logging.getLogger(__name__)

PHONE_SECONDS = 0.08  # assumed mean duration of a phone, 8 frames of 10 ms in the paper's prior
FLOOR = 1e-6  # smallest probability of a label


def log_prior(counts: np.ndarray, floor: float = FLOOR) -> torch.Tensor:
    """(P,) counts -> (P,) float32 natural-log probabilities with a floor, so that an unseen label stays finite."""
    counts = np.asarray(counts, dtype=np.float64)
    assert (counts >= 0).all() and counts.sum() > 0, counts
    probs = np.maximum(counts / counts.sum(), floor)
    return torch.from_numpy(np.log(probs / probs.sum()).astype(np.float32))


def transcript_prior(
    graphs: Iterable[Graphs], silence_pdfs: Iterable[int], num_frames: int, states_per_phone: float, frame_shift: float
) -> torch.Tensor:
    """Prior from the transcripts alone: silence has the frames that speech of PHONE_SECONDS per phone leaves over.

    Args:
        graphs: training graphs; each of their speech states counts as one occurrence of its label.
        silence_pdfs: labels of silence.
        num_frames: label frames of the same utterances.
        states_per_phone: mean number of states of a speech phone.
        frame_shift: seconds per label frame.
    Returns:
        (P,) natural logs.
    """
    counts = np.zeros(0, dtype=np.float64)
    for block in graphs:
        own = np.bincount(block.state_pdf.cpu().numpy(), minlength=block.num_pdfs).astype(np.float64)
        counts = counts + own if len(counts) else own
    silence = np.isin(np.arange(len(counts)), list(silence_pdfs))
    counts[silence] = 0.0
    assert counts.sum() > 0, "no speech state in the graphs"
    speech_frames = counts.sum() / states_per_phone * PHONE_SECONDS / frame_shift
    share = float(np.clip((num_frames - speech_frames) / num_frames, 0.05, 0.95))
    if silence.any():
        counts *= (1.0 - share) / counts.sum()
        counts[silence] = share / silence.sum()
    logger.info("prior from transcripts: silence share %.2f", share if silence.any() else 0.0)
    return log_prior(counts)


def softmax_prior(model: AcousticModel, batches: Iterable[Batch], world: World = World()) -> torch.Tensor:
    """(P,) log of the mean label posterior over all frames of the batches, of those of all processes together."""
    total = torch.zeros(model.num_pdfs, dtype=torch.float64)
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in batches:
            log_post, lens = model(batch.feats, batch.lens)
            frames = torch.arange(log_post.shape[1], device=lens.device)[None, :] < lens[:, None]
            total += log_post.exp()[frames].double().sum(0).cpu()
    model.train(training)
    return log_prior(world.sum_tensor(total).numpy())


def label_prior(labels: Iterable[np.ndarray], num_pdfs: int) -> torch.Tensor:
    """(P,) log relative frequencies of frame labels, one pseudo-count each so that no label is impossible."""
    counts = np.ones(num_pdfs, dtype=np.float64)
    for frames in labels:
        counts += np.bincount(frames, minlength=num_pdfs)
    return log_prior(counts)


def running_prior(old: torch.Tensor, log_post: torch.Tensor, mask: torch.Tensor, decay: float = 0.95) -> torch.Tensor:
    """On-the-fly prior: the mean posterior of the batches so far, old ones fading, without gradient.

    Args:
        old: (P,) log prior so far.
        log_post: (N, T', P) log posteriors of a batch.
        mask: (N, T') real frames.
    Returns:
        (P,) natural logs.
    """
    mean = log_post.detach()[mask].exp().mean(0)
    return (decay * old.exp() + (1.0 - decay) * mean).clamp(min=FLOOR).log()
