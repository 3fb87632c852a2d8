"""scikit-sundae: CVODE with right-hand side and Jacobian compiled by numba, one patient at a time."""

import numpy as np

from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, Solve, serve
from benchmarks.peers.compiled import load


def prepare(task: Task, request: Request) -> Solve:
    """One solver a tolerance; BDF with the dense Jacobian where stiff, else Adams."""
    import numba
    from sksundae.cvode import CVODE

    equations = load(task.folder / "equations_numba.py")
    rates, jacobian, constants = (
        numba.njit(error_model="numpy", fastmath=True)(f)
        for f in (equations.rates, equations.jacobian, equations.constants)
    )
    states, segments = len(task.states), task.segments()
    spans = [np.unique(np.r_[s.start, task.times[s.first : s.first + s.count], s.end]) for s in segments]
    skipped = [int(task.times[s.first] != s.start) for s in segments]
    stiff, c = request.options["stiff"], np.empty(equations.CONSTANTS)

    def right(t, x, f):
        rates(t, x, f, c)

    def slopes(t, x, f, j):
        jacobian(t, x, j.reshape(-1), c)

    solvers: dict[float, CVODE] = {}

    def solve(parameters: np.ndarray, initial: np.ndarray, rtol: float) -> np.ndarray:
        if rtol not in solvers:
            method = {"method": "BDF", "jacfn": slopes} if stiff else {"method": "Adams"}
            atol = ABSOLUTE * task.sizes * rtol
            solvers[rtol] = CVODE(right, rtol=rtol, atol=atol, max_num_steps=100_000, **method)
        result = np.full((len(initial), len(task.times), states), np.nan)
        for row, (p, x) in enumerate(zip(parameters, initial, strict=True)):
            constants(p, c)
            for s, span, skip in zip(segments, spans, skipped, strict=True):
                course = solvers[rtol].solve(span, x + s.jump).y
                if len(course) < len(span):
                    break
                result[row, s.first : s.first + s.count] = course[skip : skip + s.count]
                x = course[-1]
        return result

    return solve


if __name__ == "__main__":
    serve(
        "CVODE (scikit-sundae)",
        ("scikit-sundae", "numba"),
        "right-hand side and dense Jacobian compiled by numba (fastmath), one patient after the other,"
        " an absolute tolerance for each state; BDF where stiff, else Adams",
        prepare,
    )
