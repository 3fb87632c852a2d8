"""How measurements scatter about a simulation: residual error models, parameterised by standard deviations.

Each model says on which scale the noise is normal and how its standard deviation depends on the simulation `f`. The
free numbers are the logarithms of the SDs (NONMEM reports variances, the squares of these SDs).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from mechanistic.errors import ListedError, nearest
from mechanistic.model import FrozenMap

_HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class NoiseError(ListedError):
    """A noise model that cannot be, or observations that it cannot have produced."""


class AbstractNoise(ABC):
    """Noise that is normal on some scale, with an SD that may depend on the simulation.

    In every method `f` is the simulation `(*batch,)` and `log_sd` holds the logarithms of the SDs of `names`,
    `(*batch, names)` or anything that broadcasts: `log_sd[..., i]` against `f`.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the standard deviations, in the order of `log_sd`."""

    @abstractmethod
    def standard_deviation(self, f: Tensor, log_sd: Tensor) -> Tensor:
        """Standard deviation on the scale on which the noise is normal, `(*batch,)`."""

    def scaled(self, value: Tensor) -> Tensor:
        """`value` on the scale on which the noise is normal."""
        return value

    def natural(self, value: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        return value

    def log_slope(self, value: Tensor) -> Tensor:
        """Logarithm of the derivative of `scaled`."""
        return torch.zeros_like(value)

    def supports(self, value: Tensor) -> Tensor:
        """Whether a measurement, or a median, can have this value."""
        return value.isfinite()

    def start(self) -> Tensor:
        """Logarithms of the starting SDs, `(names,)`."""
        return torch.tensor([getattr(self, name) for name in self.names], dtype=torch.float64).log()

    def log_prob(self, y: Tensor, f: Tensor, log_sd: Tensor) -> Tensor:
        """Log density of the measurement `y`, elementwise.

        It is -inf, with a gradient of zero, where the model cannot produce `y`: outside the support of the noise, and
        where the SD vanishes (a simulation of 0 under proportional noise).
        """
        possible = self._possible(y, f, log_sd)
        # Replaced before use: a NaN or an infinity hidden by `where` afterwards would still reach the gradient.
        y, f = (torch.where(possible, value, 1.0) for value in (y, f))
        sd = self.standard_deviation(f, log_sd)
        residual = (self.scaled(y) - self.scaled(f)) / sd
        density = -0.5 * residual.square() - sd.log() - _HALF_LOG_TAU + self.log_slope(y)
        return torch.where(possible, density, -torch.inf)

    def residual(self, y: Tensor, f: Tensor, log_sd: Tensor) -> Tensor:
        """`y` against `f` in SDs: standard normal under the model; NaN where the model cannot produce `y`."""
        possible = self._possible(y, f, log_sd)
        y, f = (torch.where(possible, value, 1.0) for value in (y, f))
        return torch.where(possible, (self.scaled(y) - self.scaled(f)) / self.standard_deviation(f, log_sd), torch.nan)

    def quantile(self, q: Tensor | float, f: Tensor, log_sd: Tensor) -> Tensor:
        """The `q` quantile of a measurement; the median is `f` for every noise model here."""
        level = torch.special.ndtri(torch.as_tensor(q, dtype=f.dtype, device=f.device))
        return self.displaced(f, log_sd, level)

    def sample(self, f: Tensor, log_sd: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A measurement of each simulated value."""
        shape = torch.broadcast_shapes(f.shape, log_sd.shape[:-1])
        draw = torch.randn(shape, dtype=f.dtype, device=f.device, generator=generator)
        return self.displaced(f, log_sd, draw)

    def displaced(self, f: Tensor, log_sd: Tensor, deviation: Tensor) -> Tensor:
        """The measurement that lies `deviation` SDs above the simulation; differentiable in all three."""
        return self.natural(self.scaled(f) + self.standard_deviation(f, log_sd) * deviation)

    def _possible(self, y: Tensor, f: Tensor, log_sd: Tensor) -> Tensor:
        sd = self.standard_deviation(f, log_sd).detach()
        return self.supports(y) & self.supports(f.detach()) & (sd > 0) & sd.isfinite()


def _check(noise: AbstractNoise) -> None:
    problems = [
        f"`{name}` is {value!r}; give a positive standard deviation to start from"
        for name in noise.names
        if not (isinstance(value := getattr(noise, name), int | float) and 0 < value < math.inf)
    ]
    if problems:
        raise NoiseError(f"the noise model {type(noise).__name__} is not defined:", problems)


@final
@dataclass(frozen=True, slots=True)
class Additive(AbstractNoise):
    """`y = f + sd ε`: the same SD everywhere, in the unit of the measurement."""

    sd: float

    def __post_init__(self) -> None:
        _check(self)

    @property
    def names(self) -> tuple[str, ...]:
        return ("sd",)

    def standard_deviation(self, f: Tensor, log_sd: Tensor) -> Tensor:
        return log_sd[..., 0].exp().expand(torch.broadcast_shapes(f.shape, log_sd.shape[:-1]))


