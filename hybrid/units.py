"""Units of an event table: its times, amounts and observations as numbers in the units of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import numpy as np

from hybrid.table import Events, TableError
from mechanistic.errors import ListedError, nearest
from mechanistic.model import KineticModel
from mechanistic.units import UnitsReport

TableUnits: TypeAlias = Mapping[str, str | Mapping[str, str]]

_COLUMNS: Final = ("time", "amt", "dv")


def in_units_of(model: KineticModel | None, events: Events, units: TableUnits) -> Events:
    """The same events with every number in the unit that the model has for it; a note says what was multiplied.

    Args:
        model: whose units the numbers are converted to.
        events: what the table says, in its own units.
        units: `time` to a unit, `amt` to one or to one for each state dosed into, `dv` to one or to one for each
            channel; a channel is an observable, a state or an assignment of the model. What is not named here is in
            the unit of the model already.

    Raises:
        TableError: lists every unit that cannot be read, does not fit, or has nothing to be converted to.
    """
    if model is None:
        raise TableError("the units of the table cannot be used:", ["give `model`, to whose units they are converted"])
    states = tuple(dict.fromkeys(dose.state for dose in events.doses))
    places = {"time": ("time",), "amt": states, "dv": events.channels}
    problems = [
        f"`{name}` has no unit here{nearest(name, _COLUMNS)}; known are time, amt and dv"
        for name in units
        if name not in places
    ]
    report, factors, notes = model.units(), {}, []
    for column, names in places.items():
        texts, unknown = _by_name(units.get(column, {}), names, column)
        problems += unknown
        factors[column] = dict.fromkeys(names, 1.0)
        for name, text in texts.items():
            try:
                factors[column][name] = report.factor(text, name)
            except ListedError as error:
                problems.append(f"`{column}`: {' '.join([str(error).splitlines()[0], *error.problems])}")
            else:
                notes += _note(report, column, name, text, factors[column][name])
    if problems:
        raise TableError("the units of the table cannot be used:", problems)
    return _scaled(events, factors, notes)


def _by_name(given: str | Mapping[str, str], names: Sequence[str], column: str) -> tuple[dict[str, str], list[str]]:
    """Name to the text of its unit, and what is wrong with the names."""
    if isinstance(given, str):
        return dict.fromkeys(names, given), []
    unknown = [name for name in given if name not in names]
    listed = ", ".join(f"`{name}`" for name in names) or "none"
    what = {"time": "is not `time`", "amt": "is not dosed into", "dv": "is not a channel"}[column]
    problems = [f"`{column}`: `{name}` {what}{nearest(name, names)}; there are {listed}" for name in unknown]
    return {name: text for name, text in given.items() if name in names}, problems


def _note(report: UnitsReport, column: str, name: str, text: str, factor: float) -> list[str]:
    if factor == 1.0:
        return []
    shown = next(quantity.shown for quantity in report.quantities if quantity.name == name)
    of = "" if column == "time" else f" of `{name}`"
    return [f"{column}{of} converted from {text} to {shown} (× {factor:.6g})"]


def _scaled(events: Events, factors: Mapping[str, Mapping[str, float]], notes: list[str]) -> Events:
    per_time = factors["time"]["time"]
    per_channel = np.array([factors["dv"][name] for name in events.channels])
    doses = tuple(
        replace(
            dose,
            time=dose.time * per_time,
            duration=dose.duration * per_time,
            amount=dose.amount * factors["amt"][dose.state],
        )
        for dose in events.doses
    )
    return replace(
        events,
        time=events.time * per_time,
        start=events.start * per_time,
        value=events.value * per_channel[events.channel],
        doses=doses,
        notes=(*events.notes, *notes),
    )
