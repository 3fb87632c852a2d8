"""A simulation whose times, doses and solver are settled: what is left to say is parameters and initial states."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from mechanistic.arguments import broadcast, common_batch, converted, filled
from mechanistic.errors import SolveError
from mechanistic.field import AbstractVectorField
from mechanistic.native import Native
from mechanistic.schedule import Schedule, Stops, compile_schedule
from mechanistic.solve.auto import Auto
from mechanistic.solve.engine import AbstractEngine, Solved
from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Statistics, Tolerance
from mechanistic.solve.solution import Solution

DEFAULT: AbstractEngine = Native(fall_back=True)
"""What solves where no engine is asked for."""

STATES_AT_ONCE = 50_000
"""Subjects × states solved in one batch: the steps of a batch are recorded, which bounds how large it may be."""


@final
@dataclass(frozen=True, eq=False)
class Request:
    """When to look, what is given, and how to solve; see `mechanistic.simulate`.

    Attributes:
        times: `(*batch, time)`, as given.
        schedule, start, before: as for `mechanistic.simulate`.
    """

    times: Any
    schedule: Schedule | None = None
    start: Any = 0.0
    before: Any = None
    solver: AbstractSolver | None = None
    tolerance: Tolerance | None = None
    engine: AbstractEngine | None = None


@final
class Prepared:
    """Simulates again and again what differs in parameters and initial states alone.

    Times and doses are checked and compiled once, which is most of the work of a small simulation. Made by
    `mechanistic.prepare`.

    Attributes:
        field: the compiled system.
    """

    def __init__(self, field: AbstractVectorField, request: Request, problems: list[str]) -> None:
        """What does not fit is added to the problems; then the result cannot be called."""
        self.field = field
        self._nominal = field.nominal()
        nominal = self._nominal
        if nominal.dtype not in (torch.float32, torch.float64):
            problems.append(f"the system computes in {nominal.dtype}; use float64, or float32 with a loose tolerance")
        doses = Schedule.none() if request.schedule is None else request.schedule
        if (doses.time.dtype, doses.time.device) != (nominal.dtype, nominal.device):
            doses = doses.to(nominal)
        self._doses = doses
        self._times, self._start = converted(request.times, nominal), converted(request.start, nominal)
        shown = torch.zeros(self._times.shape[-1:]) if request.before is None else request.before
        self._before = torch.as_tensor(shown, dtype=torch.bool, device=nominal.device)
        self._shapes = {"times": self._times.shape[:-1], "start": self._start.shape, "schedule": doses.batch_shape,
                       "before": self._before.shape[:-1]}  # fmt: skip
        self._solver = Auto() if request.solver is None else request.solver
        self._tolerance = Tolerance() if request.tolerance is None else request.tolerance
        self._engine = DEFAULT if request.engine is None else request.engine
        problems += _time_problems(self._times, self._start)
        self._stops: Stops | None = None

    def __call__(
        self, parameters: Tensor | Mapping[str, Any] | None = None, *, initial: Tensor | Mapping[str, Any] | None = None
    ) -> Solution:
        """The solution that `mechanistic.simulate` gives for these parameters and initial states.

        Raises:
            SolveError: lists unknown names and arguments whose shapes do not fit.
        """
        problems: list[str] = []
        p = filled(parameters, self._nominal, self.field.parameter_names, "parameter", problems)
        return self.solve(p, initial, problems)

    def solve(self, p: Tensor, initial: Tensor | Mapping[str, Any] | None, problems: list[str]) -> Solution:
        """The same for parameters `(*batch, parameter)` that are complete, with problems that are known already."""
        x = filled(initial, self.field.initial(p), self.field.state_names, "state", problems)
        times, *others = self._shapes.items()
        given = dict([times, ("parameters", p.shape[:-1]), ("initial", x.shape[:-1]), *others])
        batch = common_batch(problems, **given)
        raise_problems(problems)
        own = broadcast(*self._shapes.values())
        count = self._times.shape[-1]
        stops = self._compiled(own)

        def rows(value: Tensor, inner: int) -> Tensor:
            """One row a subject of a value whose last `inner` axes are not the batch."""
            last = value.shape[value.ndim - inner :]
            return value.expand(*batch, *last).reshape(batch.numel(), *last)

        def own_rows(value: Tensor) -> Tensor:
            return rows(value.reshape(*own, *value.shape[1:]), value.ndim - 1)

        problem = Problem(
            self.field,
            rows(p, 1),
            rows(x, 1),
            Stops(own_rows(stops.times), own_rows(stops.jumps), own_rows(stops.rates)),
            rows(self._times, 1),
            rows(self._before.expand(*self._before.shape[:-1], count), 1),
            self._tolerance,
        )
        if x.shape[-1]:
            solved = _in_pieces(self._engine, self._solver, problem)
        else:
            solved = Solved(_nothing_to_solve(problem), "no engine: there are no states")
        return _labelled(self.field, problem, solved, batch)

    def _compiled(self, own: torch.Size) -> Stops:
        """The stops of the doses, one row for each of their own batch; compiled once where they carry no gradient."""
        if self._stops is not None:
            return self._stops
        count = self._times.shape[-1]
        time = self._times.expand(*own, count).reshape(own.numel(), count)
        begin = self._start.expand(own).reshape(own.numel())
        end = torch.maximum(time.nan_to_num(-torch.inf).amax(-1), begin) if count else begin
        stops = compile_schedule(_flat(self._doses, own), self.field.state_names, begin, end)
        if not any(part.requires_grad for part in (stops.times, stops.jumps, stops.rates)):
            self._stops = stops
        return stops


def raise_problems(problems: list[str]) -> None:
    """Raises a `SolveError` where there are problems."""
    if problems:
        raise SolveError("the simulation cannot be set up:", problems)


def _in_pieces(engine: AbstractEngine, solver: AbstractSolver, problem: Problem) -> Solved:
    """Solves a batch, a large one in pieces; what a subject does does not depend on its piece."""
    rows, states = problem.initial.shape
    size = max(1, STATES_AT_ONCE // states)
    if rows <= size:
        return engine.solve(solver, problem)
    pieces = torch.arange(rows, device=problem.initial.device).split(size)
    solved = [engine.solve(solver, problem.select(piece)) for piece in pieces]
    outcomes = [each.outcome for each in solved]
    methods = tuple(dict.fromkeys(name for outcome in outcomes for name in outcome.methods))
    statistics = Statistics(*(torch.cat(parts) for parts in zip(*(o.statistics for o in outcomes), strict=True)))

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(outcome, name) for outcome in outcomes])

    parts = {name: joined(name) for name in ("states", "status", "reached", "culprit", "delayed")}
    places = [torch.tensor([methods.index(name) for name in outcome.methods]) for outcome in outcomes]
    method = torch.cat([place.to(o.method)[o.method] for place, o in zip(places, outcomes, strict=True)])
    return Solved(Outcome(statistics=statistics, method=method, methods=methods, **parts), solved[0].engine)


def _nothing_to_solve(problem: Problem) -> Outcome:
    """A system without states, whose observables follow from the time alone."""
    end = problem.stops.times[:, -1]
    none = torch.zeros_like(end, dtype=torch.long)
    states = end.new_zeros(*problem.times.shape, 0)
    return Outcome(states, none, end, none, Statistics(none, none), none, ("no states",), states)


def _labelled(field: AbstractVectorField, problem: Problem, solved: Solved, batch: torch.Size) -> Solution:
    outcome = solved.outcome

    def shaped(value: Tensor) -> Tensor:
        return value.reshape((*batch, *value.shape[1:]))

    return Solution(
        field,
        shaped(problem.times),
        shaped(outcome.states),
        shaped(problem.parameters),
        shaped(outcome.status),
        shaped(outcome.reached),
        shaped(outcome.culprit),
        Statistics(*(shaped(value) for value in outcome.statistics)),
        shaped(outcome.method),
        outcome.methods,
        shaped(outcome.delayed),
        solved.engine,
    )


def _flat(schedule: Schedule, batch: torch.Size) -> Schedule:
    if not schedule.batch_shape:
        return schedule
    wide = schedule.expand(batch)
    parts = (
        getattr(wide, name).reshape(batch.numel(), schedule.size) for name in ("target", "time", "amount", "duration")
    )
    return Schedule(schedule.targets, *parts)


def _time_problems(time: Tensor, start: Tensor) -> list[str]:
    if time.ndim == 0:
        return ["`times` is a single number; give a sequence, for instance [1.0]"]
    problems = []
    gaps = time[..., 1:] - time[..., :-1]
    if bool((gaps < 0).any()):
        problems.append("`times` go backwards; sort them within each subject")
    if bool((time[..., :-1].isnan() & ~time[..., 1:].isnan()).any()):
        problems.append("`times` have NaN between numbers; NaN may only pad the end of a row")
    if bool(time.isinf().any()) or not bool(start.isfinite().all()):
        problems.append("`times` and `start` must be finite")
    try:
        early = bool((time < start.unsqueeze(-1)).any())
    except RuntimeError:
        return problems
    if early:
        problems.append("`times` come before `start`; a simulation runs forward in time")
    return problems
