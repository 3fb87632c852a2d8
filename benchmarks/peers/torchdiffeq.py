"""torchdiffeq: Dormand–Prince 5(4) of a batch of patients with one step size for all."""

from typing import Any

from benchmarks.exchange import Request, Task
from benchmarks.measure import ABSOLUTE, serve
from benchmarks.peers.batches import Advance, population


def advance(task: Task, request: Request) -> Advance:
    """One call of `odeint` between doses."""
    import torch
    from torchdiffeq import odeint

    absolute = torch.as_tensor(ABSOLUTE * task.sizes)

    def step(rates: Any, constants: Any, x: Any, times: Any, rtol: float) -> Any:
        atol = (absolute * rtol).expand_as(x)
        return odeint(lambda t, y: rates(t, y, constants), x, times, rtol=rtol, atol=atol, method="dopri5")

    return step


if __name__ == "__main__":
    serve("torchdiffeq", ("torchdiffeq", "torch"), "dopri5, one clock for 200 patients", population(advance))
