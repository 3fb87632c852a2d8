"""Fixed scaling of channels, so that networks see numbers of order one."""

from enum import Enum
from typing import Any, final

import torch
from torch import Tensor, nn

from neural.errors import config_problems, refuse


class Compression(Enum):
    """A fixed, odd, increasing function with slope one at zero, applied after shift and scale.

    - `NONE`: identity.
    - `ASINH`: `asinh(u)`, infinitely smooth, logarithmic for large `|u|`.
    - `LOG1P`: `sign(u) log(1 + |u|)`; its second derivative jumps at zero, so it suits quantities of one sign.
    """

    NONE = "none"
    ASINH = "asinh"
    LOG1P = "log1p"


# A spread below this fraction of the largest value is rounding noise of a constant, not information.
_CONSTANT = 1e-12


@final
class FixedScaling(nn.Module):
    """`compress((x - shift) / scale)` a channel; never learned.

    Args:
        shift: `(channel,)`, in the unit of the values.
        scale: `(channel,)`, positive, in the unit of the values.
        compression: a fixed function applied last.

    Raises:
        NeuralError: lists wrong shapes and values that are not finite or not positive.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor, compression: Compression = Compression.NONE) -> None:
        super().__init__()
        refuse("the scaling cannot be made:", _scaling_problems(shift, scale, compression))
        self.register_buffer("shift", shift.detach().clone().to(torch.float64))
        self.register_buffer("scale", scale.detach().clone().to(torch.float64))
        self.compression = compression
        self.channels = len(shift)

    @classmethod
    def from_data(
        cls, values: Tensor, mask: Tensor | None = None, compression: Compression = Compression.NONE
    ) -> "FixedScaling":
        """The scaling that standardises the observed values of each channel.

        Without compression `shift` is the mean and `scale` the standard deviation. A compression counts from zero:
        `shift` is 0 and `scale` the mean absolute value. A channel without any value gets shift 0 and scale 1; a
        constant channel gets its own size as scale (1 when it is zero).

        Args:
            values: `(*batch, channel)`; entries that are masked out may hold anything, NaN too.
            mask: `(*batch, channel)` bool, true where observed; by default everything that is not NaN.

        Raises:
            NeuralError: when shapes differ or an observed value is not finite.
        """
        observed = ~values.isnan() if mask is None else mask
        refuse("the scaling cannot be derived from data:", _data_problems(values, observed))
        rows = values.detach().to(torch.float64).reshape(-1, values.shape[-1])
        seen = observed.reshape(rows.shape)
        rows = torch.where(seen, rows, 0.0)
        count = seen.sum(0).clamp(min=1)
        size = rows.abs().sum(0) / count
        if compression is Compression.NONE:
            shift = rows.sum(0) / count
            scale = (torch.where(seen, rows - shift, 0.0).square().sum(0) / count).sqrt()
        else:
            shift, scale = torch.zeros_like(size), size
        scale = torch.where(scale > _CONSTANT * rows.abs().amax(0), scale, size)
        return cls(shift, torch.where(scale > 0, scale, 1.0), compression)

    def forward(self, x: Tensor) -> Tensor:
        """Scaled values; `(*batch, channel)` to `(*batch, channel)`."""
        if x.shape[-1] != self.channels:
            refuse("the values cannot be scaled:", [f"expected {self.channels} channels last, got {x.shape=}"])
        standard = (x - self.shift) / self.scale
        if self.compression is Compression.NONE:
            return standard
        return torch.asinh(standard) if self.compression is Compression.ASINH else _odd_log1p(standard)

    def inverse(self, scaled: Tensor) -> Tensor:
        """The values whose scaled form is `scaled`; `(*batch, channel)` to `(*batch, channel)`."""
        if self.compression is Compression.ASINH:
            scaled = torch.sinh(scaled)
        elif self.compression is Compression.LOG1P:
            scaled = _odd_expm1(scaled)
        return scaled * self.scale + self.shift

    def log_derivative(self, x: Tensor) -> Tensor:
        """`log d(scaled)/dx`, which turns a density of scaled values into one of values; `(*batch, channel)`."""
        standard = (x - self.shift) / self.scale
        if self.compression is Compression.NONE:
            return (-self.scale.log()).expand_as(standard)
        if self.compression is Compression.ASINH:
            return -self.scale.log() - 0.5 * torch.log1p(standard.square())
        return -self.scale.log() - torch.log1p(standard.abs())

    def to_config(self) -> dict[str, Any]:
        """A description of plain numbers and text, exact, that survives JSON."""
        return {"shift": self.shift.tolist(), "scale": self.scale.tolist(), "compression": self.compression.value}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FixedScaling":
        """The scaling that `to_config` described.

        Raises:
            NeuralError: lists missing and unknown keys and values that cannot be used.
        """
        headline = "the saved scaling cannot be read:"
        refuse(headline, config_problems(config, ("shift", "scale", "compression")))
        problems = [
            f"{key!r} must be a list of numbers, got {config[key]!r}"
            for key in ("shift", "scale")
            if not isinstance(config[key], list) or not all(isinstance(v, int | float) for v in config[key])
        ]
        known = [member.value for member in Compression]
        if config["compression"] not in known:
            problems.append(f"'compression' must be one of {known}, got {config['compression']!r}")
        refuse(headline, problems)
        shift, scale = (torch.tensor(config[key], dtype=torch.float64) for key in ("shift", "scale"))
        return cls(shift, scale, Compression(config["compression"]))

    def extra_repr(self) -> str:
        return f"channels={self.channels}, compression={self.compression.value}"


def _odd_log1p(u: Tensor) -> Tensor:
    # Clamping each branch keeps the slope at zero equal to one; `sign(u) * log1p(|u|)` has slope zero there.
    return torch.where(u >= 0, torch.log1p(u.clamp(min=0)), -torch.log1p((-u).clamp(min=0)))


def _odd_expm1(u: Tensor) -> Tensor:
    return torch.where(u >= 0, torch.expm1(u.clamp(min=0)), -torch.expm1((-u).clamp(min=0)))


def _scaling_problems(shift: Tensor, scale: Tensor, compression: Compression) -> list[str]:
    problems = []
    if shift.ndim != 1 or shift.shape != scale.shape:
        shapes = f"{shift.shape=}, {scale.shape=}"
        problems.append(f"expected `shift` and `scale` of one shape (channel,), got {shapes}")
    if not bool(shift.isfinite().all()):
        problems.append(f"`shift` must be finite, got {shift.tolist()}")
    if not bool((scale.isfinite() & (scale > 0)).all()):
        problems.append(f"`scale` must be finite and positive, got {scale.tolist()}")
    if not isinstance(compression, Compression):
        problems.append(f"`compression` must be a Compression, got {compression!r}; write Compression.ASINH")
    return problems


def _data_problems(values: Tensor, mask: Tensor) -> list[str]:
    problems = []
    if values.ndim < 1 or mask.shape != values.shape or mask.dtype != torch.bool:
        got = f"{values.shape=}, {mask.shape=}, {mask.dtype=}"
        return [f"expected `values` (*batch, channel) and a bool `mask` of the same shape, got {got}"]
    if values.numel() == 0:
        problems.append(f"there is no value, {values.shape=}")
    wrong = (mask & ~values.isfinite()).nonzero()
    if len(wrong):
        problems.append(f"{len(wrong)} observed values are not finite, the first at {wrong[0].tolist()}; mask them out")
    return problems