@final
@dataclass(frozen=True, slots=True)
class Proportional(AbstractNoise):
    """`y = f + sd |f| ε`: a constant coefficient of variation.

    A simulation of exactly 0 leaves no noise at all, so that no measurement has a density there (`log_prob` is -inf);
    use `Combined` where simulations start at 0.
    """

    sd: float

    def __post_init__(self) -> None:
        _check(self)

    @property
    def names(self) -> tuple[str, ...]:
        return ("sd",)

    def standard_deviation(self, f: Tensor, log_sd: Tensor) -> Tensor:
        return log_sd[..., 0].exp() * f.abs()


@final
@dataclass(frozen=True, slots=True)
class Combined(AbstractNoise):
    """`y = f + √(a² + b² f²) ε`, "combined-2": independent additive (a) and proportional (b) noise, variances add."""

    additive: float
    proportional: float

    def __post_init__(self) -> None:
        _check(self)

    @property
    def names(self) -> tuple[str, ...]:
        return ("additive", "proportional")

    def standard_deviation(self, f: Tensor, log_sd: Tensor) -> Tensor:
        additive, proportional = log_sd.exp().unbind(dim=-1)
        return torch.hypot(additive, proportional * f)


@final
@dataclass(frozen=True, slots=True)
class CombinedLinear(AbstractNoise):
    """`y = f + (a + b |f|) ε`, "combined-1": additive (a) and proportional (b) standard deviations add."""

    additive: float
    proportional: float

    def __post_init__(self) -> None:
        _check(self)

    @property
    def names(self) -> tuple[str, ...]:
        return ("additive", "proportional")

    def standard_deviation(self, f: Tensor, log_sd: Tensor) -> Tensor:
        additive, proportional = log_sd.exp().unbind(dim=-1)
        return additive + proportional * f.abs()


@final
@dataclass(frozen=True, slots=True)
class LogNormalNoise(AbstractNoise):
    """`log y = log f + sd ε`, "log-additive": the simulation is the median of the measurement, not its mean.

    Measurements and simulations must be positive; `log_prob` is -inf where they are not. `sd` is that of `log y`.
    """

    sd: float

    def __post_init__(self) -> None:
        _check(self)

    @property
    def names(self) -> tuple[str, ...]:
        return ("sd",)

    def standard_deviation(self, f: Tensor, log_sd: Tensor) -> Tensor:
        return log_sd[..., 0].exp().expand(torch.broadcast_shapes(f.shape, log_sd.shape[:-1]))

    def scaled(self, value: Tensor) -> Tensor:
        return value.log()

    def natural(self, value: Tensor) -> Tensor:
        return value.exp()

    def log_slope(self, value: Tensor) -> Tensor:
        return -value.log()

    def supports(self, value: Tensor) -> Tensor:
        return (value > 0) & value.isfinite()


