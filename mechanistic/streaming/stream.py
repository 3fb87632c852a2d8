"""Any number of subjects, solved and written in rows, so that memory holds a few rows at a time."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from torch import Tensor
from tqdm import tqdm

from mechanistic.errors import SolveError, StreamError
from mechanistic.field import AbstractVectorField
from mechanistic.model import KineticModel
from mechanistic.prepared import DEFAULT
from mechanistic.schedule import Schedule
from mechanistic.simulate import as_field
from mechanistic.solve.auto import Auto
from mechanistic.solve.engine import AbstractEngine
from mechanistic.solve.problem import AbstractSolver, Status, Tolerance
from mechanistic.solve.solution import LISTED
from mechanistic.streaming.files import FORMATS, PENDING, AbstractFile, AbstractFormat, Layout, begin
from mechanistic.streaming.given import Given
from mechanistic.streaming.work import DIGESTED, Choices, Solving, Work, prepared

if TYPE_CHECKING:
    import xarray as xr

FORMAT: Final = 1
"""Version of the text that a file holds of its request; raised whenever an older version could misread it."""


@final
@dataclass(frozen=True, eq=False)
class Streamed:
    """A file of simulated subjects.

    Attributes:
        path: where it is.
        status: `Status` of each subject, -1 for one that is still to be simulated, int `(subject,)`.
    """

    path: Path
    status: np.ndarray

    @property
    def finished(self) -> bool:
        """Whether every subject was simulated, with or without success."""
        return bool((self.status != PENDING).all())

    def dataset(self) -> "xr.Dataset":
        """What `Solution.dataset` gives, read from the file where it is used; NaN where nothing was simulated yet."""
        return _format(self.path).dataset(self.path)

    def check(self) -> "Streamed":
        """This file, when every subject was simulated to its end.

        Raises:
            SolveError: names subjects that were not, and what to do.
        """
        waiting = int((self.status == PENDING).sum())
        failed = np.flatnonzero((self.status != Status.OK) & (self.status != PENDING))
        problems = [f"{waiting} subjects are still to be simulated: go on with `resume=True`"] if waiting else []
        if len(failed):
            with self.dataset() as data:
                labels = data["subject"].values[failed[:LISTED]].tolist()
            named = zip(labels, self.status[failed].tolist(), strict=False)
            problems += [f"subject '{label}': {Status(ended).advice}" for label, ended in named]
        if len(failed) > LISTED:
            problems.append(f"… and {len(failed) - LISTED} more subjects")
        if problems:
            wrong = len(failed) + waiting
            raise SolveError(f"{wrong} of {len(self.status)} simulations did not reach the end:", problems)
        return self

    def __repr__(self) -> str:
        ended = Counter(self.status.tolist())
        named = {"to be simulated" if kind == PENDING else Status(kind).name: n for kind, n in sorted(ended.items())}
        return f"Streamed({self.path}, {len(self.status)} subjects, {named})"


def simulate_to(
    path: str | os.PathLike[str],
    system: KineticModel | AbstractVectorField,
    times: Any,
    parameters: Tensor | Mapping[str, Any] | Callable[[slice], Any] | None = None,
    schedule: Schedule | Callable[[slice], Schedule] | None = None,
    *,
    initial: Tensor | Mapping[str, Any] | Callable[[slice], Any] | None = None,
    start: Any = 0.0,
    before: Any = None,
    solver: AbstractSolver | None = None,
    tolerance: Tolerance | None = None,
    engine: AbstractEngine | None = None,
    count: int | None = None,
    subjects: Sequence[Any] | None = None,
    observables: bool = True,
    dtype: Any = None,
    chunk: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Streamed:
    """Simulates one row a subject, and writes the rows to a zarr store or a netCDF file as they are solved.

    The file holds what `simulate(…).dataset(subjects, observables)` gives, the same bits whatever the `chunk`, and
    opens with `xarray.open_zarr` or `xarray.open_dataset`. Memory holds a few chunks, however many subjects there are,
    beside arguments that are neither functions nor arrays in files.

    Ctrl-C returns an unfinished `Streamed`. That, a full disk, or whatever else ends the work leaves the chunks that
    were complete, and a `status` of -1 for all other subjects. The same call with `resume=True` goes on, to the same
    file as without an interruption.

    Args:
        path: a name that ends in `.zarr` or `.nc`.
        system, solver, tolerance, engine: as for `simulate`.
        times: `(time,)`, or `(subject, time)` with rows padded with NaN.
        parameters, initial: as for `simulate`, one row a subject; or a function from a slice of rows to those rows,
            which gives the same whenever it is asked.
        schedule: the same for all, a row a subject, or such a function.
        start, before: as for `simulate`, the same for all or a row a subject.
        count: number of subjects, where it does not follow from the other arguments.
        subjects: labels of the subjects; 0, 1, … when None.
        observables: whether to write the observables.
        dtype: of the values in the file, float64 or float32; that of the system when None.
        chunk: subjects solved, written and stored together; as many as have about 4 million values when None.
        resume: go on with the file that the same call has begun; begin where there is none.
        progress: whether to show a progress bar.

    Raises:
        StreamError: lists what is in the way of writing, and in what a file that is there differs.
        SolveError, ScheduleError: as for `simulate`. Subjects that fail are no error: see `Streamed.check`.
    """
    place, kind = Path(path).absolute(), _format(Path(path))
    _check_place(place, resume)
    field = as_field(system)
    given = Given.of(times=times, parameters=parameters, schedule=schedule, initial=initial, start=start, before=before)
    solving = Solving(solver or Auto(), tolerance or Tolerance(), engine or DEFAULT)
    work = prepared(field, given, solving, Choices(count, subjects, observables, dtype, chunk))
    if not place.exists():
        _check_space(place, work.layout, 1.0)
        with _writing(place):
            begin(kind, place, replace(work.layout, head=_head(work.request)))
    return _run(kind, place, work, progress)


def _run(kind: AbstractFormat, place: Path, work: Work, progress: bool) -> Streamed:
    """Solves and writes what a file lacks."""
    file = _opened(kind, place, work)
    try:
        left = [rows for rows in work.cuts if (file.status[rows] == PENDING).any()]
        done = int((file.status != PENDING).sum())
        _check_space(place, work.layout, 1 - done / len(file.status))
        total = len(file.status)
        with tqdm(total=total, initial=done, disable=not progress, unit="subject", dynamic_ncols=True) as bar:
            try:
                _fill(file, place, work, left, bar)
            except KeyboardInterrupt:
                bar.set_description("interrupted")
    finally:
        with _writing(place):
            file.close()
    return Streamed(place, file.status)


def _fill(file: AbstractFile, place: Path, work: Work, left: Sequence[slice], bar: "tqdm[Any]") -> None:
    """Solves some rows while those before them are written."""
    written: Future[None] | None = None

    def wait() -> None:
        if written is not None:
            with _writing(place):
                written.result()

    with ThreadPoolExecutor(1) as writer:
        try:
            for rows in left:
                values = work.solve(rows)
                wait()
                written = writer.submit(file.write, rows, values)
                bar.update(rows.stop - rows.start)
        finally:
            wait()


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Says where something could not be written."""
    try:
        yield
    except OSError as error:
        advice = "what was complete is kept: make room, and call again with `resume=True`"
        raise StreamError(f"{place} cannot be written:", [f"{error.strerror or error}; {advice}"]) from error


