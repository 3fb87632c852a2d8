"""Fast reactions whose column of the stoichiometry holds factors: these become numbers.

A reaction of the file becomes one reaction of the model for each factor, which is right for what has a rate. A fast
reaction moves all its species at once, along one direction, so that here the factors must be known.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import sympy
from sympy import Expr, Rational, Symbol

from mechanistic.sbml.findings import Findings
from mechanistic.sbml.reactions import ReadReaction, exact_number


def factor_symbols(reactions: Iterable[ReadReaction]) -> set[Symbol]:
    """Every symbol in the factors of fast reactions that have more than one."""
    return {atom for r in reactions if r.is_mixed for factor in r.changes for atom in factor.free_symbols}


def with_numbers(
    reactions: Iterable[ReadReaction], values: Mapping[str, Expr], varying: Collection[str], findings: Findings
) -> list[ReadReaction]:
    """The reactions with one factor, 1, in every fast reaction that had several.

    Args:
        reactions: of the file.
        values: name to value at time zero, or to rule.
        varying: names of what changes in time.
        findings: where factors that change in time are noted.
    """
    numbers: dict[Symbol, Expr] = {}
    for atom in factor_symbols(reactions := list(reactions)):
        if atom.name in values and atom.name not in varying:
            numbers[atom] = _number(atom, values)
    return [_joined(reaction, numbers, findings) if reaction.is_mixed else reaction for reaction in reactions]


def _number(value: Expr, values: Mapping[str, Expr]) -> Expr:
    """`value` with constants put in; they are in no cycle."""
    while known := {atom: values[atom.name] for atom in value.free_symbols if atom.name in values}:
        value = value.xreplace(known)
    return value


def _joined(reaction: ReadReaction, numbers: Mapping[Symbol, Expr], findings: Findings) -> ReadReaction:
    net: dict[str, Rational] = {}
    for factor, changes in reaction.changes.items():
        value = factor.xreplace(dict(numbers))
        if not (value.is_number and value.is_finite):
            findings.unsupported(
                f"reaction `{reaction.id}`: it is fast, and the stoichiometry {factor} changes in time"
            )
            return reaction
        for name, count in changes.items():
            net[name] = net.get(name, Rational(0)) + count * exact_number(value)
    return replace(reaction, changes={sympy.S.One: net})
