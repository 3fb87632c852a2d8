"""A population solved by one of numbalsoda's solvers, all of it in one compiled function."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, Solve


def load(path: Path) -> Any:
    """The module that the benchmark wrote beside the task."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"there is no module {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def smallest_size(task: Task) -> float:
    """The smallest nonzero initial state or dose: what a scalar absolute tolerance has to respect."""
    sizes = np.concatenate([task.initial[0], task.dose_amounts])
    return float(sizes[sizes > 0].min())


def population(solver: Any) -> Callable[[Task, Request], Solve]:
    """Solves with `solver(address, initial, times, data, rtol, atol)` of numbalsoda."""

    def prepare(task: Task, request: Request) -> Solve:
        import numba
        from numbalsoda import lsoda_sig

        equations = load(task.folder / "equations_numba.py")
        rates = numba.cfunc(lsoda_sig, error_model="numpy", fastmath=True)(equations.rates)
        constants = numba.njit(error_model="numpy")(equations.constants)
        address, width = rates.address, equations.CONSTANTS
        segments = task.segments()
        first = np.array([s.first for s in segments])
        count = np.array([s.count for s in segments])
        jumps = np.array([s.jump for s in segments])
        times = [np.unique(np.r_[s.start, task.times[s.first : s.first + s.count], s.end]) for s in segments]
        lengths = np.array([len(t) for t in times])
        offsets = np.r_[0, np.cumsum(lengths)]
        joined = np.concatenate(times)
        # Where the first output of a segment is not its start, row 0 of the segment is not asked for.
        skipped = np.array([int(task.times[s.first] != s.start) for s in segments])
        atol = ABSOLUTE * smallest_size(task)
        outputs = len(task.times)

        @numba.njit(error_model="numpy")
        def solve(parameters, initial, rtol):
            patients, states = initial.shape
            result = np.full((patients, outputs, states), np.nan)
            c = np.empty(width)
            for patient in range(patients):
                constants(parameters[patient], c)
                x = initial[patient].copy()
                for k in range(len(first)):
                    x = x + jumps[k]
                    t = joined[offsets[k] : offsets[k + 1]]
                    course, success = solver(address, x, t, c, rtol, atol * rtol)
                    if not success:
                        break
                    for i in range(count[k]):
                        result[patient, first[k] + i] = course[skipped[k] + i]
                    x = course[-1].copy()
            return result

        return solve

    return prepare
