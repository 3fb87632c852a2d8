"""The default: explicit while that works, L-stable for the subjects that turn out to be stiff."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Statistics, Status
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.tsit5 import Tsit5


@final
@dataclass(frozen=True, slots=True)
class Auto(AbstractSolver):
    """Solves every subject with `explicit`; those that it reports stiff, or too long, are solved again with `stiff`.

    The choice is made for each subject by itself, so that it does not depend on the batch.

    Attributes:
        explicit: tried first.
        stiff: takes over.
    """

    explicit: AbstractSolver = field(default_factory=lambda: Tsit5(max_steps=2_000))
    stiff: AbstractSolver = field(default_factory=Rodas5P)

    def solve(self, problem: Problem) -> Outcome:
        if problem.field.mass is not None:
            return self.stiff.solve(problem)
        first = self.explicit.solve(problem)
        # No other method would help where events or equations have no end or no solution.
        settled = (first.status == Status.OK) | (first.status == Status.EVENTS) | (first.status == Status.INCONSISTENT)
        again = (~settled).nonzero().squeeze(1)
        if not len(again):
            return first._replace(methods=(*first.methods, self.stiff.name))
        second = self.stiff.solve(problem.select(again))
        statistics = Statistics(
            first.statistics.steps.index_copy(0, again, second.statistics.steps),
            first.statistics.rejected.index_add(0, again, first.statistics.steps[again] + second.statistics.rejected),
        )
        return Outcome(
            _replaced(first.states, again, second.states),
            first.status.index_copy(0, again, second.status),
            first.reached.index_copy(0, again, second.reached),
            first.culprit.index_copy(0, again, second.culprit),
            statistics,
            first.method.index_copy(0, again, len(first.methods) + second.method),
            (*first.methods, *second.methods),
            _replaced(first.delayed, again, second.delayed),
        )


def _replaced(states: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """`states` with some rows taken from `others`, without a gradient through what they replace."""
    if len(rows) == len(states):
        return others
    kept = torch.ones(len(states), dtype=torch.bool, device=states.device).index_fill(0, rows, False)
    order = torch.argsort(torch.cat([kept.nonzero().squeeze(1), rows]))
    return torch.cat([states[kept], others])[order]
