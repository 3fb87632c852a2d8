"""One verb: a system, times, parameters and doses in, trajectories out."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mechanistic.arguments import common_batch, converted, filled
from mechanistic.compile import RateField
from mechanistic.errors import SolveError
from mechanistic.field import AbstractVectorField
from mechanistic.model import KineticModel
from mechanistic.native import Native
from mechanistic.schedule import Schedule, compile_schedule
from mechanistic.solve.auto import Auto
from mechanistic.solve.engine import AbstractEngine, Solved
from mechanistic.solve.problem import AbstractSolver, Outcome, Problem, Statistics, Tolerance
from mechanistic.solve.solution import Solution

STATES_AT_ONCE = 50_000
"""Subjects × states solved in one batch: the steps of a batch are recorded, which bounds how large it may be."""


@lru_cache(maxsize=32)
def compiled(model: KineticModel) -> RateField:
    """The compiled form of a model; kept for models used last."""
    return RateField(model)


def simulate(
    system: KineticModel | AbstractVectorField,
    times: Any,
    parameters: Tensor | Mapping[str, Any] | None = None,
    schedule: Schedule | None = None,
    *,
    initial: Tensor | Mapping[str, Any] | None = None,
    start: Any = 0.0,
    before: Any = None,
    solver: AbstractSolver | None = None,
    tolerance: Tolerance | None = None,
    engine: AbstractEngine | None = None,
) -> Solution:
    """Simulates one subject or a batch; the batch is the broadcast of the batches of all arguments.

    Gradients flow to `parameters`, `initial`, the amounts, times and durations of the schedule, and to learnable
    weights of the system. They are derivatives of the numbers returned. Everything is computed in the dtype and on the
    device of the system's nominal parameters (float64 for a model); other arguments are converted to them.

    Args:
        system: a model, or a compiled field.
        times: output times, `(time,)` or `(*batch, time)`, non-decreasing; rows of a batch may be padded with NaN.
        parameters: `(*batch, parameter)`, or name → number or `(*batch,)`; nominal values for all others.
        schedule: doses; none when None.
        initial: states at the start, `(*batch, state)`, or name → number or `(*batch,)`; those of the model for others.
        start: time at which the initial state holds, a number or `(*batch,)`.
        before: bool `(*batch, time)`: show the value before a dose given at exactly that time.
        solver: `Auto()` when None.
        tolerance: `Tolerance()` when None.
        engine: `Native()` for code compiled for the model, `Torch()` for PyTorch; the first where there is such code
            and the second elsewhere when None. `Solution.engine` says which it was, and why.

    Raises:
        SolveError: lists unknown names and arguments whose shapes do not fit.
        ScheduleError: for doses that do not fit the system.
    """
    field = compiled(system) if isinstance(system, KineticModel) else system
    nominal = field.nominal()
    problems: list[str] = []
    if nominal.dtype not in (torch.float32, torch.float64):
        problems.append(f"the system computes in {nominal.dtype}; use float64, or float32 with a loose tolerance")
    time = converted(times, nominal)
    begin = converted(start, nominal)
    doses = Schedule.none() if schedule is None else schedule
    if (doses.time.dtype, doses.time.device) != (nominal.dtype, nominal.device):
        doses = doses.to(nominal)
    p = filled(parameters, nominal, field.parameter_names, "parameter", problems)
    _raise(problems)
    x = filled(initial, field.initial(p), field.state_names, "state", problems)
    shown = torch.zeros(time.shape[-1:]) if before is None else before
    flags = torch.as_tensor(shown, dtype=torch.bool, device=nominal.device)
    batch = common_batch(problems, times=time.shape[:-1], parameters=p.shape[:-1], initial=x.shape[:-1],
                   start=begin.shape, schedule=doses.batch_shape, before=flags.shape[:-1])  # fmt: skip
    problems += _time_problems(time, begin)
    _raise(problems)

    rows = batch.numel()
    count, n, k = time.shape[-1], x.shape[-1], p.shape[-1]
    time = time.expand(*batch, count).reshape(rows, count)
    begin = begin.expand(batch).reshape(rows)
    end = torch.maximum(time.nan_to_num(-torch.inf).amax(-1), begin) if count else begin
    problem = Problem(
        field,
        p.expand(*batch, k).reshape(rows, k),
        x.expand(*batch, n).reshape(rows, n),
        compile_schedule(_flat(doses, batch), field.state_names, begin, end),
        time,
        flags.expand(*batch, count).reshape(rows, count),
        Tolerance() if tolerance is None else tolerance,
    )
    if n:
        chosen = Native(fall_back=True) if engine is None else engine
        solved = _in_pieces(chosen, Auto() if solver is None else solver, problem)
    else:
        solved = Solved(_nothing_to_solve(problem, end), "no engine: there are no states")
    return _labelled(field, problem, solved, batch)


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


def _nothing_to_solve(problem: Problem, end: Tensor) -> Outcome:
    """A system without states, whose observables follow from the time alone."""
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


def _raise(problems: list[str]) -> None:
    if problems:
        raise SolveError("the simulation cannot be set up:", problems)
