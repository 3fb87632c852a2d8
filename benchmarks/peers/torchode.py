"""torchode: Tsitouras 5(4) of a batch of patients, each with its own steps."""

from typing import Any

from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, serve
from benchmarks.peers.batches import Advance, population


def advance(task: Task, request: Request) -> Advance:
    """One call of the solver between doses."""
    import torch
    import torchode

    def step(rates: Any, constants: Any, x: Any, times: Any, rtol: float) -> Any:
        term = torchode.ODETerm(lambda t, y: rates(t, y, constants))
        atol = torch.as_tensor(ABSOLUTE * task.sizes * rtol)
        control = torchode.IntegralController(atol=atol, rtol=rtol, term=term)
        solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), control)
        problem = torchode.InitialValueProblem(y0=x, t_eval=times.expand(len(x), -1))
        return solver.solve(problem).ys.transpose(0, 1)

    return step


if __name__ == "__main__":
    serve(
        "torchode", ("torchode", "torch"), "Tsit5, 200 patients a batch, each with its own steps", population(advance)
    )
