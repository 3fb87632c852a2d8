"""Events of a file: what triggers them, and the amounts that states have right after them.

SBML Level 3 Version 2 Core, section 4.11; Level 2 Version 4, section 4.14.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import libsbml
import sympy
from sympy import Basic, Expr
from sympy.logic.boolalg import Boolean

from mechanistic.model import Event, delay, symbol, time
from mechanistic.sbml.annotation import read_annotation
from mechanistic.sbml.declarations import Declarations, Quantity
from mechanistic.sbml.extent import Extents
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.translator import TERM_LIMIT, Translator

DEPTH_LIMIT = 100
"""Deepest nesting of the size of a compartment after an event; sympy looks into deep mathematics at a growing cost."""


@final
@dataclass(frozen=True)
class ReadEvent:
    """An event of the file.

    Attributes:
        name: the id, or the name in the model that the file was written from, or `event_N`.
        values: id to the value that it is given: a concentration for most species.
        trigger, delay, priority, persistent, initially, values_at_trigger: as in `mechanistic.model.Event`.
    """

    name: str
    trigger: Boolean
    values: Mapping[str, Expr]
    delay: Expr
    priority: Expr | None
    persistent: bool
    initially: bool
    values_at_trigger: bool

    def expressions(self) -> list[Basic]:
        """All mathematics of the event."""
        return [self.trigger, *self.values.values(), self.delay, *([] if self.priority is None else [self.priority])]

    def rewritten(self, change: Callable[[Any, str], Any]) -> "ReadEvent":
        """The same event with `change` applied to each expression and the words for where it stands."""
        place = f"event `{self.name}`"
        return replace(
            self,
            trigger=change(self.trigger, f"trigger of {place}"),
            values={i: change(value, f"assignment to `{i}` in {place}") for i, value in self.values.items()},
            delay=change(self.delay, f"delay of {place}"),
            priority=None if self.priority is None else change(self.priority, f"priority of {place}"),
        )


@final
class EventReader:
    """Reads the events of one file."""

    def __init__(
        self, model: libsbml.Model, declared: Declarations, translator: Translator, findings: Findings
    ) -> None:
        self._model = model
        self._declared = declared
        self._translator = translator
        self._findings = findings

    def read(self) -> list[ReadEvent]:
        """The events of the file; one whose trigger has no mathematics never happens, and is left out."""
        items = list(_each(self._model.getListOfEvents()))
        taken = {item.getIdAttribute() for item in items}
        found = []
        for i, item in enumerate(items):
            name = item.getIdAttribute() or _free(f"event_{i + 1}", taken)
            trigger = item.getTrigger()
            if trigger is not None and has_mathematics(trigger):
                found.append(self._event(item, (read_annotation(item, "event") or {}).get("name", name)))
        return found

    def _event(self, item: libsbml.Event, name: str) -> ReadEvent:
        trigger, late, first = item.getTrigger(), item.getDelay(), item.getPriority()
        place, scope, early = f"event `{name}`", self._declared.scope, item.getLevel() < 3
        self._refuse_units(item, place)
        values = {
            each.getVariable(): self._translator.expression(
                each.getMath(), scope, f"assignment to `{each.getVariable()}` in {place}"
            )
            for each in _each(item.getListOfEventAssignments())
            if has_mathematics(each)
        }
        return ReadEvent(
            name,
            self._translator.condition(trigger.getMath(), scope, f"trigger of {place}"),
            values,
            sympy.S.Zero if not has_mathematics(late) else self._part(late, f"delay of {place}"),
            None if not has_mathematics(first) else self._part(first, f"priority of {place}"),
            early or trigger.getPersistent(),
            early or trigger.getInitialValue(),
            item.getUseValuesFromTriggerTime(),
        )

    def _part(self, item: libsbml.SBase, place: str) -> Expr:
        return self._translator.expression(item.getMath(), self._declared.scope, place)

    def _refuse_units(self, item: libsbml.Event, place: str) -> None:
        """Level 2 lets the delay of an event be in a unit of its own."""
        if item.isSetTimeUnits() and item.getDelay() is not None:
            own, usual = item.getTimeUnits(), self._model.getUnitDefinition("time")
            plain = usual is None and own == "second"
            if own != "time" and not plain:
                self._findings.unsupported(f"{place}: its delay is in a unit of its own, `{own}`; write it in `time`")


@final
class Jumps:
    """Turns events of the file into events of the model, which assign amounts."""

    def __init__(
        self,
        events: Sequence[ReadEvent],
        quantities: Mapping[str, Quantity],
        ruled: Mapping[str, Expr],
        varying: Collection[str],
        findings: Findings,
    ) -> None:
        """Takes what decides the sizes of compartments after an event.

        Args:
            events: all events of the file.
            quantities: of the file, by id, as they are among the states.
            ruled: name to assignment rule.
            varying: names of all that changes in time.
            findings: where sizes that cannot be told are noted.
        """
        self._events, self._quantities, self._ruled = events, quantities, ruled
        self._varying, self._findings = varying, findings
        self._times = Counter(quantities[i].name for event in events for i in event.values)
        self._needs: dict[str, set[str]] = {}

    def events(self) -> tuple[Event, ...]:
        """The events of the model."""
        return tuple(self._event(event) for event in self._events)

    def _event(self, event: ReadEvent) -> Event:
        quantities = {i: self._quantities[i] for i in event.values}
        after = _After(event, quantities, self._ruled, self._findings)
        assignments = {quantity.name: after.amount(quantity) for quantity in quantities.values()}
        return Event(
            event.name,
            event.trigger,
            assignments,
            event.delay,
            event.priority,
            event.persistent,
            event.initially,
            event.values_at_trigger and not self._size_moves_on(event, quantities),
        )

    def _size_moves_on(self, event: ReadEvent, quantities: Mapping[str, Quantity]) -> bool:
        """Whether a concentration meets a compartment size that may differ from the one at the trigger.

        Then all values are computed when the event is executed; this changes nothing for values that do not vary.
        """
        late = event.delay != 0
        moving = [
            q for q in quantities.values() if q.size is not None and q.compartment not in event.values
            and (q.size.name in self._varying if late else self._jumps_elsewhere(q.size.name, event))
        ]  # fmt: skip
        varies = any(
            value.has(delay) or any(atom == time or atom.name in self._varying for atom in value.free_symbols)
            for value in event.values.values()
        )
        if moving and event.values_at_trigger and varies:
            names = ", ".join(f"`{q.id}`" for q in moving)
            self._findings.unsupported(
                f"event `{event.name}`: it gives {names} a concentration from when it is triggered, in a compartment"
                " whose size may be another when it is executed; let it use the values from its execution"
            )
        return bool(moving)

    def _jumps_elsewhere(self, name: str, event: ReadEvent) -> bool:
        """Whether another event, which may be due at the same moment, changes what `name` depends on."""
        own = {self._quantities[i].name for i in event.values}
        return any(self._times[each] > (each in own) for each in self._everything_in(name))

    def _everything_in(self, name: str) -> set[str]:
        """The names that `name` depends on through rules, itself included."""
        if name not in self._needs:
            seen, stack = {name}, [name]
            while stack:
                rule = self._ruled.get(stack.pop(), sympy.S.Zero)
                new = {atom.name for atom in rule.free_symbols - {time}} - seen
                seen |= new
                stack += new
            self._needs[name] = seen
        return self._needs[name]


@final
class _After:
    """Values right after one event, in terms of those before it."""

    def __init__(
        self, event: ReadEvent, changed: Mapping[str, Quantity], ruled: Mapping[str, Expr], findings: Findings
    ) -> None:
        self._event, self._ruled, self._findings = event, ruled, findings
        self._changed = {quantity.name: quantity for quantity in changed.values()}
        self._known: dict[str, Expr] = {}
        self._pending: list[str] = []

    def amount(self, quantity: Quantity) -> Expr:
        """The new value of a quantity that the event assigns."""
        value = self._event.values[quantity.id]
        return value if quantity.size is None else value * self._of(quantity.size.name)

    def _of(self, name: str) -> Expr:
        """The value of `name` after the event; its symbol where the event does not touch it."""
        if name in self._pending:
            self._findings.unsupported(
                f"event `{self._event.name}`: the size of a compartment after it depends on a concentration that it"
                " assigns there"
            )
            return symbol(name)
        if name not in self._known:
            self._pending.append(name)
            self._known[name] = self._found(name)
            self._pending.pop()
        return self._known[name]

    def _found(self, name: str) -> Expr:
        if name in self._changed:
            return self.amount(self._changed[name])
        rule = self._ruled.get(name)
        if rule is None:
            return symbol(name)
        moved = {symbol(atom.name): self._of(atom.name) for atom in rule.free_symbols - {time}}
        moved = {before: value for before, value in moved.items() if value != before}
        if not moved:
            return symbol(name)
        extent = Extents({before: Extents().of(value) for before, value in moved.items()}).of(rule)
        if extent.depth > DEPTH_LIMIT or extent.terms > TERM_LIMIT:
            self._findings.unsupported(f"event `{self._event.name}`: `{name}` after it is too large to be written out")
            return symbol(name)
        return rule.xreplace(moved)


def has_mathematics(item: libsbml.SBase | None) -> bool:
    """Whether an element has mathematics, which Level 3 Version 2 lets one leave out or leave empty."""
    return item is not None and item.isSetMath() and item.getMath().getType() != libsbml.AST_UNKNOWN


def _free(name: str, taken: set[str]) -> str:
    """`name`, lengthened until nothing else is called so."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _each(items: libsbml.ListOf) -> Iterator[Any]:
    return (items.get(i) for i in range(items.size()))
