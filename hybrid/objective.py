"""The likelihood of a cohort with its random effects integrated out by Laplace's method.

For subject i with standardised effects η (a priori N(0, I)), predictions f(η) and residual SD s,

    log p(y) ≈ log p(y | η̂) + log N(η̂; 0, I) + (r/2) log 2π − ½ log |H|,   H = I + Jᵀ S⁻² J,   J = ∂f/∂η at η̂

(Tierney & Kadane 1986, doi:10.1080/01621459.1986.10478240; with the Gauss–Newton H it is the FOCE likelihood of
Lindstrom & Bates 1990, doi:10.2307/2532087, with interaction). The slopes ∂f/∂(deviation) are held fixed between
refreshes, so that effects, typical values, variances and weights descend one smooth function together; at convergence
they are consistent. Where `f` is linear in η and the noise additive, this is the exact log p(y).
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from hybrid.data import Cohort
from hybrid.population import PopulationValues
from hybrid.simulator import Simulator
from mechanistic.schedule import Schedule

DEVIATION = 0.03
"""Half width of the central differences in a deviation on the unconstrained scale; their error is of order 1e-3."""
SETTLED = 1e-5
"""Effects that would move by less, in SDs, are at their mode."""
STUCK = 1e4
"""Damping at which a subject's effects are left where they are: no step however short improves them."""


@final
@dataclass(frozen=True, eq=False)
class Unknowns:
    """Everything a fit changes but the weights.

    Attributes:
        values: typical values, SDs and correlations of the random effects, covariate coefficients.
        log_sd: log SDs of the noise, `(size,)`.
        eta: standardised random effects, `(subject, effect)`.
    """

    values: PopulationValues
    log_sd: Tensor
    eta: Tensor

    def detach(self) -> "Unknowns":
        """The same numbers outside any graph."""
        parts = (getattr(self.values, name).detach() for name in ("typical", "log_sd", "coefficients", "correlation"))
        return Unknowns(PopulationValues(*parts), self.log_sd.detach(), self.eta.detach())


class Terms(NamedTuple):
    """The objective by subject.

    Attributes:
        likelihood: log p(y | η), `(subject,)`.
        prior: log density of η, `(subject,)`.
        volume: −½ log |H| + (r/2) log 2π, `(subject,)`.
    """

    likelihood: Tensor
    prior: Tensor
    volume: Tensor

    @property
    def marginal(self) -> Tensor:
        """Laplace's approximation of log p(y), `(subject,)`."""
        return self.likelihood + self.prior + self.volume


def evaluate(simulator: Simulator, cohort: Cohort, unknowns: Unknowns, slopes: Tensor) -> Terms:
    """The terms of the objective, differentiable with respect to the unknowns and the field's weights.

    Args:
        simulator: predicts what is measured.
        cohort: the data.
        unknowns: where to evaluate.
        slopes: ∂(scaled prediction)/∂(deviation), `(subject, sample, effect)`; held fixed.
    """
    f = simulator.predict(simulator.parameters(unknowns.values, unknowns.eta, cohort), cohort)
    return _terms(simulator, cohort, unknowns, slopes, f)


def _terms(simulator: Simulator, cohort: Cohort, unknowns: Unknowns, slopes: Tensor, f: Tensor) -> Terms:
    noise = simulator.noise_of(cohort)
    log_sd = channel_sds(simulator, cohort, unknowns.log_sd)
    likelihood = noise.log_prob(cohort.dv, f, log_sd, cohort.channel, cohort.observed).sum(-1)
    prior = simulator.population.log_prob_eta(unknowns.values, unknowns.eta)
    hessian = _hessian(simulator, cohort, unknowns, slopes, f)
    effects = unknowns.eta.shape[-1]
    volume = -torch.linalg.cholesky_ex(hessian)[0].diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return Terms(likelihood, prior, volume + 0.5 * effects * torch.log(f.new_tensor(2 * torch.pi)))


