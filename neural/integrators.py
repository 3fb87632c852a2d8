"""How latent trajectories are integrated; thin, exact about jumps of the inputs, on top of torchdiffeq."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torchdiffeq import odeint

from neural.errors import refuse

Rate: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A right-hand side `(t, z, context) -> dz/dt`."""


class Segment(NamedTuple):
    """A stretch of time in which the context `(subject, feature)` of every subject is constant."""

    begin: float
    end: float
    context: Tensor | None


@final
@dataclass(frozen=True)
class Dopri5:
    """Dormand–Prince 5(4), explicit, adaptive, order 5; one step size for the whole batch.

    Dormand and Prince (1980), doi 10.1016/0771-050X(80)90013-3. Every subject is evaluated at the union of the times of
    all, so the cost grows with the number of different times in the batch.

    Attributes:
        rtol, atol: tolerances of a step, relative and absolute.
        max_steps: between two times, after which the integration is given up.
    """

    rtol: float = 1e-5
    atol: float = 1e-6
    max_steps: int = 2000

    def __post_init__(self) -> None:
        values = {"rtol": self.rtol, "atol": self.atol, "max_steps": self.max_steps}
        refuse("the integrator:", [f"`{name}` must be positive, got {v}" for name, v in values.items() if not v > 0])

    def trajectory(self, rate: Rate, z: Tensor, segments: Sequence[Segment], times: Tensor) -> Tensor:
        """The latent states at each subject's times.

        Args:
            rate: right-hand side.
            z: `(sample, subject, latent)`, at the begin of the first segment.
            segments: in order, without gaps, up to the last of `times`; may be empty when no time passes.
            times: `(subject, time)`.

        Returns:
            `(sample, subject, time, latent)`.

        Raises:
            NeuralError: when the solver gives up.
        """
        union, pieces = times.new_tensor([s.begin for s in segments[:1]]), [z[None]]
        options = {"max_num_steps": self.max_steps}
        inner = torch.unique(times)
        for begin, end, context in segments:
            ends = times.new_tensor([begin, end])
            stops = torch.cat([ends[:1], inner[(inner > begin) & (inner < end)], ends[1:]])

            def frozen(t: Tensor, state: Tensor, context: Tensor | None = context) -> Tensor:
                return rate(t, state, context)

            try:
                path = odeint(
                    frozen, pieces[-1][-1], stops, rtol=self.rtol, atol=self.atol, method="dopri5", options=options
                )
            except AssertionError as error:
                advice = "train with a lower learning rate, give the field a `decay_time`, or raise `max_steps`"
                refuse(f"the latent states could not be integrated from {begin} to {end}:", [f"{error}; {advice}"])
            pieces.append(path[1:])
            union = torch.cat([union, stops[1:]])
        path = torch.cat(pieces).transpose(1, 2)
        index = torch.searchsorted(union, times.contiguous()).clamp(max=len(path) - 1)
        subjects = torch.arange(times.shape[0], device=times.device)[:, None]
        return path[index, subjects].permute(2, 0, 1, 3)


@final
@dataclass(frozen=True)
class RK4:
    """Kutta's 3/8 rule with steps of equal length, explicit, order 4, with cubic Hermite interpolation in between.

    The cost does not depend on how many different times a batch holds, and no subject's result depends on another's.
    Hairer, Nørsett and Wanner (1993), Solving Ordinary Differential Equations I, tables II.1.2 and section II.6.

    Attributes:
        step: longest step, in the unit of time.
    """

    step: float

    def __post_init__(self) -> None:
        refuse("the integrator:", [] if self.step > 0 else [f"`step` must be positive, got {self.step}"])

    def trajectory(self, rate: Rate, z: Tensor, segments: Sequence[Segment], times: Tensor) -> Tensor:
        """The latent states at each subject's times; arguments and shapes as in `Dopri5.trajectory`."""
        if not segments:
            return z[:, :, None].expand(-1, -1, times.shape[-1], -1)
        nodes, states, slopes = [], [], []
        for begin, end, context in segments:
            grid = torch.linspace(begin, end, math.ceil((end - begin) / self.step) + 1, dtype=z.dtype, device=z.device)

            def frozen(t: Tensor, state: Tensor, context: Tensor | None = context) -> Tensor:
                return rate(t, state, context)

            path = odeint(frozen, z, grid, method="rk4")
            slope = rate(grid[:, None, None], path, context)
            nodes.append(grid)
            states.append(torch.stack([path[:-1], path[1:]]))
            slopes.append(torch.stack([slope[:-1], slope[1:]]))
            z = path[-1]
        begins, ends = torch.cat([g[:-1] for g in nodes]), torch.cat([g[1:] for g in nodes])
        return _hermite(begins, ends, torch.cat(states, 1), torch.cat(slopes, 1), times)


Integrator: TypeAlias = Dopri5 | RK4
"""What integrates a latent field."""


def _hermite(begins: Tensor, ends: Tensor, states: Tensor, slopes: Tensor, times: Tensor) -> Tensor:
    """Cubic interpolation at `times` `(subject, time)`; `(sample, subject, time, latent)`.

    Begins and ends are `(interval,)`, states and slopes at both ends `(2, interval, sample, subject, latent)`.
    """
    index = (torch.searchsorted(begins, times.contiguous(), right=True) - 1).clamp(min=0)
    length = (ends - begins)[index]
    u = (times - begins[index]) / length
    subjects = torch.arange(times.shape[0], device=times.device)[:, None]
    # (2, interval, sample, subject, latent) → (2, subject, time, sample, latent)
    x0, x1 = states.transpose(2, 3)[:, index, subjects]
    f0, f1 = slopes.transpose(2, 3)[:, index, subjects]
    u, length = u[..., None, None], length[..., None, None]
    value: Tensor = x0 + u.square() * (3.0 - 2.0 * u) * (x1 - x0) + length * u * (1.0 - u) * ((1.0 - u) * f0 - u * f1)
    return value.permute(2, 0, 1, 3)
