"""Compiled code as an engine: for which problems and solvers there is some, and what happens to all others."""

from dataclasses import dataclass
from typing import final

import torch

from mechanistic.compile import RateField
from mechanistic.errors import SolveError
from mechanistic.native.flight import Flying
from mechanistic.native.modes import Segmented, segmented
from mechanistic.native.solver import Compiled, Known, refusals, with_methods
from mechanistic.solve.engine import AbstractEngine, Solved, Torch
from mechanistic.solve.problem import AbstractSolver, Problem
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.tsit5 import Tsit5


@final
@dataclass(frozen=True, slots=True)
class Native(AbstractEngine):
    """Code compiled for the model: a whole solve without a call of PyTorch, eight subjects side by side.

    `Tsit5`, `Rodas5P` and `Auto` take the same steps as in PyTorch and give the same numbers up to rounding, whatever
    else is in the batch, and so do their gradients. A subject whose linear systems need pivoting is solved by PyTorch.

    Attributes:
        threads: how many may work at once; as many as PyTorch has, `torch.get_num_threads()`, when None.
        fall_back: whether PyTorch solves what there is no compiled code for; otherwise that is refused.
    """

    threads: int | None = None
    fall_back: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be positive; got {self.threads}")

    def solve(self, solver: AbstractSolver, problem: Problem) -> Solved:
        """See `AbstractEngine.solve`."""
        threads = torch.get_num_threads() if self.threads is None else self.threads
        reasons = refusals(problem)
        whole = None if reasons else segmented(problem)
        known = Known(problem, whole) if isinstance(whole, Segmented) else None
        if isinstance(whole, str) and not isinstance(problem.field, RateField):
            reasons.append("the model has networks, and events or conditions on states")

        def wrap(method: Tsit5 | Rodas5P) -> AbstractSolver:
            return Flying(method, threads) if isinstance(whole, str) else Compiled(method, threads, known)

        compiled = with_methods(solver, wrap)
        if isinstance(compiled, str):
            reasons.insert(0, compiled)
        elif not reasons:
            return Solved(compiled.solve(problem), "compiled code")
        if not self.fall_back:
            raise SolveError("compiled code cannot solve this; use `engine=Torch()`:", reasons)
        return Torch("; ".join(reasons)).solve(solver, problem)
