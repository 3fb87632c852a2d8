import math

import pytest
import torch

from neural import (
    RK4,
    Compression,
    Dopri5,
    FixedScaling,
    InitialOutput,
    LatentField,
    LatentODE,
    NeuralError,
    RecurrentEncoder,
    Series,
    StepInputs,
    mlp,
)
from tests.neural.oscillation import oscillation

LIVELY = mlp((6,), initial_output=InitialOutput.GLOROT)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_inputs(series: Series) -> Series:
    subjects = len(series.times)
    times = torch.tensor([1.0, 4.0], dtype=torch.float64).expand(subjects, 2)
    values = torch.tensor([[2.0], [0.0]], dtype=torch.float64).expand(subjects, 2, 1)
    context = torch.linspace(-1, 1, subjects, dtype=torch.float64)[:, None]
    return Series(series.times, series.values, series.mask, context, StepInputs(times, values))


def lively(series: Series, integrator=RK4(0.25)) -> LatentODE:  # noqa: B008  a frozen value
    return LatentODE.for_series(series, 3, hidden=8, network=LIVELY, integrator=integrator, seed=2)


@pytest.fixture
def series() -> Series:
    return with_inputs(oscillation(5, 8)[0])


def test_gradient_of_the_bound_against_finite_differences(series):
    model = lively(series)
    parameters = dict(model.named_parameters())
    model.elbo(series, seeded()).sum().backward()
    direction = {name: torch.randn(p.shape, generator=seeded(9), dtype=p.dtype) for name, p in parameters.items()}
    slope = sum((p.grad * direction[name]).sum().item() for name, p in parameters.items())
    values, step = [], 1e-5
    with torch.no_grad():
        for sign in (1, -2):
            for name, p in parameters.items():
                p += sign * step * direction[name]
            values.append(model.elbo(series, seeded()).sum().item())
    # Central difference: truncation of order step², rounding of 1e-13/step relative; 1e-6 covers both.
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)
    assert all(bool((p.grad != 0).any()) for p in parameters.values())


def test_the_bound_lies_below_the_evidence():
    # Latent states that stay put and a linear decoder: the evidence is that of a normal distribution.
    series = oscillation(3, 5)[0]
    decoder = mlp((), initial_output=InitialOutput.GLOROT).build(2, 2, seed=4)
    model = LatentODE(RecurrentEncoder(2, 2, 8), LatentField(2), decoder, integrator=RK4(5.0))
    weight, noise = decoder.weight0.detach(), model.noise.detach()
    evidence = torch.zeros(3, dtype=torch.float64)
    for i, mask in enumerate(series.mask):
        row = weight.expand(len(mask), 2, 2)[mask]
        covariance = row @ row.T + torch.diag(noise.expand(len(mask), 2)[mask] ** 2)
        marginal = torch.distributions.MultivariateNormal(torch.zeros(len(row)).double(), covariance)
        evidence[i] = marginal.log_prob(series.values[i][mask])
    # The gap is the divergence of an untrained posterior from the exact one: far more than the error of 4000 draws.
    assert bool((model.elbo(series, seeded(), samples=4000) < evidence - 1.0).all())
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.zero_()
    # The encoder now says the prior, so the predictive score is the evidence. Of 20000 draws of two standard normal
    # numbers hundreds lie where a likelihood of width 0.3 is large: good to a few hundredths of a nat.
    score = model.log_score(series.until(-1.0), series, seeded(), samples=20_000)
    torch.testing.assert_close(score, evidence, rtol=0, atol=0.1)


