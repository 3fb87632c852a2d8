"""Right-hand sides in PyTorch for the peers that are written in it, one batch of patients at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.exchange import Request, Task
from benchmarks.measure import Solve
from benchmarks.peers.compiled import load

BATCH = 200
"""Patients of one call."""

Advance = Callable[[Any, Any, Any, Any, float], Any]
"""`(rates, constants, states, times, rtol)` to states `(time, patient, state)`."""


def population(advance: Callable[[Task, Request], Advance]) -> Callable[[Task, Request], Solve]:
    """Solves a population in batches of `BATCH`, from dose to dose."""

    def prepare(task: Task, request: Request) -> Solve:
        import torch

        equations = load(task.folder / "equations_torch.py")
        step, segments = advance(task, request), task.segments()

        def batch(p: Any, x: Any, rtol: float) -> Any:
            constants, courses = equations.constants(p), []
            for s in segments:
                inside = task.times[s.first : s.first + s.count]
                span = np.unique(np.r_[s.start, inside, s.end])
                course = step(equations.rates, constants, x + torch.as_tensor(s.jump), torch.as_tensor(span), rtol)
                skip = int(inside[0] != s.start)
                courses.append(course[skip : skip + s.count])
                x = course[-1]
            return torch.cat(courses).transpose(0, 1)

        def solve(parameters: np.ndarray, initial: np.ndarray, rtol: float) -> np.ndarray:
            p, x = torch.as_tensor(parameters), torch.as_tensor(initial)
            with torch.no_grad():
                parts = [batch(p[i : i + BATCH], x[i : i + BATCH], rtol) for i in range(0, len(p), BATCH)]
            return torch.cat(parts).numpy()

        return solve

    return prepare
