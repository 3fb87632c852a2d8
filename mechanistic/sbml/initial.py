"""Values at time zero: initial assignments and rules, put into each other until only parameters are left."""

from collections.abc import Collection, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter

import sympy
from sympy import Basic, Expr

from mechanistic.model import delay, symbol, time
from mechanistic.sbml.delays import Start, before_start
from mechanistic.sbml.extent import Extents
from mechanistic.sbml.findings import Findings


def at_start(
    raw: Mapping[str, Expr],
    states: Collection[str],
    ruled: Mapping[str, Expr],
    findings: Findings,
    remembered: bool = True,
) -> Start:
    """Values at time zero.

    Args:
        raw: initial values of states and of constants that are given by an expression.
        states: names of the states.
        ruled: assignment rules.
        findings: where cycles and mathematics of excessive size are noted.
        remembered: whether delays may ask for the past; otherwise it is left out.
    """
    wanted = {**raw, **ruled}
    needs = {name: {atom.name for atom in _atoms(value) if atom.name in wanted} for name, value in wanted.items()}
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        findings.invalid(f"initial assignments and rules depend on each other in a cycle: {cycle}")
        return Start({}, set(states), {}, {})
    if not _written_out(order, wanted, findings):
        return Start({}, set(states), {}, {})
    varying = _varying(order, states, ruled)
    values: dict[str, Expr] = {}
    known: dict[Basic, Expr] = {time: sympy.S.Zero}
    past: dict[Basic, Expr] = {}
    for name in order:
        value = wanted[name]
        if remembered:
            before = before_start(value, past)
            value = before if value.has(delay) else value
            if name in varying or time in before.free_symbols:
                past[symbol(name)] = before
        value = value.xreplace(known)
        if name not in ruled:
            values[name] = value
        if name in varying:
            known[symbol(name)] = value
    return Start(values, varying, past, known)


def _varying(order: Iterable[str], states: Collection[str], ruled: Mapping[str, Expr]) -> set[str]:
    varying = set(states)
    for name in order:
        if name in ruled:
            value = ruled[name]
            if time in value.free_symbols or any(atom.name in varying for atom in _atoms(value)):
                varying.add(name)
    return varying


def _written_out(order: Iterable[str], wanted: Mapping[str, Expr], findings: Findings) -> bool:
    """Whether no quantity becomes larger than sympy can handle when everything it depends on is written in."""
    extents = Extents()
    for name in order:
        if not extents.define(symbol(name), wanted[name]).acceptable:
            findings.unsupported(f"`{name}`: what it depends on is too large or too deep to be written out")
            return False
    return True


def _atoms(expression: Expr) -> set[sympy.Symbol]:
    return expression.free_symbols - {time}