@final
@dataclass(frozen=True, repr=False)
class NoiseModel:
    """One noise model a channel; the free numbers are the log SDs of all channels, one after the other.

    Shapes: measurements `y` and simulations `f` are `(*batch, sample)`, where `f` is the simulation of what was
    measured; `channel` indexes `channels` and `observed` masks, both `(*batch, sample)`; `log_sd` is `(size,)` or
    `(*batch, size)`. Whatever is not observed is ignored, NaN or not.
    """

    noises: Mapping[str, AbstractNoise]

    def __post_init__(self) -> None:
        strangers = [f"`{n}` has {v!r}; give a noise model" for n, v in self.noises.items() if not _is_noise(v)]
        if strangers or not self.noises:
            raise NoiseError("the noise is not defined:", strangers or ["no channel has noise"])
        object.__setattr__(self, "noises", FrozenMap(self.noises))

    @classmethod
    def of(
        cls, noise: "NoiseModel | AbstractNoise | Mapping[str, AbstractNoise]", channels: Sequence[str]
    ) -> "NoiseModel":
        """The noise of `channels` in their order; a single noise model serves each of them with SDs of its own.

        Raises:
            NoiseError: for channels without noise, and noise of unknown channels.
        """
        if isinstance(noise, AbstractNoise):
            return cls(dict.fromkeys(channels, noise))
        given = noise.noises if isinstance(noise, NoiseModel) else noise
        problems = [f"the channel `{name}` has no noise model" for name in channels if name not in given]
        problems += [f"`{name}` is not a channel{nearest(name, channels)}" for name in given if name not in channels]
        if problems:
            raise NoiseError("the noise does not fit the channels:", problems)
        return cls({name: given[name] for name in channels})

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in the order that `channel` indexes."""
        return tuple(self.noises)

    @property
    def names(self) -> tuple[str, ...]:
        """`channel.sd` for each of the log SDs."""
        return tuple(f"{channel}.{name}" for channel, noise in self.noises.items() for name in noise.names)

    @property
    def size(self) -> int:
        """How many log SDs there are."""
        return len(self.names)

    def start(self) -> Tensor:
        """Logarithms of the starting SDs, `(size,)`."""
        return torch.cat([noise.start() for noise in self.noises.values()])

    def values(self, log_sd: Tensor) -> dict[str, float]:
        """The SDs by name."""
        return dict(zip(self.names, log_sd.detach().exp().tolist(), strict=True))

    def log_prob(self, y: Tensor, f: Tensor, log_sd: Tensor, channel: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log density of each measurement, `(*batch, sample)`; 0 where nothing was observed."""
        return self._by_channel(_log_prob, (y, f), log_sd, _mask(channel, observed), channel, 0.0)

    def residual(self, y: Tensor, f: Tensor, log_sd: Tensor, channel: Tensor, observed: Tensor | None = None) -> Tensor:
        """Standardised residuals, `(*batch, sample)`; 0 where nothing was observed."""
        return self._by_channel(_residual, (y, f), log_sd, _mask(channel, observed), channel, 0.0)

    def standard_deviation(self, f: Tensor, log_sd: Tensor, channel: Tensor) -> Tensor:
        """Standard deviation on the scale of each channel's noise, `(*batch, sample)`."""
        return self._by_channel(_deviation, (f,), log_sd, _mask(channel), channel, torch.nan)

    def quantile(self, q: float, f: Tensor, log_sd: Tensor, channel: Tensor) -> Tensor:
        """The `q` quantile of each measurement, `(*batch, sample)`."""
        levels = torch.special.ndtri(torch.full_like(f, q))
        return self._by_channel(_displaced, (levels, f), log_sd, _mask(channel), channel, torch.nan)

    def sample(self, f: Tensor, log_sd: Tensor, channel: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A measurement of each simulated value, `(*batch, sample)`."""
        # One draw for all channels, so that a value does not depend on which other channels there are.
        draws = torch.randn(f.shape, dtype=f.dtype, device=f.device, generator=generator)
        return self._by_channel(_displaced, (draws, f), log_sd, _mask(channel), channel, torch.nan)

    def check(
        self, y: Tensor, channel: Tensor, observed: Tensor, ids: Iterable[str] = (), times: Tensor | None = None
    ) -> None:
        """Refuses measurements that a channel's noise can never produce, such as 0 under log-normal noise.

        Args:
            y, channel, observed: `(subject, sample)`.
            ids: labels of the subjects, for the message.
            times: `(subject, sample)`, for the message.

        Raises:
            NoiseError: naming each such measurement.
        """
        supported = self._by_channel(_supported, (y,), self.start(), observed, channel, 1.0) > 0
        labels, problems = tuple(ids), []
        for row, sample in (~supported).nonzero().tolist():
            who = f"subject {labels[row] if labels else row}"
            when = f" at time {float(times[row, sample]):g}" if times is not None else ""
            name = self.channels[int(channel[row, sample])]
            noise = type(self.noises[name]).__name__
            problems.append(f"{who}{when}: `{name}` is {float(y[row, sample]):g}, which {noise} cannot produce")
        if problems:
            rest = [f"… and {len(problems) - 20} more"] if len(problems) > 20 else []
            raise NoiseError("some measurements do not fit the noise model:", [*problems[:20], *rest])

    def _by_channel(
        self,
        evaluate: Callable[..., Tensor],
        tensors: tuple[Tensor, ...],
        log_sd: Tensor,
        wanted: Tensor,
        channel: Tensor,
        fill: float,
    ) -> Tensor:
        first = 0
        result = torch.full_like(tensors[-1], fill)
        for i, noise in enumerate(self.noises.values()):
            count = len(noise.names)
            mine = wanted & (channel == i)
            # Values that do not count are replaced before use, so that a NaN among them cannot reach the gradient.
            safe = (torch.where(mine, value, 1.0) for value in tensors)
            values = evaluate(noise, log_sd[..., None, first : first + count], *safe)
            result = torch.where(mine, values.to(result.dtype), result)
            first += count
        return result

    def __repr__(self) -> str:
        return f"NoiseModel({', '.join(f'{name}: {noise!r}' for name, noise in self.noises.items())})"


def _is_noise(value: Any) -> bool:
    return isinstance(value, AbstractNoise)


def _mask(channel: Tensor, observed: Tensor | None = None) -> Tensor:
    return torch.ones_like(channel, dtype=torch.bool) if observed is None else observed


def _log_prob(noise: AbstractNoise, log_sd: Tensor, y: Tensor, f: Tensor) -> Tensor:
    return noise.log_prob(y, f, log_sd)


def _residual(noise: AbstractNoise, log_sd: Tensor, y: Tensor, f: Tensor) -> Tensor:
    return noise.residual(y, f, log_sd)


def _deviation(noise: AbstractNoise, log_sd: Tensor, f: Tensor) -> Tensor:
    return noise.standard_deviation(f, log_sd)


def _displaced(noise: AbstractNoise, log_sd: Tensor, deviation: Tensor, f: Tensor) -> Tensor:
    return noise.displaced(f, log_sd, deviation)


def _supported(noise: AbstractNoise, _: Tensor, y: Tensor) -> Tensor:
    return noise.supports(y)
