"""Normal and log-normal distributions with independent components, for latent states."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from neural.errors import refuse

_LOG_TWO_PI = math.log(2.0 * math.pi)

LOG_SCALE_BOUND = 7.0
"""Networks propose log scales within ±7, that is scales between 9e-4 and 1.1e3 of what they are relative to."""


def soft_bound(raw: Tensor, bound: float = LOG_SCALE_BOUND) -> Tensor:
    """`bound * tanh(raw / bound)`: close to `raw` around zero, within `±bound`, with a smooth gradient."""
    return bound * torch.tanh(raw / bound)


def normal_log_density(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log density of independent normal numbers, elementwise; the shapes broadcast."""
    return -0.5 * (((value - mean) * torch.exp(-log_scale)).square() + _LOG_TWO_PI) - log_scale


@final
@dataclass(frozen=True, eq=False)
class DiagonalNormal:
    """A normal distribution with independent components; the event is the last axis.

    Nothing is clamped here: a scale that overflows shows as an infinite or NaN result. Whoever makes a distribution out
    of network outputs bounds the log scale with `soft_bound`, as the encoders do.

    Attributes:
        mean: `(*batch, event)`.
        log_scale: `(*batch, event)`, log of the standard deviation.

    Raises:
        NeuralError: when the shapes differ or have no event axis.
    """

    mean: Tensor
    log_scale: Tensor

    def __post_init__(self) -> None:
        _require_pair(self.mean, self.log_scale)

    @property
    def scale(self) -> Tensor:
        """Standard deviations, `(*batch, event)`."""
        return self.log_scale.exp()

    def rsample(self, generator: torch.Generator, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws that carry gradients to mean and log scale, `(*sample_shape, *batch, event)`."""
        # Drawn where the generator lives, so that a seed means the same numbers on every device.
        shape = (*sample_shape, *self.mean.shape)
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype, device=generator.device)
        return self.mean + self.scale * noise.to(self.mean.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, `(*samples, *batch, event)` to `(*samples, *batch)`."""
        return normal_log_density(value, self.mean, self.log_scale).sum(-1)

    def kl(self, other: "DiagonalNormal") -> Tensor:
        """Kullback–Leibler divergence KL(self ‖ other), `(*batch,)`."""
        ratio = self.log_scale - other.log_scale
        shift = (self.mean - other.mean) * torch.exp(-other.log_scale)
        return 0.5 * (torch.expm1(2.0 * ratio) - 2.0 * ratio + shift.square()).sum(-1)

    def kl_to_standard(self) -> Tensor:
        """Kullback–Leibler divergence to the standard normal distribution, `(*batch,)`."""
        return 0.5 * (torch.expm1(2.0 * self.log_scale) - 2.0 * self.log_scale + self.mean.square()).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, `(*batch,)`."""
        return (self.log_scale + 0.5 * (1.0 + _LOG_TWO_PI)).sum(-1)


@final
@dataclass(frozen=True, eq=False)
class DiagonalLogNormal:
    """A log-normal distribution with independent components, for states that must stay positive.

    Nothing is clamped, as in `DiagonalNormal`. A value that is not positive has log density minus infinity and
    passes no gradient on.

    Attributes:
        log_mean: `(*batch, event)`, mean of the logarithm.
        log_scale: `(*batch, event)`, log of the standard deviation of the logarithm.

    Raises:
        NeuralError: when the shapes differ or have no event axis.
    """

    log_mean: Tensor
    log_scale: Tensor

    def __post_init__(self) -> None:
        _require_pair(self.log_mean, self.log_scale)

    @property
    def logarithm(self) -> DiagonalNormal:
        """The distribution of the logarithm."""
        return DiagonalNormal(self.log_mean, self.log_scale)

    @property
    def mean(self) -> Tensor:
        """Expected values, `(*batch, event)`."""
        return torch.exp(self.log_mean + 0.5 * torch.exp(2.0 * self.log_scale))

    @property
    def median(self) -> Tensor:
        """Medians, `(*batch, event)`."""
        return self.log_mean.exp()

    def rsample(self, generator: torch.Generator, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws that carry gradients, all positive, `(*sample_shape, *batch, event)`."""
        return self.logarithm.rsample(generator, sample_shape).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, `(*samples, *batch, event)` to `(*samples, *batch)`."""
        positive = value > 0
        log_value = torch.where(positive, value, 1.0).log()
        density = normal_log_density(log_value, self.log_mean, self.log_scale) - log_value
        return torch.where(positive, density, -torch.inf).sum(-1)

    def kl(self, other: "DiagonalLogNormal") -> Tensor:
        """Kullback–Leibler divergence KL(self ‖ other), `(*batch,)`; that of the logarithms."""
        return self.logarithm.kl(other.logarithm)

    def kl_to_standard(self) -> Tensor:
        """Kullback–Leibler divergence to the distribution whose logarithm is standard normal, `(*batch,)`."""
        return self.logarithm.kl_to_standard()

    def entropy(self) -> Tensor:
        """Differential entropy in nats, `(*batch,)`."""
        return self.logarithm.entropy() + self.log_mean.sum(-1)


def _require_pair(mean: Tensor, log_scale: Tensor) -> None:
    if mean.ndim < 1 or mean.shape != log_scale.shape:
        shapes = f"{mean.shape=}, {log_scale.shape=}"
        refuse("the distribution cannot be made:", [f"expected two tensors of one shape (*batch, event), got {shapes}"])
