"""The reference of a gradient: central differences of order 4 of a log-likelihood that LSODA computes at 1e-12."""

import numpy as np

from benchmarks.exchange import Evidence, Request, Task
from benchmarks.measure import Evaluate, serve_value
from benchmarks.peers.compiled import load, population

STEP = 2e-3
"""Of an estimated parameter on its scale: beyond it the differences are off by 1e-11, rounding and solver by 1e-8."""


def prepare(request: Request) -> Evaluate:
    """All conditions at all points of all differences are one population."""
    from pathlib import Path

    import numbalsoda

    given = Evidence.read(Path(request.task))
    likelihood = load(given.folder / "likelihood_numpy.py")
    shifts = np.array([-2, -1, 1, 2])
    weights = np.array([1, -8, 8, -1]) / (12 * STEP)
    k = len(given.theta)
    points = np.concatenate([given.theta[None], *(given.theta + STEP * s * np.eye(k) for s in shifts)])

    def filled(values: np.ndarray, index: np.ndarray) -> np.ndarray:
        linear = np.where(given.decadic, 10.0**points, points)
        return np.where(index >= 0, linear[:, index.clip(0)], values)

    parameters = filled(given.base, given.place).reshape(-1, given.base.shape[1])
    initial = likelihood.initial(parameters)
    none = np.zeros(0)
    task = Task(
        given.name, given.states, (), given.times, parameters, initial, given.sizes, none, none.astype(int), none,
        given.folder,
    )  # fmt: skip
    solve = population(numbalsoda.lsoda)(task, request)

    def evaluate(rtol: float) -> np.ndarray:
        states = solve(parameters, initial, rtol).reshape(len(points), len(given.base), len(given.times), -1)
        x = states[:, given.condition, given.time]
        seen = likelihood.observed(given.times[given.time], x, filled(given.own_base, given.own_place))
        values = np.array([value(given, row) for row in seen])
        slope = (weights[:, None] * values[1:].reshape(4, k)).sum(0)
        return np.r_[values[0], slope]

    return evaluate


def value(given: Evidence, seen: np.ndarray) -> float:
    """The negative logarithm of the likelihood for observables and noises, `(measurement, 2 · observable)`."""
    rows, count = np.arange(len(given.data)), seen.shape[1] // 2
    y, sigma = seen[rows, given.observable], seen[rows, count + given.observable]
    safe = np.where(given.logarithmic, given.data, 1.0)
    residual = np.where(given.logarithmic, np.log10(safe) - np.log10(np.abs(y) + 1e-300), given.data - y) / sigma
    scale = sigma * np.where(given.logarithmic, safe * np.log(10), 1.0)
    return float((0.5 * np.log(2 * np.pi) + np.log(scale) + 0.5 * residual**2).sum())


if __name__ == "__main__":
    serve_value("reference", ("numbalsoda", "numpy"), "differences of LSODA at 1e-12", prepare)
