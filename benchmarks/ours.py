"""Kinetwin, measured in a process of its own: through `mechanistic.simulate`, as a user calls it."""

import numpy as np
import torch

import mechanistic as mech
from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, Solve, serve
from benchmarks.models import CASES, model_of

SOLVERS = {"auto": mech.Auto, "rodas5p": mech.Rodas5P, "tsit5": mech.Tsit5}


def prepare(task: Task, request: Request) -> Solve:
    """One call of `simulate` for all patients; the model is compiled at the first."""
    case, model = CASES[task.name], model_of(task.name)
    solver = SOLVERS[request.options["solver"]]()
    times = torch.as_tensor(task.times)
    torch.set_num_threads(request.options.get("threads", 1))

    def solve(parameters: np.ndarray, initial: np.ndarray, rtol: float) -> np.ndarray:
        tolerance = mech.Tolerance(rtol, ABSOLUTE * rtol)
        p = torch.as_tensor(parameters)
        with torch.no_grad():
            found = mech.simulate(model, times, p, case.schedule, solver=solver, tolerance=tolerance)
        return found.states.numpy()

    return solve


if __name__ == "__main__":
    serve("Kinetwin", ("kinetwin", "torch"), "one call of `simulate` for all patients", prepare)
