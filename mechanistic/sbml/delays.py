"""Delays that look back past the start: initial values and rules of a file hold at negative times as well.

SBML Level 3 Version 2 Core, section 3.4.6. A model's own `delay` takes the value at the start for what was before it;
where a file says otherwise, that is written into the model.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, final

import sympy
from sympy import Basic, Expr, Piecewise

from mechanistic.model import delay, symbol, time
from mechanistic.sbml.events import ReadEvent
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.reactions import ReadReaction

BEFORE_START = sympy.Lt(time, 0, evaluate=False)
"""True at negative times; no expression of a model holds it."""


class Start(NamedTuple):
    """How a model starts.

    Attributes:
        values: name to value at time zero, over parameters and constant assignments.
        varying: names of all that changes in time.
        past: symbol to value at negative times, over the same and `time`; of all that changes before or after zero.
        first: symbol to value at time zero of all that changes after it; and `time`, which is zero.

    A species that a fast reaction moves leaves its initial value at once, so that `first` does not hold it.
    """

    values: dict[str, Expr]
    varying: set[str]
    past: dict[Basic, Expr]
    first: dict[Basic, Expr]


def before_start(value: Any, past: Mapping[Basic, Expr]) -> Any:
    """`value` at any time up to the start, without delays.

    Args:
        value: over names of the model.
        past: symbols of what changes in time, to what they are at negative times, over constants and `time`.
    """
    return _without_delays(value.xreplace({**past, BEFORE_START: sympy.true}))


@final
class Delays:
    """Puts what was before the start into the delays of a file."""

    def __init__(self, start: Start, ruled: Mapping[str, Expr], unknown: Collection[str], findings: Findings) -> None:
        """Takes what decides the past.

        Args:
            start: how the model starts.
            ruled: name to assignment rule.
            unknown: names of states of whose value at the start only a guess is known.
            findings: where delays that ask for these before the start are noted.
        """
        self._past, self._first, self._varying = start.past, start.first, start.varying
        self._ruled: dict[Basic, Expr] = {symbol(name): value for name, value in ruled.items()}
        self._unknown, self._findings = set(unknown), findings

    def written(self, value: Any, _: str = "") -> Any:
        """`value`, an expression or a condition, with the past written into its delays."""
        if value.has(delay):
            known = {late: self._known(late) for late in outermost_delays(value)}
            known |= {piece: self._guarded(piece) for piece in value.atoms(Piecewise) if _is_guarded(piece)}
            value = value.xreplace(known)
        return value.xreplace({BEFORE_START: sympy.false}) if value.has(BEFORE_START) else value

    def expressions(self, values: Mapping[str, Expr]) -> dict[str, Expr]:
        """`written` for every value."""
        return {name: self.written(value) for name, value in values.items()}

    def reaction(self, reaction: ReadReaction) -> ReadReaction:
        """`written` for the law and the factors of a reaction."""
        return reaction.rewritten(self.written)

    def event(self, event: ReadEvent) -> ReadEvent:
        """`written` for all mathematics of an event."""
        return event.rewritten(self.written)

    def _guarded(self, piece: Basic) -> Basic:
        """A delay that is asked for from the start on only, such as this class writes."""
        (early, condition), (late, _) = piece.args
        later = delay(*(self.written(part) for part in late.args))
        return Piecewise((self.written(early), condition), (later, True), evaluate=False)

    def _known(self, late: Basic) -> Basic:
        past = before_start(late.args[0], self._past)
        value, lag = (self.written(part) for part in late.args)
        if past == self._at_start(late.args[0]):
            return delay(value, lag)
        now = self._now(value)
        for name in sorted({atom.name for atom in now.free_symbols - {time}} & self._unknown):
            problem = f"it asks for `{name}` before the start, which an algebraic equation without a formula determines"
            self._findings.unsupported(f"{late}: {problem}")
        if now == past:
            # It depends on nothing but time, and by one formula.
            return past.xreplace({time: time - lag})
        moves = any(atom == time or atom.name in self._varying for atom in value.free_symbols)
        later = delay(value, lag) if moves else value
        return Piecewise(
            (past.xreplace({time: time - lag}), sympy.Lt(time, lag, evaluate=False)), (later, True), evaluate=False
        )

    def _at_start(self, value: Basic) -> Basic:
        earlier = {late: before_start(late, self._past) for late in outermost_delays(value)}
        return value.xreplace(earlier).xreplace(self._first)

    def _now(self, value: Basic) -> Basic:
        """`value` with assignment rules written out."""
        while rules := {atom: self._ruled[atom] for atom in value.free_symbols if atom in self._ruled}:
            value = value.xreplace(rules)
        return value


def _is_guarded(piece: Basic) -> bool:
    if len(piece.args) != 2:
        return False
    (_, condition), (late, _) = piece.args
    return isinstance(late, delay) and condition == sympy.Lt(time, late.args[1], evaluate=False)


def _without_delays(value: Any) -> Any:
    if not value.has(delay):
        return value
    found = {}
    for late in outermost_delays(value):
        inner, lag = (_without_delays(part) for part in late.args)
        found[late] = inner.xreplace({time: time - lag})
    return value.xreplace(found)


def outermost_delays(value: Basic) -> set[Basic]:
    """The delays of `value` that stand in no other delay."""
    found: set[Basic] = set()
    seen: set[Basic] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, delay):
            found.add(item)
        elif item not in seen:
            seen.add(item)
            stack += item.args
    return found
