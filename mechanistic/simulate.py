"""One verb: a system, times, parameters and doses in, trajectories out."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor

from mechanistic.arguments import filled
from mechanistic.compile import RateField
from mechanistic.field import AbstractVectorField
from mechanistic.model import KineticModel
from mechanistic.prepared import Prepared, Request, raise_problems
from mechanistic.schedule import Schedule
from mechanistic.solve.engine import AbstractEngine
from mechanistic.solve.problem import AbstractSolver, Tolerance
from mechanistic.solve.solution import Solution


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
    field = as_field(system)
    problems: list[str] = []
    prepared = Prepared(field, Request(times, schedule, start, before, solver, tolerance, engine), problems)
    p = filled(parameters, field.nominal(), field.parameter_names, "parameter", problems)
    return prepared.solve(p, initial, problems)


def prepare(
    system: KineticModel | AbstractVectorField,
    times: Any,
    schedule: Schedule | None = None,
    *,
    start: Any = 0.0,
    before: Any = None,
    solver: AbstractSolver | None = None,
    tolerance: Tolerance | None = None,
    engine: AbstractEngine | None = None,
) -> Prepared:
    """A simulation to be called with parameters again and again, as in a fit: `prepare(model, times)(parameters)`.

    It gives what `simulate` gives; times and doses are checked and compiled once.

    Args:
        system: a model, or a compiled field.
        times, schedule, start, before, solver, tolerance, engine: as for `simulate`.

    Raises:
        SolveError: lists what does not fit.
        ScheduleError: for doses that do not fit the system.
    """
    problems: list[str] = []
    prepared = Prepared(as_field(system), Request(times, schedule, start, before, solver, tolerance, engine), problems)
    raise_problems(problems)
    return prepared


def as_field(system: KineticModel | AbstractVectorField) -> AbstractVectorField:
    """The compiled form of a model; a field is what it is."""
    return compiled(system) if isinstance(system, KineticModel) else system
