"""Step size control, one clock a subject."""

from typing import NamedTuple

import torch
from torch import Tensor

from mechanistic.solve.method import AbstractMethod
from mechanistic.solve.problem import Tolerance

SAFETY = 0.9
SMALLEST, LARGEST = 0.2, 10.0
UNDERSHOOTS = 6
"""Retries in a row against numerical undershoot below zero; a solution that truly changes sign is let through then."""


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
        undershoots: rejections for that in a row so far, `(row,)`.
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
    ratio = verdict.ratio.clamp_min(1e-10)
    grow = SAFETY * ratio ** (-0.85 * exponent) * before.clamp_min(1e-4) ** (0.2 * exponent)
    shrink = (SAFETY * ratio**-exponent).clamp(max=0.9)
    change = torch.where(verdict.accepted, grow, torch.where(verdict.ratio.isfinite(), shrink, 0.1))
    return torch.where(verdict.undershot, 0.25, change.clamp(SMALLEST, LARGEST))


def first_step(x: Tensor, slope: Tensor, scales: Tensor, tolerance: Tolerance, span: Tensor) -> Tensor:
    """A careful first step: one that changes no state by more than a hundredth of what the tolerance looks at.

    Hairer, Nørsett & Wanner, Solving ODEs I, section II.4, without the second evaluation.
    """
    weight = tolerance.atol * scales + tolerance.rtol * x.abs()
    size, speed = (x.abs() / weight).amax(-1), (slope.abs() / weight).amax(-1)
    guess = torch.where((size > 1e-5) & (speed > 1e-5), 0.01 * size / speed, 1e-6 * span)
    usable = torch.where(guess.isfinite() & (guess > 0), guess, 1e-6 * span)
    return torch.minimum(usable, span)
