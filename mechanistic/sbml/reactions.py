"""Reactions of a file: kinetic laws, exact stoichiometries, and factors that are not numbers."""

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import final

import libsbml
import sympy
from sympy import Expr, Rational

from mechanistic.model import Parameter, Reaction, symbol
from mechanistic.sbml.annotation import read_annotation
from mechanistic.sbml.declarations import Declarations
from mechanistic.sbml.dependencies import names_in
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.translator import Translator
from mechanistic.sbml.units import unit_text


def exact(value: float) -> Rational:
    """The rational number that the shortest decimal text of `value` names."""
    fraction = Fraction(repr(float(value)))
    return Rational(fraction.numerator, fraction.denominator)


@final
@dataclass(frozen=True)
class ReadReaction:
    """A reaction of the file.

    Attributes:
        id: in the file.
        name: the id, or the name in the model that the file was written from.
        law: rate of the extent of the reaction.
        changes: factor to net stoichiometry: an amount changes by coefficient × factor × law. The factor is 1 unless
            a conversion factor or a stoichiometry that is not a number takes part.
        fast: whether it is always at equilibrium.
    """

    id: str
    name: str
    law: Expr
    changes: Mapping[Expr, Mapping[str, Rational]]
    fast: bool = False

    def rewritten(self, change: Callable[[Expr, str], Expr]) -> "ReadReaction":
        """The same reaction with `change` applied to each expression and the words for where it stands."""
        place = f"reaction `{self.id}`"
        changes: dict[Expr, dict[str, Rational]] = {}
        for factor, net in self.changes.items():
            merged = changes.setdefault(change(factor, place), {})
            for name, count in net.items():
                merged[name] = merged.get(name, Rational(0)) + count
        return replace(self, law=change(self.law, place), changes=changes)

    def parts(self, law: Expr) -> Iterable[Reaction]:
        """The reactions of the model: one for each factor, since stoichiometries of a model are numbers."""
        factors = sorted(self.changes, key=lambda factor: factor != 1) or [sympy.S.One]
        names = [self.name]
        for factor in factors[1:]:
            name = f"{self.name}.{next(iter(self.changes[factor]))}"
            names.append(name if name not in names else f"{name}.{len(names)}")
        for name, factor in zip(names, factors, strict=True):
            yield Reaction(name, self.changes.get(factor, {}), factor * law, self.fast)

    @property
    def plain(self) -> bool:
        """Whether one reaction of the model with rate `law` says it all."""
        return not self.changes or tuple(self.changes) == (sympy.S.One,) or self.is_mixed

    @property
    def is_mixed(self) -> bool:
        """Whether it is fast and has several factors, which become one once they are numbers."""
        return self.fast and len(self.changes) > 1


