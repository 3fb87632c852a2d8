"""The marginal likelihood: exact where the model is linear in its effects, its gradient, and the modes it needs."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hybrid.coupling import FluxResidual
from hybrid.covariates import Power
from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.fit import _Descent
from hybrid.noise import AbstractNoise, Additive, Combined, LogNormalNoise, Proportional
from hybrid.objective import Unknowns, evaluate, find_modes, linearise, tile
from hybrid.optimise import flatten
from hybrid.parameters import LogNormal, Normal, ParameterSpace
from hybrid.population import Population, PopulationValues
from hybrid.results import FitOptions
from hybrid.simulator import Simulator
from mechanistic.compile import RateField
from mechanistic.model import KineticModel, Parameter, Reaction, State, symbol
from mechanistic.schedule import Schedule
from mechanistic.solve import Rodas5P, Tolerance, Tsit5
from neural.networks import mlp
from tests.hybrid.problems import ONE, TWO, cohort, drawn, observed, randomise

TIGHT = Tolerance(1e-10, 1e-12)
TIMES = (0.5, 2.0, 5.0, 9.0)

# A(t) = A0 e^(-k t) + (R / k) (1 - e^(-k t)) is linear in A0 and R, which may be normal: then y is exactly normal.
A0, R, K = (symbol(name) for name in ("A0", "R", "k"))
LINEAR = KineticModel(
    "constant input",
    (State("A", A0, scale=10.0, nonnegative=False),),
    (Parameter("A0", 10.0), Parameter("R", 2.0), Parameter("k", 0.4)),
    (Reaction("in", "-> A", R), Reaction("out", "A ->", K * symbol("A"))),
    observables={"level": symbol("A")},
)


def linear_simulator(correlated: bool = False) -> Simulator:
    field = RateField(LINEAR)
    space = ParameterSpace(field, A0=Normal(10.0, 3.0), R=Normal(2.0, 1.0))
    population = Population(space, between={"A0": 2.0, "R": 0.5}, correlated=correlated)
    return Simulator(field, population, Additive(0.7), "level", tolerance=TIGHT)


def exact_marginal(simulator: Simulator, subjects: Cohort, unknowns: Unknowns) -> Tensor:
    """log N(y; mean at the typical values, sd² I + B Ω Bᵀ) with B = ∂y/∂(A0, R)."""
    decay = (-0.4 * subjects.times[0]).exp()
    basis = torch.stack([decay, (1 - decay) / 0.4], dim=-1)
    covariance = simulator.population.covariance(unknowns.values)
    total = basis @ covariance @ basis.T + (2 * unknowns.log_sd).exp() * torch.eye(len(basis), dtype=torch.float64)
    density = torch.distributions.MultivariateNormal(basis @ unknowns.values.typical, total)
    return density.log_prob(subjects.dv)


def start(simulator: Simulator, subjects: Cohort) -> Unknowns:
    eta = torch.zeros(len(subjects), len(simulator.population.effect_names), dtype=torch.float64)
    return Unknowns(simulator.population.start(), simulator.noise.start(), eta)


@pytest.mark.parametrize("correlated", [False, True])
def test_the_marginal_of_a_linear_model_is_exact(correlated):
    simulator = linear_simulator(correlated)
    subjects = observed(simulator, cohort(5, TIMES, dose=None))
    unknowns = start(simulator, subjects)
    if correlated:
        unknowns = replace(unknowns, values=replace(unknowns.values, correlation=torch.tensor([0.6]).double()))
    modes = find_modes(simulator, subjects, unknowns, 10)
    exact = exact_marginal(simulator, subjects, unknowns)
    # The solver's tolerance of 1e-10, divided by the half width of the differences.
    assert torch.allclose(modes.terms.marginal, exact, rtol=1e-8, atol=1e-8)


def test_the_mode_of_a_linear_model_is_that_of_a_normal_posterior():
    simulator = linear_simulator()
    subjects = observed(simulator, cohort(4, TIMES, dose=None))
    unknowns = start(simulator, subjects)
    modes = find_modes(simulator, subjects, unknowns, 10)
    decay = (-0.4 * subjects.times[0]).exp()
    basis = torch.stack([2.0 * decay, 0.5 * (1 - decay) / 0.4], dim=-1)
    precision = basis.T @ basis / 0.7**2 + torch.eye(2, dtype=torch.float64)
    residual = subjects.dv - torch.stack([decay, (1 - decay) / 0.4], dim=-1) @ unknowns.values.typical
    expected = torch.linalg.solve(precision, basis.T @ residual.T / 0.7**2).T
    # A step below SETTLED = 1e-5 ends the search.
    assert torch.allclose(modes.eta, expected, atol=2e-5)


def pk_simulator(noise: AbstractNoise, solver: Tsit5 | Rodas5P | None = None, effects: bool = True) -> Simulator:
    field = RateField(ONE)
    space = ParameterSpace(field, CL=LogNormal.about(5.0, 0.5), V=LogNormal.about(30.0, 0.5))
    between = {"CL": 0.3, "V": 0.2} if effects else {}
    return Simulator(field, Population(space, between), noise, "cp", solver=solver, tolerance=TIGHT)


@pytest.mark.parametrize("noise", [Additive(0.2), Proportional(0.15), Combined(0.1, 0.1), LogNormalNoise(0.2)])
def test_modes_are_where_the_posterior_of_the_effects_is_flat(noise):
    simulator = pk_simulator(noise)
    subjects = observed(simulator, cohort(6, TIMES))
    unknowns = start(simulator, subjects)
    modes = find_modes(simulator, subjects, unknowns, 30)
    eta = modes.eta.clone().requires_grad_()
    terms = evaluate(simulator, subjects, replace(unknowns, eta=eta), modes.slopes)
    (gradient,) = torch.autograd.grad((terms.likelihood + terms.prior).sum(), eta)
    along = modes.slopes * torch.tensor([0.3, 0.2], dtype=torch.float64)
    curvature = torch.eye(2, dtype=torch.float64) + along.mT @ along / 0.2**2
    away = torch.linalg.solve(curvature, gradient.unsqueeze(-1)).squeeze(-1)
    # In SDs of the effects; the slopes of the search are central differences, in error by about a thousandth.
    assert float(away.abs().max()) < 2e-3
    start_terms = evaluate(simulator, subjects, unknowns, modes.slopes)
    assert bool(((modes.terms.likelihood + modes.terms.prior) >= (start_terms.likelihood + start_terms.prior)).all())


def test_no_subject_sees_another():
    simulator = pk_simulator(Combined(0.1, 0.1))
    subjects = observed(simulator, cohort(5, TIMES))
    together = find_modes(simulator, subjects, start(simulator, subjects), 30)
    for row in (0, 3):
        alone = subjects.select(row)
        found = find_modes(simulator, alone, start(simulator, alone), 30)
        # Sums over a larger batch may round differently, and the search repeats that a few times.
        assert torch.allclose(found.eta[0], together.eta[row], rtol=1e-9, atol=1e-11)
        assert torch.allclose(found.terms.marginal[0], together.terms.marginal[row], rtol=1e-11)


def test_slopes_are_derivatives_of_the_scaled_prediction():
    simulator = pk_simulator(LogNormalNoise(0.2))
    subjects = cohort(3, TIMES)
    unknowns = replace(start(simulator, subjects), eta=drawn((3, 2), 4))
    found = linearise(simulator, subjects, unknowns)
    u = simulator.population.individual(unknowns.values, unknowns.eta)
    cl, v = simulator.population.space.to_natural(u).unbind(-1)
    # log of (dose / V) exp(-CL t / V), where deviations are those of log CL and log V.
    turned = (cl / v)[:, None] * subjects.times
    expected = torch.stack([-turned, turned - 1], dim=-1)
    # Central differences of half width 0.03: 0.03² / 6 = 1.5e-4 of the third derivative.
    assert torch.allclose(found.slopes, expected, rtol=3e-4, atol=3e-4)


def test_without_random_effects_the_marginal_is_the_likelihood():
    simulator = pk_simulator(Additive(0.3), effects=False)
    subjects = observed(simulator, cohort(3, TIMES))
    modes = find_modes(simulator, subjects, start(simulator, subjects), 5)
    cp = 100.0 / 30.0 * (-5.0 / 30.0 * subjects.times).exp()
    z = (subjects.dv - cp) / 0.3
    expected = (-0.5 * z.square() - math.log(0.3) - 0.5 * math.log(2 * math.pi)).sum(-1)
    # The solver's tolerance over the SD of the noise.
    assert torch.allclose(modes.terms.marginal, expected, rtol=1e-8)
    assert modes.eta.shape == (3, 0)


def test_a_subject_without_observations_has_its_prior():
    simulator = pk_simulator(Additive(0.3))
    subjects = observed(simulator, cohort(2, TIMES))
    silent = replace(subjects, observed=subjects.observed & torch.tensor([[True], [False]]))
    modes = find_modes(simulator, silent, start(simulator, silent), 10)
    assert modes.eta[1].tolist() == [0.0, 0.0]
    # ∫ N(η; 0, I) dη = 1.
    assert float(modes.terms.marginal[1]) == pytest.approx(0.0, abs=1e-12)


def test_a_simulation_that_fails_has_likelihood_zero_and_disturbs_nobody():
    simulator = pk_simulator(Additive(0.3), solver=Tsit5(max_steps=500))
    subjects = observed(simulator, cohort(2, TIMES))
    unknowns = start(simulator, subjects)
    slopes = find_modes(simulator, subjects, unknowns, 2).slopes
    # A clearance of e^9 times the typical one is too stiff for the explicit method.
    broken = replace(unknowns, eta=torch.tensor([[0.0, 0.0], [30.0, 0.0]], dtype=torch.float64))
    terms = evaluate(simulator, subjects, broken, slopes)
    fine = evaluate(simulator, subjects, unknowns, slopes)
    assert float(terms.likelihood[1]) == -math.inf
    assert float(terms.marginal[0]) == pytest.approx(float(fine.marginal[0]), rel=1e-12)


def test_copies_of_a_cohort_predict_the_same():
    simulator = pk_simulator(Additive(0.3))
    subjects = cohort(3, TIMES)
    many = tile(subjects, 4)
    assert len(many) == 12
    assert many.ids == subjects.ids * 4
    eta = drawn((3, 2), 1)
    values = simulator.population.start()
    with torch.no_grad():
        once = simulator.predict(simulator.parameters(values, eta, subjects), subjects)
        often = simulator.predict(simulator.parameters(values, eta.repeat(4, 1), many), many)
    assert torch.allclose(often, once.repeat(4, 1), rtol=1e-13)


def hybrid(model: KineticModel, solver: Tsit5 | Rodas5P, tolerance: Tolerance) -> Simulator:
    residual = FluxResidual(model, mlp((4,)), extra=["central ->"], inputs=["central", "wt"], scale=10.0)
    field = HybridField(RateField(model), residual, covariates={"wt": 70.0})
    space = ParameterSpace(field, CL=LogNormal.about(5.0, 0.5), V=LogNormal.about(30.0, 0.5))
    population = Population(
        space, {"CL": 0.3, "V": 0.2}, {"V": Power("wt", 70.0, 1.0, estimated=True)}, correlated=True
    )
    return Simulator(field, population, Combined(0.1, 0.1), "cp", solver=solver, tolerance=tolerance)


CASES = {
    "mild": (ONE, Tsit5(), Tolerance(1e-9, 1e-11)),
    # Exchange between the compartments 600 times an hour: an explicit method takes thousands of steps.
    "stiff": (TWO.with_values(Q=2e4), Rodas5P(), Tolerance(1e-7, 1e-9)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_the_loss_is_that_of_its_differences(case):
    simulator = hybrid(*CASES[case])
    subjects = cohort(2, (0.5, 2.0, 4.0), wt=(60.0, 85.0))
    second = Schedule.infusion("central", 60.0, 1.5, time=3.0)
    subjects = replace(subjects, schedule=subjects.schedule + Schedule.stack([second, second]))
    randomise(simulator.field, 0.4)
    subjects = observed(simulator, subjects)
    descent = _Descent(simulator, subjects, None, FitOptions(), None)
    descent.begin(None)
    x, slopes = descent.state.tensors["x"], descent.state.tensors["slopes"]
    x = x + 0.15 * drawn(x.shape, 3)
    gradient = descent._evaluate(x, slopes).gradient
    values = simulator.population.start()
    sizes = [len(getattr(values, name)) for name in ("typical", "log_sd", "coefficients", "correlation")]
    sizes += [simulator.noise.size]
    sizes += [2 * len(values.log_sd), sum(w.numel() for w in simulator.field.parameters())]
    assert sum(sizes) == len(x)
    step, first = 1e-3, 0
    for i, size in enumerate(sizes):
        # One direction through each group of unknowns; the size of its derivative sets what counts as small.
        direction = torch.zeros_like(x)
        direction[first : first + size] = drawn((size,), 10 + i)
        first += size
        moved = [float(descent._value(x + k * step * direction, slopes)) for k in (-2, -1, 1, 2)]
        expected = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)
        found = float(gradient @ direction)
        # Differences of order step⁴. Between two of them the solver chooses other steps, which the gradient does not
        # count as a change: an error of order tolerance / step.
        assert found == pytest.approx(expected, rel=1e-5), f"group {i}"


def test_unknowns_are_in_one_vector_in_a_fixed_order():
    simulator = hybrid(*CASES["mild"])
    subjects = cohort(2, TIMES, wt=(60.0, 85.0))
    descent = _Descent(simulator, subjects, None, FitOptions(), None)
    size = sum(part.numel() for part in [flatten([*descent.weights])]) + 2 + 2 + 1 + 1 + 2 + 4
    x = drawn((size,), 1)
    unknowns = descent._unknowns(x)
    values = unknowns.values
    assert isinstance(values, PopulationValues)
    parts = [values.typical, values.log_sd, values.coefficients, values.correlation, unknowns.log_sd, unknowns.eta]
    assert torch.equal(flatten([*parts, *(w.detach() for w in descent.weights)]), x)
