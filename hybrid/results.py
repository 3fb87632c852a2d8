"""What a fit returns: estimates, predictions and scores, as objects and as labelled arrays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hybrid.data import Cohort
from hybrid.field import HybridField
from hybrid.objective import Modes, Unknowns, channel_sds, find_modes
from hybrid.population import Patients, Population, PopulationValues
from hybrid.simulator import Simulator
from mechanistic.simulate import simulate

if TYPE_CHECKING:
    import xarray as xr

MODE_STEPS = 25
"""Gauss–Newton steps for the random effects of subjects that a fit has not seen."""


@final
@dataclass(frozen=True)
class FitOptions:
    """How a fit descends: Adam, then L-BFGS; rounds between which the curvature is refreshed.

    Attributes:
        adam_steps: at most so many first-order steps.
        learning_rate: of the kinetic unknowns, on the unconstrained scale.
        weight_rate: of the weights.
        refresh: Adam steps between two updates of curvature, held-out score and history.
        patience: updates without a better held-out score after which a phase ends.
        rounds: at most so many rounds of L-BFGS.
        round_steps: steps a round.
        tolerance: a phase ends when the objective falls by less between two updates.
        weight_decay: penalty on the sum of squared weights; the weights' prior is N(0, 1 / (2 weight_decay)).
    """

    adam_steps: int = 200
    learning_rate: float = 0.03
    weight_rate: float = 0.01
    refresh: int = 20
    patience: int = 3
    rounds: int = 8
    round_steps: int = 25
    tolerance: float = 0.02
    weight_decay: float = 0.01


class HistoryRow(NamedTuple):
    """One update of a fit.

    Attributes:
        phase: `adam` or `lbfgs`.
        step: steps done in this phase.
        objective: what is minimised.
        minus_two_log_likelihood: −2 log p(y), with its constant, of the training subjects.
        held_out: mean log p(y) of a held-out subject; NaN without any.
    """

    phase: str
    step: int
    objective: float
    minus_two_log_likelihood: float
    held_out: float


@final
@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where an unfinished fit stands: enough to go on to the same result.

    Attributes:
        phase: `adam`, `lbfgs` or `done`.
        step: steps or rounds done in the phase.
        tensors: everything that the descent remembers, by name.
        numbers: counters and best values, by name.
    """

    phase: str
    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float]


@final
@dataclass(frozen=True, eq=False)
class FittedPopulation:
    """A population at the estimates of a fit."""

    population: Population
    values: PopulationValues

    def sample(self, n: int, covariates: Any = None, seed: int = 0) -> Patients:
        """Virtual subjects drawn from the fitted population; see `Population.sample`."""
        return self.population.sample(n, covariates, seed, self.values)

    def table(self) -> pd.DataFrame:
        """Estimates; see `Population.table`."""
        return self.population.table(self.values)

    def __repr__(self) -> str:
        return f"FittedPopulation\n{self.table().to_string(float_format='{:.4g}'.format, na_rep='')}"

    def _repr_html_(self) -> str:
        return str(self.table().to_html(float_format="{:.4g}".format, na_rep=""))


