"""The one call: every check in its turn, none of which can stop the others."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Final

from tqdm import tqdm

from mechanistic.errors import KinetwinError, ListedError, SolveError
from mechanistic.model import KineticModel
from mechanistic.sbml import read_antimony, read_sbml
from mechanistic.validation import agreement, dynamics, gradients, structure
from mechanistic.validation.case import Case
from mechanistic.validation.patience import OutOfTime, time_limit
from mechanistic.validation.report import Check, Validation, Verdict

CHECKS: Final[tuple[tuple[str, Callable[[Case], Check]], ...]] = (
    ("contents", structure.contents),
    ("libsbml", structure.remarks),
    ("units", structure.units),
    ("parameters", structure.parameters),
    ("round trip", structure.round_trip),
    ("conserved totals", structure.totals),
    ("positivity", structure.positivity),
    ("simulation", dynamics.simulation),
    ("roadrunner, our SBML", agreement.written),
    ("roadrunner, the file", agreement.source),
    ("totals over time", dynamics.drift),
    ("lowest value", dynamics.lowest),
    ("stiffness", dynamics.stiffness),
    ("steady state", dynamics.steady_state),
    ("gradients", gradients.gradients),
)
"""Names and functions, in the order of the report."""

_MUST: Final = ("simulation",)
"""Checks that have failed when they could not be made."""


def validate(
    model: KineticModel | str | Path,
    *,
    source: str | Path | None = None,
    horizon: float | None = None,
    tolerance: float = 1e-6,
    seconds: float = 60.0,
    progress: bool = True,
) -> Validation:
    """Checks a model, above all an imported one, and says in a table what it found.

    What it uses of SBML, what libsbml remarks, units, unused parameters, whether it can be written and read back,
    conserved totals and positivity; then, simulated over its own time scales: agreement with libRoadRunner, drift of
    the totals, the lowest value, stiffness, the steady state and its stability, and gradients against differences. A
    check that cannot be made says why. Ctrl-C ends the checks; those done so far are returned.

    Args:
        model: a model, or the path or text of an SBML or Antimony file; the path of an Antimony file ends in `.ant` or
            `.txt`.
        source: path or text of the SBML file that `model` was read from; it is run in libRoadRunner as it stands.
        horizon: time up to which the model is simulated, in its unit of time; chosen from its time scales when None.
        tolerance: largest relative difference from libRoadRunner that counts as agreement.
        seconds: limit for each check.
        progress: whether to show a progress bar.

    Raises:
        InvalidSBML, UnsupportedSBML: when `model` is a file that cannot be read.
        OSError: when there is no such file.
        SolveError: for a horizon, a tolerance or a limit that is not a positive, finite number.
    """
    limits = {"horizon": 1.0 if horizon is None else horizon, "tolerance": tolerance, "seconds": seconds}
    problems = [
        f"`{name}` is {value!r}; give a positive, finite number"
        for name, value in limits.items()
        if not (isinstance(value, Real) and 0 < value < math.inf)
    ]
    if problems:
        raise SolveError("the model cannot be validated:", problems)
    if not isinstance(model, KineticModel):
        model, source = _read(model)
    case = Case(model, source, horizon, tolerance)
    done: list[Check] = []
    with tqdm(total=len(CHECKS), disable=not progress, unit="check", dynamic_ncols=True, leave=False) as bar:
        try:
            for name, check in CHECKS:
                bar.set_description(name)
                done.append(_bounded(name, check, case, seconds))
                bar.update()
        except KeyboardInterrupt:
            done += [Check(name, Verdict.OPEN, "Interrupted.") for name, _ in CHECKS[len(done) :]]
            return Validation(model.name, tuple(done), _end(case), model.time_unit, interrupted=True)
    return Validation(model.name, tuple(done), _end(case), model.time_unit)


def _read(source: str | Path) -> tuple[KineticModel, str | Path | None]:
    """The model of a file or text, and the SBML that it stands in, where it does."""
    text = str(source).strip("\ufeff \t\r\n")
    if text.endswith((".ant", ".txt")) or ("\n" in text and not text.startswith("<")):
        return read_antimony(source), None
    return read_sbml(source), source


def _bounded(name: str, check: Callable[[Case], Check], case: Case, seconds: float) -> Check:
    """One check with a limit on its time; what goes wrong in it is what it says."""
    began = time.monotonic()
    verdict = Verdict.WRONG if name in _MUST else Verdict.OPEN
    try:
        with time_limit(seconds):
            found = check(case)
    except OutOfTime:
        late = Verdict.LOOK if name in _MUST else Verdict.OPEN
        found = Check(name, late, f"It was stopped after {seconds:g} s.")
    except KinetwinError as error:
        found = Check(name, verdict, _in_a_line(error))
    except Exception as error:
        # Whatever a hostile or curious model provokes, the other checks still have something to say.
        found = Check(name, verdict, f"It could not be made: {type(error).__name__}: {_in_a_line(error)}")
    return replace(found, seconds=time.monotonic() - began)


def _in_a_line(error: Exception) -> str:
    problems = error.problems if isinstance(error, ListedError) else ()
    return " ".join([str(error).partition("\n")[0], "; ".join(problems)]).strip()


def _end(case: Case) -> float:
    try:
        return case.horizon.end
    except Exception:
        # The simulation's own check says what stood in the way.
        return math.nan
