"""Algebraic rules: which quantity each determines, and the formula for it, or the equation where there is none.

The matching between rules and quantities is that of the standard's check for overdetermined models: SBML Level 3
Version 2, section 4.11.5.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, final

import libsbml
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, maximum_bipartite_matching
from sympy import Basic, Dummy, Expr, Symbol

from mechanistic.model import symbol
from mechanistic.sbml.annotation import read_annotation
from mechanistic.sbml.declarations import Declarations, Quantity
from mechanistic.sbml.delays import outermost_delays
from mechanistic.sbml.dependencies import names_in
from mechanistic.sbml.elimination import is_regular, solve_linear, solve_one, with_exact_numbers
from mechanistic.sbml.extent import Extents
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.reactions import ReadReaction
from mechanistic.sbml.translator import Translator


class _Rule(NamedTuple):
    """0 = `residual`; `label` is what messages call the rule.

    `written_for` is the id of the quantity whose equation our own writer wrote, or an empty string.
    """

    label: str
    tree: libsbml.ASTNode
    residual: Expr
    written_for: str


@final
class AlgebraicRules:
    """The algebraic rules of one file.

    Attributes:
        determined: id of the quantity that a rule determines to that rule's place among the algebraic rules.
        equations: id of a determined quantity that has no formula to what is zero, over symbols of the model.
    """

    def __init__(
        self, model: libsbml.Model, declared: Declarations, translator: Translator, findings: Findings
    ) -> None:
        self._model = model
        self._declared = declared
        self._findings = findings
        self._rules = [
            _Rule(label, tree, translator.expression(tree, declared.scope, label), written_for)
            for label, tree, written_for in _algebraic(model)
        ]
        self.determined: dict[str, int] = {}
        self.equations: dict[str, Expr] = {}
        self._given: set[str] = set()

    def match(self, given: Collection[str], ruled: Collection[str], jumped: Collection[str] = ()) -> None:
        """Finds the quantity that each rule determines; what is not certain is noted as not supported.

        Args:
            given: ids of quantities with an initial assignment.
            ruled: ids of quantities with an assignment rule or a rate rule.
            jumped: ids of quantities that events assign; they keep the value in between.
        """
        self._given = set(given)
        quantities = self._declared.quantities
        mentioned = [set(names_in(rule.tree)) & quantities.keys() for rule in self._rules]
        moved = self._moved()
        free = {name for name in set().union(*mentioned) - set(ruled) - moved if self._is_variable(quantities[name])}
        self._take_written(free)
        free -= self.determined.keys()
        named = [set() if self._is_taken(i) else names & free for i, names in enumerate(mentioned)]
        for members in _components(named):
            if len(members) == 1 and self._is_taken(members[0]):
                continue
            names = {name for rule in members for name in named[rule]}
            chosen = self._chosen([quantities[name] for name in names], given, jumped, len(members))
            matched = None if chosen is None else _matching([named[rule] & chosen for rule in members])
            if matched is None:
                self._refuse_match(members, names)
                continue
            self.determined.update({name: members[row] for row, name in enumerate(matched)})
        for name in sorted(self.determined.keys() & set(jumped)):
            label = self._rules[self.determined[name]].label
            self._findings.unsupported(f"{label}: it determines `{name}`, which an event assigns")

    def solve(self, assigned: Mapping[str, Expr], reactions: Iterable[ReadReaction]) -> dict[str, Expr]:
        """Id of each determined quantity to its value as a formula over everything that no algebraic rule determines.

        Args:
            assigned: assignment rules by id.
            reactions: the reactions of the file; their rates may stand in rules.
        """
        rates = {reaction.id: reaction.law for reaction in reactions}
        determined = {name: rule for name, rule in self.determined.items() if name not in self.equations}
        ids = [*determined, *(name for name in assigned if name not in determined), *rates]
        values = {name: Dummy(name, real=True) for name in ids}
        known = self._written_as(values)
        # What was is known already.
        late = _set_aside([*(rule.residual for rule in self._rules), *assigned.values(), *rates.values()], known)
        residuals = {
            name: self._rules[rule].residual.xreplace(late).xreplace(known) for name, rule in determined.items()
        }
        for name, formula in {**assigned, **rates}.items():
            residuals.setdefault(name, values[name] - formula.xreplace(late).xreplace(known))
        meanings = {values[name]: self._declared.scope[name] for name in ids}
        meanings |= {value: past for past, value in late.items()}
        solved: dict[str, Expr] = {}
        for block in _blocks(residuals, values):
            wanted = [name for name in block if name in determined]
            if wanted:
                solution = self._solution(wanted, [residuals[name] for name in block], [values[name] for name in block])
                found = {name: solution[values[name]].xreplace(meanings) for name in wanted if solution}
                if any(self._declared.quantities[name].symbol in value.free_symbols for name, value in found.items()):
                    # It depends on what it was itself: no assignment, which would be a cycle.
                    self._keep(wanted)
                else:
                    solved.update(found)
        return solved

    def _is_taken(self, rule: int) -> bool:
        return rule in self.determined.values()

    def _take_written(self, free: Collection[str]) -> None:
        """Equations that our own writer wrote stay equations of the same quantities."""
        for i, rule in enumerate(self._rules):
            if rule.written_for in free and rule.written_for not in self.determined:
                self.determined[rule.written_for] = i
                self.equations[rule.written_for] = rule.residual

    def _is_variable(self, quantity: Quantity) -> bool:
        """Whether the quantity may change in time at all."""
        element = self._model.getElementBySId(quantity.id)
        # Before Level 3, the stoichiometry of a participant is no variable.
        return not element.getConstant() and (quantity.kind != "stoichiometry" or element.getLevel() > 2)

    def _moved(self) -> set[str]:
        """Ids of the species that reactions move."""
        found: set[str] = set()
        for i in range(self._model.getNumReactions()):
            reaction = self._model.getReaction(i)
            for references in (reaction.getListOfReactants(), reaction.getListOfProducts()):
                found.update(references.get(j).getSpecies() for j in range(references.size()))
        return {name for name in found if self._declared.quantities[name].moves}

    def _chosen(
        self, names: Sequence[Quantity], given: Collection[str], jumped: Collection[str], count: int
    ) -> set[str] | None:
        """The `count` quantities that rules can be meant to determine, or None.

        Where there are more than rules, these are the ones that no event assigns; or without any other value; and a
        species on the boundary stays as it is, where others can follow.
        """
        unset = {q.id for q in names if q.value is None and q.id not in given}
        inside = {q.id for q in names if q.kind != "species" or q.moves}
        every = {q.id for q in names}
        still = every - set(jumped)
        sets = (every, still, unset, unset | inside, unset & still, (unset | inside) & still)
        return next((chosen for chosen in sets if len(chosen) == count), None)

    def _refuse_match(self, members: Sequence[int], names: Collection[str]) -> None:
        if len(names) > len(members):
            problem = (
                f"it may determine any of {_listed(names)}; give all but one of them a rule, or make them constant"
            )
        else:
            problem = (
                "every quantity in it is constant, moved by reactions, or has a rule; quantities that move on their own"
                " and are held by a rule as well are not supported"
            )
        for rule in members:
            self._findings.unsupported(f"{self._rules[rule].label}: {problem}")

    def _written_as(self, values: Mapping[str, Symbol]) -> dict[Expr, Expr]:
        """Symbol in the model to what it is in terms of `values`, which are concentrations for most species."""
        sizes = {symbol(name): value for name, value in values.items()}
        quantities = self._declared.quantities
        found: dict[Expr, Expr] = {}
        for name, value in values.items():
            quantity = quantities.get(name)
            size = None if quantity is None else quantity.size
            key = symbol(name) if quantity is None else quantity.symbol
            found[key] = value if size is None else value * sizes.get(size, size)
        return found

    def _keep(self, names: Iterable[str]) -> None:
        self.equations.update({name: self._rules[self.determined[name]].residual for name in names})

    def _constants(self, symbols: Collection[Symbol]) -> dict[Expr, Expr]:
        """The symbols whose values never change, and are numbers of the file."""
        found: dict[Expr, Expr] = {}
        for quantity in self._declared.quantities.values():
            value = quantity.value
            if quantity.symbol not in symbols or value is None or not value.is_Number or quantity.id in self._given:
                continue
            if self._model.getElementBySId(quantity.id).getConstant():
                found[quantity.symbol] = with_exact_numbers(value)
        return found

    def _solution(
        self, wanted: Sequence[str], residuals: Sequence[Expr], unknowns: Sequence[Symbol]
    ) -> dict[Symbol, Expr]:
        """The unknowns of a block; empty when there is no formula for them."""
        extents = Extents()
        # A factor may vanish for the very constants of the file, which a formula need not show: (k - 1) x = 0.
        constants = self._constants(set().union(*(residual.free_symbols for residual in residuals)))
        in_numbers = [with_exact_numbers(residual).xreplace(constants) for residual in residuals]
        solution = _solved(residuals, unknowns)
        if solution is not None and all(extents.of(value).acceptable for value in solution.values()):
            if _solved(in_numbers, unknowns):
                return solution
        elif is_regular(in_numbers, unknowns):
            self._keep(wanted)
            return {}
        labels = [self._rules[self.determined[name]].label for name in wanted]
        together = f" together with {_listed(labels[1:], '')}" if len(labels) > 1 else ""
        one = "it does not determine" if len(wanted) == 1 else "they do not determine all of"
        self._findings.unsupported(f"{labels[0]}{together}: {one} {_listed(wanted)}; write an assignment rule instead")
        return {}


def _set_aside(expressions: Iterable[Expr], unknown: Collection[Basic]) -> dict[Basic, Expr]:
    """Each delay to a symbol for it, unless how long it is depends on what is unknown now."""
    found = {late for expression in expressions for late in outermost_delays(expression)}
    return {late: Dummy("delay", real=True) for late in found if late.args[1].free_symbols.isdisjoint(unknown)}


def _solved(residuals: Sequence[Expr], unknowns: Sequence[Symbol]) -> dict[Symbol, Expr] | None:
    if len(unknowns) > 1:
        return solve_linear(residuals, unknowns)
    value = solve_one(residuals[0], unknowns[0])
    return None if value is None else {unknowns[0]: value}


def _algebraic(model: libsbml.Model) -> Iterable[tuple[str, libsbml.ASTNode, str]]:
    """Label, mathematics and purpose of each algebraic rule; one without mathematics says nothing."""
    for i in range(model.getNumRules()):
        rule = model.getRule(i)
        if rule.isAlgebraic() and rule.isSetMath():
            identity = rule.getIdAttribute() or rule.getMetaId()
            label = f"algebraic rule `{identity}`" if identity else f"algebraic rule number {i + 1}"
            yield label, rule.getMath(), (read_annotation(rule, "algebraic") or {}).get("variable", "")


def _components(named: Sequence[Collection[str]]) -> list[list[int]]:
    """Groups of rules that share quantities, directly or through other rules."""
    if not named:
        return []
    graph = _incidence(named)
    _, groups = connected_components(graph @ graph.T, directed=False)
    return [np.flatnonzero(groups == group).tolist() for group in range(groups.max() + 1)]


def _matching(named: Sequence[Collection[str]]) -> list[str] | None:
    """A quantity for each rule, none twice, or None when there is no such choice."""
    names = _columns(named)
    if not names:
        return None
    match = maximum_bipartite_matching(_incidence(named), perm_type="column")
    return None if (match < 0).any() else [names[column] for column in match]


def _blocks(residuals: Mapping[str, Expr], values: Mapping[str, Symbol]) -> list[list[str]]:
    """Quantities that can only be solved for together."""
    names = {value: name for name, value in values.items()}
    needs = [{names[atom] for atom in residual.free_symbols if atom in names} for residual in residuals.values()]
    if not needs:
        return []
    order = {name: i for i, name in enumerate(residuals)}
    rows = [row for row, used in enumerate(needs) for _ in used]
    columns = [order[name] for used in needs for name in used]
    graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(order), len(order)))
    _, groups = connected_components(graph, directed=True, connection="strong")
    found: dict[int, list[str]] = {}
    for name, group in zip(residuals, groups.tolist(), strict=True):
        found.setdefault(group, []).append(name)
    return list(found.values())


def _columns(named: Sequence[Collection[str]]) -> list[str]:
    return sorted({name for names in named for name in names})


def _incidence(named: Sequence[Collection[str]]) -> csr_array:
    names = _columns(named)
    column = {name: i for i, name in enumerate(names)}
    rows = [row for row, used in enumerate(named) for _ in used]
    columns = [column[name] for used in named for name in used]
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(named), max(len(names), 1)))


def _listed(names: Collection[str], quote: str = "`") -> str:
    return ", ".join(f"{quote}{name}{quote}" for name in (sorted(names) if quote else names))
