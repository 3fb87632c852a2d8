"""Small problems that several tests of `hybrid` share."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.simulator import Simulator
from mechanistic.compile import RateField
from mechanistic.library import pharmacokinetics, signalling
from mechanistic.model import KineticModel
from mechanistic.schedule import Schedule
from mechanistic.solve.problem import Status

ONE = pharmacokinetics.one_compartment_iv()
TWO = pharmacokinetics.two_compartment_iv()
MAPK = signalling.kholodenko_mapk()
STAT5 = signalling.boehm_stat5()


def drawn(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal numbers of their own generator."""
    return torch.randn(tuple(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def randomise(module: nn.Module, size: float, seed: int = 0) -> None:
    """Draws every weight from N(0, size²)."""
    with torch.no_grad():
        for i, weight in enumerate(module.parameters()):
            weight.copy_(size * drawn(weight.shape, 1000 * seed + i))


def some_states(field: HybridField | RateField, rows: int, seed: int = 0) -> Tensor:
    """States between nothing and their typical size, some of them exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(rows, len(field.state_names), dtype=torch.float64, generator=generator)
    return field.scales * torch.where(share < 0.3, 0.0, share)


def cohort(
    subjects: int,
    times: Sequence[float],
    dose: float | None = 100.0,
    target: str = "central",
    wt: Sequence[float] | None = None,
    channels: tuple[str, ...] = ("dv",),
) -> Cohort:
    """Subjects with one bolus at time 0, or none, that were observed at the same times; every observation is 0."""
    shape = (subjects, len(times))
    doses = Schedule.none() if dose is None else Schedule.bolus(target, dose)
    return Cohort(
        ids=tuple(f"s{i}" for i in range(subjects)),
        times=torch.tensor(times, dtype=torch.float64).expand(shape).clone(),
        dv=torch.zeros(shape, dtype=torch.float64),
        observed=torch.ones(shape, dtype=torch.bool),
        channel=torch.zeros(shape, dtype=torch.long),
        before=torch.zeros(shape, dtype=torch.bool),
        schedule=Schedule.stack([doses] * subjects),
        covariates=torch.zeros(subjects, 0, dtype=torch.float64)
        if wt is None
        else torch.tensor(wt, dtype=torch.float64)[:, None],
        start=torch.zeros(subjects, dtype=torch.float64),
        channels=channels,
        covariate_names=() if wt is None else ("wt",),
    )


def observed(simulator: Simulator, subjects: Cohort, seed: int = 0) -> Cohort:
    """The cohort with measurements of virtual subjects of the simulator's own population."""
    population = simulator.population
    eta = drawn((len(subjects), len(population.effect_names)), seed)
    with torch.no_grad():
        solution = simulator.solve(simulator.parameters(population.start(), eta, subjects), subjects)
        assert bool((solution.status == Status.OK).all())
        f = simulator.measured(solution, subjects)
        noise, generator = simulator.noise_of(subjects), torch.Generator().manual_seed(seed + 1)
        return replace(subjects, dv=noise.sample(f, noise.start(), subjects.channel, generator))


def perturbed(model: KineticModel, rows: int, seed: int = 0) -> Tensor:
    """Nominal parameters, each times a factor about 1, `(row, parameter)`."""
    nominal = torch.tensor(list(model.nominal().values()), dtype=torch.float64)
    return nominal * (0.3 * drawn((rows, len(nominal)), seed)).exp()
