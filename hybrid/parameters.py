"""What a fit may change: named parameters with priors, and the unconstrained scale that the priors fix.

A prior's support decides the scale: the real line stays as it is, positive numbers go by their logarithm, an interval
by its logit. On that unconstrained scale `u` a prior is a normal or a logistic density; optimisers, random effects and
covariates all work there. The mode sought by a maximum-a-posteriori fit is that of the density of `u`, which holds the
Jacobian (for `LogNormal`: normal in the logarithm, as is usual in nonlinear mixed-effects models), not that of the
density of the natural value; a median is a median on both scales.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any, Final, Protocol, final

import torch
from torch import Tensor

from mechanistic.errors import ListedError, nearest
from mechanistic.model import FrozenMap

_HALF_LOG_TAU: Final = 0.5 * math.log(2.0 * math.pi)
_SHOWN: Final = 20


class ParameterError(ListedError):
    """Priors or parameters that contradict themselves or the model."""


class AbstractBijection(ABC):
    """A smooth increasing map from the real line onto a parameter's range; elementwise."""

    @abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """The natural value of the unconstrained `u`."""

    @abstractmethod
    def inverse(self, natural: Tensor) -> Tensor:
        """The unconstrained value of `natural`; NaN or infinite outside the range."""

    @abstractmethod
    def log_det(self, u: Tensor) -> Tensor:
        """Logarithm of the derivative of `forward` at `u`."""

    @abstractmethod
    def contains(self, natural: Tensor) -> Tensor:
        """Whether `natural` lies inside the range."""


@final
@dataclass(frozen=True, slots=True)
class Identity(AbstractBijection):
    """The real line as it is."""

    def forward(self, u: Tensor) -> Tensor:
        return u

    def inverse(self, natural: Tensor) -> Tensor:
        return natural

    def log_det(self, u: Tensor) -> Tensor:
        return torch.zeros_like(u)

    def contains(self, natural: Tensor) -> Tensor:
        return natural.isfinite()


@final
@dataclass(frozen=True, slots=True)
class Exp(AbstractBijection):
    """Positive numbers by their natural logarithm."""

    def forward(self, u: Tensor) -> Tensor:
        return u.exp()

    def inverse(self, natural: Tensor) -> Tensor:
        return natural.log()

    def log_det(self, u: Tensor) -> Tensor:
        return u

    def contains(self, natural: Tensor) -> Tensor:
        return (natural > 0) & natural.isfinite()


@final
@dataclass(frozen=True, slots=True)
class Logit(AbstractBijection):
    """The open interval from `lower` to `upper` by its logit."""

    lower: float = 0.0
    upper: float = 1.0

    def forward(self, u: Tensor) -> Tensor:
        return self.lower + (self.upper - self.lower) * torch.sigmoid(u)

    def inverse(self, natural: Tensor) -> Tensor:
        return (natural - self.lower).log() - (self.upper - natural).log()

    def log_det(self, u: Tensor) -> Tensor:
        log_sigmoid = torch.nn.functional.logsigmoid
        return math.log(self.upper - self.lower) + log_sigmoid(u) + log_sigmoid(-u)

    def contains(self, natural: Tensor) -> Tensor:
        return (natural > self.lower) & (natural < self.upper)


@final
@dataclass(frozen=True, slots=True)
class LogLogit(AbstractBijection):
    """The interval from `lower` to `upper`, both positive, by the logit of the logarithm."""

    lower: float
    upper: float

    def forward(self, u: Tensor) -> Tensor:
        return self._logarithm().forward(u).exp()

    def inverse(self, natural: Tensor) -> Tensor:
        return self._logarithm().inverse(natural.log())

    def log_det(self, u: Tensor) -> Tensor:
        return self._logarithm().forward(u) + self._logarithm().log_det(u)

    def contains(self, natural: Tensor) -> Tensor:
        return (natural > self.lower) & (natural < self.upper)

    def _logarithm(self) -> Logit:
        return Logit(math.log(self.lower), math.log(self.upper))


