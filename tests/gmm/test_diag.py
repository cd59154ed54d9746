"""Mixture likelihoods against the density written out, and the checks on parameters."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.errors import DataError
from pipeline.gmm.diag import DiagGmms, Evaluator, _log_sum


def random_gmms(sizes: list[int], dim: int, seed: int = 0) -> DiagGmms:
    """Mixtures with the given number of Gaussians per pdf."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.cat([torch.softmax(torch.randn(n, generator=g), 0) for n in sizes])
    means = 2 * torch.randn((sum(sizes), dim), generator=g)
    var = torch.rand((sum(sizes), dim), generator=g) + 0.1
    return DiagGmms(weights, means, var, torch.tensor([0, *np.cumsum(sizes).tolist()]))


def density(gmms: DiagGmms, feats: torch.Tensor) -> torch.Tensor:
    """(T, P) float64 log-likelihoods by the definition, one Gaussian at a time."""
    x = feats.double()
    out = []
    for begin, end in zip(gmms.offsets[:-1].tolist(), gmms.offsets[1:].tolist()):
        terms = []
        for g in range(begin, end):
            mean, var = gmms.means[g].double(), gmms.vars[g].double()
            terms.append(
                math.log(float(gmms.weights[g]))
                - 0.5 * ((x - mean) ** 2 / var + var.log() + math.log(2 * math.pi)).sum(1)
            )
        out.append(torch.logsumexp(torch.stack(terms), 0))
    return torch.stack(out, 1)


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), dim=st.integers(1, 9), frames=st.integers(1, 40))
def test_log_likes_are_the_density(sizes, dim, frames):
    gmms = random_gmms(sizes, dim)
    feats = 3 * torch.randn((frames, dim), generator=torch.Generator().manual_seed(1))
    expected = density(gmms, feats)
    assert torch.allclose(Evaluator(gmms).log_likes(feats).double(), expected, rtol=1e-4, atol=1e-3)


def test_chosen_pdfs_come_in_the_order_asked_for():
    gmms = random_gmms([3, 1, 5, 2], 4)
    feats = torch.randn(11, 4)
    evaluator = Evaluator(gmms)
    # Equal up to rounding: which sums a matrix product makes in one go depends on the number of its columns.
    torch.testing.assert_close(evaluator.log_likes(feats, [2, 0]), evaluator.log_likes(feats)[:, [2, 0]])


def test_posteriors_sum_to_one_and_carry_the_likelihood():
    gmms = random_gmms([4, 1], 3)
    feats = torch.randn(9, 3)
    for pdf in (0, 1):
        posterior, log_like = Evaluator(gmms).posteriors(pdf, feats)
        assert torch.allclose(posterior.sum(1), torch.ones(9), atol=1e-5)
        assert torch.allclose(log_like.double(), density(gmms, feats)[:, pdf], atol=1e-3)


def test_many_blocks_agree_with_one(monkeypatch):
    gmms = random_gmms([3, 2, 6], 5)
    feats = torch.randn(300, 5)
    whole = Evaluator(gmms).log_likes(feats)
    monkeypatch.setattr("pipeline.gmm.diag.CELLS", 1)
    assert torch.allclose(Evaluator(gmms).log_likes(feats), whole, atol=1e-4)


def test_compiled_sum_is_exact_over_the_whole_range():
    scores = torch.cat([torch.linspace(-200, 50, 1000)[None], torch.zeros(1, 1000), torch.full((1, 1000), -1e30)])
    out = torch.empty(1000, 2)
    _log_sum(scores.contiguous(), np.array([0, 2, 3]), out)
    assert torch.allclose(out[:, 0].double(), torch.logsumexp(scores[:2].double(), 0), atol=2e-5)
    assert torch.equal(out[:, 1], scores[2])


@pytest.mark.cuda
def test_cuda_agrees_with_cpu():
    gmms, feats = random_gmms([3, 1, 7], 6), torch.randn(50, 6)
    on_gpu = Evaluator(gmms.to("cuda")).log_likes(feats.cuda()).cpu()
    assert torch.allclose(on_gpu, Evaluator(gmms).log_likes(feats), atol=1e-3)


def test_a_frame_out_of_all_bounds_stays_a_number():
    scores = Evaluator(random_gmms([2, 1], 3)).log_likes(torch.full((2, 3), 1e25))
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("vars", -1.0, "not positive"),
        ("vars", float("nan"), "NaN"),
        ("means", float("inf"), "NaN or infinity"),
        ("weights", 0.9, "sum to"),
    ],
)
def test_broken_parameters_are_refused(field, value, message):
    gmms = random_gmms([2, 1], 3)
    broken = getattr(gmms, field).clone()
    broken[2] = value
    with pytest.raises(DataError, match=message):
        dataclasses.replace(gmms, **{field: broken}).validate("exp/mono")


def test_a_pdf_without_gaussians_is_refused():
    gmms = random_gmms([2, 1], 3)
    with pytest.raises(DataError, match="pdf 1 has no Gaussian"):
        dataclasses.replace(gmms, offsets=torch.tensor([0, 2, 2, 3])).validate("exp/mono")


def test_tensors_of_another_model_are_refused():
    tensors = random_gmms([2, 1], 3).tensors()
    with pytest.raises(DataError, match="missing"):
        DiagGmms.from_tensors({k: v for k, v in tensors.items() if k != "vars"}, "exp/nn")
    with pytest.raises(DataError, match="do not fit"):
        DiagGmms.from_tensors({**tensors, "means": tensors["means"][:1]}, "exp/mono")