def _format(path: Path) -> AbstractFormat:
    if path.suffix not in FORMATS:
        raise StreamError(f"{path} cannot be written:", [f"its name ends in none of {', '.join(FORMATS)}"])
    return FORMATS[path.suffix]


def _existing(place: Path) -> Path:
    """The nearest folder above a place that is there."""
    return next(parent for parent in place.parents if parent.exists())


def _check_place(place: Path, resume: bool) -> None:
    """Refuses a place that cannot be written to, or is taken."""
    above = _existing(place)
    problems = []
    if not above.is_dir():
        problems.append(f"{above} is not a folder")
    elif not os.access(place if place.exists() else above, os.W_OK):
        problems.append(f"{place if place.exists() else above} may not be written to by this user")
    if place.exists() and not resume:
        problems.append("there is something already; `resume=True` goes on with it, or remove it first")
    if problems:
        raise StreamError(f"{place} cannot be written:", problems)


def _check_space(place: Path, layout: Layout, share: float) -> None:
    """Refuses a disk on which a share of the values does not fit; what compression saves is not counted on."""
    sizes = (prod(layout.shape(each)) * np.dtype(each.dtype).itemsize for each in layout.variables)
    needed, free = int(share * sum(sizes)), shutil.disk_usage(_existing(place)).free
    if needed > free:
        amounts = f"it takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in {_existing(place)}"
        advice = "make room, or write fewer times, `dtype='float32'` or `observables=False`"
        raise StreamError(f"{place} cannot be written:", [f"{amounts}; {advice}"])


def _head(request: Mapping[str, str]) -> str:
    try:
        kinetwin = version("kinetwin")
    except PackageNotFoundError:
        kinetwin = "a checkout that is not installed"
    meaning = f"a status of {PENDING} marks a subject that is still to be simulated"
    return json.dumps({"format": FORMAT, "kinetwin": kinetwin, "pending": meaning, "request": dict(request)})


def _opened(kind: AbstractFormat, place: Path, work: Work) -> AbstractFile:
    """The file, when it was begun by the same request."""
    headline = f"the simulation in {place} cannot go on:"
    try:
        file = kind.open(place)
    except (OSError, ValueError, LookupError, TypeError) as error:
        problem = f"it is open elsewhere, damaged, or not of `simulate_to`: {error}"
        raise StreamError(headline, [problem]) from error
    try:
        head = json.loads(file.head)
        begun, found = dict(head["request"]), head["format"]
    except (ValueError, LookupError, TypeError, RecursionError):
        begun, found = {}, None
    if found != FORMAT or file.status.shape != (work.layout.sizes["subject"],):
        problems = ["it was not begun by `simulate_to` of this version; write to another place"]
    else:
        problems = [_difference(n, str(begun.get(n)), now) for n, now in work.request.items() if begun.get(n) != now]
    if problems:
        file.close()
        raise StreamError(headline, problems)
    return file


def _difference(name: str, then: str, now: str) -> str:
    if name in DIGESTED:
        return f"`{name}` is not what it was begun with"
    return f"`{name}` was {then} and is {now}"