class AbstractPrior(ABC):
    """A density of one parameter: a bijection, and a standard shape on the unconstrained scale."""

    @property
    @abstractmethod
    def bijection(self) -> AbstractBijection:
        """Unconstrained to natural scale."""

    @abstractmethod
    def log_prob_unconstrained(self, u: Tensor) -> Tensor:
        """Log density of the unconstrained value, the Jacobian included: it integrates to 1 over `u`."""

    @abstractmethod
    def quantile_unconstrained(self, q: Tensor) -> Tensor:
        """The value of `u` below which the probability is `q`."""

    def log_prob(self, natural: Tensor) -> Tensor:
        """Log density of the natural value: it integrates to 1 over the natural scale; -inf outside the support."""
        inside = self.bijection.contains(natural)
        middle = self.bijection.forward(torch.zeros_like(natural))
        u = self.bijection.inverse(torch.where(inside, natural, middle))
        return torch.where(inside, self.log_prob_unconstrained(u) - self.bijection.log_det(u), -torch.inf)

    def quantile(self, q: float) -> float:
        """The natural value below which the probability is `q`."""
        return float(self.bijection.forward(self.quantile_unconstrained(torch.tensor(q, dtype=torch.float64))))

    @property
    def median(self) -> float:
        """The median on the natural scale."""
        return self.quantile(0.5)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` independent natural values, `(n,)`."""
        return self.bijection.forward(self.sample_unconstrained(n, generator))

    def sample_unconstrained(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` independent unconstrained values, `(n,)`."""
        q = torch.rand(n, dtype=torch.float64, generator=generator)
        # `rand` can give 0, whose quantile is infinite; the smallest step of float64 uniforms takes its place.
        return self.quantile_unconstrained(q.clamp_min(2.0**-53))


def _normal_log_prob(u: Tensor, mean: float, sd: float) -> Tensor:
    return -0.5 * ((u - mean) / sd).square() - math.log(sd) - _HALF_LOG_TAU


def _logistic_log_prob(u: Tensor) -> Tensor:
    log_sigmoid = torch.nn.functional.logsigmoid
    return log_sigmoid(u) + log_sigmoid(-u)


@final
@dataclass(frozen=True, slots=True)
class Normal(AbstractPrior):
    """A normal density on the real line, in the unit of the parameter."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        _check(self, finite=("mean", "sd"), positive=("sd",))

    @property
    def bijection(self) -> AbstractBijection:
        return Identity()

    def log_prob_unconstrained(self, u: Tensor) -> Tensor:
        return _normal_log_prob(u, self.mean, self.sd)

    def quantile_unconstrained(self, q: Tensor) -> Tensor:
        return self.mean + self.sd * torch.special.ndtri(q)


@final
@dataclass(frozen=True, slots=True)
class LogNormal(AbstractPrior):
    """A positive parameter whose natural logarithm is normal; `exp(log_mean)` is the median."""

    log_mean: float
    log_sd: float

    def __post_init__(self) -> None:
        _check(self, finite=("log_mean", "log_sd"), positive=("log_sd",))

    @classmethod
    def about(cls, median: float, cv: float) -> "LogNormal":
        """The log-normal density with this median and coefficient of variation (0.3 is 30 %)."""
        problems = [f"`{n}` is {v!r}; give a positive number" for n, v in (("median", median), ("cv", cv)) if not v > 0]
        if problems:
            raise ParameterError("the prior LogNormal is not defined:", problems)
        return cls(math.log(median), math.sqrt(math.log1p(cv**2)))

    @property
    def bijection(self) -> AbstractBijection:
        return Exp()

    def log_prob_unconstrained(self, u: Tensor) -> Tensor:
        return _normal_log_prob(u, self.log_mean, self.log_sd)

    def quantile_unconstrained(self, q: Tensor) -> Tensor:
        return self.log_mean + self.log_sd * torch.special.ndtri(q)


@final
@dataclass(frozen=True, slots=True)
class LogitNormal(AbstractPrior):
    """A parameter between `lower` and `upper` whose logit is normal; for fractions, such as bioavailability."""

    mean: float
    sd: float
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        _check(self, finite=("mean", "sd", "lower", "upper"), positive=("sd",), ordered=True)

    @property
    def bijection(self) -> AbstractBijection:
        return Logit(self.lower, self.upper)

    def log_prob_unconstrained(self, u: Tensor) -> Tensor:
        return _normal_log_prob(u, self.mean, self.sd)

    def quantile_unconstrained(self, q: Tensor) -> Tensor:
        return self.mean + self.sd * torch.special.ndtri(q)


