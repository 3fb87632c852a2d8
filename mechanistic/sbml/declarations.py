"""What the ids of a file stand for: compartments, species, parameters, stoichiometries and reactions."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import final

import libsbml
from sympy import Expr, Integer, Symbol

from mechanistic.model import symbol
from mechanistic.sbml.annotation import read_annotation
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.mathematics import Untranslatable, endless_number, literal
from mechanistic.sbml.units import size_unit, substance_unit, unit_text


@final
@dataclass(frozen=True)
class Quantity:
    """Something that has a value: a compartment, species, parameter or stoichiometry.

    Attributes:
        id: in the file.
        kind: `compartment`, `species`, `parameter` or `stoichiometry`.
        name: in the model; the id, unless the file was written from a model with another name.
        value: written as an attribute, an amount for species; None when it is not set.
        unit, description: as text.
        size: for a species whose symbol is a concentration, the symbol of its compartment; otherwise None.
        compartment: of a species, or an empty string.
        moves: whether reactions may change it.
        notes: what our own annotation says.
    """

    id: str
    kind: str
    name: str
    value: Expr | None = None
    unit: str = ""
    description: str = ""
    size: Symbol | None = None
    compartment: str = ""
    moves: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def symbol(self) -> Symbol:
        """The symbol of the quantity in the model: an amount for species."""
        return symbol(self.name)

    @property
    def meaning(self) -> Expr:
        """What the id stands for in the file's mathematics: a concentration for most species."""
        return self.symbol if self.size is None else self.symbol / self.size

    def amount(self, value: Expr) -> Expr:
        """The value of `symbol` when the id has the value `value`."""
        return value if self.size is None else value * self.size


@final
class Declarations:
    """The quantities of a file by id, in the order of species, compartments, parameters, stoichiometries.

    Attributes:
        quantities: id to quantity.
        sized: ids of compartments with a size: species in them have a concentration.
        scope: id to what it stands for in mathematics.
        endless: id of a parameter without a finite value to that value, an infinite one or NaN.
        negative_zeros: ids of parameters whose value is written as -0.
    """

    def __init__(self, model: libsbml.Model, findings: Findings) -> None:
        self._model = model
        self._findings = findings
        self.endless: dict[str, float] = {}
        self.negative_zeros: set[str] = set()
        compartments = {c.getId(): self._compartment(c) for c in _each(model.getListOfCompartments())}
        points = {c.getId() for c in _each(model.getListOfCompartments()) if _is_point(c)}
        with_size = {c for c, quantity in compartments.items() if c not in points and not quantity.notes}
        species = [self._species(s, compartments, with_size) for s in _each(model.getListOfSpecies())]
        parameters = [self._parameter(p) for p in _each(model.getListOfParameters())]
        named = (r for r in _references(model) if r.isSetId() and read_annotation(r, "holder") is None)
        references = [self._stoichiometry(r) for r in named]
        items = [*species, *compartments.values(), *parameters, *references]
        self.quantities: dict[str, Quantity] = {q.id: q for q in items}
        count = Counter(q.name for q in items)
        for name in (name for name, times in count.items() if times > 1):
            findings.invalid(f"`{name}`: annotations give this name to {count[name]} quantities")
        self.sized = with_size
        self.scope: dict[str, Expr] = {q.id: q.meaning for q in items}
        for reaction in _each(model.getListOfReactions()):
            self.scope[reaction.getId()] = symbol(reaction.getId())

    def assign_endless(self, identity: str, tree: libsbml.ASTNode) -> bool:
        """Gives a parameter the value of an initial assignment that is infinite or NaN, if this is one."""
        quantity = self.quantities.get(identity)
        value = endless_number(tree)
        if quantity is None or quantity.kind != "parameter" or value is None:
            return False
        self.quantities[identity] = replace(quantity, value=None)
        self.endless[identity] = value
        return True

    def _compartment(self, compartment: libsbml.Compartment) -> Quantity:
        notes = read_annotation(compartment, "holder") or {}
        value = self._number(compartment, compartment.isSetSize() and not notes, compartment.getSize())
        unit, description = size_unit(self._model, compartment), _description(compartment)
        identity = compartment.getId()
        return Quantity(identity, "compartment", identity, value, unit, description, notes=notes)

    def _species(self, species: libsbml.Species, compartments: dict[str, Quantity], with_size: set[str]) -> Quantity:
        notes = read_annotation(species, "state") or {}
        place = species.getCompartment()
        has_size = place in with_size
        size = compartments[place].symbol if has_size else None
        value = self._number(species, species.isSetInitialAmount(), species.getInitialAmount())
        if species.isSetInitialConcentration():
            value = self._number(species, True, species.getInitialConcentration())
            value = value if size is None or value is None else value * size
        return Quantity(
            species.getId(),
            "species",
            notes.get("name", species.getId()),
            value,
            notes.get("unit", substance_unit(self._model, species)),
            _description(species),
            None if species.getHasOnlySubstanceUnits() else size,
            place,
            not species.getConstant() and not species.getBoundaryCondition(),
            notes,
        )

    def _parameter(self, parameter: libsbml.Parameter) -> Quantity:
        notes = read_annotation(parameter, "parameter") or {}
        value = None
        if parameter.isSetValue() and not math.isfinite(parameter.getValue()):
            # All NaNs are the same object, so that parameters can be compared.
            self.endless[parameter.getId()] = math.nan if math.isnan(parameter.getValue()) else parameter.getValue()
        else:
            value = self._number(parameter, parameter.isSetValue(), parameter.getValue())
            if value == 0 and math.copysign(1.0, parameter.getValue()) < 0:
                self.negative_zeros.add(parameter.getId())
        unit = notes.get("unit", unit_text(self._model, parameter.getUnits()))
        description = notes.get("description", _description(parameter))
        identity = parameter.getId()
        return Quantity(identity, "parameter", notes.get("name", identity), value, unit, description, notes=notes)

    def _stoichiometry(self, reference: libsbml.SpeciesReference) -> Quantity:
        value = self._number(reference, reference.isSetStoichiometry(), reference.getStoichiometry())
        return Quantity(reference.getId(), "stoichiometry", reference.getId(), value)

    def _number(self, element: libsbml.SBase, is_set: bool, value: float) -> Expr | None:
        """The number of an attribute; NaN counts as not set, an infinite value is refused."""
        if not is_set or math.isnan(value):
            return None
        try:
            number = literal(value)
        except Untranslatable:
            return None
        if number.is_infinite:
            self._findings.unsupported(f"{element.getElementName()} `{element.getId()}`: its value is infinite")
            return Integer(0)
        return number


def _is_point(compartment: libsbml.Compartment) -> bool:
    """Whether a compartment has no extent, so that concentrations in it mean nothing."""
    return compartment.getSpatialDimensionsAsDouble() == 0 and not compartment.isSetSize()


def _description(element: libsbml.SBase) -> str:
    """The name for people, where it says more than the id."""
    return "" if element.getName() == element.getId() else str(element.getName())


def _each(items: libsbml.ListOf) -> Iterator[libsbml.SBase]:
    return (items.get(i) for i in range(items.size()))


def _references(model: libsbml.Model) -> Iterator[libsbml.SpeciesReference]:
    for reaction in _each(model.getListOfReactions()):
        yield from _each(reaction.getListOfReactants())
        yield from _each(reaction.getListOfProducts())
