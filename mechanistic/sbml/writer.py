"""Kinetic models written as SBML Level 3."""

import math
import re
import sys
import uuid
from collections.abc import Collection, Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, final
from xml.sax.saxutils import escape

import libsbml
from sympy import Basic, Expr, Integer, Rational

from mechanistic.errors import ModelError, nearest
from mechanistic.model import Event, KineticModel, Parameter, Reaction, State, delay, symbol, time
from mechanistic.sbml.annotation import write_annotation
from mechanistic.sbml.identifiers import Identifiers
from mechanistic.sbml.mathematics import (
    DEFINED,
    EXACT_CLASS,
    FUNCTION_PREFIX,
    Untranslatable,
    definition_node,
    literal,
    write_node,
)
from mechanistic.sbml.past import standing_still
from mechanistic.sbml.reactions import exact
from mechanistic.sbml.version_1 import extreme_node, in_version_1

_SPECIAL = {"inf": "INF", "-inf": "-INF", "nan": "NaN"}
_NUMBER = re.compile(rf'<cn\b[^>]*\bclass="{EXACT_CLASS}([^"]+)"[^>]*>.*?</cn>', re.DOTALL)
_ELEMENT = re.compile(r'(<(?:parameter|species)\s[^>]*?\bid="([^"]+)"[^>]*?\s(?:value|initialAmount)=")[^"]*(")')


def write_sbml(model: KineticModel, path: str | Path | None = None, *, driven: Mapping[str, str] | None = None) -> str:
    """The model as SBML Level 3 Version 2, which `read_sbml` reads back to an equal model.

    States are species in amounts, in one compartment of size 1 that only holds them; observables are parameters with
    assignment rules. What SBML has no place for (units as text, scales, names that are not SBML ids, which state an
    algebraic equation determines, ...) stands in annotations of the namespace `urn:kinetwin:model:1`.

    A model with fast reactions becomes Level 3 Version 1, the last one that has them. Where such a reaction moves a
    state, or an algebraic equation determines it, its delayed value before the start is the initial value in a file,
    and the value that the equation has led to in a model.

    Args:
        model: any kinetic model.
        path: file to write as well; it is replaced as a whole or not at all.
        driven: parameters that something outside the file moves, name to what moves it, in words. The file holds
            their nominal values, a note for people and an annotation that `read_driven` finds.

    Raises:
        ModelError: lists every expression that has no counterpart in SBML, and driven names that are no parameters.
    """
    text = written(model, driven=driven).text
    if path is not None:
        replace_file(Path(path), text)
    return text


class Written(NamedTuple):
    """A written model.

    Attributes:
        text: SBML.
        ids: name of each state, parameter, assignment and observable to its id.
        identities: every id in the text that stands for something of the model.
    """

    text: str
    ids: dict[str, str]
    identities: frozenset[str]


def written(model: KineticModel, reserved: Collection[str] = (), driven: Mapping[str, str] | None = None) -> Written:
    """What `write_sbml` writes, and what the names are called there; no id is one of the words in `reserved`."""
    writer = _Writer(model, driven or {}, reserved)
    return Written(writer.text(), dict(writer.ids), frozenset(writer.identifiers.used))


def written_ids(model: KineticModel) -> dict[str, str]:
    """Name of each state, parameter, assignment and observable to its id in the text of `write_sbml`."""
    return dict(_Writer(model, {}, ()).ids)


