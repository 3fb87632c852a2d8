"""Noise models: densities against scipy, their integrals, quantiles, samples and gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor
from torch.autograd import gradcheck

from hybrid.noise import (
    AbstractNoise,
    Additive,
    Combined,
    CombinedLinear,
    LogNormalNoise,
    NoiseError,
    NoiseModel,
    Proportional,
)

NOISES = (Additive(0.5), Proportional(0.2), Combined(0.3, 0.2), CombinedLinear(0.3, 0.2), LogNormalNoise(0.4))
SPREAD = {
    Additive: lambda f: 0.5,
    Proportional: lambda f: 0.2 * abs(f),
    Combined: lambda f: math.sqrt(0.3**2 + (0.2 * f) ** 2),
    CombinedLinear: lambda f: 0.3 + 0.2 * abs(f),
    LogNormalNoise: lambda f: 0.4,
}


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def reference(noise: AbstractNoise, f: float) -> stats.rv_continuous:
    spread = SPREAD[type(noise)](f)
    return stats.lognorm(spread, scale=f) if isinstance(noise, LogNormalNoise) else stats.norm(f, spread)


@pytest.mark.parametrize("noise", NOISES, ids=repr)
@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0))
def test_the_density_is_that_of_scipy(noise: AbstractNoise, y: float, f: float) -> None:
    # Both evaluate the same closed form; what is left is rounding, relative to the largest term.
    expected = reference(noise, f).logpdf(y)
    assert noise.log_prob(tensor(y), tensor(f), noise.start()).item() == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_the_density_integrates_to_one(noise: AbstractNoise) -> None:
    def density(y: float) -> float:
        return noise.log_prob(tensor(y), tensor(3.0), noise.start()).exp().item()

    bounds = [float(noise.quantile(q, tensor(3.0), noise.start())) for q in (1e-14, 1 - 1e-14)]
    total, error = integrate.quad(density, *bounds, epsabs=1e-10)
    # The bounds leave out 2e-14; the rest is the quadrature's own estimate.
    assert total == pytest.approx(1.0, abs=1e-9 + error)


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_quantiles_are_those_of_scipy_and_the_median_is_the_simulation(noise: AbstractNoise) -> None:
    for q in (0.025, 0.3, 0.975):
        assert noise.quantile(q, tensor(3.0), noise.start()).item() == pytest.approx(
            reference(noise, 3.0).ppf(q), rel=1e-12
        )
    assert noise.quantile(0.5, tensor(3.0), noise.start()).item() == pytest.approx(3.0, rel=1e-15)


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_samples_have_the_distribution_of_the_density(noise: AbstractNoise) -> None:
    generator = torch.Generator().manual_seed(0)
    sample = noise.sample(torch.full((4000,), 3.0, dtype=torch.float64), noise.start(), generator)
    # A fixed seed; a wrong scale by 5 % would give p below 1e-3 at this size.
    assert stats.kstest(sample.numpy(), reference(noise, 3.0).cdf).pvalue > 1e-2
    residual = noise.residual(sample, tensor(3.0), noise.start())
    assert stats.kstest(residual.numpy(), stats.norm.cdf).pvalue > 1e-2


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_gradients_are_those_of_finite_differences(noise: AbstractNoise) -> None:
    inputs = (tensor(2.0, 5.0, 0.4), tensor(3.0, 4.0, 0.5), noise.start())
    assert gradcheck(noise.log_prob, [value.clone().requires_grad_() for value in inputs], eps=1e-6, atol=1e-7)
    assert gradcheck(noise.residual, [value.clone().requires_grad_() for value in inputs], eps=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("noise", "y", "f"),
    [
        (Proportional(0.1), 1.0, 0.0),
        (Proportional(0.1), 0.0, 0.0),
        (LogNormalNoise(0.1), 0.0, 1.0),
        (LogNormalNoise(0.1), 1.0, 0.0),
        (LogNormalNoise(0.1), 1.0, -1.0),
        (Additive(0.1), 1.0, math.nan),
    ],
)
def test_what_cannot_be_measured_has_no_density_and_spoils_no_gradient(
    noise: AbstractNoise, y: float, f: float
) -> None:
    simulated, log_sd = tensor(f, 1.0).requires_grad_(), noise.start().requires_grad_()
    density = noise.log_prob(tensor(y, 1.1), simulated, log_sd)
    assert density[0].item() == -math.inf
    assert density[1].isfinite()
    density[1].backward()
    assert simulated.grad is not None
    assert log_sd.grad is not None
    assert simulated.grad.isfinite().all()
    assert log_sd.grad.isfinite().all()
    assert noise.residual(tensor(y), tensor(f), noise.start()).isnan().all()


def test_noise_follows_the_size_of_negative_simulations_too() -> None:
    assert Proportional(0.5).standard_deviation(tensor(-4.0), tensor(0.5).log()).item() == 2.0
    assert CombinedLinear(1.0, 0.5).standard_deviation(tensor(-4.0), tensor(1.0, 0.5).log()).item() == 3.0


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "1"])
def test_a_starting_sd_is_a_positive_number(value: float) -> None:
    with pytest.raises(NoiseError, match="positive standard deviation"):
        Additive(value)
    with pytest.raises(NoiseError) as error:
        Combined(value, value)
    assert len(error.value.problems) == 2


MODEL = NoiseModel({"cp": Combined(0.3, 0.2), "pca": Additive(5.0)})
CHANNEL = torch.tensor([[0, 1, 0], [1, 1, 0]])
OBSERVED = torch.tensor([[True, True, False], [True, True, True]])
Y = torch.tensor([[1.0, 40.0, math.nan], [50.0, 60.0, 2.0]], dtype=torch.float64)
F = torch.tensor([[1.2, 45.0, math.nan], [51.0, 55.0, 2.5]], dtype=torch.float64)


def test_each_channel_has_its_own_noise() -> None:
    density = MODEL.log_prob(Y, F, MODEL.start(), CHANNEL, OBSERVED)
    for row, sample in OBSERVED.nonzero().tolist():
        noise = tuple(MODEL.noises.values())[CHANNEL[row, sample]]
        one = noise.log_prob(Y[row, sample], F[row, sample], noise.start())
        assert density[row, sample].item() == pytest.approx(one.item(), rel=1e-14)
    assert density[0, 2] == 0
    assert MODEL.names == ("cp.additive", "cp.proportional", "pca.sd")
    assert MODEL.values(MODEL.start()) == pytest.approx({"cp.additive": 0.3, "cp.proportional": 0.2, "pca.sd": 5.0})


def test_what_is_not_observed_leaves_value_and_gradient_alone() -> None:
    simulated, log_sd = F.clone().requires_grad_(), MODEL.start().requires_grad_()
    total = MODEL.log_prob(Y, simulated, log_sd, CHANNEL, OBSERVED).sum()
    gradients = torch.autograd.grad(total, (simulated, log_sd))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert gradients[0][0, 2] == 0
    assert MODEL.residual(Y, F, log_sd, CHANNEL, OBSERVED)[0, 2] == 0


def test_sds_may_differ_between_draws() -> None:
    log_sd = torch.stack([MODEL.start(), MODEL.start() + 0.3])
    density = MODEL.log_prob(Y, F.expand(2, 2, 3), log_sd[:, None], CHANNEL, OBSERVED)
    for draw in range(2):
        torch.testing.assert_close(density[draw], MODEL.log_prob(Y, F, log_sd[draw], CHANNEL, OBSERVED))


def test_quantile_sample_and_deviation_by_channel() -> None:
    simulated = F.nan_to_num(nan=1.0)
    spread = MODEL.standard_deviation(simulated, MODEL.start(), CHANNEL)
    assert spread[0, 1].item() == pytest.approx(5.0)
    upper = MODEL.quantile(0.9, simulated, MODEL.start(), CHANNEL)
    torch.testing.assert_close(upper, simulated + spread * stats.norm.ppf(0.9))
    draws = [MODEL.sample(simulated, MODEL.start(), CHANNEL, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_one_noise_serves_all_channels_and_others_are_matched_by_name() -> None:
    assert NoiseModel.of(Additive(1.0), ("a", "b")).names == ("a.sd", "b.sd")
    assert NoiseModel.of(MODEL, ("pca", "cp")).names == ("pca.sd", "cp.additive", "cp.proportional")
    with pytest.raises(NoiseError) as error:
        NoiseModel.of({"cpp": Additive(1.0)}, ("cp", "pca"))
    assert "`cpp` is not a channel (did you mean `cp`?)" in str(error.value)
    assert len(error.value.problems) == 3
    with pytest.raises(NoiseError, match="give a noise model"):
        NoiseModel({"cp": 0.5})  # type: ignore[dict-item]
    with pytest.raises(NoiseError, match="no channel"):
        NoiseModel({})


def test_measurements_that_no_parameter_explains_are_refused() -> None:
    model = NoiseModel({"cp": LogNormalNoise(0.3), "pca": Additive(5.0)})
    y = torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64)
    model.check(y, torch.ones(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(NoiseError) as error:
        model.check(y, torch.tensor([[0, 1, 0]]), torch.tensor([[True, True, False]]), ids=["17"], times=y + 0.5)
    assert list(error.value.problems) == ["subject 17 at time 0.5: `cp` is 0, which LogNormalNoise cannot produce"]
