"""The same model in libRoadRunner, and the comparison.

Welsh et al. (2023), libRoadRunner 2.0: a high performance SBML simulation and analysis library,
doi:10.1093/bioinformatics/btac770.
"""

import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import sympy
import torch
import xarray as xr

from mechanistic.errors import SolveError
from mechanistic.model import KineticModel, time
from mechanistic.sbml import write_sbml
from mechanistic.sbml.document import Document
from mechanistic.sbml.writer import written_ids
from mechanistic.simulate import compiled
from mechanistic.simulate import simulate as simulate_here
from mechanistic.solve.auto import Auto
from mechanistic.solve.problem import AbstractSolver, Tolerance
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.solution import Solution
from mechanistic.solve.tsit5 import Tsit5

STEPS = 1_000_000
"""Most steps that a simulation, or the reference between two outputs, may take."""

TIGHTEST = 1e-12
"""Relative tolerance below which double precision gains nothing."""

SHOWN = 12
"""Rows of a report that are shown; `table` has all of them."""

PATIENCE = 20_000
"""Steps between two outputs after which the tightest tolerance is given up."""

LOOSER = 1e3
"""Factor by which the tolerance of the reference is loosened where the tightest one leads nowhere."""

NOTHING = 1e-12
"""Values below this fraction of the smallest scale of the model are compared as if they were zero."""

SWITCH_STEPS = 2_000
"""Least steps over the whole time in models with events or with rates that depend on time, so that no pulse is stepped
over."""

BESIDE = 1e-9
"""Share of the last time by which a model that jumps is looked at before and after each output time as well."""

_PLACE_IN_SOURCE = re.compile(r",? at [^,]*\b(?:rr|rrllvm|llvm|libsbml)::.*$")


def simulate(model: KineticModel, times: Any, *, tolerance: float = 1e-10) -> xr.Dataset:
    """Simulates the model in libRoadRunner (CVODE), from the text of `write_sbml`.

    Args:
        model: any kinetic model.
        times: `(time,)`, non-decreasing, not before 0, at which the initial state holds.
        tolerance: relative tolerance; the absolute one is its product with a thousandth of each state's scale.

    Returns:
        One variable a state (an amount) and observable, dimension `time`. At the time of an event
        libRoadRunner decides whether the value before or after it is shown.

    Raises:
        SolveError: for times that cannot be simulated, or when the reference gives up.
    """
    clock = _checked_times(times)
    columns = _simulate_written(model, (*model.state_names, *model.observables), clock, tolerance)
    if "time" in columns:
        raise SolveError("the result has no labels:", ["a quantity called `time` has the name of the dimension"])
    units = {state.name: {"units": state.unit} for state in model.states if state.unit}
    coordinate = xr.DataArray(clock, dims="time", attrs={"units": model.time_unit} if model.time_unit else {})
    variables = {name: ("time", values, units.get(name, {})) for name, values in columns.items()}
    return xr.Dataset(variables, coords={"time": coordinate})


class Worst(NamedTuple):
    """The largest disagreement: which quantity, against which reference, when, and both values."""

    quantity: str
    against: str
    time: float
    value: float
    reference: float
    error: float