@final
class ReactionReader:
    """Reads the reactions of one file."""

    def __init__(
        self, model: libsbml.Model, declared: Declarations, translator: Translator, findings: Findings
    ) -> None:
        self._model = model
        self._declared = declared
        self._translator = translator
        self._findings = findings
        self.parameters: list[Parameter] = []

    def read(self, fixed: Mapping[str, Expr], ruled: Iterable[str], jumped: Iterable[str] = ()) -> list[ReadReaction]:
        """The reactions of the file.

        Args:
            fixed: initial assignments by id; one to a stoichiometry fixes it.
            ruled: ids with a rule; a stoichiometry among them changes in time.
            jumped: ids that events assign; the same holds for them.
        """
        self._fixed, self._ruled = fixed, set(ruled)
        self._varying = self._ruled | set(jumped)
        reactions = [self._model.getReaction(i) for i in range(self._model.getNumReactions())]
        self._refuse_lawless([reaction.getId() for reaction in reactions if not reaction.isSetKineticLaw()])
        return [self._reaction(reaction) for reaction in reactions]

    def _refuse_lawless(self, names: list[str]) -> None:
        if names and self._model.getPlugin("fbc") is not None:
            count = f"{len(names)} reactions have no kinetic law" if len(names) > 1 else f"`{names[0]}` has no law"
            self._findings.unsupported(f"package fbc: flux balance states bounds and an optimum, no rates; {count}")
            return
        for name in names:
            self._findings.unsupported(f"reaction `{name}`: it has no kinetic law")

    def _reaction(self, reaction: libsbml.Reaction) -> ReadReaction:
        identity = reaction.getId()
        notes = read_annotation(reaction, "reaction") or {}
        name = notes.get("name", identity)
        law = reaction.getKineticLaw()
        if law is None:
            return ReadReaction(identity, name, sympy.S.Zero, {})
        place = f"kinetic law of reaction `{identity}`"
        scope = ChainMap(self._local_parameters(name, law), self._declared.scope)
        rate = self._translator.expression(law.getMath(), scope, place)
        changes = self._ordered(self._changes(reaction), notes.get("order", ""))
        fast = bool(reaction.isSetFast() and reaction.getFast())
        return ReadReaction(identity, name, rate, changes, fast)

    def _local_parameters(self, reaction: str, law: libsbml.KineticLaw) -> dict[str, Expr]:
        used = set(names_in(law.getMath()))
        items = law.getListOfLocalParameters() if law.getLevel() > 2 else law.getListOfParameters()
        scope: dict[str, Expr] = {}
        for i in range(items.size()):
            item = items.get(i)
            identity = item.getId()
            name = f"{reaction}.{identity}"
            scope[identity] = symbol(name)
            value = item.getValue()
            if item.isSetValue() and abs(value) < float("inf"):
                text = item.getName() if item.getName() != identity else ""
                self.parameters.append(Parameter(name, value, unit_text(self._model, item.getUnits()), text))
            elif identity in used:
                self._findings.unsupported(f"local parameter `{identity}` of reaction `{reaction}`: no finite value")
        return scope

    def _changes(self, reaction: libsbml.Reaction) -> dict[Expr, dict[str, Rational]]:
        changes: dict[Expr, dict[str, Rational]] = {}
        for sign, items in ((-1, reaction.getListOfReactants()), (1, reaction.getListOfProducts())):
            for i in range(items.size()):
                reference = items.get(i)
                quantity = self._declared.quantities[reference.getSpecies()]
                if not quantity.moves or quantity.id in self._ruled:
                    continue
                count, factor = self._coefficient(reaction, reference)
                factor *= self._conversion(quantity.id)
                net = changes.setdefault(factor, {})
                net[quantity.name] = net.get(quantity.name, Rational(0)) + sign * count
        return changes

    def _ordered(self, changes: dict[Expr, dict[str, Rational]], order: str) -> dict[Expr, dict[str, Rational]]:
        """Species in the order that our annotation gives; others stay where they are."""
        names = [self._declared.quantities[i].name for i in order.split() if i in self._declared.quantities]
        rank = {name: position for position, name in enumerate(names)}
        return {
            factor: dict(sorted(net.items(), key=lambda item: rank.get(item[0], len(rank))))
            for factor, net in changes.items()
        }

    def _coefficient(self, reaction: libsbml.Reaction, reference: libsbml.SpeciesReference) -> tuple[Rational, Expr]:
        """The stoichiometry of a participant as a number times a factor."""
        identity = reference.getId()
        place = f"stoichiometry of `{reference.getSpecies()}` in reaction `{reaction.getId()}`"
        if identity and identity in self._varying:
            return Rational(1), symbol(identity)
        if identity and identity in self._fixed:
            value = self._fixed[identity]
            return (exact_number(value), sympy.S.One) if value.is_Number else (Rational(1), symbol(identity))
        if reference.isSetStoichiometryMath():
            math = reference.getStoichiometryMath().getMath()
            value = self._translator.expression(math, self._declared.scope, place)
            return (exact_number(value), sympy.S.One) if value.is_Number else (Rational(1), value)
        value = reference.getStoichiometry()
        if not abs(value) < float("inf") or (reference.getLevel() > 2 and not reference.isSetStoichiometry()):
            self._findings.unsupported(f"{place}: no finite value")
            return Rational(1), sympy.S.One
        return exact(value), sympy.S.One

    def _conversion(self, species: str) -> Expr:
        """The factor from the extent of a reaction to the amount of `species`."""
        factor = self._model.getSpecies(species).getConversionFactor() or self._model.getConversionFactor()
        return self._declared.scope[factor] if factor else sympy.S.One


def exact_number(value: Expr) -> Rational:
    """A number of sympy as a rational one; of a double, what its shortest decimal text names."""
    return value if isinstance(value, Rational) else exact(float(value))