def replace_file(path: Path, text: str) -> None:
    """Writes beside the file and then takes its place, so that nobody ever sees half of it."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        beside.replace(path)
    except OSError as error:
        # The file beside it means nothing to whoever asked for `path`.
        raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def _is_normal(value: float) -> bool:
    """Whether attributes of SBML can hold `value`; libsbml refuses subnormal numbers."""
    return value == 0 or sys.float_info.min <= abs(value) < math.inf


def _describe_drive(element: libsbml.Parameter, cause: str) -> None:
    """Says so to people who open the file elsewhere; text that XML cannot hold stays in our annotation only."""
    if cause.isprintable():
        text = f"The value is nominal: in the model that this file was written from it is driven by {cause}."
        element.setNotes(f'<p xmlns="http://www.w3.org/1999/xhtml">{escape(text)}</p>')


@final
class _Writer:
    """Builds one document."""

    def __init__(self, model: KineticModel, driven: Mapping[str, str], reserved: Collection[str]) -> None:
        self._source = model
        self._driven = driven
        self._version = 1 if any(reaction.fast for reaction in model.reactions) else 2
        self._document = libsbml.SBMLDocument(3, self._version)
        self._model = self._document.createModel()
        names = model.parameter_names
        self._problems = [f"driven `{n}` is not a parameter{nearest(n, names)}" for n in driven if n not in names]
        self._called: set[str] = set()
        self._exact_values: dict[str, str] = {}
        quantities = [*model.state_names, *model.parameter_names, *model.assignments, *model.observables]
        self.identifiers = Identifiers(
            [*quantities, *model.reaction_names, *(event.name for event in model.events)], reserved
        )
        self.ids = {name: self.identifiers.give(name) for name in quantities}
        self._names = {identity: name for name, identity in self.ids.items()}
        self._holder = self.identifiers.give("amounts")

    def text(self) -> str:
        """The document; raises when something cannot be written."""
        self._describe()
        self._write_holder()
        for state in self._source.states:
            self._write_state(state)
        for parameter in self._source.parameters:
            self._write_parameter(parameter)
        for name, value in self._source.assignments.items():
            self._write_assignment(name, value, f"assignment `{name}`", {})
        for name, value in self._source.observables.items():
            self._write_assignment(name, value, f"observable `{name}`", {"role": "observable"})
        for name, value in self._source.rates.items():
            rule = self._model.createRateRule()
            rule.setVariable(self.ids[name])
            self._set_math(rule, value, f"rate rule of `{name}`")
        for reaction in self._source.reactions:
            self._write_reaction(reaction)
        for name, value in self._source.algebraic.items():
            rule = self._model.createAlgebraicRule()
            write_annotation(rule, "algebraic", {"variable": self.ids[name]})
            self._set_math(rule, value, f"algebraic equation of `{name}`")
        for event in self._source.events:
            self._write_event(event)
        self._write_functions()
        if self._problems:
            raise ModelError(f"the model `{self._source.name}` cannot be written as SBML:", self._problems)
        return self._with_exact_numbers(libsbml.writeSBMLToString(self._document))

    def _describe(self) -> None:
        model = self._source
        self._model.setId(self.identifiers.give(model.name))
        self._model.setName(model.name if model.name.isprintable() else self._model.getId())
        notes = {"name": model.name, "source": model.source, "time_unit": model.time_unit}
        write_annotation(self._model, "model", notes)

    def _write_functions(self) -> None:
        """Definitions of what was called; last, because only then it is known what was."""
        for name, (function, _, _) in DEFINED.items():
            if any(expression.has(function) for expression in self._source.expressions().values()):
                self._define(name, definition_node(name))
        for name in sorted(self._called):
            self._define(name, extreme_node(name))

    def _define(self, name: str, meaning: libsbml.ASTNode) -> None:
        definition = self._model.createFunctionDefinition()
        definition.setId(FUNCTION_PREFIX + name)
        definition.setMath(meaning)
        write_annotation(definition, "function", {"name": name})

    def _write_holder(self) -> None:
        compartment = self._model.createCompartment()
        compartment.setId(self._holder)
        compartment.setSize(1.0)
        compartment.setSpatialDimensions(3)
        compartment.setConstant(True)
        write_annotation(compartment, "holder", {"role": "amounts"})

    def _write_state(self, state: State) -> None:
        identity = self.ids[state.name]
        species = self._model.createSpecies()
        species.setId(identity)
        species.setCompartment(self._holder)
        species.setHasOnlySubstanceUnits(True)
        species.setBoundaryCondition(state.name in self._source.rates)
        species.setConstant(False)
        notes = self._notes(state.name, unit=state.unit)
        if state.scale is not None:
            notes["scale"] = repr(float(state.scale))
        if not state.nonnegative:
            notes["nonnegative"] = "false"
        value = state.initial
        if self._is_attribute(value):
            self._set_number(identity, species.setInitialAmount, float(value))
            if value.is_Float and literal(float(value)).is_Integer:
                notes["initial"] = "float"
        else:
            assignment = self._model.createInitialAssignment()
            assignment.setSymbol(identity)
            self._set_math(assignment, value, f"initial value of `{state.name}`")
        if notes:
            write_annotation(species, "state", notes)

    @staticmethod
    def _is_attribute(value: Expr) -> bool:
        """Whether an attribute, which is a double, says exactly what `value` says."""
        if not (value.is_Number and value.is_finite and _is_normal(float(value))):
            return False
        return bool(value.is_Float or literal(float(value)) == value)

    def _write_parameter(self, parameter: Parameter) -> None:
        identity = self.ids[parameter.name]
        element = self._model.createParameter()
        element.setId(identity)
        element.setConstant(True)
        endless = not math.isfinite(parameter.value)
        if endless and symbol(parameter.name) in self._source.used_symbols():
            self._problems.append(f"parameter `{parameter.name}`: its value {parameter.value} is used and not finite")
        elif not endless and not _is_normal(parameter.value):
            self._problems.append(f"parameter `{parameter.name}`: its value {parameter.value} is not a normal double")
        self._set_number(identity, element.setValue, parameter.value)
        notes = self._notes(parameter.name, unit=parameter.unit, description=parameter.description)
        if parameter.description.isprintable() and parameter.description:
            element.setName(parameter.description)
        cause = self._driven.get(parameter.name)
        if cause is not None:
            notes["driven"] = cause
            _describe_drive(element, cause)
        if notes:
            write_annotation(element, "parameter", notes)

    def _write_assignment(self, name: str, value: Expr, place: str, notes: Mapping[str, str]) -> None:
        element = self._model.createParameter()
        element.setId(self.ids[name])
        element.setConstant(False)
        notes = {**self._notes(name), **notes}
        if notes:
            write_annotation(element, "parameter", notes)
        rule = self._model.createAssignmentRule()
        rule.setVariable(self.ids[name])
        self._set_math(rule, value, place)

    def _write_reaction(self, reaction: Reaction) -> None:
        identity = self.identifiers.give(reaction.name)
        element = self._model.createReaction()
        element.setId(identity)
        element.setReversible(False)
        if self._version == 1:
            element.setFast(reaction.fast)
        notes = {} if identity == reaction.name else {"name": reaction.name}
        order = [self.ids[state] for state in reaction.stoichiometry]
        if order != sorted(order, key=lambda state: bool(reaction.stoichiometry[self._names[state]] > 0)):
            notes["order"] = " ".join(order)
        if notes:
            write_annotation(element, "reaction", notes)
        for state, count in reaction.stoichiometry.items():
            reference = element.createReactant() if count < 0 else element.createProduct()
            reference.setSpecies(self.ids[state])
            reference.setConstant(True)
            self._set_stoichiometry(reference, identity, abs(count))
        self._set_math(element.createKineticLaw(), reaction.rate, f"rate of reaction `{reaction.name}`")
        states = set(self._source.state_names) - set(reaction.stoichiometry)
        used = {atom.name for atom in reaction.rate.free_symbols - {time}}
        for name in sorted(used & states):
            element.createModifier().setSpecies(self.ids[name])

    def _write_event(self, event: Event) -> None:
        place = f"of event `{event.name}`"
        element = self._model.createEvent()
        identity = self.identifiers.give(event.name)
        element.setId(identity)
        if identity != event.name:
            write_annotation(element, "event", {"name": event.name})
        element.setUseValuesFromTriggerTime(event.values_at_trigger)
        trigger = element.createTrigger()
        trigger.setInitialValue(event.initially)
        trigger.setPersistent(event.persistent)
        self._set_math(trigger, event.trigger, f"trigger {place}")
        if event.delay != 0:
            self._set_math(element.createDelay(), event.delay, f"delay {place}")
        if event.priority is not None:
            self._set_math(element.createPriority(), event.priority, f"priority {place}")
        for name, value in event.assignments.items():
            assignment = element.createEventAssignment()
            assignment.setVariable(self.ids[name])
            self._set_math(assignment, value, f"assignment to `{name}` {place}")

    def _set_stoichiometry(self, reference: libsbml.SpeciesReference, reaction: str, count: Rational) -> None:
        value = float(f"{float(count):.15g}")
        reference.setStoichiometry(value)
        if exact(value) != count:
            reference.setId(self.identifiers.give(f"{reaction}_{reference.getSpecies()}"))
            write_annotation(reference, "holder", {"role": "exact"})
            assignment = self._model.createInitialAssignment()
            assignment.setSymbol(reference.getId())
            self._set_math(assignment, count, f"stoichiometry in reaction `{reaction}`")

    def _notes(self, name: str, **texts: str) -> dict[str, str]:
        notes = {key: text for key, text in texts.items() if text}
        return notes if self.ids[name] == name else {"name": name, **notes}

    def _set_number(self, identity: str, setter: object, value: float) -> None:
        setter(value)  # type: ignore[operator]
        self._exact_values[identity] = repr(value) if math.isfinite(value) else _SPECIAL[str(value)]

    @cached_property
    def _timed(self) -> dict[str, libsbml.ASTNode]:
        """Id of each assignment that depends on time to its mathematics, over states and parameters."""
        values = {name: self._source.expand(symbol(name)) for name in self._source.assignments}
        return {self.ids[name]: write_node(value, self.ids) for name, value in values.items() if value.has(time)}

    def _set_math(self, element: libsbml.SBase, value: Basic, place: str) -> None:
        try:
            node = write_node(value, self.ids)
            if value.has(delay):
                node = standing_still(node, self._timed)
            element.setMath(node if self._version == 2 else in_version_1(node, self._called))
        except Untranslatable as problem:
            self._problems.append(f"{place}: {problem}")
            element.setMath(write_node(Integer(0), self.ids))

    def _with_exact_numbers(self, text: str) -> str:
        """libsbml prints 15 digits; the numbers that need more are put in."""

        def attribute(match: re.Match[str]) -> str:
            value = self._exact_values.get(match[2])
            return match[0] if value is None else f"{match[1]}{value}{match[3]}"

        def number(match: re.Match[str]) -> str:
            # Without an exponent: libsbml would round the digits before it applies one.
            return f"<cn> {Decimal(match[1]):f} </cn>"

        return _NUMBER.sub(number, _ELEMENT.sub(attribute, text))