def channel_sds(simulator: Simulator, cohort: Cohort, log_sd: Tensor) -> Tensor:
    """The log SDs of the cohort's channels out of those of all channels of the simulator."""
    place = {name: i for i, name in enumerate(simulator.noise.names)}
    index = [place[name] for name in simulator.noise_of(cohort).names]
    return log_sd if index == list(range(len(log_sd))) else log_sd[..., index]


def _hessian(simulator: Simulator, cohort: Cohort, unknowns: Unknowns, slopes: Tensor, f: Tensor) -> Tensor:
    """I + Jᵀ S⁻² J, `(subject, effect, effect)`."""
    weighted = _standardised(simulator, cohort, unknowns, slopes, f)
    eye = torch.eye(slopes.shape[-1], dtype=slopes.dtype, device=slopes.device)
    return eye + weighted.mT @ weighted


def _standardised(simulator: Simulator, cohort: Cohort, unknowns: Unknowns, slopes: Tensor, f: Tensor) -> Tensor:
    """S⁻¹ J, `(subject, sample, effect)`; zero where nothing was observed."""
    noise = simulator.noise_of(cohort)
    used = cohort.observed & f.isfinite()
    safe = torch.where(used, f, 1.0)
    sd = noise.standard_deviation(safe, channel_sds(simulator, cohort, unknowns.log_sd), cohort.channel)
    counted = (used & (sd.detach() > 0)).unsqueeze(-1)
    along = slopes @ simulator.population.cholesky(unknowns.values)
    return torch.where(counted, along, 0.0) / torch.where(counted, sd.unsqueeze(-1), 1.0)


def scaled(simulator: Simulator, cohort: Cohort, f: Tensor) -> Tensor:
    """Predictions on the scale on which each channel's noise is normal, `(subject, sample)`."""
    result = torch.zeros_like(f)
    for index, noise in enumerate(simulator.noise_of(cohort).noises.values()):
        mine = cohort.observed & (cohort.channel == index)
        value = noise.scaled(torch.where(mine & noise.supports(f), f, 1.0))
        result = torch.where(mine, value, result)
    return result


class Linear(NamedTuple):
    """Predictions and their slopes.

    Attributes:
        f: `(subject, sample)`.
        slopes: ∂(scaled prediction)/∂(deviation), `(subject, sample, effect)`.
    """

    f: Tensor
    slopes: Tensor


def linearise(simulator: Simulator, cohort: Cohort, unknowns: Unknowns) -> Linear:
    """Predictions and their slopes by central differences, all subjects and effects in one batch; no graph."""
    with torch.no_grad():
        effects = unknowns.eta.shape[-1]
        factor = simulator.population.cholesky(unknowns.values)
        # A deviation along each axis, expressed in standardised effects.
        axes = torch.linalg.solve_triangular(factor, DEVIATION * torch.eye(effects, dtype=factor.dtype), upper=False)
        moves = torch.cat([axes.new_zeros(1, effects), axes.mT, -axes.mT])
        tiled = tile(cohort, len(moves))
        eta = (unknowns.eta + moves[:, None]).reshape(len(moves) * len(cohort), effects)
        f = simulator.predict(simulator.parameters(unknowns.values, eta, tiled), tiled)
        values = scaled(simulator, tiled, f).reshape(len(moves), len(cohort), -1)
        slopes = (values[1 : effects + 1] - values[effects + 1 :]) / (2 * DEVIATION)
        return Linear(f[: len(cohort)], slopes.nan_to_num(0.0).permute(1, 2, 0))


def tile(cohort: Cohort, copies: int) -> Cohort:
    """The subjects of a cohort `copies` times, one set after the other."""

    def repeated(value: Tensor) -> Tensor:
        return value.repeat(copies, *[1] * (value.ndim - 1))

    doses = cohort.schedule
    parts = (repeated(getattr(doses, name)) for name in ("target", "time", "amount", "duration"))
    schedule = Schedule(doses.targets, *parts) if doses.batch_shape else doses
    names = ("times", "dv", "observed", "channel", "before", "covariates", "start")
    arrays: dict[str, Any] = {name: repeated(getattr(cohort, name)) for name in names}
    return replace(cohort, ids=cohort.ids * copies, schedule=schedule, **arrays)


