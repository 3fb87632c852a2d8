"""Error control of derivatives: every subject has a shadow, the same subject started a little elsewhere.

A step whose own error is small may still be wrong in its derivative. A system that starts at rest is the plainest case:
nothing moves, any step is right, and the derivative of a long step is that of a rational function or a polynomial, far
from the exponential that it stands for. The distance to the shadow obeys the linearised system; its error estimate, the
difference of the two, bounds the step as well. Where no derivative is wanted there is no shadow.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mechanistic.solve.control import Verdict
from mechanistic.solve.method import AbstractMethod, Rhs, Step
from mechanistic.solve.problem import Problem, Tolerance

DISTANCE = 1e-3
"""Distance of a shadow at its start, in scales: small enough to be linear, and far above rounding."""

LENIENCE = 10.0
"""Error of a derivative that is allowed, in multiples of that of a state."""

FAR = 100.0
"""Growth of the distance after which the shadow starts anew."""

_GOLDEN = 0.6180339887498949


def wants_gradient(problem: Problem) -> bool:
    """Whether a derivative of the solution may be asked for."""
    if not torch.is_grad_enabled():
        return False
    given = (problem.parameters, problem.initial, problem.stops.times, problem.stops.jumps, problem.stops.rates)
    # Weights last: to find them takes longer than a small solve.
    return any(v.requires_grad for v in given) or any(w.requires_grad for w in problem.field.parameters())


def cast_shadow(x: Tensor, scales: Tensor) -> Tensor:
    """Shadows of `x`, `(row, state)`: every state is moved by another part of its scale."""
    parts = 0.5 + (torch.arange(x.shape[-1], dtype=x.dtype, device=x.device) * _GOLDEN).frac()
    return x + DISTANCE * parts * scales


class Pair(NamedTuple):
    """A step of some subjects, and the end and error of the same step of their shadows."""

    step: Step
    end: Tensor
    error: Tensor


def step_both(method: AbstractMethod, rhs: Rhs, t: Tensor, x: Tensor, shadow: Tensor, h: Tensor) -> Pair:
    """The step of the subjects and of their shadows, in one batch."""
    rows = torch.arange(len(t), device=t.device).repeat(2)
    both = method.step(rhs.select(rows), t[rows], torch.cat([x, shadow]), h[rows])
    mine, other = slice(None, len(t)), slice(len(t), None)
    last = None if both.last is None else both.last[mine]
    stiffness = None if both.stiffness is None else torch.maximum(both.stiffness[mine], both.stiffness[other])
    step = Step(both.x[mine], both.error[mine], tuple(stage[mine] for stage in both.stages), last, stiffness)
    return Pair(step, both.x[other], both.error[other])


def judge_both(
    verdict: Verdict, pair: Pair, x: Tensor, shadow: Tensor, scales: Tensor, tolerance: Tolerance
) -> Verdict:
    """The verdict where the distance to the shadow has to be right as well."""
    size = torch.maximum((shadow - x).abs(), (pair.end - pair.step.x).abs()) + DISTANCE * scales
    # What is left of differences of states is rounded at the size of the states.
    rounding = 100 * torch.finfo(x.dtype).eps * torch.maximum(x.abs(), pair.step.x.abs())
    share = (pair.error - pair.step.error).abs() / (LENIENCE * tolerance.rtol * size + rounding)
    ratio, culprit = share.nan_to_num(0.0, 0.0, 0.0).max(dim=-1)
    worse = ratio > verdict.ratio
    return verdict._replace(
        accepted=verdict.accepted & (ratio <= 1),
        ratio=torch.where(worse, ratio, verdict.ratio),
        culprit=torch.where(worse, culprit, verdict.culprit),
    )


def follow(x: Tensor, shadow: Tensor, scales: Tensor) -> Tensor:
    """The shadows at the end of a step, brought back where they have gone far, `(row, state)`."""
    distance = shadow - x
    growth = (distance.abs() / (DISTANCE * scales)).amax(-1, keepdim=True)
    near = torch.where(growth > FAR, x + distance / growth, shadow)
    return torch.where(near.isfinite().all(-1, keepdim=True), near, cast_shadow(x, scales))
