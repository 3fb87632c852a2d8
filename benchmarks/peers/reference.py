"""The reference: LSODA at 1e-12, and how far scipy's Radau IIA or DOP853 at 1e-11 is from it for some patients."""

import numpy as np

from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, Solve, serve
from benchmarks.peers.compiled import load, population, smallest_size

CHECKED = 3
"""Patients that the second method solves too."""


def prepare(task: Task, request: Request) -> Solve:
    """LSODA; the courses of the second method are written beside the answer."""
    import numbalsoda

    solve = population(numbalsoda.lsoda)(task, request)
    np.save(request.options["second"], second(task, request.options["stiff"]))
    return solve


def second(task: Task, stiff: bool) -> np.ndarray:
    """The first patients by scipy, `(CHECKED, time, state)`."""
    import numba
    from scipy.integrate import solve_ivp

    equations = load(task.folder / "equations_numba.py")
    rates, jacobian = (numba.njit(error_model="numpy")(f) for f in (equations.rates, equations.jacobian))
    constants = numba.njit(equations.constants)
    n, method = len(task.states), "Radau" if stiff else "DOP853"
    result = np.empty((CHECKED, len(task.times), n))
    c, f, j = np.empty(equations.CONSTANTS), np.empty(n), np.zeros(n * n)

    def right(t, x):
        rates(t, x, f, c)
        return f.copy()

    def slopes(t, x):
        jacobian(t, x, j, c)
        return j.reshape(n, n).copy()

    atol = 1e-11 * ABSOLUTE * smallest_size(task)
    for row in range(CHECKED):
        constants(task.parameters[row], c)
        x = task.initial[row]
        for s in task.segments():
            asked = np.r_[task.times[s.first : s.first + s.count], s.end]
            extra = {"jac": slopes} if stiff else {}
            found = solve_ivp(
                right, (s.start, s.end), x + s.jump, method, np.unique(asked), rtol=1e-11, atol=atol, **extra
            )
            result[row, s.first : s.first + s.count] = found.y.T[: s.count]
            x = found.y[:, -1]
    return result


if __name__ == "__main__":
    serve("reference", ("numbalsoda", "scipy"), "LSODA at 1e-12", prepare)