class Modes(NamedTuple):
    """Empirical Bayes estimates: the mode of each subject's random effects and the curvature there.

    Attributes:
        eta: `(subject, effect)`.
        slopes: `(subject, sample, effect)`.
        terms: of the objective at the mode.
        f: predictions at the mode, `(subject, sample)`.
    """

    eta: Tensor
    slopes: Tensor
    terms: Terms
    f: Tensor


def find_modes(simulator: Simulator, cohort: Cohort, unknowns: Unknowns, iterations: int) -> Modes:
    """Damped Gauss–Newton steps for every subject's random effects at once, the rest held fixed.

    A subject whose step does not help keeps its effects and tries a shorter step; no subject sees another.
    """
    with torch.no_grad():
        eta = unknowns.eta
        here = linearise(simulator, cohort, unknowns)
        terms = _terms(simulator, cohort, unknowns, here.slopes, here.f)
        if eta.shape[-1] == 0:
            return Modes(eta, here.slopes, terms, here.f)
        damping = torch.full_like(eta[:, :1], 1e-3)
        moving = torch.ones_like(damping, dtype=torch.bool)
        for _ in range(iterations):
            step = _newton_step(simulator, cohort, replace(unknowns, eta=eta), here, damping)
            moving = moving & (step.abs().amax(-1, keepdim=True) > SETTLED) & (damping < STUCK)
            if not bool(moving.any()):
                break
            trial = torch.where(moving, eta + step, eta)
            there = linearise(simulator, cohort, replace(unknowns, eta=trial))
            moved = _terms(simulator, cohort, replace(unknowns, eta=trial), there.slopes, there.f)
            better = (moved.likelihood + moved.prior > terms.likelihood + terms.prior) & moving.squeeze(-1)
            eta = torch.where(better[:, None], trial, eta)
            damping = torch.where(better[:, None], damping * 0.1, damping * 30).clamp_min(1e-6)
            here = Linear(
                torch.where(better[:, None], there.f, here.f),
                torch.where(better[:, None, None], there.slopes, here.slopes),
            )
            terms = Terms(*(torch.where(better, new, old) for new, old in zip(moved, terms, strict=True)))
        return Modes(eta, here.slopes, terms, here.f)


def _newton_step(simulator: Simulator, cohort: Cohort, unknowns: Unknowns, here: Linear, damping: Tensor) -> Tensor:
    weighted = _standardised(simulator, cohort, unknowns, here.slopes, here.f)
    along = here.slopes @ simulator.population.cholesky(unknowns.values)
    ascent = _likelihood_slope(simulator, cohort, unknowns, here.f)
    slope = (along.mT @ ascent.unsqueeze(-1)).squeeze(-1) - unknowns.eta
    eye = torch.eye(weighted.shape[-1], dtype=weighted.dtype, device=weighted.device)
    curvature = eye + weighted.mT @ weighted
    step = torch.linalg.solve(curvature + damping.unsqueeze(-1) * eye, slope.unsqueeze(-1)).squeeze(-1)
    # A standardised effect that moves by more than this in one step has left the range of the linearisation.
    longest = step.abs().amax(-1, keepdim=True).clamp_min(1e-12)
    return step * (2.0 / longest).clamp(max=1.0)


def _likelihood_slope(simulator: Simulator, cohort: Cohort, unknowns: Unknowns, f: Tensor) -> Tensor:
    """∂ log p(y) / ∂(scaled prediction), `(subject, sample)`; an SD that depends on the prediction counts too."""
    log_sd = channel_sds(simulator, cohort, unknowns.log_sd)
    noise = simulator.noise_of(cohort)
    with torch.enable_grad():
        f = f.detach().requires_grad_()
        density = noise.log_prob(cohort.dv, f, log_sd, cohort.channel, cohort.observed)
        (rise,) = torch.autograd.grad(density.sum(), f)
        (stretch,) = torch.autograd.grad(scaled(simulator, cohort, f).sum(), f)
    usable = (stretch > 0) & rise.isfinite()
    return torch.where(usable, rise / torch.where(usable, stretch, 1.0), 0.0)
