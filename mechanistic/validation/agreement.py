"""Checks against libRoadRunner."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from mechanistic.errors import SolveError
from mechanistic.reference import ReferenceReport, compare, values_of_source, values_written
from mechanistic.validation.case import Case
from mechanistic.validation.report import Check, Verdict

NEAR = 100.0
"""Errors above the tolerance, but by less than this factor, may be those of the solvers: the simulation here is then
repeated more tightly."""


def written(case: Case) -> Check:
    """The text of `write_sbml` in libRoadRunner against the simulation here."""
    name = "roadrunner, our SBML"
    case.values()  # where there is no simulation, there is nothing to compare
    try:
        reference = values_written(case.model, case.times)
    except SolveError as error:
        return Check(name, Verdict.OPEN, _refusal(error))
    return _check(case, name, "written", reference)


def source(case: Case) -> Check:
    """The file as it stands in libRoadRunner against the simulation here."""
    name = "roadrunner, the file"
    if case.source is None:
        return Check(name, Verdict.OPEN, "There is no SBML file to run.")
    case.values()  # where there is no simulation, there is nothing to compare
    try:
        reference = values_of_source(case.source, case.model, case.times)
    except SolveError as error:
        return Check(name, Verdict.OPEN, _refusal(error))
    return _check(case, name, "source", reference)


def _refusal(error: SolveError) -> str:
    return " ".join([str(error).partition("\n")[0], *error.problems])


def _check(case: Case, name: str, against: str, reference: Mapping[str, np.ndarray]) -> Check:
    ours = case.values()
    report = compare(case.model, case.times, ours, {against: reference}, case.tolerance)
    worst = report.worst
    if worst is None:
        return Check(name, Verdict.OPEN, "The file knows none of the model's quantities.")
    if case.tolerance < worst.error <= NEAR * case.tolerance:
        ours = case.values(finer=True)
        report = compare(case.model, case.times, ours, {against: reference}, case.tolerance)
        worst = report.worst or worst
    close = Verdict.LOOK if worst.error <= NEAR * report.tolerance else Verdict.WRONG
    verdict = Verdict.GOOD if report.agrees else close
    early = max((error for at, error in report.profile if at <= case.horizon.end / 100), default=0.0)
    middle = max((error for at, error in report.profile if at <= case.horizon.end / 10), default=0.0)
    sentence = (
        f"{len(report.rows)} quantities at {len(case.times)} times: largest relative difference {worst.error:.1e} "
        f"(`{worst.quantity}` at {case.time(worst.time)}: {worst.value:.6g} here, {worst.reference:.6g} there); "
        f"{early:.0e} up to a hundredth and {middle:.0e} up to a tenth of the horizon."
    )
    numbers = {"error": worst.error, "quantities": len(report.rows), "tolerance": report.tolerance}
    both = _labelled(case, report, ours[0], reference)
    return Check(name, verdict, sentence, numbers, _details(report, case), trajectories=both)


def _details(report: ReferenceReport, case: Case) -> tuple[str, ...]:
    return tuple(
        f"`{row.quantity}`: {row.error:.1e} at {case.time(row.time)}: {row.value:.9g} here, {row.reference:.9g} there"
        for row in report.rows
    )


def _labelled(
    case: Case, report: ReferenceReport, ours: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> xr.Dataset:
    """Both simulations, those that agree least first; between the times that are compared, only the one here."""
    times = case.times
    if case.model.events:
        times, ours = case.drawn
        among = np.searchsorted(times, case.times)
        reference = {name: _spread(values, among, len(times)) for name, values in reference.items()}
    units = {state.name: state.unit for state in case.model.states}
    variables = {
        row.quantity: (
            ("origin", "time"),
            np.stack([ours[row.quantity], reference[row.quantity]]),
            {"units": units[row.quantity]} if units.get(row.quantity) else {},
        )
        for row in report.rows
        if row.quantity not in ("time", "origin")
    }
    attributes = {"units": case.model.time_unit} if case.model.time_unit else {}
    clock = xr.DataArray(times, dims="time", attrs=attributes)
    return xr.Dataset(variables, coords={"time": clock, "origin": ["kinetwin", "roadrunner"]})


def _spread(values: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """`values` at their places among more times, `(count,)`; NaN elsewhere."""
    spread = np.full(count, np.nan)
    spread[among] = values
    return spread