def test_the_bound_is_the_evidence_when_the_posterior_is_exact():
    # Latent states that stay put, each seen through one channel: posterior and evidence have closed forms.
    series = oscillation(1, 6)[0]
    decoder = mlp(()).build(2, 2)
    model = LatentODE(RecurrentEncoder(2, 2, 8), LatentField(2), decoder, integrator=RK4(5.0))
    mask, gain, noise = series.mask[0], torch.tensor([0.7, -1.2], dtype=torch.float64), model.noise.detach()
    values = torch.where(mask, series.values[0], 0.0)
    precision = 1.0 + mask.sum(0) * (gain / noise) ** 2
    mean = gain * values.sum(0) / noise**2 / precision
    log_scale = -0.5 * precision.log()
    with torch.no_grad():
        decoder.weight0.copy_(torch.diag(gain))
        model.encoder.head_weight.zero_()
        model.encoder.head_bias.copy_(torch.cat([mean, 7.0 * torch.atanh(log_scale / 7.0)]))
    evidence = 0.0
    for channel in range(2):
        seen = mask[:, channel]
        covariance = gain[channel] ** 2 + noise[channel] ** 2 * torch.eye(int(seen.sum()), dtype=torch.float64)
        marginal = torch.distributions.MultivariateNormal(torch.zeros(len(covariance)).double(), covariance)
        evidence += marginal.log_prob(series.values[0, seen, channel]).item()
    bound = model.elbo(series, seeded(), samples=20_000).item()
    # The log likelihood of a draw varies by about one nat; its mean over 20000 draws by 0.007, of which five.
    assert bound == pytest.approx(evidence, abs=0.035)


def test_masked_entries_and_padding_change_nothing(series):
    model = lively(series)
    before = model.elbo(series, seeded())
    pad = torch.full_like(series.times[:, :2], math.nan)
    longer = Series(
        torch.cat([series.times, pad], 1),
        torch.cat([torch.where(series.mask, series.values, math.nan), pad[..., None].expand(-1, -1, 2)], 1),
        torch.cat([series.mask, torch.zeros_like(series.mask[:, :2])], 1),
        series.context,
        series.inputs,
    )
    bound = model.elbo(longer, seeded())
    # The same operations up to the order of summation.
    torch.testing.assert_close(bound, before, rtol=1e-11, atol=1e-11)
    bound.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())


def test_a_subject_alone_is_as_in_the_batch(series):
    model = lively(series)
    row = torch.tensor([3])
    one, whole = model.posterior(series.select(row)), model.posterior(series)
    # Fixed steps from the same start, up to one length of the last: only roundings differ in the posterior.
    torch.testing.assert_close(one.mean[0], whole.mean[3], rtol=1e-12, atol=1e-12)
    alone = Series(*(part[3] for part in (series.times, series.values, series.mask, series.context)))
    alone = Series(alone.times, alone.values, alone.mask, alone.context, series.inputs.select(3))
    assert model.elbo(alone, seeded()).shape == ()
    assert model.predict(alone, series.times[3], seeded(), samples=2).values.shape == (2, 8, 2)


def test_both_integrators_agree(series):
    fine, adaptive = lively(series, RK4(0.02)), lively(series, Dopri5(1e-9, 1e-9))
    # Adaptive steps at 1e-9 against fixed steps with an error near 1e-8; log densities of about ten values of size ten.
    torch.testing.assert_close(fine.elbo(series, seeded()), adaptive.elbo(series, seeded()), rtol=1e-6, atol=1e-6)


def test_known_inputs_and_context_act_on_the_trajectory(series):
    model = lively(series)
    times = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    late = StepInputs(series.inputs.times, series.inputs.values.clone())
    late.values[:, 0] = 50.0
    changed = Series(series.times, series.values, series.mask, series.context, late)
    z = model.posterior(series).mean[None]
    paths = [model._latent(z, one.flat(), times.expand(5, 3)) for one in (series, changed)]
    # The input changes at 1.0: nothing before, something after.
    assert torch.equal(paths[0][:, :, :2], paths[1][:, :, :2])
    assert not torch.allclose(paths[0][:, :, 2], paths[1][:, :, 2])


def test_predictions_have_labels_shapes_and_padding(series):
    model = lively(series)
    times = torch.tensor([0.0, 2.0, math.nan], dtype=torch.float64)
    prediction = model.predict(series, times, seeded(), samples=6)
    assert prediction.latent.shape == (6, 5, 3, 3)
    assert prediction.values.shape == prediction.observations.shape == (6, 5, 3, 2)
    assert bool(prediction.mean[:, 2].isnan().all())
    assert bool(prediction.mean[:, :2].isfinite().all())
    assert bool((prediction.quantile(0.1) < prediction.quantile(0.9))[:, :2].all())
    again = model.predict(series, times, seeded(), samples=6)
    assert torch.equal(again.observations[:, :, :2], prediction.observations[:, :, :2])