@final
@dataclass(frozen=True, eq=False)
class Fit:
    """The outcome of `fit`: maximum a posteriori estimates with random effects integrated out by Laplace's method.

    Attributes:
        simulator: a copy of the simulator with trained weights.
        cohort: the training subjects.
        held_out: subjects that only decided when to stop, or None.
        unknowns: estimates.
        history: one row an update.
        options: how it descended.
        finished: whether it ran to its end; an interrupted fit can be resumed.
        seconds: wall time of the descent.
        checkpoint: where it stands.
    """

    simulator: Simulator
    cohort: Cohort
    held_out: Cohort | None
    unknowns: Unknowns
    history: tuple[HistoryRow, ...]
    options: FitOptions
    finished: bool
    seconds: float
    checkpoint: Checkpoint

    @property
    def population(self) -> FittedPopulation:
        """The population at the estimates, to sample virtual subjects from."""
        return FittedPopulation(self.simulator.population, self.unknowns.values)

    @property
    def row(self) -> HistoryRow | None:
        """The update that the estimates stem from: the best one of a finished fit, the last one before an interrupt."""
        if not self.history:
            return None
        return self.history[int(self.checkpoint.numbers["best_row"]) if self.finished else -1]

    @property
    def noise(self) -> dict[str, float]:
        """Estimated SDs of the noise by name."""
        return self.simulator.noise.values(self.unknowns.log_sd)

    def modes(self, cohort: Cohort) -> Modes:
        """Empirical Bayes estimates of any subjects' random effects, given their data.

        Raises:
            SimulatorError: for a cohort that does not fit.
        """
        self.simulator.check(cohort)
        start = torch.zeros(len(cohort), self.unknowns.eta.shape[-1], dtype=torch.float64)
        return find_modes(self.simulator, cohort, replace(self.unknowns, eta=start), MODE_STEPS)

    def score(self, cohort: Cohort) -> Tensor:
        """log p(y) of each subject with its random effects integrated out (Laplace), `(subject,)`."""
        return self.modes(cohort).terms.marginal

    def population_prediction(self, cohort: Cohort) -> Tensor:
        """Predictions for the typical subject with each subject's covariates and doses, `(subject, sample)`."""
        eta = torch.zeros(len(cohort), self.unknowns.eta.shape[-1], dtype=torch.float64)
        return self._predict(cohort, eta)

    def individual_prediction(self, cohort: Cohort) -> Tensor:
        """Predictions at each subject's own empirical Bayes estimates, `(subject, sample)`."""
        return self._predict(cohort, self.modes(cohort).eta)

    def individual_parameters(self, cohort: Cohort) -> Tensor:
        """Full parameter vectors at the empirical Bayes estimates, `(subject, parameter)`."""
        with torch.no_grad():
            return self.simulator.parameters(self.unknowns.values, self.modes(cohort).eta, cohort)

    @cached_property
    def data(self) -> "xr.DataTree":
        """Estimates, predictions, likelihoods and data in the groups of InferenceData, as a DataTree."""
        return tree(self)

    def save(self, folder: Any) -> None:
        """Writes the fit to a folder that `hybrid.load` reads; see `hybrid.store.save`."""
        from hybrid.store import save

        save(self, folder)

    def table(self) -> pd.DataFrame:
        """Estimates of population and noise."""
        noise = pd.DataFrame({"value": self.noise}).reindex(columns=["value", "omega", "CV %"])
        noise.index.name = "name"
        table = self.population.table()
        return pd.concat([table, noise.astype(table.dtypes.to_dict())])

    def __repr__(self) -> str:
        return f"{self._headline()}\n{self.table().to_string(float_format='{:.4g}'.format, na_rep='')}"

    def _repr_html_(self) -> str:
        table = self.table().to_html(float_format="{:.4g}".format, na_rep="")
        return f"<p>{escape(self._headline())}</p>{table}"

    def _headline(self) -> str:
        ended = "finished" if self.finished else "interrupted; pass it as `resume`"
        head = f"Fit ({ended}, {len(self.cohort)} subjects, {self.seconds:.1f} s)"
        if self.row is None:
            return head
        score = "" if self.held_out is None else f", log p(y) of a held-out subject {self.row.held_out:.4g}"
        return f"{head}: −2LL {self.row.minus_two_log_likelihood:.3f}{score}"

    def _predict(self, cohort: Cohort, eta: Tensor) -> Tensor:
        with torch.no_grad():
            return self.simulator.predict(self.simulator.parameters(self.unknowns.values, eta, cohort), cohort)


def tree(fit: Fit) -> "xr.DataTree":
    """A fit as an xarray DataTree: posterior, posterior_predictive, log_likelihood, observed_data, constant_data,
    sample_stats; estimates are one draw of one chain."""
    import xarray as xr

    groups = {
        "posterior": _posterior(fit),
        "sample_stats": _history(fit),
        **{
            f"{name}{suffix}": value
            for suffix, cohort in _cohorts(fit)
            for name, value in _records(fit, cohort).items()
        },
    }
    attrs = {"finished": int(fit.finished), "seconds": fit.seconds, "estimator": "MAP, Laplace"}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups})


def _cohorts(fit: Fit) -> list[tuple[str, Cohort]]:
    return [("", fit.cohort), *([("_held_out", fit.held_out)] if fit.held_out is not None else [])]


def _draw(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=float)[None, None]


def _posterior(fit: Fit) -> "xr.Dataset":
    import xarray as xr

    space, population = fit.simulator.population.space, fit.simulator.population
    typical = space.to_natural(fit.unknowns.values.typical)
    dims = ("chain", "draw")
    variables: dict[str, Any] = {
        name: (dims, _draw(value)) for name, value in zip(space.names, typical.tolist(), strict=True)
    }
    variables["omega"] = ((*dims, "effect"), _draw(fit.unknowns.values.log_sd.exp().tolist()))
    variables["noise_sd"] = ((*dims, "noise"), _draw(list(fit.noise.values())))
    variables["eta"] = (
        (*dims, "subject", "effect"),
        _draw(fit.unknowns.eta.tolist()).reshape(1, 1, *fit.unknowns.eta.shape),
    )
    coords: dict[str, Any] = {
        "chain": [0],
        "draw": [0],
        "effect": list(population.effect_names),
        "noise": list(fit.noise),
        "subject": list(fit.cohort.ids),
    }
    if population.coefficient_names:
        variables["coefficients"] = ((*dims, "coefficient"), _draw(fit.unknowns.values.coefficients.tolist()))
        coords["coefficient"] = list(population.coefficient_names)
    return xr.Dataset(variables, coords)


