"""Step size control, one clock a subject."""

from typing import NamedTuple

import torch
from torch import Tensor

from mechanistic.solve.method import AbstractMethod, Rhs
from mechanistic.solve.problem import Tolerance

SAFETY = 0.9
SMALLEST, LARGEST = 0.2, 10.0
LEAST_RATIO, LEAST_BEFORE = 1e-10, 1e-4
"""A smaller ratio of error to tolerance counts as this one: of a step, and of the step before."""

GOLDEN = 0.6180339887498949
PROBE = 1e-6
"""Length of the differences of `fastest_rate`, in scales."""

UNDERSHOOTS = 12
"""Rejections against numerical undershoot below zero, counted twice, less the other steps since, after which a step
is let through: the solution truly changes sign."""


class Verdict(NamedTuple):
    """What step control says of a trial step.

    Attributes:
        accepted: `(row,)`.
        ratio: error over tolerance, `(row,)`; infinite where the step is not finite.
        undershot: rejected for going below zero only, `(row,)`.
        culprit: the state that limits the step, `(row,)`.
    """

    accepted: Tensor
    ratio: Tensor
    undershot: Tensor
    culprit: Tensor


def judge(
    x: Tensor,
    end: Tensor,
    error: Tensor,
    scales: Tensor,
    floor: Tensor,
    undershoots: Tensor,
    tolerance: Tolerance,
) -> Verdict:
    """Compares the error of a step with the tolerance, in the maximum norm: no state hides behind the others.

    Args:
        x, end, error: of the step, `(row, state)`.
        scales: `(state,)`.
        floor: what each state may not cross downward, `(state,)`.
        undershoots: count of rejections for that, see `UNDERSHOOTS`, `(row,)`.
        tolerance: error allowed.
    """
    allowed = tolerance.atol * scales + tolerance.rtol * torch.maximum(x.abs(), end.abs())
    share = torch.where(end.isfinite(), error.abs() / allowed, torch.inf).nan_to_num(torch.inf, torch.inf)
    ratio, culprit = share.max(dim=-1)
    below = ((end < floor) & (x >= floor)).any(-1)
    undershot = below & (undershoots < UNDERSHOOTS) & ratio.isfinite()
    return Verdict((ratio <= 1) & ~undershot, ratio, undershot, culprit)


def factor(method: AbstractMethod, verdict: Verdict, before: Tensor) -> Tensor:
    """What to multiply the step by: PI control (Hairer & Wanner, Solving ODEs II, IV.2), with the weights of DOPRI5."""
    exponent = 1 / (method.error_order + 1)
    ratio = verdict.ratio.clamp_min(LEAST_RATIO)
    grow = SAFETY * ratio ** (-0.85 * exponent) * before.clamp_min(LEAST_BEFORE) ** (0.2 * exponent)
    shrink = (SAFETY * ratio**-exponent).clamp(max=0.9)
    change = torch.where(verdict.accepted, grow, torch.where(verdict.ratio.isfinite(), shrink, 0.1))
    return torch.where(verdict.undershot, 0.25, change.clamp(SMALLEST, LARGEST))


def first_step(
    t: Tensor, x: Tensor, slope: Tensor, scales: Tensor, tolerance: Tolerance, span: Tensor, quiet: Tensor
) -> Tensor:
    """A careful first step: one that changes the states by about a hundredth, or by less than the tolerance notices.

    Hairer, Nørsett & Wanner, Solving ODEs I, section II.4, without the second evaluation. Where nothing moves the slope
    says nothing, and it is `quiet`, `(row,)`.
    """
    weight = tolerance.atol * scales + tolerance.rtol * x.abs()
    size, speed = (x.abs() / weight).amax(-1).clamp_min(1.0), (slope.abs() / weight).amax(-1)
    guess = torch.where(speed * span > 1e-5, 0.01 * size / speed, quiet).nan_to_num(0.0)
    return torch.minimum(torch.maximum(guess, 1e3 * smallest_step(t)), span)


def smallest_step(t: Tensor) -> Tensor:
    """Steps shorter than this move the time by too few floating-point spacings to mean anything."""
    return 16 * torch.finfo(t.dtype).eps * t.abs().clamp_min(1e-30)


def fastest_rate(rhs: Rhs, t: Tensor, x: Tensor, slope: Tensor, scales: Tensor, suspect: Tensor) -> Tensor:
    """An estimate of the largest |eigenvalue| of ∂f/∂x, `(row,)`: the power method by differences.

    The first direction moves every state, each by another part of its scale, so that it has a part in every mode. Two
    steps tell a small rate; a rate above `suspect` may be the growth of states of unlike scales along a chain, which
    ends after as many steps as there are states, and is averaged over as many after these.
    """
    # Differences of states far above their scale would be lost in rounding.
    scales = torch.maximum(scales, x.abs())
    parts = 0.5 + (torch.arange(x.shape[-1], dtype=x.dtype, device=x.device) * GOLDEN).frac()
    direction, size = parts.expand_as(x), torch.zeros_like(t)

    def grow(direction: Tensor) -> tuple[Tensor, Tensor]:
        probe = PROBE * scales * direction / direction.norm(dim=-1, keepdim=True)
        change = (rhs(t, x + probe) - slope) / scales
        length = change.norm(dim=-1)
        return torch.where(length.unsqueeze(-1) > 0, change, direction), length / PROBE

    for _ in range(2):
        direction, size = grow(direction)
    high = size > suspect
    if bool(high.any()):
        growth = []
        for _ in range(2 * x.shape[-1]):
            direction, rate = grow(direction)
            growth.append(rate)
        average = torch.stack(growth[x.shape[-1] :]).log().mean(0).exp()
        size = torch.where(high, average, size)
    return size.nan_to_num(0.0, 0.0)
