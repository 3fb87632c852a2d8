"""What the units of a model say about it: quantity by quantity, and equation by equation."""

from dataclasses import dataclass
from fractions import Fraction
from html import escape
from typing import TYPE_CHECKING, Final, Literal, final

from mechanistic.errors import nearest
from mechanistic.model import FrozenMap, KineticModel
from mechanistic.model import time as time_symbol
from mechanistic.units.inference import UNKNOWN, Finding, Inference, Inferred, Kind
from mechanistic.units.text import Unit, UnitError, parse_quantity, parse_unit

if TYPE_CHECKING:
    import pandas as pd

_LISTED: Final = 50
_HEADINGS: Final[dict[Kind, str]] = {
    "inconsistent": "do not fit",
    "convertible": "fit after a conversion, which is not in the model",
    "missing": "have no unit",
    "assumed": "numbers without a unit",
}


@final
@dataclass(frozen=True, slots=True)
class Quantity:
    """The unit of one quantity.

    Attributes:
        name: of a state, parameter, assignment or observable, or `time`.
        kind: which of these.
        text: the unit as the model gives it, or an empty string.
        unit: its meaning: given, inferred from the expression, or None where neither is possible.
        certain: whether `unit` is the unit for sure: given, or inferred from an expression without numbers that could
            convert units.
    """

    name: str
    kind: Literal["time", "state", "parameter", "assignment", "observable"]
    text: str
    unit: Unit | None
    certain: bool = True

    @property
    def shown(self) -> str:
        """The unit as text, or an empty string where there is none."""
        return self.text or ("" if self.unit is None else str(self.unit))