def _history(fit: Fit) -> "xr.Dataset":
    import xarray as xr

    rows = fit.history
    columns = {
        name: ("update", np.array([getattr(r, name) for r in rows])) for name in HistoryRow._fields if name != "phase"
    }
    columns["phase"] = ("update", np.array([r.phase for r in rows], dtype=str))
    return xr.Dataset(columns, {"update": np.arange(len(rows))})


def _records(fit: Fit, cohort: Cohort) -> dict[str, "xr.Dataset"]:
    """Data, predictions and likelihoods of a cohort, dims `(subject, sample)`."""
    import xarray as xr

    modes = fit.modes(cohort)
    f = modes.f
    noise = fit.simulator.noise_of(cohort)
    log_sd = channel_sds(fit.simulator, cohort, fit.unknowns.log_sd)
    density = noise.log_prob(cohort.dv, f, log_sd, cohort.channel, cohort.observed)
    residual = noise.residual(cohort.dv, f, log_sd, cohort.channel, cohort.observed)
    names = np.array(cohort.channels, dtype=str)[cohort.channel.numpy()]
    seen = cohort.observed.numpy()
    coords = {"subject": list(cohort.ids)}
    place = ("subject", "sample")

    def masked(value: Tensor) -> tuple[tuple[str, str], np.ndarray]:
        return place, np.where(seen, value.detach().numpy(), np.nan)

    def drawn(value: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
        return ("chain", "draw", *place), _draw(masked(value)[1])

    chain = coords | {"chain": [0], "draw": [0]}
    predictive = {"dv": drawn(f), "population": drawn(fit.population_prediction(cohort)), "residual": drawn(residual)}
    marginal = ("subject", modes.terms.marginal.numpy())
    return {
        "observed_data": xr.Dataset({"dv": masked(cohort.dv)}, coords),
        "constant_data": xr.Dataset({"time": (place, cohort.times.numpy()), "channel": (place, names)}, coords),
        "posterior_predictive": xr.Dataset(predictive, chain),
        "log_likelihood": xr.Dataset({"dv": drawn(density), "subject_marginal": marginal}, chain),
    }


def compare(fits: Mapping[str, Fit], cohort: Cohort | None = None) -> pd.DataFrame:
    """Fits beside each other: how well each predicts subjects that it was not trained on.

    Columns: unknowns (trained weights included), −2LL of the training subjects, mean log p(y) of a held-out subject,
    RMSE of the population and of the individual prediction there.

    Args:
        fits: name to fit.
        cohort: subjects to score; each fit's own held-out subjects when None.
    """
    rows = []
    for name, fit in fits.items():
        subjects = cohort if cohort is not None else fit.held_out if fit.held_out is not None else fit.cohort
        weights = sum(w.numel() for w in fit.simulator.field.parameters() if w.requires_grad)
        size = len(fit.unknowns.values.flatten()) + len(fit.unknowns.log_sd) + weights
        modes = fit.modes(subjects)
        row = {
            "fit": name,
            "unknowns": size,
            "−2LL": math.nan if fit.row is None else fit.row.minus_two_log_likelihood,
            "log p(y) a subject": float(modes.terms.marginal.mean()),
            "RMSE population": rmse(fit.population_prediction(subjects), subjects),
            "RMSE individual": rmse(modes.f, subjects),
        }
        rows.append(row)
    return pd.DataFrame(rows).set_index("fit")


def rmse(f: Tensor, cohort: Cohort) -> float:
    """Root mean square of prediction minus observation, in the unit of the observations."""
    return float((f - cohort.dv)[cohort.observed].square().mean().sqrt())


def residual_flux(fit: Fit, cohort: Cohort, times: Sequence[float]) -> "xr.Dataset":
    """Learned fluxes along each subject's fitted trajectory: `flux`, dims `(subject, time, reaction)`, and the states.

    Raises:
        TypeError: for a fit without learned fluxes.
        SolveError: for times before the start of a subject.
    """
    field = fit.simulator.field
    if not isinstance(field, HybridField) or not field.flux_names:
        raise TypeError("this fit has no learned flux; its field is the mechanism alone")
    with torch.no_grad():
        p = fit.individual_parameters(cohort)
        grid = torch.as_tensor(times, dtype=torch.float64)
        solution = simulate(field, grid, p, cohort.schedule, start=cohort.start)
        wide = p.unsqueeze(1).expand(-1, len(grid), -1)
        flux = field.residual(solution.times, solution.states, wide)
    data = solution.dataset(cohort.ids)
    data["flux"] = (("subject", "time", "reaction"), flux.numpy())
    return data.assign_coords(reaction=list(field.flux_names))
