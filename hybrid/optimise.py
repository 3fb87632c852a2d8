"""Limited-memory BFGS that takes a failed simulation for what it is: a step that was too long."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ARMIJO = 1e-4
HALVINGS = 20


class Point(NamedTuple):
    """A point of a minimisation.

    Attributes:
        x: `(unknown,)`.
        value: the function there; infinite where it cannot be evaluated.
        gradient: `(unknown,)`.
    """

    x: Tensor
    value: float
    gradient: Tensor


Evaluate = Callable[[Tensor], Point]


def minimise(
    evaluate: Evaluate,
    start: Point,
    steps: int,
    tolerance: float,
    memory: int = 20,
    watch: Callable[[Point], None] | None = None,
) -> Point:
    """L-BFGS with backtracking (Nocedal & Wright, Numerical Optimization, algorithms 7.4, 7.5 and 3.1).

    Args:
        evaluate: function and gradient at a point; an infinite value makes the step shorter.
        start: where to begin; finite.
        steps: at most so many.
        tolerance: ends when a step lowers the function by less.
        memory: pairs kept.
        watch: called with every accepted point.
    """
    here = start
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(steps):
        direction = -_inverse_hessian(pairs, here.gradient)
        slope = float(direction @ here.gradient)
        if not slope < 0:
            pairs, direction = [], -here.gradient
            slope = float(direction @ here.gradient)
        if slope == 0:
            return here
        length = 1.0 if pairs else min(1.0, 1.0 / float(here.gradient.norm()))
        there = _backtrack(evaluate, here, direction, slope, length)
        if there is None:
            if not pairs:
                return here
            pairs = []
            continue
        step, change = there.x - here.x, there.gradient - here.gradient
        if float(step @ change) > 1e-12 * float(step.norm() * change.norm()):
            pairs = [*pairs[-(memory - 1) :], (step, change)]
        gain = here.value - there.value
        here = there
        if watch is not None:
            watch(here)
        if gain < tolerance:
            return here
    return here


def _backtrack(evaluate: Evaluate, here: Point, direction: Tensor, slope: float, length: float) -> Point | None:
    for _ in range(HALVINGS):
        there = evaluate(here.x + length * direction)
        if math.isfinite(there.value) and there.value <= here.value + ARMIJO * length * slope:
            return there
        length *= 0.5 if math.isfinite(there.value) else 0.1
    return None


def _inverse_hessian(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """The two-loop recursion."""
    result = gradient.clone()
    weights = []
    for step, change in reversed(pairs):
        weight = float(step @ result) / float(step @ change)
        weights.append(weight)
        result -= weight * change
    if pairs:
        step, change = pairs[-1]
        result *= float(step @ change) / float(change @ change)
    for (step, change), weight in zip(pairs, reversed(weights), strict=True):
        result += (weight - float(change @ result) / float(step @ change)) * step
    return result


def flatten(tensors: list[Tensor]) -> Tensor:
    """Tensors as one vector; empty for none."""
    return torch.cat([t.reshape(-1) for t in tensors]) if tensors else torch.zeros(0, dtype=torch.float64)


def unflatten(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    """The inverse of `flatten` for tensors of the shapes of `like`."""
    parts = vector.split([t.numel() for t in like])
    return [part.reshape(t.shape) for part, t in zip(parts, like, strict=True)]
