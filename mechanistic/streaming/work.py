"""A streamed simulation before anything is written: what is solved in which rows, and what the file looks like."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch

from mechanistic.errors import SolveError
from mechanistic.field import AbstractVectorField
from mechanistic.simulate import simulate
from mechanistic.solve.engine import AbstractEngine
from mechanistic.solve.problem import AbstractSolver, Tolerance
from mechanistic.streaming.files import PENDING, Layout, Variable
from mechanistic.streaming.given import INNER, Given, digest_of_field, digest_of_text

if TYPE_CHECKING:
    import xarray as xr

VALUES: Final = 2**22
"""Values solved, and written, together where the caller has no wish."""

GRAIN: Final = 512
"""Subjects that compiled code takes at a time."""

DIGESTED: Final = ("system", *INNER, "subjects")
"""What of a request is known by its digest alone."""


@final
@dataclass(frozen=True, slots=True)
class Solving:
    """How to solve; see `mechanistic.simulate`."""

    solver: AbstractSolver
    tolerance: Tolerance
    engine: AbstractEngine


@final
@dataclass(frozen=True, slots=True)
class Choices:
    """What the caller wants of the file; see `mechanistic.simulate_to`."""

    count: int | None
    subjects: Sequence[Any] | None
    observables: bool
    dtype: Any
    chunk: int | None


@final
@dataclass(frozen=True, eq=False)
class Work:
    """A simulation that is ready to run.

    Attributes:
        solve: values of some subjects by the name of their variable, `(row, time)`, and their `status`, `(row,)`.
        cuts: the rows that are solved together.
        layout: of the file.
        request: what has to be the same to go on with a file, as text by name.
    """

    solve: Callable[[slice], dict[str, Any]]
    cuts: list[slice]
    layout: Layout
    request: Mapping[str, str]


def prepared(field: AbstractVectorField, given: Given, solving: Solving, choices: Choices) -> Work:
    """Everything that can be found out before something is written.

    Raises:
        SolveError, ScheduleError: for what does not fit; the first subject is simulated, to see it.
    """
    problems: list[str] = []
    count = given.count(choices.count, problems)
    labels = _labels(choices.subjects, count, problems)
    dtype = _dtype(choices.dtype, field, problems)
    whole = isinstance(choices.chunk, int) and not isinstance(choices.chunk, bool)
    if choices.chunk is not None and not (whole and choices.chunk > 0):
        problems.append(f"`chunk` is {choices.chunk!r}; give a whole number of subjects, 1 or more")
    _raise(problems)
    first = _solved(field, given, solving, slice(0, 1), choices.observables)
    problems += [f"`{name}` cannot name a variable in a file" for name in first if not _is_name(str(name))]
    chunk = min(count, choices.chunk or _chunk(given.times.shape[-1] * (len(first) - 1)))
    cuts = [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    shared = given.shared_times(cuts)
    digests = given.digests(cuts, problems)
    _raise(problems)
    variables = _variables(first, given.times if shared else None, labels, dtype)
    # Times that are the same for all are a dimension, as in `Solution.dataset`.
    sizes = {"subject": count, "time" if shared else "sample": given.times.shape[-1]}
    request = {
        "system": digest_of_field(field),
        **digests,
        "solver": repr(solving.solver),
        "tolerance": repr(solving.tolerance),
        "engine": type(solving.engine).__name__,
        "count": str(count),
        "subjects": "" if choices.subjects is None else digest_of_text(repr(labels.tolist())),
        "observables": str(choices.observables),
        "dtype": dtype.name,
        "chunk": str(chunk),
    }

    def solve(rows: slice) -> dict[str, Any]:
        data = _solved(field, given, solving, rows, choices.observables)
        values = {str(n): part.values.astype(dtype, copy=False) for n, part in data.items() if n != "status"}
        if not shared:
            values["time"] = np.broadcast_to(data["time"].values, (rows.stop - rows.start, given.times.shape[-1]))
        return {**values, "status": data["status"].values}

    return Work(solve, cuts, Layout(sizes, chunk, variables, ""), request)


def _solved(field: AbstractVectorField, given: Given, solving: Solving, rows: slice, observables: bool) -> "xr.Dataset":
    parts = given.rows(rows)
    with torch.no_grad():
        solution = simulate(
            field,
            parts["times"],
            parts["parameters"],
            parts["schedule"],
            initial=parts["initial"],
            start=parts["start"],
            before=parts["before"],
            solver=solving.solver,
            tolerance=solving.tolerance,
            engine=solving.engine,
        )
        batch, size = tuple(solution.status.shape), rows.stop - rows.start
        if batch != (size,):
            problem = f"what was given for the rows {rows.start} to {rows.stop} has the batch {batch}, not ({size},)"
            raise SolveError("the simulation cannot be set up:", [problem])
        return solution.dataset(observables=observables)


def _variables(first: "xr.Dataset", times: Any, labels: Any, dtype: np.dtype) -> tuple[Variable, ...]:
    """The arrays of the file, after the dataset of its first subject; `times` where they are the same for all."""
    dims = ("subject", "sample") if times is None else ("subject", "time")
    clock = first["time"]
    row = None if times is None else np.asarray(times).reshape(-1, times.shape[-1])[0].astype(clock.dtype)
    # A coordinate that is no dimension is named by what it belongs to (CF conventions 1.11, section 5).
    belongs = {"coordinates": "time"} if times is None else {}
    found = [
        Variable("time", dims if times is None else ("time",), clock.dtype, dict(clock.attrs), row),
        Variable("subject", ("subject",), labels.dtype, {}, labels),
    ]
    for name, part in first.items():
        attrs = {str(key): str(value) for key, value in part.attrs.items()}
        if name == "status":
            found.append(Variable("status", ("subject",), part.dtype, attrs, np.full(len(labels), PENDING)))
        else:
            found.append(Variable(str(name), dims, dtype, {**attrs, **belongs}))
    return tuple(found)


def _chunk(values: int) -> int:
    """Subjects of a chunk, for so many values a subject."""
    rows = max(1, VALUES // max(1, values))
    return rows // GRAIN * GRAIN or rows


def _dtype(wanted: Any, field: AbstractVectorField, problems: list[str]) -> np.dtype:
    try:
        dtype = np.dtype(str(field.nominal().dtype).removeprefix("torch.") if wanted is None else wanted)
    except TypeError:
        dtype = np.dtype(object)
    if dtype not in (np.float32, np.float64):
        problems.append(f"`dtype` is {wanted!r}; files hold float64 or float32")
    return dtype


def _labels(subjects: Sequence[Any] | None, count: int, problems: list[str]) -> Any:
    labels = np.arange(count) if subjects is None else np.asarray(subjects)
    if labels.shape != (count,):
        problems.append(f"there are {labels.size} labels in `subjects` for {count} subjects")
    elif labels.dtype.kind not in "iufU":
        problems.append("`subjects` are neither text nor numbers")
    return labels


def _is_name(name: str) -> bool:
    return "/" not in name and name not in ("", ".", "..")


def _raise(problems: list[str]) -> None:
    if problems:
        raise SolveError("the simulation cannot be set up:", problems)
