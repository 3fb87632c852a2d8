"""What carries a solver out: operations of PyTorch, or compiled code."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

from mechanistic.solve.problem import AbstractSolver, Outcome, Problem


class Solved(NamedTuple):
    """What a solver gave, and in a sentence what carried it out and why."""

    outcome: Outcome
    engine: str


class AbstractEngine(ABC):
    """Carries solvers out; immutable, configured when made."""

    @abstractmethod
    def solve(self, solver: AbstractSolver, problem: Problem) -> Solved:
        """What the solver gives for the problem.

        Raises:
            SolveError: says why this engine cannot.
        """


@final
@dataclass(frozen=True, slots=True)
class Torch(AbstractEngine):
    """Operations of PyTorch: any field, any dtype, any device; the reference for compiled code.

    Attributes:
        reason: why it was chosen, for `Solution.engine`.
    """

    reason: str = "it was asked for"

    def solve(self, solver: AbstractSolver, problem: Problem) -> Solved:
        return Solved(solver.solve(problem), f"PyTorch: {self.reason}")
