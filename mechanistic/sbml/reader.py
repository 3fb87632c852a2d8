"""SBML files read into kinetic models: syntax trees to symbols, without formulae as text."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import libsbml
from sympy import Expr

from mechanistic.errors import InvalidSBML, ModelError
from mechanistic.model import KineticModel, delay
from mechanistic.sbml.algebraic import AlgebraicRules
from mechanistic.sbml.annotation import read_annotation
from mechanistic.sbml.assembly import Assembly, Gathered
from mechanistic.sbml.declarations import Declarations
from mechanistic.sbml.derivatives import Derivatives, Equations
from mechanistic.sbml.document import Document
from mechanistic.sbml.events import EventReader, has_mathematics
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.reactions import ReactionReader
from mechanistic.sbml.translator import Function, Translator
from mechanistic.sbml.units import time_unit


def read_sbml(source: str | Path) -> KineticModel:
    """The model of an SBML file, Level 1 to 3, as immutable symbols.

    States are amounts; a species whose symbol is a concentration in the file appears as amount over compartment size,
    and every species in a compartment with a size has its concentration as the observable `[id]`. Local parameters are
    called `reaction.parameter`. Initial assignments stay expressions over the parameters, so that a changed parameter
    changes what follows from it. Events assign amounts; a species whose concentration a rate rule moves, while the size
    of its compartment jumps, is the state `id.concentration`.

    Args:
        source: path of a file, or its text.

    Raises:
        OSError: when there is no such file.
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
        jumped = {identity for event in self._events for identity in event.values}
        reading = ReactionReader(self._model, self._declared, self._translator, self._findings)
        algebraic = AlgebraicRules(self._model, self._declared, self._translator, self._findings)
        algebraic.match(self._initial, {*self._assigned, *self._rates}, jumped)
        ruled = {*self._assigned, *self._rates, *algebraic.determined}
        self._reactions = reading.read(self._initial, ruled, jumped)
        self._assigned |= algebraic.solve(self._assigned, self._reactions)
        self._algebraic = algebraic.equations
        self._initial = {name: value for name, value in self._initial.items() if name not in self._assigned}
        self._local_parameters = reading.parameters

    def model(self) -> KineticModel:
        """The model; raises when anything was found that stands in the way."""
        pieces = Assembly(self._title, self._declared, self._gathered(), self._findings).pieces()
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

    def _gathered(self) -> Gathered:
        """All mathematics, with right-hand sides in place of the csymbol `rateOf`."""
        said = Gathered(
            self._initial,
            self._assigned,
            self._rates,
            self._algebraic,
            tuple(self._reactions),
            tuple(self._events),
            tuple(self._local_parameters),
        )
        still = {parameter.name for parameter in self._local_parameters}
        past = said.initial if any(part.has(delay) for part in said.expressions()) else None
        stated = {**self._assigned, **self._algebraic}
        equations = Equations(stated, self._rates, self._reactions, still, past)
        found = Derivatives(self._translator.rate_targets, self._declared, equations, self._findings)
        return replace(
            said,
            initial=found.expressions(said.initial, "initial assignment"),
            assigned=found.expressions(said.assigned, "assignment rule"),
            rates=found.expressions(said.rates, "rate rule"),
            equations=found.expressions(said.equations, "algebraic rule"),
            reactions=tuple(found.reaction(reaction) for reaction in said.reactions),
            events=tuple(found.event(event) for event in said.events),
        )

    def _translated(self, item: libsbml.SBase, target: str, kind: str) -> Expr:
        return self._translator.expression(item.getMath(), self._declared.scope, f"{kind} of `{target}`")

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
