import math

import pytest
import torch
from torch import distributions as reference

from neural import DiagonalLogNormal, DiagonalNormal, NeuralError
from neural.distributions import soft_bound


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(kind, seed=0):
    return kind(draw(4, 3, seed=seed), 0.5 * draw(4, 3, seed=seed + 100))


REFERENCES = {DiagonalNormal: reference.Normal, DiagonalLogNormal: reference.LogNormal}
KINDS = tuple(REFERENCES)


def in_torch(ours):
    location = ours.mean if isinstance(ours, DiagonalNormal) else ours.log_mean
    return reference.Independent(REFERENCES[type(ours)](location, ours.log_scale.exp()), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_torch_distributions(kind):
    one, other = pair(kind), pair(kind, seed=7)
    value = draw(5, 4, 3, seed=3).exp()
    # The same closed forms: a few roundings.
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(one.log_prob(value), in_torch(one).log_prob(value), **close)
    torch.testing.assert_close(one.entropy(), in_torch(one).entropy(), **close)
    torch.testing.assert_close(one.kl(other), reference.kl_divergence(in_torch(one), in_torch(other)), **close)
    torch.testing.assert_close(one.mean, in_torch(one).mean, **close)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_and_entropy_are_the_means_they_are_defined_as(kind):
    one, other = pair(kind), pair(kind, seed=7)
    value = one.rsample(torch.Generator().manual_seed(0), (40_000,))
    for exact, terms in (
        (one.kl(other), one.log_prob(value) - other.log_prob(value)),
        (one.entropy(), -one.log_prob(value)),
    ):
        error = terms.std(0) / math.sqrt(len(terms))
        # Five standard errors of a Monte Carlo mean, for eight numbers in all and one fixed seed.
        assert bool(((terms.mean(0) - exact).abs() < 5 * error).all())


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_facts(kind):
    one, other = pair(kind), pair(kind, seed=7)
    standard = kind(torch.zeros(4, 3, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64))
    assert torch.equal(one.kl(one), torch.zeros(4, dtype=torch.float64))
    assert bool((one.kl(other) > 0).all())
    torch.testing.assert_close(one.kl(standard), one.kl_to_standard(), rtol=1e-14, atol=0)


def test_draws_carry_gradients():
    mean, log_scale = draw(3).requires_grad_(), draw(3, seed=1).requires_grad_()
    value = DiagonalNormal(mean, log_scale).rsample(torch.Generator().manual_seed(0), (7,))
    by_mean, by_log_scale = torch.autograd.grad(value.sum(), (mean, log_scale))
    # d(mean + scale noise)/d(log scale) is the draw's distance from the mean.
    torch.testing.assert_close(by_mean, torch.full((3,), 7.0, dtype=torch.float64), rtol=0, atol=0)
    torch.testing.assert_close(by_log_scale, (value - mean).sum(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_fixes_the_draws_and_the_global_state_is_untouched(kind):
    before = torch.get_rng_state()
    first, second = (pair(kind).rsample(torch.Generator().manual_seed(5), (2, 6)) for _ in range(2))
    assert first.shape == (2, 6, 4, 3)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_log_normal_is_positive_and_gives_no_density_elsewhere():
    mean = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    ours = DiagonalLogNormal(mean, torch.zeros(2, dtype=torch.float64))
    assert bool((ours.rsample(torch.Generator().manual_seed(0), (1000,)) > 0).all())
    score = ours.log_prob(torch.tensor([[1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]], dtype=torch.float64))
    assert score[1:].tolist() == [-math.inf, -math.inf]
    (gradient,) = torch.autograd.grad(score[0] + score[1].nan_to_num(), mean)
    assert bool(gradient.isfinite().all())
    assert torch.equal(ours.median, torch.ones(2, dtype=torch.float64))


def test_soft_bound_is_the_identity_at_zero_and_never_beyond_the_bound():
    raw = torch.tensor([0.0, 1e3, -1e3], dtype=torch.float64, requires_grad=True)
    bounded = soft_bound(raw, 2.0)
    assert bounded.tolist() == [0.0, 2.0, -2.0]
    (slope,) = torch.autograd.grad(bounded.sum(), raw)
    assert slope[0].item() == 1.0


def test_shapes_are_checked():
    with pytest.raises(NeuralError, match=r"got mean.shape=torch.Size\(\[2\]\), log_scale.shape=torch.Size\(\[3\]\)"):
        DiagonalNormal(torch.zeros(2), torch.zeros(3))
    with pytest.raises(NeuralError):
        DiagonalLogNormal(torch.tensor(0.0), torch.tensor(0.0))
