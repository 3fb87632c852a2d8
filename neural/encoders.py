"""Encoders: an irregular, partly observed time series to a distribution over a latent state."""

import math
from enum import Enum
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from neural.distributions import DiagonalNormal, soft_bound
from neural.errors import refuse
from neural.networks import glorot


class Direction(Enum):
    """The order in which an encoder reads time: `BACKWARD` ends at the first observation, `FORWARD` at the last."""

    BACKWARD = "backward"
    FORWARD = "forward"


# Draws of an untrained posterior stay near its mean, so that the first gradients are not drowned in noise.
_INITIAL_LOG_SCALE = -1.5

# An untrained hidden state keeps exp(-0.1) of itself over a typical gap.
_INITIAL_DECAY = 0.1


@final
class RecurrentEncoder(nn.Module):
    """A gated recurrent unit whose hidden state decays and turns over the gaps between observations.

    A step in which nothing is observed is skipped altogether. Over the gap to every other step the hidden state follows
    a linear differential equation, solved exactly: the components form pairs, and each pair decays by `exp(-d gap)` and
    turns by the angle `w gap`, with learned `d > 0` and `w`. Without the turning this is the decay of GRU-D (Che et al.
    2018, doi 10.1038/s41598-018-24271-9); with it an oscillation is carried across irregular gaps, which a recurrent
    unit that is merely told the gap hardly learns. Then a gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) reads
    the observed values (0 where masked), the mask, and for every channel `log(1 + time since it was last seen)`. It
    reads backward in time unless told otherwise, as encoders of latent ODEs do (Rubanova et al. 2019, arXiv
    1907.03907). Only differences of times enter.

    Args:
        channels: number of channels; their values should be of order one.
        latent: size of the latent state.
        hidden: size of the hidden state, even.
        direction: order of reading.
        time_scale: a typical gap, in the unit of the times; gaps are divided by it, and the initial `w` are spread from
            0 to half a turn in it.
        seed: of the private generator of the initial weights.

    Raises:
        NeuralError: lists arguments that cannot be used.
    """

    def __init__(
        self,
        channels: int,
        latent: int,
        hidden: int = 32,
        *,
        direction: Direction = Direction.BACKWARD,
        time_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "latent": latent, "hidden": hidden}
        problems = [f"`{name}` must be positive, got {size}" for name, size in sizes.items() if size < 1]
        problems += [f"`hidden` must be even, got {hidden}"] if hidden % 2 else []
        problems += [] if time_scale > 0 else [f"`time_scale` must be positive, got {time_scale}"]
        if not isinstance(direction, Direction):
            problems.append(f"`direction` must be a Direction, got {direction!r}; write Direction.BACKWARD")
        refuse("the encoder cannot be built:", problems)
        self.channels, self.latent, self.hidden = channels, latent, hidden
        self.direction, self.time_scale = direction, float(time_scale)
        generator = torch.Generator().manual_seed(seed)
        # One Glorot draw a gate: drawn as one matrix, the three would be taken for a layer of three times the width.
        self.input_weight = nn.Parameter(torch.cat([glorot(hidden, 3 * channels, generator) for _ in range(3)]))
        self.input_bias = nn.Parameter(torch.zeros(3 * hidden, dtype=torch.float64))
        self.hidden_weight = nn.Parameter(torch.cat([glorot(hidden, hidden, generator) for _ in range(3)]))
        self.hidden_bias = nn.Parameter(torch.zeros(3 * hidden, dtype=torch.float64))
        raw_decay = torch.full((hidden // 2,), _INITIAL_DECAY, dtype=torch.float64).expm1().log()
        self.raw_decay = nn.Parameter(raw_decay)
        self.frequency = nn.Parameter(torch.linspace(0.0, math.pi, hidden // 2, dtype=torch.float64))
        self.head_weight = nn.Parameter(glorot(2 * latent, hidden + 1, generator))
        start = torch.full((latent,), _INITIAL_LOG_SCALE, dtype=torch.float64)
        self.head_bias = nn.Parameter(torch.cat([torch.zeros_like(start), start]))

    def forward(
        self, times: Tensor, values: Tensor, mask: Tensor, origin: Tensor | float | None = None
    ) -> DiagonalNormal:
        """The distribution of the latent state at `origin`.

        Args:
            times: `(*batch, time)`, non-decreasing over the steps with an observation.
            values: `(*batch, time, channel)`; masked entries may be NaN.
            mask: `(*batch, time, channel)` bool, true where observed.
            origin: the time, a number or `(*batch,)`, for which the latent state is wanted; it lies beyond the last
                step read (observations on its other side count as made at it). None: the last step read.

        Returns:
            A distribution over `(*batch, latent)`; of a subject without any observation, that of an empty record.

        Raises:
            NeuralError: when the shapes do not fit.
        """
        refuse("the series cannot be encoded:", self._problems(times, values, mask))
        reading = _Reading.of(times, values, mask, origin, self.direction, self.time_scale)
        gates = functional.linear(reading.features, self.input_weight, self.input_bias)
        along, across = self._turns(reading.gaps)
        h = values.new_zeros(*times.shape[:-1], self.hidden)
        for step in range(times.shape[-1]):
            updated = self._update(gates[..., step, :], _turn(h, along[..., step, :], across[..., step, :]))
            h = torch.where(reading.seen[..., step, None], updated, h)
        h = _turn(h, *self._turns(reading.last_gap))
        summary = torch.cat([h, torch.log1p(reading.last_gap)[..., None]], -1)
        mean, raw = functional.linear(summary, self.head_weight, self.head_bias).chunk(2, -1)
        return DiagonalNormal(mean, soft_bound(raw))

    def _turns(self, gaps: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of `exp((-d + i w) gap)`, `(*batch, time)` to twice `(*batch, time, hidden / 2)`."""
        kept = torch.exp(-functional.softplus(self.raw_decay) * gaps[..., None])
        angle = self.frequency * gaps[..., None]
        return kept * torch.cos(angle), kept * torch.sin(angle)

    def _update(self, gates: Tensor, h: Tensor) -> Tensor:
        reset, keep, candidate = gates.chunk(3, -1)
        from_reset, from_keep, from_candidate = functional.linear(h, self.hidden_weight, self.hidden_bias).chunk(3, -1)
        proposal = torch.tanh(candidate + torch.sigmoid(reset + from_reset) * from_candidate)
        kept = torch.sigmoid(keep + from_keep)
        return kept * h + (1.0 - kept) * proposal

    def _problems(self, times: Tensor, values: Tensor, mask: Tensor) -> list[str]:
        problems = []
        if values.shape != (*times.shape, self.channels):
            expected = f"`times` (*batch, time) and `values` (*batch, time, {self.channels})"
            problems.append(f"expected {expected}, got {times.shape=}, {values.shape=}")
        if mask.shape != values.shape or mask.dtype != torch.bool:
            problems.append(f"expected a bool `mask` of the shape of `values`, got {mask.shape=}, {mask.dtype=}")
        return problems


class _Reading(NamedTuple):
    """A series in the order of reading, times as gaps in units of the time scale.

    Attributes:
        seen: `(*batch, time)` bool, which steps hold an observation.
        features: `(*batch, time, 3 channel)`.
        gaps: `(*batch, time)`, since the previous step with an observation.
        last_gap: `(*batch,)`, from the last step with an observation to the origin.
    """

    seen: Tensor
    features: Tensor
    gaps: Tensor
    last_gap: Tensor

    @classmethod
    def of(
        cls,
        times: Tensor,
        values: Tensor,
        mask: Tensor,
        origin: Tensor | float | None,
        direction: Direction,
        time_scale: float,
    ) -> "_Reading":
        sign = 1.0 / time_scale
        if direction is Direction.BACKWARD:
            times, values, mask, sign = times.flip(-1), values.flip(-2), mask.flip(-2), -sign
        seen = mask.any(-1)
        clock = times * sign
        # Masked values may be NaN, and NaN times zero is NaN, in gradients too: they are replaced, not multiplied.
        observed = torch.where(mask, values, 0.0)
        first = torch.where(seen, clock, torch.inf).amin(-1, keepdim=True)
        gaps = _since_last(clock, seen, first)
        channel_gaps = _since_last(clock[..., None], mask, first[..., None], axis=-2)
        features = torch.cat([observed, mask.to(values.dtype), torch.log1p(channel_gaps)], -1)
        last = torch.where(seen, clock, -torch.inf).amax(-1)
        if origin is None:
            return cls(seen, features, gaps, torch.zeros_like(last))
        target = torch.as_tensor(origin, dtype=times.dtype, device=times.device) * sign
        last = torch.where(seen.any(-1), last, target)
        return cls(seen, features, gaps, (target - last).clamp(min=0.0))


def _turn(h: Tensor, along: Tensor, across: Tensor) -> Tensor:
    first, second = h.chunk(2, -1)
    return torch.cat([first * along - second * across, first * across + second * along], -1)


def _since_last(clock: Tensor, seen: Tensor, first: Tensor, axis: int = -1) -> Tensor:
    """Time since the step before at which `seen` was true, counted from `first` until then; 0 at padding."""
    reached = torch.where(seen, clock, -torch.inf).cummax(axis).values
    start = torch.full_like(reached.narrow(axis, 0, 1), -torch.inf)
    before = torch.cat([start, reached.narrow(axis, 0, reached.shape[axis] - 1)], axis)
    gap = (clock - torch.maximum(before, first)).expand_as(before)
    return torch.where(gap.isfinite(), gap, 0.0).clamp(min=0.0)
