"""From a population and an experiment to what would be measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.noise import AbstractNoise, NoiseModel
from hybrid.parameters import ParameterError, ParameterSpace
from hybrid.population import Patients, Population, PopulationValues
from mechanistic.errors import ListedError, nearest
from mechanistic.field import AbstractVectorField
from mechanistic.schedule import Schedule
from mechanistic.simulate import simulate
from mechanistic.solve import Auto, Solution, Tolerance
from mechanistic.solve.problem import AbstractSolver

if TYPE_CHECKING:
    import xarray

FITTING = Tolerance(rtol=1e-5, atol=1e-8)
"""Default tolerance: errors far below any assay's, at half the cost of the default of `simulate`."""


class SimulatorError(ListedError):
    """A simulator whose parts do not fit each other, or a cohort that does not fit a simulator."""


@final
@dataclass(frozen=True, eq=False)
class Simulator:
    """A vector field, how its parameters differ between subjects, and how measurements scatter.

    Attributes:
        field: mechanism, hybrid, or any other vector field.
        population: typical values, random effects and covariates.
        noise: noise of every channel.
        measures: channel to the state or observable that it measures.
        solver: of the simulations.
        tolerance: of the simulations.
    """

    field: AbstractVectorField
    population: Population
    noise: NoiseModel
    measures: Mapping[str, str]
    solver: AbstractSolver
    tolerance: Tolerance

    def __init__(
        self,
        field: AbstractVectorField,
        population: Population | ParameterSpace,
        noise: NoiseModel | AbstractNoise | Mapping[str, AbstractNoise],
        measures: Mapping[str, str] | str | None = None,
        *,
        solver: AbstractSolver | None = None,
        tolerance: Tolerance = FITTING,
    ) -> None:
        """See the class; `measures` may be one name for a single channel `dv`, or None where it can be only one.

        Raises:
            SimulatorError: lists channels without noise, unknown measured quantities and foreign parameters.
        """
        known = (*field.observable_names, *field.state_names)
        if measures is None:
            channels = (
                list(noise.noises)
                if isinstance(noise, NoiseModel)
                else list(noise)
                if isinstance(noise, Mapping)
                else []
            )
            only = field.observable_names[0] if len(field.observable_names) == 1 else None
            measures = {name: name if name in known else only or name for name in channels or ["dv"]}
        elif isinstance(measures, str):
            measures = {"dv": measures}
        problems = [
            f"channel `{c}` measures `{q}`, which is unknown{nearest(q, known)}"
            for c, q in measures.items()
            if q not in known
        ]
        space = population.space if isinstance(population, Population) else population
        if tuple(space.parameter_names) != tuple(field.parameter_names):
            problems.append("the population was made for another system; build its ParameterSpace from this field")
        if problems:
            raise SimulatorError("the simulator is not defined:", problems)
        object.__setattr__(self, "field", field)
        object.__setattr__(
            self, "population", population if isinstance(population, Population) else Population(population)
        )
        object.__setattr__(self, "noise", NoiseModel.of(noise, list(measures)))
        object.__setattr__(self, "measures", dict(measures))
        object.__setattr__(self, "solver", Auto() if solver is None else solver)
        object.__setattr__(self, "tolerance", tolerance)

    def with_field(self, field: AbstractVectorField) -> "Simulator":
        """The same simulator with another field of the same parameters, for instance a trained copy."""
        return Simulator(
            field, self.population, self.noise, self.measures, solver=self.solver, tolerance=self.tolerance
        )

    def check(self, cohort: Cohort) -> None:
        """Refuses a cohort that this simulator cannot describe.

        Raises:
            SimulatorError: lists channels that nothing measures, missing covariates and unknown dose targets.
            NoiseError: for measurements that the noise cannot produce.
        """
        problems = [
            f"nothing measures the channel `{c}`{nearest(c, self.measures)}"
            for c in cohort.channels
            if c not in self.measures
        ]
        problems += [
            f"doses go to `{s}`, which is not a state{nearest(s, self.field.state_names)}"
            for s in cohort.schedule.targets
            if s not in self.field.state_names
        ]
        try:
            self.population.covariate_values(cohort)
        except ParameterError as error:
            problems += error.problems
        wanted = self.field.covariates if isinstance(self.field, HybridField) else {}
        problems += [
            f"the network needs the covariate `{c}`{nearest(c, cohort.covariate_names)}"
            for c in wanted
            if c not in cohort.covariate_names
        ]
        if problems:
            raise SimulatorError("the cohort does not fit the simulator:", problems)
        self.noise_of(cohort).check(cohort.dv, cohort.channel, cohort.observed, cohort.ids, cohort.times)

    def noise_of(self, cohort: Cohort) -> NoiseModel:
        """The noise of the cohort's channels, in their order."""
        return NoiseModel({name: self.noise.noises[name] for name in cohort.channels})

    def parameters(self, values: PopulationValues, eta: Tensor, cohort: Cohort) -> Tensor:
        """Full parameter vectors of the cohort's subjects, `(subject, parameter)`, for effects `(subject, effect)`."""
        u = self.population.individual(values, eta, self.population.covariate_values(cohort))
        return self.with_covariates(self.population.space.full(u.expand(len(eta), -1)), cohort)

    def with_covariates(self, parameters: Tensor, source: "Cohort | Patients") -> Tensor:
        """Parameters with the covariates that a network sees put in their columns, `(subject, parameter)`."""
        if not isinstance(self.field, HybridField) or not self.field.covariates:
            return parameters
        place = {self.field.parameter_names.index(name): name for name in self.field.covariates}
        known = dict(zip(source.covariate_names, source.covariates.unbind(-1), strict=True))
        columns = [known[place[i]] if i in place else column for i, column in enumerate(parameters.unbind(-1))]
        return torch.stack(columns, dim=-1)

    def solve(self, parameters: Tensor, cohort: Cohort) -> Solution:
        """Trajectories of a cohort at its record times, for parameters `(subject, parameter)`."""
        return simulate(
            self.field,
            cohort.times,
            parameters,
            cohort.schedule,
            start=cohort.start,
            before=cohort.before,
            solver=self.solver,
            tolerance=self.tolerance,
        )

    def predict(self, parameters: Tensor, cohort: Cohort) -> Tensor:
        """What each record measures, `(subject, sample)`; NaN for padding and after a failure."""
        return self.measured(self.solve(parameters, cohort), cohort)

    def measured(self, solution: Solution, cohort: Cohort) -> Tensor:
        """What each record measures out of a solution at the cohort's record times, `(subject, sample)`."""
        names = [self.measures[channel] for channel in cohort.channels]
        parts = []
        if any(name in self.field.observable_names for name in names):
            seen = solution.observe()
        for name in names:
            if name in self.field.observable_names:
                parts.append(seen[..., self.field.observable_names.index(name)])
            else:
                parts.append(solution.states[..., self.field.state_names.index(name)])
        return torch.stack(parts, dim=-1).gather(-1, cohort.channel.unsqueeze(-1)).squeeze(-1)

    def simulate(
        self,
        patients: Patients,
        schedule: Schedule | None,
        times: Any,
        *,
        values: Tensor | None = None,
        seed: int | None = None,
    ) -> "xarray.Dataset":
        """Virtual subjects on a regimen: every state and observable, dims `(subject, time)`.

        Args:
            patients: as `Population.sample` makes them.
            schedule: one for all, or a row a subject.
            times: `(time,)`.
            values: log SDs of the noise, `(size,)`; where they start when None.
            seed: adds one measurement of each channel as `<channel>_measured`, drawn with this seed.

        Raises:
            SolveError: names the subjects that failed.
        """
        with torch.no_grad():
            solution = simulate(
                self.field,
                times,
                self.with_covariates(patients.parameters, patients),
                schedule,
                solver=self.solver,
                tolerance=self.tolerance,
            ).check(patients.ids)
            data = solution.dataset(patients.ids)
            if seed is not None:
                generator = torch.Generator().manual_seed(seed)
                log_sd = self.noise.start() if values is None else values
                for index, (channel, name) in enumerate(self.measures.items()):
                    f = torch.from_numpy(data[name].values)
                    drawn = self.noise.sample(f, log_sd, torch.full(f.shape, index), generator)
                    data[f"{channel}_measured"] = (data[name].dims, drawn.numpy(), data[name].attrs)
        return data

    def __repr__(self) -> str:
        measured = ", ".join(f"{c} measures {q}" if c != q else c for c, q in self.measures.items())
        return f"Simulator({len(self.field.state_names)} states; {measured}; {self.noise!r})"
