"""The search for rest: simulate ever further until Newton's method can be believed."""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from mechanistic.field import AbstractVectorField
from mechanistic.simulate import simulate
from mechanistic.solve.engine import AbstractEngine
from mechanistic.solve.problem import AbstractSolver, Status, Tolerance
from mechanistic.steady_state.judgement import PATIENT, UNDECIDED, judge, modes
from mechanistic.steady_state.newton import Balance
from mechanistic.steady_state.result import RestStatus
from mechanistic.steady_state.totals import Totals, totals_at

ROUNDS: Final = 24
"""The last of them is 10¹⁴ typical time scales long."""

LONGER: Final = 4.0
"""How much longer each round is than all before it."""

TYPICAL: Final = 3.0
"""Length of the first round in typical time scales."""

NOTHING: Final = 1e-9
"""Eigenvalues below this fraction of the largest are zero up to rounding."""

BEYOND: Final = 1e12
"""A state this many times larger than its scale and its start grows without bound."""


@final
@dataclass(frozen=True, slots=True)
class Way:
    """How to simulate towards rest."""

    solver: AbstractSolver
    tolerance: Tolerance
    engine: AbstractEngine | None


@final
@dataclass(frozen=True, eq=False)
class Found:
    """How the search of each row ended; see `SteadyState`.

    Attributes:
        status, growth, solver, reached: `(row,)`.
        states: the rest, or the last states that were reached, `(row, state)`.
    """

    status: Tensor
    states: Tensor
    growth: Tensor
    solver: Tensor
    reached: Tensor


@final
class Search:
    """Simulates each row on its own clock until it rests; without a graph.

    Args:
        field: without delays and constraints.
        p: `(row, parameter)`.
        initial: `(row, state)`.
        start: `(row,)`.
        way: how to simulate.
    """

    def __init__(self, field: AbstractVectorField, p: Tensor, initial: Tensor, start: Tensor, way: Way) -> None:
        self._field, self._p, self._initial, self._start, self._way = field, p, initial, start, way
        self._smooth = field.discrete is None
        self._totals: Totals | None = None
        self._states, self._reached = initial.clone(), start.clone()
        self._ends = initial.clone()
        self._status = torch.full_like(start, UNDECIDED, dtype=torch.long)
        self._growth = torch.full_like(start, torch.nan)
        self._solver = torch.zeros_like(self._status)
        self._since = torch.full_like(start, torch.nan)

    def run(self) -> Found:
        """The outcome for every row."""
        span = typical_time(self._field, self._start, self._initial, self._p)
        patient, end = self._start + PATIENT * span, self._start + TYPICAL * span
        for _ in range(ROUNDS):
            rows = (self._status == UNDECIDED).nonzero().squeeze(-1)
            if not len(rows):
                break
            rows = self._advance(rows, end[rows])
            if len(rows):
                self._look(rows, patient)
            end = self._start + LONGER * (end - self._start)
        self._status[self._status == UNDECIDED] = RestStatus.MOVING
        return Found(self._status, self._states, self._growth, self._solver, self._reached)

    def balance(self, rows: Tensor) -> Balance:
        """The equations of rest of some rows, with the modes that the simulation ended in."""
        t, p, states = self._reached[rows], self._p[rows], self._ends[rows]
        held = modes(self._field, t, states, p)
        if not self._smooth:
            # On the way, events and other modes may have changed what is conserved now.
            return Balance(self._field, t, p, held, totals_at(self._field, t, states, p, held), states)
        if self._totals is None:
            self._totals = totals_at(self._field, self._start, self._initial, self._p, ())
        return Balance(self._field, t, p, held, self._totals.select(rows), self._initial[rows])

    def _advance(self, rows: Tensor, end: Tensor) -> Tensor:
        """Simulates to the ends; the rows that got there."""
        way = self._way
        # What has been triggered is known to one simulation only.
        again = self._field.discrete is not None and self._field.discrete.events > 0
        begin = self._start[rows] if again else self._reached[rows]
        states = self._initial[rows] if again else self._states[rows]
        solution = simulate(
            self._field, end.unsqueeze(-1), self._p[rows], initial=states, start=begin,
            solver=way.solver, tolerance=way.tolerance, engine=way.engine,
        )  # fmt: skip
        self._solver[rows], self._reached[rows] = solution.status, solution.reached
        good = solution.succeeded & solution.states[:, -1].isfinite().all(-1)
        self._states[rows[good]] = self._ends[rows[good]] = solution.states[good, -1]
        failed = rows[~good]
        busy = self._solver[failed] == Status.BUDGET
        self._status[failed] = torch.where(busy, int(RestStatus.MOVING), int(RestStatus.FAILED))
        rows = rows[good]
        size = torch.maximum(self._field.scales, self._initial[rows].abs())
        large = (self._states[rows].abs() > BEYOND * size).any(-1)
        self._status[rows[large]] = RestStatus.MOVING
        return rows[~large]

    def _look(self, rows: Tensor, patient: Tensor) -> None:
        """Decides rows that were simulated."""
        states, reached = self._states[rows], self._reached[rows]
        balance = self.balance(rows)
        judged = judge(balance, states, reached - self._start[rows], reached >= patient[rows], self._way.tolerance)
        resting = (judged.status == RestStatus.OK) | (judged.status == RestStatus.SINGULAR)
        waiting = resting & self._is_pending(balance, rows, states)
        self._since[rows] = torch.where(resting, torch.fmin(self._since[rows], reached), torch.nan)
        decided = (judged.status != UNDECIDED) & ~waiting
        self._status[rows[decided]] = judged.status[decided]
        self._states[rows[decided]] = judged.states[decided]
        self._growth[rows[decided]] = judged.growth[decided]

    def _is_pending(self, balance: Balance, rows: Tensor, states: Tensor) -> Tensor:
        """Whether an event that was triggered may not have been executed yet, bool `(row,)`."""
        discrete = self._field.discrete
        if discrete is None or not discrete.events:
            return torch.zeros_like(rows, dtype=torch.bool)
        wait = discrete.wait(balance.t, states, balance.p, torch.cat([states[:, :0], *balance.held], -1)).amax(-1)
        rested = balance.t - self._since[rows]
        return (wait > 0) & ~(rested > wait)


def typical_time(field: AbstractVectorField, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
    """One over the median size of the eigenvalues at the start, `(row,)`.

    Where these are all zero, or not finite, it is the time in which a state changes by its size, or else 1.
    """
    held = modes(field, t, x, p)
    jacobian, rates = field.linearise(t, x, p, *held).jacobian, field(t, x, p, *held)
    finite = jacobian.isfinite().all(-1).all(-1)
    sizes = torch.linalg.eigvals(torch.where(finite[:, None, None], jacobian, 0.0)).abs()
    moving = sizes > NOTHING * sizes.amax(-1, keepdim=True)
    middle = torch.where(moving, sizes, torch.nan).nanmedian(-1).values
    quick = (rates.abs() / (field.scales + x.abs())).nan_to_num(0.0, 0.0, 0.0).amax(-1)
    speed = torch.where(middle.isnan(), quick, middle)
    return torch.where(speed > 0, 1.0 / speed, 1.0)