@final
@dataclass(frozen=True)
class ReferenceReport:
    """How far a simulation is from libRoadRunner.

    The error of a value `x` against the reference `r` is `|x - r| / (scale + |r|)`, with the scale that the model
    declares for the state, or else the largest `|r|` of the quantity over time (at least 1e-12 of the smallest scale).
    Where a model can jump, by events or selections, `x` is taken just before, at or just after the output time,
    whichever is closest: a jump at that very time has two values, and either may be shown.

    Attributes:
        model: name of the model.
        tolerance: largest error that counts as agreement.
        rows: the worst time of every quantity against every reference, the largest error first.
        scales: scale of each row.
        profile: each time with the largest error of any quantity at it.
    """

    model: str
    tolerance: float
    rows: tuple[Worst, ...]
    scales: tuple[float, ...]
    profile: tuple[tuple[float, float], ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether every error is at most the tolerance."""
        return all(row.error <= self.tolerance for row in self.rows)

    @property
    def worst(self) -> Worst | None:
        """The largest error, or None for a model without states and observables."""
        return self.rows[0] if self.rows else None

    @property
    def table(self) -> Any:
        """The rows as a pandas table."""
        import pandas as pd

        pairs = zip(self.rows, self.scales, strict=True)
        return pd.DataFrame([{**row._asdict(), "scale": scale} for row, scale in pairs])

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
        more = [f"… and {len(self.rows) - SHOWN} rows with smaller errors"] if len(self.rows) > SHOWN else []
        return "\n".join([self._headline(), *(line.rstrip() for line in lines), *more])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self._cells()]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<p>{html.escape(self._headline())}</p><table><tr>{head.replace('td>', 'th>')}</tr>{body}</table>"

    def _headline(self) -> str:
        verdict = "agrees" if self.agrees else "does not agree"
        return f"`{self.model}` {verdict} with libRoadRunner to {self.tolerance:g}; error = |x - r| / (scale + |r|)"

    def _cells(self) -> list[tuple[str, ...]]:
        cells: list[tuple[str, ...]] = [("quantity", "against", "time", "value", "reference", "scale", "error")]
        for row, scale in zip(self.rows[:SHOWN], self.scales, strict=False):
            numbers = (f"{row.time:g}", f"{row.value:.9g}", f"{row.reference:.9g}", f"{scale:.3g}", f"{row.error:.1e}")
            cells.append((row.quantity, row.against, *numbers))
        return cells


def check(
    model: KineticModel,
    times: Any,
    *,
    tolerance: float = 1e-6,
    parameters: Mapping[str, float] | None = None,
    source: str | Path | None = None,
    solver: AbstractSolver | None = None,
) -> ReferenceReport:
    """Compares `mechanistic.simulate` with libRoadRunner: every state, assignment and observable.

    Args:
        model: any kinetic model.
        times: `(time,)`, non-decreasing, not before 0.
        tolerance: largest error that counts as agreement; the simulation is integrated a thousand times more tightly,
            and the reference as tightly as it can, so that sensitive models do not disagree for lack of digits.
        parameters: values that replace the nominal ones.
        source: path or text of the SBML file that the model was read from; it is simulated as it stands as well, so
            that a mistake shared by reading and writing shows. Not together with `parameters`.
        solver: of the simulation; one that may take many steps when None.

    Raises:
        SolveError: when one of the two gives up, or for arguments that do not fit. libRoadRunner has no delays, fast
            reactions and algebraic equations, and says so.
        InvalidSBML: when `source` is not valid.
    """
    if parameters and source is not None:
        raise SolveError("the reference cannot be run:", ["give either `parameters` or `source`, not both"])
    changed = model.with_values(**parameters) if parameters else model
    clock = _checked_times(times)
    ours = values_here(changed, clock, tolerance=tolerance, solver=solver)
    references = {"written": values_written(changed, clock)}
    if source is not None:
        references["source"] = values_of_source(source, changed, clock)
    return compare(changed, clock, ours, references, tolerance)


Values = Mapping[str, np.ndarray]
"""Values by the name of a quantity."""


def values_here(
    model: KineticModel, clock: np.ndarray, *, tolerance: float, solver: AbstractSolver | None = None
) -> tuple[Values, ...]:
    """What `mechanistic.simulate` says, `(time,)` by quantity: at the times and, where the model can jump, beside them.

    Raises:
        SolveError: when the simulation does not reach the end.
    """
    tight = max(tolerance * 1e-3, TIGHTEST)
    method = Auto(Tsit5(max_steps=2_000), Rodas5P(max_steps=STEPS)) if solver is None else solver
    step = BESIDE * float(clock.max(initial=0.0)) if can_jump(model) else 0.0
    clocks = [clock, *([np.maximum(clock - step, 0.0), clock + step] if step else [])]
    every = np.unique(np.concatenate(clocks))
    solution = simulate_here(model, every, solver=method, tolerance=Tolerance(tight, tight * 1e-3)).check()
    values = _quantities(model, solution)
    return tuple({name: found[np.searchsorted(every, at)] for name, found in values.items()} for at in clocks)


def _quantities(model: KineticModel, solution: Solution) -> Values:
    """States, assignments and observables of one subject, `(time,)` each."""
    field = compiled(model)
    states = solution.states.detach()
    parameters = solution.parameters.detach().expand(len(states), -1)
    held = () if field.discrete is None else (solution.delayed.detach(),)
    assigned = field.assignments(solution.times, states, parameters, *held).detach()
    table = torch.cat([states, assigned, solution.observe().detach()], dim=1).numpy()
    return dict(zip(_names(model), table.T, strict=True))


def _names(model: KineticModel) -> tuple[str, ...]:
    return (*model.state_names, *model.assignments, *model.observables)


def values_written(model: KineticModel, clock: np.ndarray) -> Values:
    """What libRoadRunner makes of the text of `write_sbml`, `(time,)` by quantity.

    Raises:
        SolveError: when libRoadRunner cannot load or simulate it; says why.
    """
    return _patiently(lambda *limits: _simulate_written(model, _names(model), clock, *limits))


def values_of_source(source: str | Path, model: KineticModel, clock: np.ndarray) -> Values:
    """What libRoadRunner makes of the file as it stands, `(time,)` for every quantity of the model that the file knows.

    Raises:
        SolveError: when libRoadRunner cannot load or simulate it; says why.
        InvalidSBML: when `source` is not valid.
    """
    # libRoadRunner crashes on some files that are not valid, and would follow paths to submodels anywhere.
    text = Document(source).flat_text
    known = _known_ids(text)
    shared = [name for name in _names(model) if name in known or (name[:1] == "[" and name[1:-1] in known)]
    scales = dict(zip(model.state_names, compiled(model).scales.tolist(), strict=True))

    def attempt(tolerance: float, steps: int) -> Values:
        tolerances = {name: tolerance * 1e-3 * scale for name, scale in scales.items() if name in known}
        table = _run(text, clock, shared, _Limits(tolerance, tolerances, steps, _needs_care(model)))
        return dict(zip(shared, table.T, strict=True))

    return _patiently(attempt)


def _patiently(attempt: Callable[[float, int], Values]) -> Values:
    """What an attempt with the tightest tolerance gives, or else one with a looser tolerance and many steps."""
    try:
        return attempt(TIGHTEST, PATIENCE)
    except SolveError:
        return attempt(TIGHTEST * LOOSER, 10 * PATIENCE)


def compare(
    model: KineticModel,
    clock: np.ndarray,
    ours: Sequence[Values],
    references: Mapping[str, Values],
    tolerance: float,
) -> ReferenceReport:
    """The errors of `ours` (at the times, and beside them) against each reference, as a report."""
    declared = {state.name: state.scale for state in model.states if state.scale is not None}
    nothing = NOTHING * min(compiled(model).scales.tolist(), default=1.0)
    found = [
        _compared(name, against, clock, [values[name] for values in ours], expected, (declared.get(name), nothing))
        for against, reference in references.items()
        for name, expected in reference.items()
    ]
    found.sort(key=lambda item: -item.row.error)
    worst = np.max([item.errors for item in found], axis=0) if found else np.zeros_like(clock)
    profile = tuple(zip(clock.tolist(), worst.tolist(), strict=True))
    rows, scales = tuple(item.row for item in found), tuple(item.scale for item in found)
    return ReferenceReport(model.name, tolerance, rows, scales, profile)


def can_jump(model: KineticModel) -> bool:
    """Whether some quantity may be discontinuous in time: by events, or by selections and steps in what is shown."""
    stepwise = (sympy.Piecewise, sympy.floor, sympy.ceiling, sympy.sign)
    shown = (*model.assignments.values(), *model.observables.values())
    return bool(model.events) or any(expression.has(*stepwise) for expression in shown)


class _Compared(NamedTuple):
    """The worst time of a quantity, its scale, and its error at every time."""

    row: Worst
    scale: float
    errors: np.ndarray


def _compared(
    name: str,
    against: str,
    clock: np.ndarray,
    values: Sequence[np.ndarray],
    reference: np.ndarray,
    sizes: tuple[float | None, float],
) -> _Compared:
    declared, nothing = sizes
    size = declared or max(float(np.max(np.abs(reference), initial=0.0)), nothing)
    every = np.abs(np.stack(values) - reference) / (size + np.abs(reference))
    every[~np.isfinite(every)] = np.inf
    errors = every.min(axis=0)
    i = int(np.argmax(errors))
    closest = values[int(np.argmin(every[:, i]))]
    row = Worst(name, against, float(clock[i]), float(closest[i]), float(reference[i]), float(errors[i]))
    return _Compared(row, size, errors)


def _simulate_written(
    model: KineticModel, names: Sequence[str], clock: np.ndarray, tolerance: float, steps: int = STEPS
) -> dict[str, np.ndarray]:
    """Values of some quantities, from the text of `write_sbml`."""
    ids = written_ids(model)
    scales = dict(zip(model.state_names, compiled(model).scales.tolist(), strict=True))
    tolerances = {ids[name]: tolerance * 1e-3 * scale for name, scale in scales.items()}
    limits = _Limits(tolerance, tolerances, steps, _needs_care(model))
    table = _run(write_sbml(model), clock, [ids[name] for name in names], limits)
    return dict(zip(names, table.T, strict=True))


def _loaded(text: str) -> Any:
    import roadrunner

    try:
        return roadrunner.RoadRunner(text)
    except RuntimeError as error:
        raise SolveError("libRoadRunner cannot load the model:", [_reason(error)]) from None


def _reason(error: RuntimeError) -> str:
    """libRoadRunner's message without the place in its own source."""
    return _PLACE_IN_SOURCE.sub("", " ".join(str(error).split())).strip(" -")


def _known_ids(text: str) -> set[str]:
    # The runner owns the model: it must stay alive while the model is asked.
    runner = _loaded(text)
    model = runner.model
    species = [*model.getFloatingSpeciesIds(), *model.getBoundarySpeciesIds()]
    return {*species, *model.getGlobalParameterIds(), *model.getCompartmentIds()}


class _Limits(NamedTuple):
    """Tolerances (relative, and absolute by id), most steps between two outputs, and whether steps are kept short."""

    tolerance: float
    absolute: Mapping[str, float]
    steps: int
    needs_care: bool


def _run(text: str, clock: np.ndarray, selections: Sequence[str], limits: _Limits) -> np.ndarray:
    """Values `(time, selection)` of the SBML `text`."""
    grid = np.unique(np.append(clock, 0.0))
    if not selections or grid.size < 2:
        grid = np.unique(np.append(grid, 1.0))
    runner = _loaded(text)
    try:
        integrator = runner.integrator
        integrator.setValue("relative_tolerance", limits.tolerance)
        integrator.setValue("absolute_tolerance", min(limits.absolute.values(), default=limits.tolerance))
        integrator.setValue("maximum_num_steps", limits.steps)
        integrator.setValue("stiff", True)
        if limits.needs_care:
            integrator.setValue("maximum_time_step", float(grid[-1] - grid[0]) / SWITCH_STEPS)
        table = np.array(runner.simulate(times=grid.tolist(), selections=["time", *selections]))
    except RuntimeError as error:
        raise SolveError("libRoadRunner cannot simulate the model:", [_reason(error)]) from None
    return table[np.searchsorted(grid, clock), 1:]


def _checked_times(times: Any) -> np.ndarray:
    clock = np.asarray(times, dtype=float)
    problems: list[str] = []
    if clock.ndim != 1:
        problems.append(f"expected times of one dimension, got {clock.shape}")
    elif not np.isfinite(clock).all() or (np.diff(clock) < 0).any() or (clock < 0).any():
        problems.append("expected finite, non-decreasing times from 0 on")
    if problems:
        raise SolveError("the times cannot be simulated by the reference:", problems)
    return clock


def _needs_care(model: KineticModel) -> bool:
    """Whether something happens at certain times, which long steps would not notice."""
    expressions: Iterable[Any] = (*model.derivatives().values(), *model.assignments.values())
    return bool(model.events) or any(time in expression.free_symbols for expression in expressions)