@final
@dataclass(frozen=True, repr=False)
class UnitsReport:
    """The units of a model. Nothing in the model was changed: a number is never rescaled on the quiet.

    Attributes:
        model: name of the model.
        quantities: every quantity with its unit.
        findings: what does not fit, what misses a unit, what was assumed.
    """

    model: str
    quantities: tuple[Quantity, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """The equations that contradict themselves, also those that a factor would put right."""
        return tuple(str(found) for found in self.findings if found.kind in ("inconsistent", "convertible"))

    @property
    def is_consistent(self) -> bool:
        """Whether no equation contradicts itself, as far as units are given."""
        return not self.problems

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the states, the parameters and the time that have no unit; one that has no dimension is in `1`."""
        given = (q for q in self.quantities if q.kind in ("time", "state", "parameter"))
        return tuple(q.name for q in given if q.unit is None)

    def table(self) -> "pd.DataFrame":
        """The quantities with the columns `name`, `kind`, `unit`, `meaning` (in base units) and `certain`."""
        import pandas as pd

        rows = [
            (q.name, q.kind, q.text, "" if q.unit is None else str(q.unit), q.unit is not None and q.certain)
            for q in self.quantities
        ]
        return pd.DataFrame(rows, columns=["name", "kind", "unit", "meaning", "certain"])

    def unit(self, name: str) -> Unit:
        """The unit of a state, parameter, assignment or observable, or of `time`.

        Raises:
            UnitError: for an unknown name, and where the unit is neither given nor follows from the expression.
        """
        found = next((q for q in self.quantities if q.name == name), None)
        headline = f"the unit of `{name}` in `{self.model}` is not known:"
        if found is None:
            known = [q.name for q in self.quantities]
            raise UnitError(headline, [f"the model has no quantity `{name}`{nearest(name, known)}"])
        if found.unit is None:
            without = ", ".join(f"`{other}`" for other in self.missing[:10]) or "none"
            raise UnitError(headline, [f"give one (`1` for no dimension); quantities without a unit: {without}"])
        if not found.certain:
            problem = f"its expression has a number in it that may convert units: {found.unit}, or a multiple of it"
            raise UnitError(headline, [f"{problem}; give the values in the unit that the model computes"])
        return found.unit

    def factor(self, unit: str, name: str, molar_mass: str = "") -> float:
        """What a number in `unit` is multiplied by to give the quantity `name` of the model.

        Args:
            unit: for instance `mg`.
            name: a state, parameter, assignment or observable, or `time`.
            molar_mass: for instance `308.33 g/mol`; lets a mass become an amount of substance, and back.

        Raises:
            UnitError: when the two do not fit, or the unit of the quantity is not known.
        """
        return float(self._ratio(unit, name, molar_mass))

    def value(self, quantity: str, name: str, molar_mass: str = "") -> float:
        """The number that a quantity such as `100 mg` is in the unit of `name`; arguments and errors as `factor`."""
        number, unit = parse_quantity(quantity)
        return float(number * self._ratio(unit, name, molar_mass))

    def _ratio(self, unit: str, name: str, molar_mass: str) -> Fraction:
        given, wanted = parse_unit(unit), self.unit(name)
        if given.fits(wanted):
            return given.factor / wanted.factor
        shown = next(q.shown for q in self.quantities if q.name == name)
        headline = f"`{unit}` cannot be converted to `{shown}`, the unit of `{name}` in `{self.model}`:"
        mass = _molar_mass(molar_mass or "1 g/mol")
        ratio = next((way.factor / wanted.factor for way in (given / mass, given * mass) if way.fits(wanted)), None)
        if ratio is None:
            raise UnitError(headline, ["they have different dimensions"])
        if not molar_mass:
            advice = "call `model.units().value` with `molar_mass`, for instance '180.16 g/mol', and give its number"
            raise UnitError(headline, [f"one is a mass and the other an amount of substance: {advice}"])
        return ratio

    def __repr__(self) -> str:
        state = "consistent" if self.is_consistent else f"{len(self.problems)} problem(s)"
        lines = [f"Units of `{self.model}`: {state}"]
        if self.missing:
            lines.append(f"without a unit: {', '.join(self.missing[:_LISTED])}{_rest(len(self.missing))}")
        lines += [str(found) for found in self.findings[:_LISTED]]
        return "\n  ".join(lines) + _rest(len(self.findings))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><code>{escape(q.name)}</code></td><td>{q.kind}</td><td>{escape(q.shown)}</td></tr>"
            for q in self.quantities
        )
        lists = []
        for kind, heading in _HEADINGS.items():
            found = [item for item in self.findings if item.kind == kind]
            items = "".join(f"<li>{escape(str(item))}</li>" for item in found[:_LISTED])
            if found:
                lists.append(f"<p>{len(found)} {heading}{_rest(len(found))}</p><ul>{items}</ul>")
        state = "consistent" if self.is_consistent else f"{len(self.problems)} problem(s)"
        return (
            f'<div class="tex2jax_ignore mathjax_ignore"><h3>Units of {escape(self.model)}: {state}</h3>'
            f"{''.join(lists)}<details><summary>{len(self.quantities)} quantities</summary><table><thead><tr>"
            f"<th></th><th></th><th>unit</th></tr></thead><tbody>{rows}</tbody></table></details></div>"
        )


def _molar_mass(text: str) -> Unit:
    number, unit = parse_quantity(text)
    mass = Unit(number, FrozenMap()) * parse_unit(unit)
    if number <= 0 or not mass.fits(parse_unit("g/mol")):
        raise UnitError(f"the molar mass {text!r} cannot be used:", ["give a positive one, as in '180.16 g/mol'"])
    return mass


def units_report(model: KineticModel) -> UnitsReport:
    """Follows the units through every expression of a model; see `UnitsReport`."""
    quantities, findings = _given(model)
    time = next(q.unit for q in quantities if q.kind == "time")
    known = {q.name: Inferred(q.unit) for q in quantities if q.kind != "time"}
    inference = Inference(known, time, model.nominal())
    for kind, expressions in (("assignment", model.assignments), ("observable", model.observables)):
        for name, value in expressions.items():
            found = inference.infer(f"{kind} `{name}`", value)
            # A course in time that is made of numbers is a constant without a unit, as a parameter is.
            numbers_only = (
                not value.free_symbols - {time_symbol} and found.unit is not None and found.unit.is_dimensionless
            )
            unit = None if found.bare or numbers_only else found.unit
            certain = found.number == 1.0
            quantities.append(Quantity(name, "assignment" if kind == "assignment" else "observable", "", unit, certain))
            if kind == "assignment":
                inference.known[name] = Inferred(unit, found.number) if unit is not None else UNKNOWN
    _check_start(model, inference)
    _check_equations(model, inference)
    _check_events(model, inference)
    return UnitsReport(model.name, tuple(quantities), (*findings, *inference.findings))


def _given(model: KineticModel) -> tuple[list[Quantity], list[Finding]]:
    """The units that the model gives, and those that are missing or cannot be read."""
    stated: list[tuple[str, Literal["time", "state", "parameter"], str]] = [("time", "time", model.time_unit)]
    stated += [(state.name, "state", state.unit) for state in model.states]
    stated += [(parameter.name, "parameter", parameter.unit) for parameter in model.parameters]
    quantities, findings = [], []
    for name, kind, text in stated:
        unit = None
        if text.strip():
            try:
                unit = parse_unit(text)
            except UnitError as error:
                findings.append(
                    Finding("missing", f"`{name}`", " ".join([str(error).splitlines()[0], *error.problems]))
                )
        quantities.append(Quantity(name, kind, text, unit))
    for name in dict.fromkeys(name for q in quantities if q.unit is not None for name in q.unit.unknown):
        users = ", ".join(f"`{q.name}`" for q in quantities if q.unit is not None and name in q.unit.unknown)
        findings.append(
            Finding("assumed", f"unit `{name}`", f"no known unit; taken as a dimension of its own ({users})")
        )
    return quantities, findings


def _check_start(model: KineticModel, inference: Inference) -> None:
    for state in model.states:
        unit = inference.known[state.name].unit
        inference.expect_value(f"initial value of `{state.name}`", state.initial, unit, f"`{state.name}`")


def _check_equations(model: KineticModel, inference: Inference) -> None:
    """Rates are in the unit of what they move, by time; an algebraic equation only has to fit itself."""
    for reaction in model.reactions:
        place = f"rate of reaction `{reaction.name}`"
        inference.infer(place, reaction.rate)
        for moved in reaction.stoichiometry if not reaction.fast else ():
            wanted = _by_time(inference.known[moved].unit, inference.time)
            inference.expect(place, reaction.rate, wanted, f"what moves `{moved}`")
    for name, rate in model.rates.items():
        wanted = _by_time(inference.known[name].unit, inference.time)
        inference.expect(f"rate rule of `{name}`", rate, wanted, f"what moves `{name}`")
    for name, equation in model.algebraic.items():
        inference.infer(f"algebraic equation of `{name}`", equation)


def _check_events(model: KineticModel, inference: Inference) -> None:
    for event in model.events:
        inference.infer(f"trigger of event `{event.name}`", event.trigger)
        inference.expect(f"delay of event `{event.name}`", event.delay, inference.time, "time")
        if event.priority is not None:
            inference.infer(f"priority of event `{event.name}`", event.priority)
        for name, value in event.assignments.items():
            unit = inference.known[name].unit
            inference.expect_value(f"assignment to `{name}` of event `{event.name}`", value, unit, f"`{name}`")


def _by_time(unit: Unit | None, time: Unit | None) -> Unit | None:
    return None if unit is None or time is None else unit / time


def _rest(count: int) -> str:
    return f" … and {count - _LISTED} more" if count > _LISTED else ""
