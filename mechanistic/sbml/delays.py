"""Delays that look back past the start: initial values and rules of a file hold at negative times as well.

SBML Level 3 Version 2 Core, section 3.4.6. A model's own `delay` takes the value at the start for what was before it;
where a file says otherwise, that is written into the model.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, final

import sympy
from sympy import Basic, Expr, Piecewise

from mechanistic.model import delay, symbol, time
from mechanistic.sbml.events import ReadEvent
from mechanistic.sbml.reactions import ReadReaction

BEFORE_START = sympy.Lt(time, 0, evaluate=False)
"""True at negative times; no expression of a model holds it."""


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

    def __init__(
        self,
        past: Mapping[Basic, Expr],
        first: Mapping[Basic, Expr],
        varying: Collection[str],
        ruled: Mapping[str, Expr],
    ) -> None:
        """Takes what decides the past.

        Args:
            past: as in `before_start`.
            first: the same at the start; `time` is zero there.
            varying: names of all that changes in time.
            ruled: name to assignment rule.
        """
        self._past, self._first, self._varying = dict(past), dict(first), set(varying)
        self._ruled: dict[Basic, Expr] = {symbol(name): value for name, value in ruled.items()}

    def written(self, value: Any, _: str = "") -> Any:
        """`value`, an expression or a condition, with the past written into its delays."""
        if value.has(delay):
            value = value.xreplace({late: self._known(late) for late in outermost_delays(value)})
        return value.xreplace({BEFORE_START: sympy.false}) if value.has(BEFORE_START) else value

    def expressions(self, values: Mapping[str, Expr]) -> dict[str, Expr]:
        """`written` for every value."""
        return {name: self.written(value) for name, value in values.items()}

    def reaction(self, reaction: ReadReaction) -> ReadReaction:
        """`written` for the law and the factors of a reaction."""
        changes = {self.written(factor): net for factor, net in reaction.changes.items()}
        return replace(reaction, law=self.written(reaction.law), changes=changes)

    def event(self, event: ReadEvent) -> ReadEvent:
        """`written` for all mathematics of an event."""
        return event.rewritten(self.written)

    def _known(self, late: Basic) -> Basic:
        past = before_start(late.args[0], self._past)
        value, lag = (self.written(part) for part in late.args)
        if past == self._at_start(late.args[0]):
            return delay(value, lag)
        if self._now(value) == past:
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