@final
@dataclass(frozen=True, slots=True)
class Uniform(AbstractPrior):
    """A parameter between `lower` and `upper`, every value as likely as another; standard logistic in its logit."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        _check(self, finite=("lower", "upper"), ordered=True)

    @property
    def bijection(self) -> AbstractBijection:
        return Logit(self.lower, self.upper)

    def log_prob_unconstrained(self, u: Tensor) -> Tensor:
        return _logistic_log_prob(u)

    def quantile_unconstrained(self, q: Tensor) -> Tensor:
        return torch.logit(q)


@final
@dataclass(frozen=True, slots=True)
class LogUniform(AbstractPrior):
    """A positive parameter between `lower` and `upper`, every order of magnitude as likely as another."""

    lower: float
    upper: float

    def __post_init__(self) -> None:
        _check(self, finite=("lower", "upper"), positive=("lower",), ordered=True)

    @property
    def bijection(self) -> AbstractBijection:
        return LogLogit(self.lower, self.upper)

    def log_prob_unconstrained(self, u: Tensor) -> Tensor:
        return _logistic_log_prob(u)

    def quantile_unconstrained(self, q: Tensor) -> Tensor:
        return torch.logit(q)


@final
@dataclass(frozen=True, slots=True)
class Fixed:
    """Not a prior: the parameter is held at `value` instead of the model's nominal value."""

    value: float

    def __post_init__(self) -> None:
        _check(self, finite=("value",))


