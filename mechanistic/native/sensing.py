"""An engine that takes derivatives along with the solution; its outcomes have them behind the states."""

from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.errors import SolveError
from mechanistic.native.directional import directional, directions_of
from mechanistic.native.gradient import Solve
from mechanistic.native.modes import Segmented, segmented
from mechanistic.native.solver import built, refusals, solve, with_methods
from mechanistic.solve.engine import AbstractEngine, Solved
from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Status
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.tsit5 import Tsit5


@final
@dataclass(frozen=True, slots=True, eq=False)
class Sensing(AbstractEngine):
    """Compiled code that gives `(batch, time, state + state · direction)` in the place of states.

    Attributes:
        theta: zero, `(direction,)`; what a problem has of it in its graph are the directions.
        parameters: derivatives of the parameters by it, `(parameter, direction)`.
        threads: as for `Native`.
    """

    theta: Tensor
    parameters: Tensor
    threads: int | None = None

    def solve(self, solver: AbstractSolver, problem: Problem) -> Solved:
        """See `AbstractEngine.solve`."""
        threads = torch.get_num_threads() if self.threads is None else self.threads
        sensing = with_methods(solver, lambda method: _Sensing(method, self, threads))
        reasons = refusals(problem)
        if isinstance(sensing, str):
            reasons.insert(0, sensing)
        if not reasons and isinstance(whole := segmented(problem), str):
            reasons.append(whole)
        if isinstance(sensing, str) or reasons:
            raise refused(reasons)
        return Solved(sensing.solve(problem), "compiled code")


def refused(reasons: list[str]) -> SolveError:
    """What to say where there are none."""
    return SolveError("there are no forward sensitivities of this; use `simulate` and `torch.autograd`:", reasons)


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Sensing(AbstractSolver):
    method: Tsit5 | Rodas5P
    engine: Sensing
    threads: int

    @property
    def name(self) -> str:
        return self.method.name

    def solve(self, problem: Problem) -> Outcome:
        forward, whole = built(cast(RateField, problem.field)), segmented(problem)
        assert forward is not None
        assert isinstance(whole, Segmented)
        kept: list[Solve] = []

        def keep(states: Tensor, solved: Solve) -> Tensor:
            kept.append(solved)
            return states

        outcome = solve(forward, self.method, whole, self.threads, keep)
        stops = whole.problem.stops
        inputs = (problem.parameters, problem.initial, stops.times, stops.jumps, stops.rates)
        theta = self.engine.theta
        initial, *others = (tangents(value, theta) for value in inputs[1:])
        still = np.zeros((1, problem.initial.shape[1], len(theta)))
        directions = directions_of(
            kept[0], self.engine.parameters.numpy()[None], still if initial is None else initial, *others
        )
        settled = (outcome.status == Status.OK).numpy()
        slopes = directional(kept[0], inputs, directions, len(theta), settled, np.nan)
        return outcome._replace(states=torch.cat([outcome.states, torch.from_numpy(slopes).flatten(2)], -1))


def tangents(value: Tensor, theta: Tensor) -> Any:
    """Derivatives of all elements by `theta`, `(*element, direction)`; None where there are none.

    Going back twice goes forward: the cotangent of `theta` is linear in that of the value.
    """
    if not value.requires_grad:
        return None
    with torch.enable_grad():
        seed = torch.zeros_like(value, requires_grad=True)
        (back,) = torch.autograd.grad(value, theta, seed, create_graph=True, allow_unused=True)
        if back is None or not back.requires_grad:
            return None
        rows = torch.eye(len(theta), dtype=theta.dtype)
        (found,) = torch.autograd.grad(back, seed, rows, retain_graph=True, allow_unused=True, is_grads_batched=True)
    return None if found is None else found.detach().movedim(0, -1).numpy()
