"""How subjects differ: typical values, random effects and covariates; virtual patients and organoids.

On the unconstrained scale of the parameter space,

    u_i = typical + Σ covariate effects(c_i) + D L η_i,    η_i ~ N(0, I)

with the standard deviations D of the random effects and the Cholesky factor L of their correlation. Where a parameter
is positive its random effect is log-normal: `D` is ω, reported with CV % = 100 √(exp(ω²) − 1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hybrid.covariates import AbstractEffect, Category, Power
from hybrid.data import Cohort
from hybrid.parameters import Exp, ParameterError, ParameterSpace
from mechanistic.errors import nearest
from mechanistic.model import FrozenMap

if TYPE_CHECKING:
    import xarray

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


@final
@dataclass(frozen=True, eq=False)
class PopulationValues:
    """The numbers of a population that a fit changes.

    Attributes:
        typical: typical parameters on the unconstrained scale, `(size,)`.
        log_sd: logarithms of the SDs of the random effects, `(effect,)`.
        coefficients: coefficients of the covariate effects, `(coefficient,)`.
        correlation: unconstrained partial correlations of the random effects, row by row, `(effect (effect − 1) / 2,)`;
            empty where the effects are independent.
    """

    typical: Tensor
    log_sd: Tensor
    coefficients: Tensor
    correlation: Tensor

    def flatten(self) -> Tensor:
        """All numbers, one after the other; `Population.unflatten` puts them back."""
        return torch.cat([getattr(self, field.name) for field in fields(self)], dim=-1)


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class Population:
    """A parameter space whose values differ between subjects.

    `Population(space, between={"ka": 0.5, "CL": 0.3}, covariates={"CL": [Power("wt", 70.0, 0.75)]})`

    Attributes:
        space: the estimated parameters; their medians are where the typical values start.
        between: parameter to the starting SD of its random effect on the unconstrained scale.
        covariates: parameter to the effects of covariates on it.
        correlated: whether the random effects have a full covariance matrix, or a diagonal one.

    Raises:
        ParameterError: lists every unknown parameter, bad SD and misplaced effect.
    """

    space: ParameterSpace
    between: Mapping[str, float]
    covariates: Mapping[str, tuple[AbstractEffect, ...]]
    correlated: bool

    def __init__(
        self,
        space: ParameterSpace,
        between: Mapping[str, float] | Sequence[str] = (),
        covariates: Mapping[str, AbstractEffect | Sequence[AbstractEffect]] | None = None,
        correlated: bool = False,
    ) -> None:
        named = (between,) if isinstance(between, str) else between
        sds = named if isinstance(named, Mapping) else dict.fromkeys(named, 0.3)
        effects = {n: (e,) if isinstance(e, AbstractEffect) else tuple(e) for n, e in (covariates or {}).items()}
        problems = [*_between_problems(space, sds), *_effect_problems(space, effects)]
        if problems:
            raise ParameterError("the population is not defined:", problems)
        object.__setattr__(self, "space", space)
        object.__setattr__(self, "between", FrozenMap({name: float(sd) for name, sd in sds.items()}))
        object.__setattr__(self, "covariates", FrozenMap(effects))
        object.__setattr__(self, "correlated", bool(correlated))

    @property
    def effect_names(self) -> tuple[str, ...]:
        """The parameters with a random effect, in the order of `eta`."""
        return tuple(self.between)

    @property
    def covariate_names(self) -> tuple[str, ...]:
        """The covariates that have an effect, in the order in which `individual` takes them."""
        return tuple(dict.fromkeys(effect.covariate for effects in self.covariates.values() for effect in effects))

    @property
    def coefficient_names(self) -> tuple[str, ...]:
        """`parameter.covariate.coefficient` for each of `PopulationValues.coefficients`."""
        return tuple(f"{name}.{effect.covariate}.{part}" for name, effect in self._effects() for part in effect.names)

    def start(self) -> PopulationValues:
        """The medians of the priors, the given SDs, the coefficients' starting values and no correlation."""
        count = len(self.between)
        coefficients = [value for _, effect in self._effects() for value in effect.start()]
        return PopulationValues(
            typical=self.space.start(),
            log_sd=_tensor(list(self.between.values())).log(),
            coefficients=_tensor(coefficients),
            correlation=_tensor([0.0] * (count * (count - 1) // 2 if self.correlated else 0)),
        )

    def unflatten(self, vector: Tensor) -> PopulationValues:
        """The values whose `flatten` is `vector`."""
        start = self.start()
        sizes = [len(getattr(start, field.name)) for field in fields(start)]
        return PopulationValues(*vector.split(sizes, dim=-1))

    def cholesky(self, values: PopulationValues) -> Tensor:
        """Lower factor of the covariance of the random effects on the unconstrained scale, `(effect, effect)`."""
        sd = values.log_sd.exp()
        return sd[:, None] * _correlation_factor(values.correlation, len(sd)) if self.correlated else torch.diag(sd)

    def covariance(self, values: PopulationValues) -> Tensor:
        """Covariance Ω of the random effects on the unconstrained scale, `(effect, effect)`."""
        factor = self.cholesky(values)
        return factor @ factor.mT

    def deviations(self, values: PopulationValues, eta: Tensor) -> Tensor:
        """What `eta` adds to the parameters of `effect_names`, `(*batch, effect)`: distributed as N(0, Ω)."""
        return eta @ self.cholesky(values).mT

    def individual(self, values: PopulationValues, eta: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Unconstrained parameters of subjects, `(*batch, size)`.

        Args:
            values: the population.
            eta: standardised random effects, N(0, 1) each, `(*batch, effect)`.
            covariates: values of `covariate_names`, `(*batch, covariate)`; may be left out where there are none.
        """
        place = [self.space.names.index(name) for name in self.effect_names]
        index = torch.tensor(place, dtype=torch.long, device=eta.device)
        typical = self.typical(values, covariates)
        batch = torch.broadcast_shapes(typical.shape[:-1], eta.shape[:-1])
        deviations = self.deviations(values, eta).expand(*batch, -1)
        return typical.expand(*batch, -1).index_add(-1, index, deviations)

    def typical(self, values: PopulationValues, covariates: Tensor | None = None) -> Tensor:
        """Unconstrained parameters of the typical subject with these covariates, `(*batch, size)`."""
        if not self.covariates:
            return values.typical
        if covariates is None or covariates.shape[-1] != len(self.covariate_names):
            got = "none" if covariates is None else str(tuple(covariates.shape))
            raise ParameterError(
                "the covariates do not fit the population:",
                [f"expected (*batch, covariate) with {', '.join(self.covariate_names)}; got {got}"],
            )
        columns = dict(zip(self.covariate_names, covariates.unbind(dim=-1), strict=True))
        shifts: dict[str, Tensor] = {}
        first = 0
        for name, effect in self._effects():
            last = first + len(effect.names)
            shift = effect.shift(columns[effect.covariate], values.coefficients[first:last])
            shifts[name] = shifts[name] + shift if name in shifts else shift
            first = last
        none = torch.zeros_like(covariates[..., 0])
        return values.typical + torch.stack([shifts.get(name, none) for name in self.space.names], dim=-1)

    def log_prob_eta(self, values: PopulationValues, eta: Tensor) -> Tensor:
        """Log density of standardised random effects, `(*batch,)`.

        It does not depend on `values`, because `eta` is standardised; the argument keeps the place of the random
        effects' distribution in an objective.
        """
        return (-0.5 * eta.square() - _HALF_LOG_TAU).sum(dim=-1)

    def covariate_values(self, source: "Cohort | Patients") -> Tensor:
        """The covariates that the population needs, `(subject, covariate)`, out of those that a cohort has.

        Raises:
            ParameterError: for covariates that are missing, not categorical, or have unknown categories.
        """
        named = dict(zip(source.covariate_names, source.covariates.unbind(dim=-1), strict=True))
        levels = {e.covariate: e.levels for _, e in self._effects() if isinstance(e, Category)}
        problems = [
            f"`{name}` is not among the covariates{nearest(name, named)}"
            for name in self.covariate_names
            if name not in named
        ]
        columns = []
        for name in dict.fromkeys(
            e.covariate for _, e in self._effects() if isinstance(e, Power) and e.covariate in named
        ):
            wrong = [source.ids[row] for row in (~(named[name] > 0)).nonzero().flatten().tolist()]
            if wrong:
                problems.append(f"`{name}` is not positive for subject {', '.join(wrong[:5])}, as its power needs")
        for name in (name for name in self.covariate_names if name in named):
            found = source.categories.get(name)
            if name not in levels and found is None:
                columns.append(named[name])
            elif name in levels and found is not None and set(found) <= set(levels[name]):
                code = torch.tensor([float(levels[name].index(category)) for category in found], dtype=torch.float64)
                columns.append(code.to(named[name])[named[name].long()])
            else:
                wants = f"has the levels {levels[name]}" if name in levels else "takes numbers"
                problems.append(f"the effect of `{name}` {wants}, the data have {found or 'numbers'}")
        if problems:
            raise ParameterError("the covariates do not fit the population:", problems)
        size = len(source.ids)
        return torch.stack(columns, dim=-1) if columns else torch.zeros(size, 0, dtype=torch.float64)

    def sample(
        self, n: int, covariates: Any = None, seed: int = 0, values: PopulationValues | None = None
    ) -> "Patients":
        """`n` virtual patients: random effects drawn, covariates resampled from observed subjects with replacement.

        A subject's covariates are drawn together, so that their correlation is kept. The first patients are the same
        whatever `n` is.

        Args:
            n: how many.
            covariates: a `Cohort`, or a table (data frame, mapping) with a row a subject; text becomes categories.
            seed: of the random numbers.
            values: the population; by default where a fit starts.

        Raises:
            ParameterError: for covariates that the population needs and `covariates` does not have.
        """
        values = self.start() if values is None else values
        effects, rows = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2))
        eta = torch.from_numpy(effects.standard_normal((n, len(self.between))))
        observed = _observed(covariates)
        drawn = [int(position * len(observed)) for position in rows.random(n)]
        patients = Patients(
            ids=tuple(str(i + 1) for i in range(n)),
            parameters=eta.new_zeros(n, len(self.space.parameter_names)),
            eta=eta,
            covariates=observed.values[drawn] if len(observed) else eta.new_zeros(n, 0),
            parameter_names=self.space.parameter_names,
            effect_names=self.effect_names,
            covariate_names=observed.names,
            categories=observed.categories,
        )
        with torch.no_grad():
            u = self.individual(values, eta, self.covariate_values(patients)).expand(n, -1)
            return replace(patients, parameters=self.space.full(u))

    def table(self, values: PopulationValues | None = None) -> pd.DataFrame:
        """Typical values on the natural scale, ω and CV % of the random effects, and covariate coefficients."""
        values = self.start() if values is None else values
        typical = self.space.to_natural(values.typical).tolist()
        sds = dict(zip(self.effect_names, values.log_sd.exp().tolist(), strict=True))
        rows: list[dict[str, Any]] = []
        for name, value in zip(self.space.names, typical, strict=True):
            sd = sds.get(name, math.nan)
            positive = isinstance(self.space.priors[name].bijection, Exp)
            cv = 100.0 * math.sqrt(math.expm1(sd**2)) if positive and name in sds else math.nan
            rows.append({"name": name, "value": value, "omega": sd, "CV %": cv})
        coefficients = zip(self.coefficient_names, values.coefficients.tolist(), strict=True)
        rows += [{"name": name, "value": value, "omega": math.nan, "CV %": math.nan} for name, value in coefficients]
        return pd.DataFrame(rows, columns=["name", "value", "omega", "CV %"]).set_index("name")

    def correlations(self, values: PopulationValues) -> pd.DataFrame:
        """Correlations of the random effects."""
        factor = _correlation_factor(values.correlation, len(self.between)) if self.correlated else None
        matrix = torch.eye(len(self.between), dtype=torch.float64) if factor is None else factor @ factor.mT
        return pd.DataFrame(matrix.detach().numpy(), index=self.effect_names, columns=self.effect_names)

    def _effects(self) -> list[tuple[str, AbstractEffect]]:
        return [(name, effect) for name, effects in self.covariates.items() for effect in effects]

    def __repr__(self) -> str:
        kind = "correlated" if self.correlated else "independent"
        lines = [f"Population: {self.space.size} parameters, {len(self.between)} {kind} random effects"]
        lines += self.table().to_string(float_format="{:.4g}".format, na_rep="").splitlines()
        lines += [f"{name}: {effect!r}" for name, effect in self._effects()]
        return "\n  ".join(lines)

    def _repr_html_(self) -> str:
        return str(self.table().to_html(float_format="{:.4g}".format, na_rep="", escape=True))


@final
@dataclass(frozen=True, eq=False, repr=False)
class Patients:
    """Virtual subjects: who they are, and the parameters of their mechanism.

    Attributes:
        ids: a label a subject.
        parameters: full parameter vectors on the natural scale, `(subject, parameter)`.
        eta: standardised random effects, `(subject, effect)`.
        covariates: `(subject, covariate)`; a category as an index into `categories`.
        parameter_names, effect_names, covariate_names: what the last axes hold.
        categories: covariate name to the names of its categories.
    """

    ids: tuple[str, ...]
    parameters: Tensor
    eta: Tensor
    covariates: Tensor
    parameter_names: tuple[str, ...]
    effect_names: tuple[str, ...]
    covariate_names: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = FrozenMap()

    def __len__(self) -> int:
        return len(self.ids)

    def dataset(self) -> "xarray.Dataset":
        """Labelled arrays with the dimensions `subject`, `parameter`, `effect` and `covariate`."""
        import xarray

        return xarray.Dataset(
            {
                "parameters": (("subject", "parameter"), self.parameters.numpy()),
                "eta": (("subject", "effect"), self.eta.numpy()),
                "covariates": (("subject", "covariate"), self.covariates.numpy()),
            },
            coords={
                "subject": list(self.ids),
                "parameter": list(self.parameter_names),
                "effect": list(self.effect_names),
                "covariate": list(self.covariate_names),
            },
        )

    def __repr__(self) -> str:
        lines = [f"Patients: {len(self)}"]
        for name, values in zip(self.parameter_names, self.parameters.unbind(dim=-1), strict=True):
            if len(self) and values.min() != values.max():
                low, middle, high = (float(values.quantile(q)) for q in (0.05, 0.5, 0.95))
                lines.append(f"{name}: {middle:.4g} ({low:.4g} to {high:.4g}, 5 % to 95 %)")
        if self.covariate_names:
            lines.append(f"covariates: {', '.join(self.covariate_names)}")
        return "\n  ".join(lines)


@final
@dataclass(frozen=True)
class _Observed:
    """Covariates of observed subjects, to be resampled by rows."""

    names: tuple[str, ...]
    values: Tensor
    categories: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.values)


def _observed(source: Any) -> _Observed:
    if source is None:
        return _Observed((), torch.zeros(0, 0, dtype=torch.float64), FrozenMap())
    if isinstance(source, Cohort | Patients):
        return _Observed(source.covariate_names, source.covariates, source.categories)
    table = source if isinstance(source, pd.DataFrame) else pd.DataFrame(dict(source))
    columns, categories, problems = [], {}, []
    for label in [column for column in table.columns if str(column).lower() == "id"]:
        if table[label].duplicated().any():
            problems.append(f"`{label}` has several rows a subject; give one row a subject, or a Cohort")
        table = table.drop(columns=label)
    for name, column in table.items():
        if column.isna().any():
            rows = ", ".join(str(row + 1) for row in np.flatnonzero(column.isna())[:5])
            problems.append(f"`{name}` is missing in row {rows}; give a value or leave the subject out")
        elif pd.api.types.is_numeric_dtype(column):
            columns.append(column.to_numpy(dtype=float))
        else:
            categories[str(name)] = tuple(sorted(set(map(str, column))))
            columns.append(np.array([categories[str(name)].index(str(cell)) for cell in column], dtype=float))
    if not len(table) or not len(table.columns):
        problems.append("the table has no row or no covariate")
    if problems:
        raise ParameterError("the covariates cannot be resampled:", problems)
    values = torch.from_numpy(np.stack(columns, axis=-1))
    return _Observed(tuple(map(str, table.columns)), values, FrozenMap(categories))


def _between_problems(space: ParameterSpace, between: Mapping[str, Any]) -> list[str]:
    problems = [_not_estimated(space, name, "random effect") for name in between if name not in space.names]
    return problems + [
        f"the random effect of `{name}` has the SD {sd!r}; give a positive number"
        for name, sd in between.items()
        if not (isinstance(sd, int | float) and 0 < sd < math.inf)
    ]


def _effect_problems(space: ParameterSpace, covariates: Mapping[str, tuple[Any, ...]]) -> list[str]:
    problems = [_not_estimated(space, name, "covariate effect") for name in covariates if name not in space.names]
    for name, effects in covariates.items():
        for effect in effects:
            if not isinstance(effect, AbstractEffect):
                problems.append(
                    f"`{name}` has {effect!r}, which is not a covariate effect; give for instance Power(...)"
                )
            elif isinstance(effect, Power) and not effect.reference > 0:
                problems.append(
                    f"`{name}`: the reference of `{effect.covariate}` is {effect.reference!r}; it is positive"
                )
            elif isinstance(effect, Power) and name in space.names and not _positive(space, name):
                problems.append(
                    f"`{name}`: a power of `{effect.covariate}` needs a parameter on the log scale; use Linear"
                )
    levels: dict[str, tuple[str, ...]] = {}
    for effect in (e for effects in covariates.values() for e in effects if isinstance(e, AbstractEffect)):
        mine = effect.levels if isinstance(effect, Category) else ()
        if levels.setdefault(effect.covariate, mine) != mine:
            problems.append(
                f"`{effect.covariate}` has different levels in different effects; give the same, in one order"
            )
    return problems


def _positive(space: ParameterSpace, name: str) -> bool:
    return isinstance(space.priors[name].bijection, Exp)


def _not_estimated(space: ParameterSpace, name: str, what: str) -> str:
    if name in space.parameter_names:
        return f"`{name}` has a {what} but is fixed; give it a prior in the ParameterSpace"
    return f"`{name}` has a {what} but is not a parameter{nearest(name, space.names)}"


def _correlation_factor(partial: Tensor, size: int) -> Tensor:
    """Cholesky factor of a correlation matrix from unconstrained partial correlations, `(size, size)`.

    Lewandowski, Kurowicka & Joe (2009), doi:10.1016/j.jmva.2009.04.008: canonical partial correlations tanh(x) fill
    the rows of the factor; each row has length 1. Zeros give the identity.
    """
    rows, first = [], 0
    for i in range(size):
        signed = torch.tanh(partial[first : first + i])
        # What is left of the length after each entry, 1 before the first; 1 / cosh(x) is √(1 − tanh²(x)).
        left = torch.cat([partial.new_ones(1), (1 / torch.cosh(partial[first : first + i])).cumprod(dim=0)])
        rows.append(torch.cat([signed * left[:-1], left[-1:], partial.new_zeros(size - i - 1)]))
        first += i
    return torch.stack(rows) if rows else partial.new_zeros(0, 0)


def _tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
