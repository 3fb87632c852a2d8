"""The csymbol `rateOf`: derivatives in time that stand in mathematics, replaced by what the equations say they are.

SBML Level 3 Version 2 Core, section 3.4.6. Hucka et al. (2019), doi:10.1515/jib-2019-0021.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import final

import sympy
from sympy import Basic, Expr, Piecewise, Symbol
from sympy.logic.boolalg import Boolean

from mechanistic.model import symbol, time
from mechanistic.sbml.declarations import Declarations, Quantity
from mechanistic.sbml.delays import BEFORE_START
from mechanistic.sbml.events import ReadEvent
from mechanistic.sbml.extent import Extents
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.reactions import ReadReaction
from mechanistic.sbml.translator import TERM_LIMIT


@final
@dataclass(frozen=True)
class Equations:
    """What decides how quantities move: rules by id, reactions, and names that never move.

    `initial` holds initial assignments, if delays look back past the start. Without one that depends on time, nothing
    moves there, and rates are zero; otherwise it is None.
    """

    assigned: Mapping[str, Expr]
    rates: Mapping[str, Expr]
    reactions: Iterable[ReadReaction]
    still: Collection[str]
    initial: Mapping[str, Expr] | None = None


@final
class Derivatives:
    """What every `rateOf` of a file is replaced by."""

    def __init__(
        self, targets: Mapping[Symbol, Expr], declared: Declarations, equations: Equations, findings: Findings
    ) -> None:
        """Finds the right-hand side of each target.

        Args:
            targets: placeholder to what stands inside its `rateOf`, as `Translator.rate_targets` holds them.
            declared: the quantities of the file.
            equations: may hold placeholders themselves.
            findings: where cycles, and targets that have no derivative, are noted.
        """
        self._targets = dict(targets)
        self._declared, self._equations, self._findings = declared, equations, findings
        self._by_meaning = {quantity.meaning: quantity for quantity in declared.quantities.values()}
        self._extents = Extents()
        self._found: dict[Symbol, Expr] = {}
        self._resolve()

    def expression(self, value: Expr, place: str) -> Expr:
        """`value` with every placeholder replaced; `place` says in words where it stands."""
        if not self._found or not value.free_symbols & self._found.keys():
            return value
        extent = self._extents.of(value)
        if not extent.acceptable or extent.terms > TERM_LIMIT:
            self._findings.unsupported(f"{place}: too large once the rateOf() in it is written out")
            return sympy.S.Zero
        return value.xreplace(self._found)

    def expressions(self, values: Mapping[str, Expr], kind: str) -> dict[str, Expr]:
        """`expression` for every value; the keys are ids."""
        return {name: self.expression(value, f"{kind} of `{name}`") for name, value in values.items()}

    def event(self, event: ReadEvent) -> ReadEvent:
        """An event with every placeholder in its mathematics replaced."""
        return event.rewritten(self._part)

    def _part(self, value: Basic, place: str) -> Basic:
        """`expression`, of a truth value as well."""
        found: Basic = self.expression(value, place)
        return found if isinstance(value, Expr) or isinstance(found, Boolean) else sympy.false

    def reaction(self, reaction: ReadReaction) -> ReadReaction:
        """A reaction with every placeholder in its law and its factors replaced."""
        return reaction.rewritten(self.expression)

    def _resolve(self) -> None:
        """Right-hand sides in the order in which they need each other."""
        direct: dict[Symbol, Expr] = {}
        waiting = list(self._targets)
        while waiting:
            placeholder = waiting.pop()
            if placeholder not in direct:
                direct[placeholder] = self._derivative(self._targets[placeholder])
                waiting += direct[placeholder].free_symbols & self._targets.keys()
        needs = {placeholder: value.free_symbols & direct.keys() for placeholder, value in direct.items()}
        try:
            order = list(TopologicalSorter(needs).static_order())
        except CycleError as error:
            cycle = " -> ".join(f"rateOf({self._targets[each]})" for each in reversed(error.args[1]))
            self._findings.invalid(f"rates of change depend on each other in a cycle: {cycle}")
            self._found = dict.fromkeys(direct, sympy.S.Zero)
            return
        for placeholder in order:
            value = self.expression(direct[placeholder], f"rateOf({self._targets[placeholder]})")
            if self._equations.initial is not None:
                value = Piecewise((sympy.S.Zero, BEFORE_START), (value, True), evaluate=False)
            self._extents.define(placeholder, value)
            self._found[placeholder] = value

    def _derivative(self, target: Expr) -> Expr:
        """d target / dt, where other derivatives may stay placeholders."""
        quantity = self._by_meaning.get(target)
        if quantity is None:
            if target.is_Symbol and target.name in self._equations.still:
                return sympy.S.Zero
            return self._refuse(target, "it takes the id of a species, compartment, parameter or stoichiometry")
        if quantity.id in self._equations.assigned:
            return self._refuse(target, f"`{quantity.id}` is determined by a rule that states its value, not its rate")
        if self._moves_before(quantity):
            return self._refuse(target, "a delay looks back past the start, where its initial assignment moves it")
        if quantity.id in self._equations.rates:
            return self._equations.rates[quantity.id]
        if any(quantity.name in net for r in self._equations.reactions if r.fast for net in r.changes.values()):
            return self._refuse(target, "a fast reaction moves it at once, at no certain rate")
        amount = self._amount_rate(quantity)
        if quantity.size is None:
            return amount
        if quantity.compartment in self._equations.assigned:
            return self._refuse(target, f"the size of `{quantity.compartment}` is determined by a rule")
        # d(n/V)/dt = (dn/dt)/V - (n/V)(dV/dt)/V
        growth = self._equations.rates.get(quantity.compartment, sympy.S.Zero)
        return amount / quantity.size - quantity.meaning * growth / quantity.size

    def _moves_before(self, quantity: Quantity) -> bool:
        """Whether the quantity moves at negative times, of which a delay may ask."""
        stated = {**self._equations.assigned, **(self._equations.initial or {})}
        names = {each.name: each.id for each in self._declared.quantities.values()}
        seen, stack = {quantity.id}, [quantity.id] if quantity.id in (self._equations.initial or {}) else []
        while stack:
            atoms = stated[stack.pop()].free_symbols
            if time in atoms:
                return True
            new = {names[atom.name] for atom in atoms if atom.name in names} & stated.keys() - seen
            seen |= new
            stack += new
        return False

    def _amount_rate(self, quantity: Quantity) -> Expr:
        terms = [
            net[quantity.name] * factor * symbol(reaction.id)
            for reaction in self._equations.reactions
            for factor, net in reaction.changes.items()
            if quantity.name in net
        ]
        return sympy.Add(*terms)

    def _refuse(self, target: Expr, problem: str) -> Expr:
        self._findings.unsupported(f"rateOf({target}): {problem}")
        return sympy.S.Zero