def test_draws_with_noise_spread_by_the_noise_alone_when_the_posterior_is_sharp(series):
    model = lively(series)
    with torch.no_grad():
        model.encoder.head_bias[model.latent :] = -1e6  # soft bound: scales of exp(-7)
        model.encoder.head_weight[model.latent :] = 0.0
        model.decoder.weight1.zero_()
    drawn = model.predict(series, series.times[0], seeded(), samples=4000).observations
    expected = (model.noise * model.scaling.scale).detach().expand(5, 8, 2)
    # A standard deviation from 4000 draws is good to 1.1 %; five times that.
    torch.testing.assert_close(drawn.std(0), expected, rtol=0.06, atol=0)


def test_the_bound_does_not_depend_on_units():
    series = oscillation(4, 6)[0]
    factor = 1000.0
    milli = Series(series.times, factor * series.values, series.mask)
    bounds = lively(series).elbo(series, seeded()), lively(milli).elbo(milli, seeded())
    # A density of values a thousand times larger is a thousand times smaller.
    torch.testing.assert_close(bounds[1], bounds[0] - series.count.double() * math.log(factor), rtol=1e-10, atol=1e-10)


def test_what_the_encoder_may_see_is_separate_from_what_is_scored(series):
    model = lively(series)
    hidden = series.until(3.0)
    torch.testing.assert_close(
        model.elbo(series, seeded(), encoded=hidden, kl_weight=0.0)
        - model.elbo(hidden, seeded(), kl_weight=0.0)
        - model.elbo(series.after(3.0), seeded(), encoded=hidden, kl_weight=0.0),
        torch.zeros(5, dtype=torch.float64),
        rtol=0,
        atol=1e-10,
    )


def test_global_random_numbers_are_untouched(series):
    before = torch.get_rng_state()
    lively(series).predict(series, series.times[0], seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_compressed_values_are_scored_in_their_own_unit():
    series = oscillation(4, 6)[0]
    scaling = FixedScaling.from_data(series.values, series.mask, Compression.ASINH)
    decoder = LIVELY.build(3, 2)
    model = LatentODE(RecurrentEncoder(2, 3, 8), LatentField(3), decoder, scaling=scaling, integrator=RK4(1.0))
    with torch.no_grad():
        decoder.weight1.zero_()
    grid = torch.linspace(-60, 60, 20_001, dtype=torch.float64)[:, None, None].repeat(1, 1, 2)
    grid[..., 1] = math.nan
    nothing = Series(torch.ones(len(grid), 1).double(), grid, torch.zeros_like(grid, dtype=torch.bool))
    density = model.log_score(nothing, Series.from_values(nothing.times, grid), seeded(), samples=1).exp()
    # A density integrates to one; the tails beyond the grid hold less than 1e-9.
    assert torch.trapezoid(density, grid[:, 0, 0]).item() == pytest.approx(1.0, abs=1e-6)


def test_errors_list_every_problem(series):
    with pytest.raises(NeuralError) as caught:
        LatentODE(
            RecurrentEncoder(2, 3, 8),
            LatentField(4, 2),
            LIVELY.build(3, 2),
            scaling=FixedScaling(torch.zeros(1), torch.ones(1)),
            context_scaling=FixedScaling(torch.zeros(1), torch.ones(1)),
        )
    assert len(caught.value.problems) == 4
    model = lively(series)
    with pytest.raises(NeuralError) as caught:
        model.elbo(Series(series.times - 20.0, series.values[..., :1], series.mask[..., :1]), seeded())
    assert len(caught.value.problems) == 3
    with pytest.raises(NeuralError, match="must not lie before"):
        model.predict(series, torch.tensor([-1.0]), seeded())
    with pytest.raises(NeuralError, match="fix no time scale"):
        LatentODE.for_series(series.until(-1.0))
