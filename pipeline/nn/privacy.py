"""What noise on the sum of clients' changes hides: differential privacy of clients, by dp-accounting's accountant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.base.errors import ConfigError

# Of Renyi divergences; for others than whole numbers the accountant's series do not converge at large shares.
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 384, 512, 768, 1024, 2048)


def epsilon(noise: float, share: float, rounds: int, delta: float) -> float:
    """Epsilon of (epsilon, delta) by Renyi differential privacy, for clients that are there or not.

    Args:
        noise: standard deviation of the noise on the sum, over the largest norm of a client's change.
        share: probability with which a client takes part in a round, independently of the others.
        rounds: sums that were published.
    Raises:
        ConfigError: dp-accounting is not installed.
    """
    try:
        from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
        from dp_accounting.rdp import RdpAccountant
    except ImportError:
        raise ConfigError("noise needs an accountant of privacy: pip install 'fullsum[privacy]'") from None
    event = PoissonSampledDpEvent(share, GaussianDpEvent(noise))
    return float(RdpAccountant(ORDERS).compose(SelfComposedDpEvent(event, rounds)).get_epsilon(delta))


def clip_change(change: Sequence[torch.Tensor], bound: float, by_layer: bool) -> float:
    """Shortens a client's change in place, so that its norm over all tensors is `bound` at most.

    Args:
        by_layer: each of the L tensors by itself, to bound / sqrt(L); else all by the same factor.
    Returns:
        share of the tensors that were shortened.
    """
    norms = torch.stack([tensor.norm() for tensor in change])
    if by_layer:
        factors = (bound / len(change) ** 0.5 / norms.clamp(min=1e-12)).clamp(max=1.0)
    else:
        factors = (bound / norms.norm().clamp(min=1e-12)).clamp(max=1.0).expand(len(change))
    for tensor, factor in zip(change, factors):
        tensor.mul_(factor)
    return float((factors < 1).float().mean())


def add_noise(total: Sequence[torch.Tensor], std: float, seed: tuple[int, ...]) -> None:
    """Adds Gaussian noise to a sum of changes, in place; equal seeds give equal noise."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint32)[0]))
    for tensor in total:
        tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.device), alpha=std)
