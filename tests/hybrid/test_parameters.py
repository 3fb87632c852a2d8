"""Priors and the space they span: densities on both scales, bijections, and the full parameter vector."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor
from torch.autograd import gradcheck

from hybrid.parameters import (
    AbstractPrior,
    Fixed,
    LogitNormal,
    LogNormal,
    LogUniform,
    Normal,
    ParameterError,
    ParameterSpace,
    Uniform,
)
from mechanistic.model import KineticModel, Parameter, State

PRIORS = (
    Normal(1.0, 2.0),
    LogNormal(0.5, 0.7),
    LogitNormal(0.3, 0.8),
    LogitNormal(-1.0, 1.5, lower=-2.0, upper=5.0),
    Uniform(-1.0, 3.0),
    LogUniform(0.01, 100.0),
)
SCIPY = {
    PRIORS[0]: stats.norm(1.0, 2.0),
    PRIORS[1]: stats.lognorm(0.7, scale=math.exp(0.5)),
    PRIORS[4]: stats.uniform(-1.0, 4.0),
    PRIORS[5]: stats.loguniform(0.01, 100.0),
}
MODEL = KineticModel(
    "m", (State("A"),), tuple(Parameter(n, v) for n, v in {"ka": 1.5, "CL": 0.1, "V": 8.0, "F": 0.9}.items())
)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("prior", SCIPY, ids=repr)
@given(st.floats(0.02, 0.98))
def test_densities_and_quantiles_are_those_of_scipy(prior: AbstractPrior, q: float) -> None:
    natural = SCIPY[prior].ppf(q)
    # The same closed forms; a logit near the ends of its interval costs some digits.
    assert prior.quantile(q) == pytest.approx(natural, rel=1e-10, abs=1e-10)
    assert prior.log_prob(tensor(natural)).item() == pytest.approx(SCIPY[prior].logpdf(natural), abs=1e-10)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_both_densities_integrate_to_one(prior: AbstractPrior) -> None:
    ends = prior.quantile_unconstrained(tensor(1e-13, 1 - 1e-13)).tolist()
    unconstrained, e1 = integrate.quad(lambda u: prior.log_prob_unconstrained(tensor(u)).exp().item(), *ends, limit=200)

    # Substituting natural = forward(u) keeps the quadrature on a smooth integrand; its weight is numerical here, so
    # that the analytic log-determinant inside `log_prob` is tested against it.
    def natural(u: float) -> float:
        lower, upper = prior.bijection.forward(tensor(u - 1e-5, u + 1e-5)).tolist()
        return prior.log_prob(prior.bijection.forward(tensor(u))).exp().item() * (upper - lower) / 2e-5

    total, e2 = integrate.quad(natural, *np.clip(ends, -15, 15), limit=200)
    assert unconstrained == pytest.approx(1.0, abs=1e-8 + e1)
    # Central differences with a step of 1e-5, and the tails cut at |u| = 15: below 1e-6 each.
    assert total == pytest.approx(1.0, abs=2e-6 + e2)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
@given(st.floats(-8.0, 8.0))
def test_bijections_invert_and_their_log_det_is_the_derivative(prior: AbstractPrior, u: float) -> None:
    bijection, at = prior.bijection, tensor(u).requires_grad_()
    natural = bijection.forward(at)
    (slope,) = torch.autograd.grad(natural.sum(), at)
    assert bool(bijection.contains(natural).all())
    # exp(8) amplifies rounding of a value next to the end of its interval by 3000.
    assert bijection.inverse(natural).item() == pytest.approx(u, abs=1e-11)
    assert bijection.log_det(at).item() == pytest.approx(math.log(slope.item()), abs=1e-11)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_samples_follow_the_quantiles(prior: AbstractPrior) -> None:
    sample = prior.sample(2000, torch.Generator().manual_seed(1))
    below = np.array([[float(v) <= prior.quantile(q) for v in sample[:500]] for q in (0.1, 0.5, 0.9)]).mean(axis=1)
    # Four standard errors of a proportion of 500.
    assert below == pytest.approx([0.1, 0.5, 0.9], abs=4 * math.sqrt(0.25 / 500))
    assert bool(prior.bijection.contains(sample).all())
    assert prior.median == prior.quantile(0.5)


def test_no_density_outside_the_support_and_a_clean_gradient() -> None:
    for prior, outside in ((PRIORS[1], -1.0), (PRIORS[2], 1.5), (PRIORS[4], 3.0), (PRIORS[5], 200.0)):
        natural = tensor(outside, prior.median).requires_grad_()
        density = prior.log_prob(natural)
        assert density[0].item() == -math.inf
        density[1].backward()
        assert natural.grad is not None
        assert bool(natural.grad.isfinite().all())


def test_a_log_normal_prior_is_normal_in_the_logarithm() -> None:
    # The mode on the unconstrained scale is the median, not the mode exp(mean - sd²) of the natural density.
    u = tensor(0.5).requires_grad_()
    (slope,) = torch.autograd.grad(PRIORS[1].log_prob_unconstrained(u).sum(), u)
    assert slope.item() == 0.0
    assert LogNormal.about(2.0, 0.3).median == pytest.approx(2.0)
    assert stats.lognorm(LogNormal.about(2.0, 0.3).log_sd).std() / stats.lognorm(
        LogNormal.about(2.0, 0.3).log_sd
    ).mean() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: Normal(math.nan, -1.0), 2),
        (lambda: LogNormal(0.0, 0.0), 1),
        (lambda: Uniform(2.0, 1.0), 1),
        (lambda: LogUniform(0.0, 1.0), 1),
        (lambda: LogitNormal(0.0, 1.0, 1.0, 1.0), 1),
        (lambda: LogNormal.about(-1.0, 0.0), 2),
        (lambda: Fixed("2"), 1),
    ],
)
def test_priors_that_contradict_themselves_are_refused(make: object, count: int) -> None:
    with pytest.raises(ParameterError) as error:
        make()  # type: ignore[operator]
    assert len(error.value.problems) == count


def space() -> ParameterSpace:
    return ParameterSpace(MODEL, V=LogNormal(2.1, 0.3), F=LogitNormal(1.0, 0.5), ka=LogNormal(0.0, 0.5))


def test_names_keep_their_order_and_the_rest_stays_nominal() -> None:
    made = space()
    assert made.names == ("V", "F", "ka")
    full = made.place(tensor(7.0, 0.5, 2.0))
    assert full.tolist() == [2.0, 0.1, 7.0, 0.5]
    assert made.to_natural(made.start()).tolist() == pytest.approx([math.exp(2.1), 1 / (1 + math.exp(-1)), 1.0])
    assert ParameterSpace(MODEL, CL=Fixed(0.2)).place(tensor()).tolist() == [1.5, 0.2, 8.0, 0.9]


def test_a_field_with_a_nominal_vector_serves_as_well() -> None:
    class Field:
        parameter_names = ("a", "b")

        def nominal(self) -> Tensor:
            return torch.tensor([1.0, 2.0], dtype=torch.float32)

    assert ParameterSpace(Field(), b=Normal(0.0, 1.0)).full(tensor(5.0)).tolist() == [1.0, 5.0]


@given(st.lists(st.tuples(*[st.floats(-5, 5)] * 3), min_size=1, max_size=4))
def test_natural_and_unconstrained_are_inverse_for_any_batch(rows: list) -> None:
    u, made = torch.tensor(rows, dtype=torch.float64)[:, None], space()
    torch.testing.assert_close(made.to_unconstrained(made.to_natural(u)), u, rtol=0, atol=1e-11)
    assert made.full(u).shape == (len(rows), 1, 4)
    assert torch.equal(made.full(u)[..., 1], torch.full((len(rows), 1), 0.1, dtype=torch.float64))


def test_the_full_vector_and_the_prior_have_the_right_gradients() -> None:
    u = tensor(0.3, -0.2, 0.5).expand(2, 3).clone().requires_grad_()
    assert gradcheck(space().full, u)
    assert gradcheck(space().log_prior, u)


def test_the_prior_is_the_sum_of_its_parts() -> None:
    made, u = space(), tensor(0.3, -0.2, 0.5)
    parts = [prior.log_prob_unconstrained(u[i]).item() for i, prior in enumerate(made.priors.values())]
    assert made.log_prior(u).item() == pytest.approx(sum(parts))
    draws = made.sample(300, torch.Generator().manual_seed(0))
    assert draws.shape == (300, 3)
    assert bool(made.log_prior(draws).isfinite().all())


def test_all_unknown_names_come_in_one_error() -> None:
    with pytest.raises(ParameterError) as error:
        ParameterSpace(MODEL, kaa=Normal(0.0, 1.0), CLL=Normal(0.0, 1.0), V=3.0)  # type: ignore[arg-type]
    assert len(error.value.problems) == 3
    assert "`kaa` is not a parameter (did you mean `ka`?)" in str(error.value)
    with pytest.raises(ParameterError, match="last axis"):
        space().full(tensor(1.0, 2.0))


def test_a_space_without_estimates_is_the_nominal_model() -> None:
    made = ParameterSpace(MODEL)
    assert made.full(made.start()).tolist() == [1.5, 0.1, 8.0, 0.9]
    assert made.log_prior(made.start()).item() == 0.0
    assert made.sample(2).shape == (2, 0)


def test_the_table_shows_priors_and_fixed_values() -> None:
    text = repr(space())
    assert "3 of 4 parameters estimated" in text
    assert "LogNormal(log_mean=2.1, log_sd=0.3)" in text
    assert "fixed" in text
    assert "<td>CL</td><td>fixed</td><td>0.1</td>" in space()._repr_html_()
