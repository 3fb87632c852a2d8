"""Flights in compiled code: subjects with state conditions and events, each to where something happens to it next.

What happens there (doses, events, their queue) is left to `mechanistic.solve.loop`. A flight ends at a known time or
at the first change of a mode. Where a gradient is wanted its steps are recorded and gone back through by compiled code;
the moment of a change is the root of its surface, and is differentiated as such.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.native import driver
from mechanistic.native.build import Forward
from mechanistic.native.crossings import Crossings, build_crossings
from mechanistic.native.gradient import Solve, with_gradient
from mechanistic.native.shares import array, in_shares
from mechanistic.native.solver import (
    SHARE,
    as_record,
    built,
    built_backward,
    constants_of,
    filled_workspace,
    mended,
)
from mechanistic.native.watching import UNWATCHED
from mechanistic.schedule import Stops
from mechanistic.solve.clocks import Clocks
from mechanistic.solve.flights import AbstractFlights, Flown
from mechanistic.solve.loop import solve_by_steps
from mechanistic.solve.method import Rhs
from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Status
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.shadow import wants_gradient
from mechanistic.solve.tsit5 import Tsit5


@final
@dataclass(frozen=True, slots=True)
class Flying(AbstractSolver):
    """A method in compiled code for models that are not smooth: it takes the steps between what happens.

    Attributes:
        method: `Tsit5()` or `Rodas5P()`.
        threads: how many may work at once.
    """

    method: Tsit5 | Rodas5P
    threads: int = 1

    @property
    def name(self) -> str:
        return self.method.name

    def solve(self, problem: Problem) -> Outcome:
        """See `AbstractSolver.solve`; the problem must have no `refusals`."""
        outcome = solve_by_steps(self.method, problem, Flights(self.method, problem, self.threads))
        return mended(outcome, self.method, problem)


@lru_cache(maxsize=64)
def _built_crossings(field: RateField) -> Crossings:
    """The kernels that look at the modes of a field; kept for those used last."""
    forward = built(field)
    assert forward is not None
    return build_crossings(field, forward)


class _Way(NamedTuple):
    """What some flights were given and found.

    Attributes:
        rows: their subjects, `(flight,)`.
        columns: the outputs that may be on the way.
        steps: the accepted steps where they were wanted.
    """

    rows: Any
    columns: slice
    given: driver.Given
    found: driver.Found
    steps: list[driver.Steps]


@final
class Flights(AbstractFlights):
    """The flights of one batch."""

    def __init__(self, method: Tsit5 | Rodas5P, problem: Problem, threads: int) -> None:
        forward, field = built(problem.field), problem.field
        assert forward is not None
        assert isinstance(field, RateField)
        assert field.discrete is not None
        self._method, self._problem, self._threads, self._discrete = method, problem, threads, field.discrete
        self._graph = wants_gradient(problem)
        crossings = _built_crossings(field) if field.discrete.modes else None
        parameters = array(problem.parameters)
        self._constants = constants_of(forward.address("prepare"), forward.program.constants, parameters)
        self._known = np.empty((len(parameters), 0))
        if crossings is not None:
            known = len(crossings.conditions.prepare.outputs)
            self._known = constants_of(crossings.prepare, known, parameters)
        self._set_up(forward, crossings)
        self._times, self._before = array(problem.times), array(problem.before)
        self._last = _Last.of(problem)

    def _set_up(self, forward: Forward, crossings: Crossings | None) -> None:
        """What is the same for all flights."""
        method, problem = self._method, self._problem
        name = method.name.lower()
        self._calls = driver.calls_of(forward.address, name)
        self._places = driver.places_of(forward.workspace.places)
        watch = UNWATCHED if crossings is None else crossings.watch(forward.address(f"{name}_dense"), self._graph)
        scales = problem.field.scales.detach().numpy().astype(np.float64)
        self._control = driver.Control(
            scales, problem.tolerance.rtol, problem.tolerance.atol, isinstance(method, Tsit5), True, self._graph,
            self._graph, True, watch,
        )  # fmt: skip
        self._work = filled_workspace(forward, problem, method.max_steps)
        if crossings is not None:
            more = crossings.workspace.size - len(self._work)
            self._work = np.concatenate([self._work, np.zeros((more, self._work.shape[1]))])

    def fly(self, clocks: Clocks, target: Tensor) -> Flown:
        """See `AbstractFlights.fly`."""
        way = self._flown(clocks, target)
        found, rows, columns = way.found, way.rows, way.columns
        self._last.note(rows, found)
        times, before = self._times[rows, columns], self._before[rows, columns]
        begin, end = way.given.stops[:, :1], found.reached[:, None]
        passed = np.where(before, (times > begin) & (times <= end), (times >= begin) & (times < end))
        row, column = (torch.from_numpy(part) for part in passed.nonzero())
        place = torch.from_numpy(rows)[row] * self._times.shape[1] + column + columns.start
        if self._graph:
            ended, states, shown = self._differentiable(way, clocks, target)
        else:
            ended, states, shown = (torch.from_numpy(part) for part in (found.reached, found.last, found.states))
        size, undershoots, attempts, stiff, _ = torch.from_numpy(found.carried).unbind(1)
        status = torch.from_numpy(found.status)
        moved = clocks._replace(
            t=ended,
            x=states,
            h=size,
            nodes=clocks.nodes + torch.from_numpy(found.nodes),
            stiff=stiff.long(),
            undershoots=undershoots.long(),
            attempts=attempts.long(),
            culprit=torch.from_numpy(found.culprit),
            status=status,
        )
        return Flown(moved, status == Status.OK, place, shown[row, column])

    def _flown(self, clocks: Clocks, target: Tensor) -> _Way:
        rows = clocks.subject.numpy()
        stops = np.stack([array(clocks.t), array(target)], 1)
        times = self._times[rows]
        ahead = ((times >= stops[:, :1]) & (times <= stops[:, 1:])).any(0).nonzero()[0]
        columns = slice(ahead[0], ahead[-1] + 1) if len(ahead) else slice(0, 0)
        count, n = clocks.x.shape
        work = (clocks.h, clocks.undershoots, clocks.attempts, clocks.stiff)
        carried = np.stack([*(array(part).astype(np.float64) for part in work), self._last.overshot(rows, clocks)], 1)
        given = driver.Given(
            array(clocks.x), self._constants[rows], stops, np.zeros((count, 2, n)), array(clocks.inputs)[:, None],
            array(clocks.modes)[:, None], np.ascontiguousarray(times[:, columns]),
            np.ascontiguousarray(self._before[rows, columns]), self._known[rows], carried,
        )  # fmt: skip
        found = driver.room_for(count, columns.stop - columns.start, n, 2, carried=5)
        steps: list[driver.Steps] = []

        def run(first: int, last: int) -> None:
            block = self._work.copy()
            made, number = driver.advance(self._calls, self._places, self._control, given, found, block, first, last)
            if self._graph:
                steps.append(made.first(number))

        in_shares(run, count, SHARE, self._threads)
        return _Way(rows, columns, given, found, steps)

    # Derivatives

    def _differentiable(self, way: _Way, clocks: Clocks, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times and states at the ends, and the outputs, `(flight, time, state)`."""
        found, begin = way.found, way.given.stops[:, 0]
        status, reached = torch.from_numpy(found.status), torch.from_numpy(found.reached)
        record = as_record(found, way.steps)
        # A step that is cut short at a crossing is there as a whole; the crossing is seen within it.
        last = begin.copy()
        np.maximum.at(last, array(record.subject), array(record.t + record.h))
        arrived = (status == Status.OK) & (reached == target.detach())
        close = torch.where(arrived, target, clocks.t + torch.from_numpy(last - begin))
        problem = self._problem._replace(
            parameters=clocks.parameters,
            initial=clocks.x,
            stops=Stops(torch.stack([clocks.t, close], 1), torch.from_numpy(way.given.jumps), clocks.inputs[:, None]),
            times=torch.cat([torch.from_numpy(way.given.times), reached[:, None]], 1),
            before=torch.cat([torch.from_numpy(way.given.before), torch.zeros_like(arrived)[:, None]], 1),
        )
        shown = torch.from_numpy(np.concatenate([found.states, found.last[:, None]], 1))
        backward = built_backward(problem.field, self._method.name.lower())
        solve = Solve(backward, problem, record, way.given.constants, way.given.held, status, reached, self._threads)
        shown = with_gradient(shown, solve)
        ended, states = torch.where(arrived, target, reached), shown[:, -1]
        crossing = ((status == Status.OK) & ~arrived).nonzero().squeeze(1)
        if len(crossing):
            mine, at = clocks.select(crossing), reached[crossing]
            moment, state = self._crossed(mine, at, states[crossing])
            ended, states = ended.index_put((crossing,), moment), states.index_put((crossing,), state)
        return ended, states, shown[:, :-1]

    def _crossed(self, clocks: Clocks, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The moments of crossings, and the states there, from the states at their times as fixed numbers."""
        none = x[..., :0]
        with torch.no_grad():
            slope = Rhs(self._problem.field, clocks.parameters, clocks.inputs, clocks.modes)(t, x)
            differs = self._discrete.mode(t, x, clocks.parameters, none) != clocks.modes
            which = differs.to(torch.int8).argmax(-1, keepdim=True)
        later = torch.zeros_like(t).requires_grad_()
        along = x.detach() + later[:, None] * slope
        ahead = self._discrete.surface(t + later, along, clocks.parameters.detach(), none)
        speed = torch.autograd.grad(ahead.gather(1, which).sum(), later)[0]
        value = self._discrete.surface(t, x, clocks.parameters, none).gather(1, which).squeeze(1)
        # What rounding took for a crossing is a moment like any other.
        delay = torch.where(differs.any(-1), (value - value.detach()) / -speed, 0.0)
        return t + delay, x + delay[:, None] * slope


@final
@dataclass(frozen=True, slots=True)
class _Last:
    """How the last flight of each subject ended.

    A mode that has changed here may be the same, by rounding, to the one who looks there. Then a flight that starts
    there changes it at once, and ever larger overshooting brings both to see the same.

    Attributes:
        t, x: where, `(subject, …)`.
        modes: held on it, `(subject, mode)`.
        crossed: whether at a crossing, `(subject,)`.
        missed: how often in a row that was no change, `(subject,)`.
    """

    t: Any
    x: Any
    modes: Any
    crossed: Any
    missed: Any

    @classmethod
    def of(cls, problem: Problem) -> "_Last":
        subjects, states = problem.initial.shape
        assert problem.field.discrete is not None
        modes = np.full((subjects, problem.field.discrete.modes), np.nan)
        nowhere = np.full(subjects, np.nan)
        return cls(nowhere, np.zeros((subjects, states)), modes, np.zeros(subjects, bool), np.zeros(subjects))

    def overshot(self, rows: Any, clocks: Clocks) -> Any:
        """By how many spacings of times crossings are to be overshot, `(flight,)`."""
        t, x, modes = array(clocks.t), array(clocks.x), array(clocks.modes)
        same = self.crossed[rows] & (self.t[rows] == t) & (self.x[rows] == x).all(-1)
        same &= (self.modes[rows] == modes).all(-1)
        self.missed[rows] = np.where(same, self.missed[rows] + 1, 0)
        self.modes[rows] = modes
        return np.where(same, 2.0 ** self.missed[rows], 0.0)

    def note(self, rows: Any, found: driver.Found) -> None:
        """Notes how flights ended."""
        self.t[rows], self.x[rows], self.crossed[rows] = found.reached, found.last, found.carried[:, 4] != 0
