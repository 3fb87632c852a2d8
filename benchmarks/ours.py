"""Kinetwin, measured in a process of its own: through `mechanistic`, as a user calls it."""

import numpy as np
import torch

import mechanistic as mech
from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, Solve, serve
from benchmarks.models import CASES, model_of

SOLVERS = {"auto": mech.Auto, "rodas5p": mech.Rodas5P, "tsit5": mech.Tsit5}


def prepare(task: Task, request: Request) -> Solve:
    """One call for all patients of what `mechanistic.prepare` gives for a tolerance."""
    case, model = CASES[task.name], model_of(task.name)
    solver, engine = SOLVERS[request.options["solver"]](), mech.Native(threads=request.options.get("threads", 1))
    times = torch.as_tensor(task.times)
    torch.set_num_threads(1)
    prepared: dict[float, mech.Prepared] = {}

    def solve(parameters: np.ndarray, initial: np.ndarray, rtol: float) -> np.ndarray:
        if rtol not in prepared:
            tolerance = mech.Tolerance(rtol, ABSOLUTE * rtol)
            prepared[rtol] = mech.prepare(
                model, times, case.schedule, solver=solver, tolerance=tolerance, engine=engine
            )
        with torch.no_grad():
            return prepared[rtol](torch.as_tensor(parameters)).states.numpy()

    return solve


if __name__ == "__main__":
    serve("Kinetwin", ("kinetwin", "torch"), "compiled code, one call for all patients", prepare)
