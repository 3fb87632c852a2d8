"""SBML files read into kinetic models: syntax trees to symbols, without formulae as text."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import libsbml
import sympy
from sympy import Basic, Expr

from mechanistic.errors import InvalidSBML, ModelError
from mechanistic.model import KineticModel, Parameter, Reaction, State, delay, symbol, time
from mechanistic.sbml.algebraic import AlgebraicRules
from mechanistic.sbml.annotation import read_annotation
from mechanistic.sbml.declarations import Declarations, Quantity
from mechanistic.sbml.delays import Delays
from mechanistic.sbml.derivatives import Derivatives, Equations
from mechanistic.sbml.document import Document
from mechanistic.sbml.events import EventReader, Jumps, has_mathematics
from mechanistic.sbml.fast import factor_symbols, with_numbers
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.initial import at_start
from mechanistic.sbml.reactions import ReactionReader, ReadReaction
from mechanistic.sbml.translator import Function, Translator
from mechanistic.sbml.units import time_unit


def read_sbml(source: str | Path) -> KineticModel:
    """The model of an SBML file, Level 1 to 3, as immutable symbols.

    States are amounts; a species whose symbol is a concentration in the file appears as amount over compartment size,
    and every species in a compartment with a size has its concentration as the observable `[id]`. Local parameters are
    called `reaction.parameter`. Initial assignments stay expressions over the parameters, so that a changed parameter
    changes what follows from it.

    Args:
        source: path of a file, or its text.

    Raises:
        InvalidSBML: lists everything in the file that the standard forbids, with line numbers.
        UnsupportedSBML: lists every construct of a valid file that is not supported, with its id.
    """
    return _Reader(Document(source)).model()


@final
class _Reader:
    """Gathers what a document says, then puts it together."""

    def __init__(self, document: Document) -> None:
        self._title = document.title
        self._document = document
        self._model = document.model
        self._findings = Findings(document.title)
        self._declared = Declarations(self._model, self._findings)
        self._translator = Translator(self._functions(), self._findings)
        for namespace in document.required_packages:
            self._findings.unsupported(f"package {namespace}")
        self._initial = self._initial_assignments()
        self._assigned, self._rates = self._rules()
        self._events = EventReader(self._model, self._declared, self._translator, self._findings).read()
        self._jumped = {identity for event in self._events for identity in event.values}
        reading = ReactionReader(self._model, self._declared, self._translator, self._findings)
        algebraic = AlgebraicRules(self._model, self._declared, self._translator, self._findings)
        algebraic.match(self._initial, {*self._assigned, *self._rates})
        ruled = {*self._assigned, *self._rates, *algebraic.determined}
        self._reactions = reading.read(self._initial, ruled, self._jumped)
        self._assigned |= algebraic.solve(self._assigned, self._reactions)
        self._initial = {name: value for name, value in self._initial.items() if name not in algebraic.determined}
        self._local_parameters = reading.parameters
        self._replace_rates_of()

    def model(self) -> KineticModel:
        """The model; raises when anything was found that stands in the way."""
        quantities = self._declared.quantities.values()
        changing = {*self._rates, *self._jumped}
        states = [q for q in quantities if q.id in changing or (q.moves and q.id not in self._assigned)]
        unset = {q.name for q in quantities if self._is_unset(q)}
        states = [q for q in states if not (q.name in unset and self._is_idle(q))]
        ruled = self._ruled()
        raw = {q.name: self._raw(q) for q in quantities if q.name not in unset and q.id not in self._assigned}
        start = at_start(raw, {q.name for q in states}, ruled, self._findings)
        late = Delays(start.past, start.first, start.varying, ruled)
        ruled, rates = late.expressions(ruled), late.expressions(self._amount_rates(start.varying))
        self._reactions = [late.reaction(reaction) for reaction in self._reactions]
        self._events = [late.event(event) for event in self._events]
        self._refuse_unset(states, unset, {**raw, **ruled}, rates)
        moving = {q.name for q in states}
        settled = factor_symbols(self._reactions)
        self._reactions = with_numbers(self._reactions, {**ruled, **start.values}, start.varying, self._findings)
        events = Jumps(self._events, self._declared, ruled, start.varying, self._findings).events()
        self._findings.check()
        constants = [q for q in quantities if q.name in start.values and q.name not in moving]
        # A parameter in place of a stoichiometry could be changed without any effect on the reaction.
        fixed = {
            q.name: start.values[q.name]
            for q in constants
            if q.kind == "stoichiometry" or q.symbol in settled or not start.values[q.name].is_Number
        }
        numbers = {q.name: start.values[q.name] for q in constants if q.name not in fixed}
        endless = {
            q.name for q in quantities if q.name in unset and q.id in self._declared.endless and self._is_idle(q)
        }
        parameters = [self._parameter(q, numbers.get(q.name)) for q in quantities if q.name in {*numbers, *endless}]
        observables, assignments = self._separate_observables({**fixed, **ruled})
        pieces: dict[str, Any] = {
            "states": [self._state(q, start.values[q.name]) for q in states],
            "parameters": [*parameters, *self._local_parameters],
            "reactions": self._model_reactions(assignments),
            "rates": rates,
            "assignments": assignments,
            "observables": {**self._concentrations(unset), **observables},
            "events": events,
        }
        try:
            return KineticModel(**pieces, **self._description())
        except ModelError as error:
            raise InvalidSBML(f"{self._title} makes no consistent model:", error.problems) from error

    # What the file says

    def _functions(self) -> dict[str, Function]:
        found = {}
        for item in _each(self._model.getListOfFunctionDefinitions()):
            arguments = tuple(item.getArgument(i).getName() for i in range(item.getNumArguments()))
            known = (read_annotation(item, "function") or {}).get("name", "")
            found[item.getId()] = Function(arguments, item.getBody(), known)
        return found

    def _initial_assignments(self) -> dict[str, Expr]:
        """Id to the value that an initial assignment gives to it."""
        items = [item for item in _each(self._model.getListOfInitialAssignments()) if has_mathematics(item)]
        items = [item for item in items if not self._declared.assign_endless(item.getSymbol(), item.getMath())]
        return {item.getSymbol(): self._translated(item, item.getSymbol(), "initial assignment") for item in items}

    def _rules(self) -> tuple[dict[str, Expr], dict[str, Expr]]:
        """Assignment rules and rate rules by id; a rule without mathematics has no effect."""
        assigned: dict[str, Expr] = {}
        rates: dict[str, Expr] = {}
        for rule in _each(self._model.getListOfRules()):
            if not has_mathematics(rule):
                continue
            if rule.isAssignment():
                assigned[rule.getVariable()] = self._translated(rule, rule.getVariable(), "assignment rule")
            elif rule.isRate():
                rates[rule.getVariable()] = self._translated(rule, rule.getVariable(), "rate rule")
        return assigned, rates

    def _replace_rates_of(self) -> None:
        """Puts right-hand sides in place of the csymbol `rateOf`."""
        still = {parameter.name for parameter in self._local_parameters}
        remembered = any(part.has(delay) for part in self._mathematics())
        equations = Equations(self._assigned, self._rates, self._reactions, still, remembered)
        found = Derivatives(self._translator.rate_targets, self._declared, equations, self._findings)
        self._initial = found.expressions(self._initial, "initial assignment")
        self._assigned = found.expressions(self._assigned, "assignment rule")
        self._rates = found.expressions(self._rates, "rate rule")
        self._reactions = [found.reaction(reaction) for reaction in self._reactions]
        self._events = [found.event(event) for event in self._events]

    def _translated(self, item: libsbml.SBase, target: str, kind: str) -> Expr:
        return self._translator.expression(item.getMath(), self._declared.scope, f"{kind} of `{target}`")

    # Values

    def _is_unset(self, quantity: Quantity) -> bool:
        return quantity.value is None and quantity.id not in self._initial and quantity.id not in self._assigned

    def _is_idle(self, quantity: Quantity) -> bool:
        """Whether nothing in the file moves or reads the quantity."""
        moved = any(quantity.name in change for r in self._reactions for change in r.changes.values())
        ruled = quantity.id in self._rates or quantity.id in self._jumped
        return not moved and not ruled and quantity.symbol not in self._used_symbols()

    def _used_symbols(self) -> set[sympy.Symbol]:
        return set().union(*(part.free_symbols for part in self._mathematics())) - {time}

    def _mathematics(self) -> list[Basic]:
        """Every expression of the file."""
        parts: list[Basic] = [*self._initial.values(), *self._assigned.values(), *self._rates.values()]
        parts += [part for event in self._events for part in event.expressions()]
        return parts + [part for reaction in self._reactions for part in (reaction.law, *reaction.changes)]

    def _raw(self, quantity: Quantity) -> Expr:
        """The value at time zero as the file states it."""
        if quantity.id in self._initial:
            return quantity.amount(self._initial[quantity.id])
        return quantity.value if quantity.value is not None else sympy.S.Zero

    def _ruled(self) -> dict[str, Expr]:
        """Name to assignment rule; a reaction whose id stands in mathematics is assigned its rate."""
        quantities = self._declared.quantities
        ruled = {quantities[i].name: quantities[i].amount(value) for i, value in self._assigned.items()}
        used = self._used_symbols()
        named = {r.id: r.law for r in self._reactions if symbol(r.id) in used or not r.plain}
        return {**ruled, **{name: law for name, law in named.items() if name not in ruled}}

    def _amount_rates(self, varying: set[str]) -> dict[str, Expr]:
        """Rate rules as rates of amounts: d(cV)/dt = V dc/dt + c dV/dt."""
        rates: dict[str, Expr] = {}
        for identity, rate in self._rates.items():
            quantity = self._declared.quantities[identity]
            rates[quantity.name] = quantity.amount(rate)
            if quantity.size is not None and quantity.size.name in varying:
                growth = self._rates.get(quantity.compartment)
                if growth is None:
                    where = f"the size of `{quantity.compartment}` follows an assignment rule"
                    self._findings.unsupported(f"rate rule of `{identity}`: it moves a concentration, and {where}")
                    continue
                rates[quantity.name] += quantity.meaning * growth
        return rates

    def _refuse_unset(
        self, states: list[Quantity], unset: set[str], values: dict[str, Expr], rates: dict[str, Expr]
    ) -> None:
        """Notes every quantity without a value that something needs."""
        moving = {q.name for q in states}
        needed: list[tuple[str, Basic]] = [(f"`{name}`", value) for name, value in values.items()]
        needed += [(f"rate rule of `{name}`", value) for name, value in rates.items()]
        needed += [(f"reaction `{r.name}`", e) for r in self._reactions for e in (r.law, *r.changes)]
        needed += [(f"event `{event.name}`", e) for event in self._events for e in event.expressions()]
        for quantity in self._declared.quantities.values():
            if quantity.name not in unset:
                continue
            users = list(dict.fromkeys(place for place, e in needed if quantity.symbol in e.free_symbols))
            infinite = not math.isnan(self._declared.endless.get(quantity.id, math.nan))
            if quantity.name in moving:
                problem = "its initial value is infinite" if infinite else "it has no initial value; give it one"
                self._findings.unsupported(f"{quantity.kind} `{quantity.id}`: {problem}")
            elif users:
                problem = "its value is infinite" if infinite else "no value"
                self._findings.unsupported(
                    f"{quantity.kind} `{quantity.id}`: {problem}, but used in {', '.join(users)}"
                )

    # Parts of the model

    def _state(self, quantity: Quantity, initial: Expr) -> State:
        notes = quantity.notes
        if notes.get("initial") == "float" and initial.is_Integer:
            initial = sympy.Float(float(initial))
        scale = self._scale(quantity)
        moving = quantity.kind in ("species", "compartment")
        nonnegative = notes["nonnegative"] == "true" if "nonnegative" in notes else moving
        return State(quantity.name, initial, quantity.unit, scale, nonnegative)

    def _scale(self, quantity: Quantity) -> float | None:
        text = quantity.notes.get("scale")
        try:
            return None if text is None else float(text)
        except ValueError:
            raise InvalidSBML(
                f"{self._title} is not valid:", [f"scale of `{quantity.id}`: {text!r} is no number"]
            ) from None

    def _parameter(self, quantity: Quantity, value: Expr | None) -> Parameter:
        """A parameter; without a value it is one that nothing uses, infinite or not a number."""
        number = self._declared.endless[quantity.id] if value is None else float(value)
        written = self._model.getParameter(quantity.id)
        if number == 0 and written is not None and written.getValue() == 0:
            # The sign of a zero is part of what was written.
            number = written.getValue()
        return Parameter(quantity.name, number, quantity.unit, quantity.description)

    def _model_reactions(self, assignments: dict[str, Expr]) -> Iterator[Reaction]:
        for reaction in self._reactions:
            yield from reaction.parts(self._law(reaction, assignments))

    def _law(self, reaction: ReadReaction, assignments: dict[str, Expr]) -> Expr:
        assigned = assignments.get(reaction.id) == reaction.law
        return symbol(reaction.id) if assigned else reaction.law

    def _concentrations(self, unset: set[str]) -> dict[str, Expr]:
        found = {}
        for quantity in self._declared.quantities.values():
            if quantity.kind == "species" and quantity.compartment in self._declared.sized:
                size = self._declared.quantities[quantity.compartment]
                if not {quantity.name, size.name} & unset:
                    found[f"[{quantity.name}]"] = quantity.symbol / size.symbol
        return found

    def _separate_observables(self, assignments: dict[str, Expr]) -> tuple[dict[str, Expr], dict[str, Expr]]:
        """What a model was written with as observables, and the assignments proper."""
        marked = {q.name for q in self._declared.quantities.values() if q.notes.get("role") == "observable"}
        used = {atom.name for atom in self._used_symbols()}
        observables = {name: value for name, value in assignments.items() if name in marked - used}
        return observables, {name: value for name, value in assignments.items() if name not in observables}

    def _description(self) -> dict[str, Any]:
        notes = read_annotation(self._model, "model")
        if notes is not None:
            return {key: notes.get(key, "") for key in ("name", "source", "time_unit")}
        name = self._model.getName() or self._model.getId()
        return {"name": name, "source": _published(self._model), "time_unit": time_unit(self._model)}


def _published(model: libsbml.Model) -> str:
    """Links to what describes the model, from its MIRIAM annotation."""
    links: list[str] = []
    for i in range(model.getNumCVTerms()):
        term = model.getCVTerm(i)
        kinds = (libsbml.BQM_IS_DESCRIBED_BY, libsbml.BQM_IS)
        if term.getQualifierType() == libsbml.MODEL_QUALIFIER and term.getModelQualifierType() in kinds:
            links += [term.getResourceURI(j) for j in range(term.getNumResources())]
    return " ".join(links)


def _each(items: Any) -> Iterator[Any]:
    return (items.get(i) for i in range(items.size()))
