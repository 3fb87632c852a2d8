"""Error beside time: how far a solution is off, and what a tool would need at the error of another."""

from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import final

import numpy as np

FLOOR = 1e-3
"""An error is relative down to this share of the largest value that a state takes for a patient; below, absolute."""


@final
@dataclass(frozen=True)
class Point:
    """One point of a work–precision curve.

    Attributes:
        rtol: relative tolerance that was asked for.
        error: the largest error over patients, times and states that was met.
        typical: the median over patients of the largest error over times and states.
        seconds: CPU seconds a patient, median of the runs.
        wall: seconds a patient, median of the runs.
        patients: patients of a run.
    """

    rtol: float
    error: float
    typical: float
    seconds: float
    wall: float
    patients: int


def errors(states: np.ndarray, reference: np.ndarray, sizes: np.ndarray | float = 1.0) -> np.ndarray:
    """The largest over times and states of |x - ref| / (|ref| + `FLOOR` · max over times |ref|), `(patient,)`.

    Both arrays are `(patient, time, state)`. A state that stays below 1e-9 of its typical size, `(state,)`, in the
    reference is zero but for noise, and counts in shares of that size; a value that is not finite is an infinite error.
    """
    size = np.abs(reference)
    peak = size.max(axis=1, keepdims=True)
    scale = size + FLOOR * np.where(peak > 1e-9 * sizes, peak, sizes)
    relative = np.abs(states - reference) / scale
    return np.where(np.isfinite(relative), relative, np.inf).max(axis=(1, 2))


def front(points: list[Point]) -> list[Point]:
    """The points that no other one beats in both error and time, by decreasing error."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.seconds, p.error)):
        if point.error > 0 and (not kept or point.error < kept[-1].error):
            kept.append(point)
    return kept


def seconds_at(points: list[Point], error: float) -> float | None:
    """CPU seconds a patient at an error, by log–log interpolation between the points of `front`.

    Never beyond the curve: for a larger error than that of the cheapest point, the time of this point; for a smaller
    error than was reached, None.
    """
    curve = front(points)
    if not curve or not error >= curve[-1].error:
        return None
    if error >= curve[0].error:
        return curve[0].seconds
    for loose, tight in pairwise(curve):
        if tight.error <= error <= loose.error:
            share = log(loose.error / error) / log(loose.error / tight.error)
            return exp((1 - share) * log(loose.seconds) + share * log(tight.seconds))
    return None