def _check(prior: Any, finite: tuple[str, ...], positive: tuple[str, ...] = (), ordered: bool = False) -> None:
    problems = []
    for name in finite:
        value = getattr(prior, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            problems.append(f"`{name}` is {value!r}; give a finite number")
        elif name in positive and value <= 0:
            problems.append(f"`{name}` is {value!r}; give a positive number")
    if not problems and ordered and prior.lower >= prior.upper:
        problems.append(f"`lower` {prior.lower!r} is not below `upper` {prior.upper!r}")
    if problems:
        raise ParameterError(f"{type(prior).__name__} is not defined:", problems)


class HasParameters(Protocol):
    """What a space asks of a model or field: the names of its parameters and their nominal values."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names, in the order of the parameter vector."""

    def nominal(self) -> Any:
        """Nominal values: by name, or as a vector in the order of the names."""


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class ParameterSpace:
    """The parameters of a model that a fit may change, each with a prior; all others stay at their nominal values.

    `ParameterSpace(model, ka=LogNormal(0.0, 0.5), CL=LogNormal(-2.0, 0.5), F=Fixed(1.0))`

    Shapes: `u` and natural values are `(*batch, size)` in the order of `names`, a full parameter vector is
    `(*batch, parameter)` in the order of `parameter_names`.

    Attributes:
        parameter_names: every parameter of the model.
        nominal: their values where they are not estimated, `(parameter,)`.
        priors: name to prior, for the estimated parameters, in the order in which they were given.

    Raises:
        ParameterError: lists every name that is not a parameter and everything that is not a prior.
    """

    parameter_names: tuple[str, ...]
    nominal: Tensor
    priors: Mapping[str, AbstractPrior]

    def __init__(self, system: HasParameters, /, **priors: AbstractPrior | Fixed) -> None:
        names = tuple(system.parameter_names)
        problems = [f"`{name}` is not a parameter{nearest(name, names)}" for name in priors if name not in names]
        problems += [
            f"`{name}` has {prior!r}, which is not a prior; give for instance LogNormal(0.0, 0.5) or Fixed(1.0)"
            for name, prior in priors.items()
            if not isinstance(prior, AbstractPrior | Fixed)
        ]
        if problems:
            raise ParameterError("the parameters to estimate are not defined:", problems)
        nominal = _vector(system.nominal(), names)
        for name, prior in priors.items():
            if isinstance(prior, Fixed):
                nominal[names.index(name)] = prior.value
        object.__setattr__(self, "parameter_names", names)
        object.__setattr__(self, "nominal", nominal)
        estimated = {name: prior for name, prior in priors.items() if isinstance(prior, AbstractPrior)}
        object.__setattr__(self, "priors", FrozenMap(estimated))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the estimated parameters."""
        return tuple(self.priors)

    @property
    def size(self) -> int:
        """How many parameters are estimated."""
        return len(self.priors)

    def to_natural(self, u: Tensor) -> Tensor:
        """Natural values of unconstrained ones, `(*batch, size)`."""
        return self._mapped(u, [(bijection.forward, index) for bijection, index in self._groups])

    def to_unconstrained(self, natural: Tensor) -> Tensor:
        """Unconstrained values of natural ones, `(*batch, size)`; NaN or infinite outside a prior's support."""
        return self._mapped(natural, [(bijection.inverse, index) for bijection, index in self._groups])

    def full(self, u: Tensor) -> Tensor:
        """The model's parameter vector, `(*batch, parameter)`, with the unconstrained `u` put in place."""
        return self.place(self.to_natural(u))

    def place(self, natural: Tensor) -> Tensor:
        """The model's parameter vector, `(*batch, parameter)`, with natural values put in place."""
        _check_last_axis(natural, self.names)
        index = torch.tensor(
            [self.parameter_names.index(n) for n in self.names], dtype=torch.long, device=natural.device
        )
        everything = self.nominal.to(natural).expand(*natural.shape[:-1], -1)
        return everything.index_copy(-1, index, natural)

    def start(self) -> Tensor:
        """The medians of the priors on the unconstrained scale, `(size,)`."""
        middle = torch.tensor(0.5, dtype=torch.float64)
        medians = [prior.quantile_unconstrained(middle) for prior in self.priors.values()]
        return torch.stack(medians) if medians else torch.zeros(0, dtype=torch.float64)

    def log_prior(self, u: Tensor) -> Tensor:
        """Log density of `u`, the Jacobian included, summed over the parameters: `(*batch,)`."""
        _check_last_axis(u, self.names)
        total = torch.zeros(u.shape[:-1], dtype=u.dtype, device=u.device)
        for i, prior in enumerate(self.priors.values()):
            total = total + prior.log_prob_unconstrained(u[..., i])
        return total

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`n` draws from the priors on the unconstrained scale, `(n, size)`."""
        draws = [prior.sample_unconstrained(n, generator) for prior in self.priors.values()]
        return torch.stack(draws, dim=-1) if draws else torch.zeros(n, 0, dtype=torch.float64)

    @cached_property
    def _groups(self) -> tuple[tuple[AbstractBijection, Tensor], ...]:
        """Each distinct bijection and the parameters that it serves, so that each is evaluated once."""
        groups: dict[AbstractBijection, list[int]] = {}
        for i, prior in enumerate(self.priors.values()):
            groups.setdefault(prior.bijection, []).append(i)
        return tuple((bijection, torch.tensor(index)) for bijection, index in groups.items())

    def _mapped(self, values: Tensor, groups: list[Any]) -> Tensor:
        _check_last_axis(values, self.names)
        if len(groups) < 2:
            return groups[0][0](values) if groups else values
        parts = [change(values[..., index]) for change, index in groups]
        order = torch.argsort(torch.cat([index for _, index in groups])).to(values.device)
        return torch.cat(parts, dim=-1)[..., order]

    def _rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for name, prior in self.priors.items():
            low, middle, high = (f"{prior.quantile(q):.4g}" for q in (0.025, 0.5, 0.975))
            rows.append((name, repr(prior), f"{middle} ({low} to {high})"))
        values = dict(zip(self.parameter_names, self.nominal.tolist(), strict=True))
        fixed = [(name, "fixed", f"{value:.4g}") for name, value in values.items() if name not in self.priors]
        rest = len(fixed) - _SHOWN
        return [*rows, *fixed[:_SHOWN], *([(f"… {rest} more", "fixed", "")] if rest > 0 else [])]

    def __repr__(self) -> str:
        rows = [("parameter", "prior", "median (95 % interval)"), *self._rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n  ".join([f"ParameterSpace: {self.size} of {len(self.parameter_names)} parameters estimated", *lines])

    def _repr_html_(self) -> str:
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self._rows())
        head = "<tr><th>parameter</th><th>prior</th><th>median (95 % interval)</th></tr>"
        return f"<table>{head}{body}</table>"


def _vector(nominal: Any, names: tuple[str, ...]) -> Tensor:
    values = [nominal[name] for name in names] if isinstance(nominal, Mapping) else nominal
    return torch.as_tensor(values, dtype=torch.float64).detach().clone().reshape(len(names))


def _check_last_axis(values: Tensor, names: tuple[str, ...]) -> None:
    if values.ndim == 0 or values.shape[-1] != len(names):
        expected = f"the last axis holds the {len(names)} estimated parameters ({', '.join(names)})"
        raise ParameterError("the values do not fit the parameters:", [f"{expected}; got {tuple(values.shape)}"])
